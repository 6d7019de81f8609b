"""OpenCode servers on a real PostgreSQL: load, health, taking out of use."""

import asyncio
from dataclasses import replace

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.encryption import TokenCipher, generate_key
from nubabel_workers.adapters.storage.instances import PostgresInstances
from nubabel_workers.domain.administration import AuditAction
from nubabel_workers.domain.executions import OCCUPYING, Status
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance, InstanceChange
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration

_PASSWORD = SecretStr("secret")


@pytest.fixture
def instances(database: Database, cipher: TokenCipher) -> PostgresInstances:
    return PostgresInstances(database, cipher, give_up_after_s=600)


def _instance(number: int = 1, password: SecretStr | None = _PASSWORD) -> Instance:
    return Instance(
        id=InstanceId(f"ins_{number}"),
        url=f"http://opencode-{number}:4096",
        username="opencode",
        password=password,
        capacity_runs=10,
        submits_per_second=5,
    )


async def test_an_added_server_is_listed_with_its_password_and_no_load(
    instances: PostgresInstances, database: Database
) -> None:
    await instances.add(_instance(), actor="cli:anna")

    found = await instances.loads()

    assert [(one.id, one.in_flight, one.status, one.capacity_runs) for one in found] == [("ins_1", 0, "active", 10)]
    assert found[0].password == SecretStr("secret")
    assert "secret" not in repr(found)
    row = await database.system().one("SELECT password FROM instances")
    assert row is not None
    assert b"secret" not in row["password"]


async def test_load_counts_the_executions_that_occupy_the_server(
    instances: PostgresInstances, database: Database
) -> None:
    await add_organization(database, "org_a")
    await instances.add(_instance(1), actor="cli:anna")
    await instances.add(_instance(2, password=None), actor="cli:anna")
    for status in Status:
        await add_execution(database, ExecutionSeed(f"exe_{status}", "org_a", status, instance_id="ins_1"))

    loads = {one.id: one.in_flight for one in await instances.loads()}

    # One that waits for its budget has nothing running there.
    assert loads == {"ins_1": len(OCCUPYING - {Status.WAITING_BUDGET}), "ins_2": 0}


async def test_health_of_an_unreachable_server_keeps_what_was_known(instances: PostgresInstances) -> None:
    await instances.add(_instance(), actor="cli:anna")
    await instances.report_health("ins_1", healthy=True, detail="", version="1.18.33", agents=["Sisyphus - x"])

    await instances.report_health("ins_1", healthy=False, detail="connection refused", version="", agents=[])

    found = await instances.find("ins_1")
    assert found is not None
    assert (found.healthy, found.health_detail) == (False, "connection refused")
    assert (found.version, found.agents) == ("1.18.33", ("Sisyphus - x",))
    assert found.checked_at is not None


async def test_a_busy_server_is_removed_only_by_force(instances: PostgresInstances, database: Database) -> None:
    await add_organization(database, "org_a")
    await instances.add(_instance(), actor="cli:anna")
    await add_execution(database, ExecutionSeed("exe_1", "org_a", "running", instance_id="ins_1"))

    assert not await instances.set_status("ins_1", "removed", only_if_idle=True, actor="cli:anna")
    assert await instances.set_status("ins_1", "removed", only_if_idle=False, actor="cli:anna")

    assert await instances.loads() == []
    found = await instances.find("ins_1")
    assert found is not None
    assert found.status == "removed"


async def test_draining_and_activating_are_audited_once_each(instances: PostgresInstances, database: Database) -> None:
    await instances.add(_instance(), actor="cli:anna")

    changes = [
        await instances.set_status("ins_1", status, only_if_idle=False, actor="cli:ben")
        for status in ("draining", "draining", "active")
    ]

    assert changes == [True, False, True]
    entries = await PostgresAuditTrail(database).list(organization_id=None, limit=10)
    assert [entry.action for entry in entries] == [
        AuditAction.INSTANCE_ACTIVATED,
        AuditAction.INSTANCE_DRAINED,
        AuditAction.INSTANCE_ADDED,
    ]


async def test_a_removed_server_comes_back_with_new_values(instances: PostgresInstances) -> None:
    await instances.add(_instance(), actor="cli:anna")
    await instances.set_status("ins_1", "removed", only_if_idle=True, actor="cli:anna")

    again = await instances.add(_instance(password=SecretStr("new")), actor="cli:anna")

    assert again is not None
    assert (again.status, again.password) == ("active", SecretStr("new"))


async def test_a_url_in_use_is_not_taken_over(instances: PostgresInstances) -> None:
    await instances.add(_instance(), actor="cli:anna")

    assert await instances.add(_instance(password=SecretStr("other")), actor="cli:eve") is None

    found = await instances.by_url("http://opencode-1:4096")
    assert found is not None
    assert found.password == SecretStr("secret")


async def test_a_server_whose_password_is_unreadable_is_unfit_and_spares_the_others(
    instances: PostgresInstances, database: Database
) -> None:
    await PostgresInstances(database, TokenCipher([generate_key()]), give_up_after_s=600).add(
        _instance(1), actor="cli:anna"
    )
    await instances.add(_instance(2), actor="cli:anna")

    with capture_logs() as logs:
        found = {one.id: one for one in await instances.loads()}
        await instances.loads()

    assert [entry["event"] for entry in logs].count("instance.password_unreadable") == 1
    assert (found[InstanceId("ins_1")].healthy, found[InstanceId("ins_1")].password) == (False, None)
    assert found[InstanceId("ins_1")].unreadable
    assert "not in NUBABEL_ENCRYPTION_KEYS; put that key back" in found[InstanceId("ins_1")].health_detail
    assert found[InstanceId("ins_2")].healthy


async def test_a_server_is_known_for_a_moment_without_asking_again(
    instances: PostgresInstances, database: Database, cipher: TokenCipher
) -> None:
    await instances.add(_instance(), actor="cli:anna")
    before = await instances.lately("ins_1")

    await PostgresInstances(database, cipher, give_up_after_s=600).set_status(
        "ins_1", "removed", only_if_idle=True, actor="cli:anna"
    )

    assert before is not None
    assert await instances.lately("ins_1") == before
    assert await instances.lately("ins_nosuch") is None


async def test_a_server_taken_out_of_use_here_is_known_so_at_once(instances: PostgresInstances) -> None:
    await instances.add(_instance(), actor="cli:anna")
    await instances.lately("ins_1")

    await instances.set_status("ins_1", "removed", only_if_idle=True, actor="cli:anna")

    found = await instances.lately("ins_1")
    assert found is not None
    assert found.status == "removed"


async def test_two_callback_keys_are_good_at_a_time_and_each_change_is_audited(
    instances: PostgresInstances, database: Database
) -> None:
    await instances.add(_instance(), actor="cli:anna")
    keys = [SecretStr(f"nck_{number}") for number in range(3)]

    assert await instances.callback_keys("ins_1") == ()
    for key in keys:
        assert await instances.add_callback_key("ins_1", key, actor="cli:anna")
    good = await instances.callback_keys("ins_1")
    ended = [await instances.end_previous_callback_key("ins_1", actor="cli:anna") for _ in range(2)]

    assert good == (keys[2], keys[1])
    assert ended == [True, False]
    assert await instances.callback_keys("ins_1") == (keys[2],)
    entries = await PostgresAuditTrail(database).list(organization_id=None, limit=10)
    assert [entry.action for entry in reversed(entries)][1:] == [
        *[AuditAction.CALLBACK_KEY_CREATED] * 3,
        AuditAction.CALLBACK_KEY_ENDED,
    ]
    row = await database.system().one("SELECT callback_key FROM instances")
    assert row is not None
    assert b"nck_2" not in row["callback_key"]


async def test_a_removed_server_has_no_callback_key_and_gets_none_until_it_comes_back(
    instances: PostgresInstances,
) -> None:
    await instances.add(_instance(), actor="cli:anna")
    await instances.add_callback_key("ins_1", SecretStr("nck_1"), actor="cli:anna")
    await instances.callback_keys("ins_1")

    await instances.set_status("ins_1", "removed", only_if_idle=False, actor="cli:anna")
    assert await instances.callback_keys("ins_1") == ()
    assert not await instances.add_callback_key("ins_1", SecretStr("nck_2"), actor="cli:anna")
    await instances.add(_instance(), actor="cli:anna")

    assert await instances.callback_keys("ins_1") == ()


async def test_a_callback_key_copied_to_another_server_is_good_for_nothing(
    instances: PostgresInstances, database: Database
) -> None:
    await instances.add(_instance(1), actor="cli:anna")
    await instances.add(_instance(2), actor="cli:anna")
    await instances.add_callback_key("ins_1", SecretStr("nck_1"), actor="cli:anna")

    await database.system().execute(
        """
        UPDATE instances SET callback_key = (SELECT callback_key FROM instances WHERE id = 'ins_1')
        WHERE id = 'ins_2'
        """
    )

    assert await instances.callback_keys("ins_2") == ()


async def _away_for(database: Database, instance_id: str, seconds: float) -> None:
    await database.system().execute(
        "UPDATE instances SET unhealthy_since = now() - make_interval(secs => %(seconds)s) WHERE id = %(id)s",
        {"id": instance_id, "seconds": seconds},
    )


async def _down(instances: PostgresInstances, instance_id: str) -> None:
    await instances.report_health(instance_id, healthy=False, detail="no answer", version="", agents=())


async def _given_up(instances: PostgresInstances) -> list[str]:
    return [one.id for one in await instances.loads() if one.given_up]


async def test_a_server_that_is_away_too_long_is_given_up_until_it_is_back(
    instances: PostgresInstances, database: Database
) -> None:
    await instances.add(_instance(1), actor="cli:anna")
    await instances.add(_instance(2), actor="cli:anna")
    await _down(instances, "ins_1")
    assert await _given_up(instances) == []

    await _away_for(database, "ins_1", 601)
    await _down(instances, "ins_1")  # a further report does not begin the time anew
    assert await _given_up(instances) == ["ins_1"]

    await instances.report_health("ins_1", healthy=True, detail="", version="1.18.33", agents=("build",))
    assert await _given_up(instances) == []


async def _back(instances: PostgresInstances, instance_id: str) -> float | None:
    """Seconds since it recovered, after a report that all is well."""
    await instances.report_health(instance_id, healthy=True, detail="", version="1.18.33", agents=())
    found = await instances.find(instance_id)
    assert found is not None
    return found.recovered_ago_s


async def test_a_server_that_was_away_says_how_long_it_has_been_back(
    instances: PostgresInstances, database: Database
) -> None:
    await instances.add(_instance(1), actor="cli:anna")
    assert await _back(instances, "ins_1") is None  # never away
    await _down(instances, "ins_1")
    await _away_for(database, "ins_1", 6)

    assert await _back(instances, "ins_1") == pytest.approx(0, abs=5)

    await database.system().execute("UPDATE instances SET recovered_at = recovered_at - interval '40 s'")
    assert await _back(instances, "ins_1") == pytest.approx(40, abs=5)  # a further report does not begin it anew


async def test_a_stream_that_breaks_for_a_moment_is_no_recovery(instances: PostgresInstances) -> None:
    await instances.add(_instance(1), actor="cli:anna")
    await _down(instances, "ins_1")

    assert await _back(instances, "ins_1") is None


async def _lives_on(database: Database, session_id: str, instance_id: str | None) -> None:
    await database.system().execute(
        "UPDATE sessions SET instance_id = %(instance)s WHERE id = %(id)s", {"instance": instance_id, "id": session_id}
    )


async def test_what_waits_for_a_server_is_counted_while_it_is_taken_back(
    instances: PostgresInstances, database: Database
) -> None:
    await add_organization(database, "org_a")
    await instances.add(_instance(1), actor="cli:anna")
    await instances.add(_instance(2), actor="cli:anna")
    for execution, lives_on in (("there", "ins_1"), ("moved", "ins_2"), ("lost", None), ("runs", "ins_1")):
        status = "running" if execution == "runs" else "queued"
        await add_execution(database, ExecutionSeed(execution, "org_a", status, instance_id="ins_1"))
        await _lives_on(database, f"ses_of_{execution}", lives_on)
    await add_execution(database, ExecutionSeed("new", "org_a"))

    async def awaited() -> list[int]:
        return [one.awaited for one in await instances.loads()]

    assert await awaited() == [0, 0]
    await database.system().execute("UPDATE instances SET recovered_at = now()")
    assert await awaited() == [1, 0]
    await database.system().execute("UPDATE instances SET recovered_at = now() - interval '31 s'")
    assert await awaited() == [0, 0]


@pytest.mark.parametrize("other", ["away as well", "draining", "of another organization"])
async def test_no_server_is_given_up_without_another_that_can_take_its_sessions(
    instances: PostgresInstances, database: Database, other: str
) -> None:
    await add_organization(database, "org_a")
    await instances.add(_instance(1), actor="cli:anna")
    await instances.add(_instance(2), actor="cli:anna")
    await _down(instances, "ins_1")
    await _away_for(database, "ins_1", 3600)
    match other:
        case "away as well":
            await _down(instances, "ins_2")
        case "draining":
            await instances.set_status("ins_2", "draining", only_if_idle=False, actor="cli:anna")
        case _:
            await database.system().execute("UPDATE instances SET organization_id = 'org_a' WHERE id = 'ins_2'")

    assert await _given_up(instances) == []


async def test_a_server_that_stays_away_is_taken_for_a_restart_once_and_again_after_a_while(
    instances: PostgresInstances, database: Database
) -> None:
    await instances.add(_instance(1), actor="cli:anna")
    await _down(instances, "ins_1")
    assert await instances.take_restarts(after_s=60, every_s=300, drain_s=600) == []
    await _away_for(database, "ins_1", 61)

    at_once = await asyncio.gather(*(instances.take_restarts(after_s=60, every_s=300, drain_s=600) for _ in range(3)))

    assert sorted(len(taken) for taken in at_once) == [0, 0, 1]
    await database.system().execute("UPDATE instances SET restarted_at = now() - interval '301 s'")
    assert [one.id for one in await instances.take_restarts(after_s=60, every_s=300, drain_s=600)] == ["ins_1"]
    entries = await PostgresAuditTrail(database).list(organization_id=None, limit=10)
    assert [e.action for e in entries if e.subject == "ins_1"] == [
        AuditAction.INSTANCE_RESTARTED,
        AuditAction.INSTANCE_RESTARTED,
        AuditAction.INSTANCE_ADDED,
    ]


@pytest.mark.parametrize("status", ["draining", "removed"])
async def test_a_server_that_was_taken_out_of_use_is_left_alone(
    instances: PostgresInstances, database: Database, status: str
) -> None:
    await instances.add(_instance(1), actor="cli:anna")
    await _down(instances, "ins_1")
    await _away_for(database, "ins_1", 3600)
    await instances.set_status("ins_1", status, only_if_idle=False, actor="cli:anna")

    assert await instances.take_restarts(after_s=60, every_s=300, drain_s=600) == []


async def test_a_strained_server_is_better_than_none_for_the_sessions_of_one_that_is_gone(
    instances: PostgresInstances, database: Database
) -> None:
    await instances.add(_instance(1), actor="cli:anna")
    await instances.add(_instance(2), actor="cli:anna")
    await _down(instances, "ins_1")
    await _away_for(database, "ins_1", 601)

    await database.system().execute(
        """UPDATE instances SET strains = '{"memory": "too much"}', memory_at = now() WHERE id = 'ins_2'"""
    )

    assert await _given_up(instances) == ["ins_1"]


async def test_a_server_that_answers_and_is_unfit_is_refused_until_it_is_well_also_while_it_is_away(
    instances: PostgresInstances,
) -> None:
    await instances.add(_instance(1), actor="cli:anna")

    async def report(*, healthy: bool, version: str) -> bool:
        await instances.report_health("ins_1", healthy=healthy, detail="", version=version, agents=())
        return (await instances.loads())[0].refused

    assert not await report(healthy=False, version="")
    assert await report(healthy=False, version="1.18.33")
    assert await report(healthy=False, version="")
    assert not await report(healthy=True, version="1.18.33")


async def test_a_refused_server_that_an_older_release_finds_well_is_not_refused(
    instances: PostgresInstances, database: Database
) -> None:
    await instances.add(_instance(1), actor="cli:anna")
    await instances.report_health("ins_1", healthy=False, detail="", version="1.18.33", agents=())

    await database.system().execute("UPDATE instances SET healthy = true")

    assert not (await instances.loads())[0].refused


async def test_capacity_pace_and_password_of_a_server_change_at_once_and_the_audit_log_holds_no_password(
    instances: PostgresInstances, database: Database
) -> None:
    await instances.add(_instance(1), actor="cli:anna")
    await instances.lately("ins_1")
    change = InstanceChange(capacity_runs=80, submits_per_second=30, username="oc", password=SecretStr("hunter2"))

    assert await instances.change("ins_1", change, actor="cli:bob")

    lately = await instances.lately("ins_1")
    assert lately is not None
    assert (lately.capacity_runs, lately.submits_per_second, lately.username) == (80, 30, "oc")
    assert lately.password == SecretStr("hunter2")
    (entry, *_) = await PostgresAuditTrail(database).list(organization_id=None, limit=5)
    assert (entry.actor, entry.action, entry.subject) == ("cli:bob", AuditAction.INSTANCE_CHANGED, "ins_1")
    assert entry.detail == {"capacity_runs": 80, "submits_per_second": 30, "username": "oc", "password": "another"}


async def test_a_removed_server_is_not_changed(instances: PostgresInstances) -> None:
    await instances.add(_instance(1), actor="cli:anna")
    await instances.set_status("ins_1", "removed", only_if_idle=False, actor="cli:anna")

    assert not await instances.change("ins_1", InstanceChange(capacity_runs=1), actor="cli:bob")


async def test_a_server_that_comes_back_by_its_address_is_as_healthy_as_it_is_said_to_be(
    instances: PostgresInstances,
) -> None:
    await instances.add(_instance(1), actor="cli:anna")
    await instances.set_status("ins_1", "removed", only_if_idle=False, actor="cli:anna")

    await instances.add(replace(_instance(1), healthy=False, health_detail="nobody looked"), actor="cli:anna")

    (back,) = await instances.loads()
    assert (back.healthy, back.health_detail, back.status) == (False, "nobody looked", "active")
