"""How OpenCode servers that answer are doing, on a real PostgreSQL."""

import asyncio

import pytest
from pydantic import SecretStr

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.encryption import TokenCipher
from nubabel_workers.adapters.storage.instances import PostgresInstances
from nubabel_workers.adapters.storage.vitals import PostgresVitals
from nubabel_workers.domain.executions import Status
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.server_vitals import MemoryHistory, Vital
from nubabel_workers.domain.tenants import Instance
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration

_GROWS, _LATE = "its memory grows by 90 MB a minute", "its events come 14 s late"


@pytest.fixture
def instances(database: Database, cipher: TokenCipher) -> PostgresInstances:
    return PostgresInstances(database, cipher, give_up_after_s=600)


@pytest.fixture
async def vitals(database: Database, instances: PostgresInstances) -> PostgresVitals:
    """Of two registered servers."""
    for number in (1, 2):
        server = Instance(InstanceId(f"ins_{number}"), f"http://opencode-{number}:4096", "opencode", SecretStr("s"))
        await instances.add(server, actor="cli:anna")
    return PostgresVitals(database)


async def tell(vitals: PostgresVitals, size: int, *, process: str = "first", keep_s: float = 600) -> MemoryHistory:
    return await vitals.add_memory("ins_1", process=process, resident_bytes=size, keep_s=keep_s)


async def known(instances: PostgresInstances, instance_id: str = "ins_1") -> Instance:
    found = await instances.find(instance_id)
    assert found is not None
    return found


async def age(database: Database, seconds: float) -> None:
    """Everything that was told and found so far was so long ago."""
    await database.system().execute(
        """
        UPDATE instances SET memory_at = memory_at - make_interval(secs => %(s)s),
          strained_since = strained_since - make_interval(secs => %(s)s),
          memory_samples = (SELECT COALESCE(jsonb_agg(jsonb_build_array((one->>0)::float8 - %(s)s, one->1)), '[]')
                            FROM jsonb_array_elements(memory_samples) AS one)
        """,
        {"s": seconds},
    )


async def test_what_a_server_told_is_kept_in_order_and_the_newest_is_shown(
    vitals: PostgresVitals, instances: PostgresInstances
) -> None:
    assert (await known(instances)).memory_bytes is None

    for size in (100, 300, 200):
        history = await tell(vitals, size)

    assert [one.resident_bytes for one in history.samples] == [100, 300, 200]
    assert [one.at_s for one in history.samples] == sorted(one.at_s for one in history.samples)
    assert (await known(instances)).memory_bytes == 200
    assert (await known(instances, "ins_2")).memory_bytes is None


async def test_reports_at_the_same_moment_are_all_kept(vitals: PostgresVitals) -> None:
    await asyncio.gather(*(tell(vitals, size) for size in range(10)))

    assert sorted(one.resident_bytes for one in (await tell(vitals, 10)).samples) == list(range(11))


async def test_a_new_process_begins_anew(vitals: PostgresVitals) -> None:
    await tell(vitals, 100)

    history = await tell(vitals, 50, process="second")

    assert [one.resident_bytes for one in history.samples] == [50]


async def test_what_is_too_old_is_forgotten(vitals: PostgresVitals, database: Database) -> None:
    await tell(vitals, 100)
    await age(database, 601)

    assert [one.resident_bytes for one in (await tell(vitals, 200)).samples] == [200]


async def test_a_server_that_is_not_registered_is_passed_over(
    vitals: PostgresVitals, instances: PostgresInstances
) -> None:
    await instances.set_status("ins_1", "removed", only_if_idle=False, actor="cli:anna")

    assert await tell(vitals, 100) == MemoryHistory((), strained=False)
    await vitals.set_strain("ins_1", Vital.EVENTS, _LATE)
    await vitals.set_event_lag("ins_1", 3.0)

    assert (await known(instances)).strain == ""


async def test_everything_that_is_wrong_is_told_until_it_is_not(
    vitals: PostgresVitals, instances: PostgresInstances
) -> None:
    await tell(vitals, 100)
    await vitals.set_event_lag("ins_1", 14.2)
    await vitals.set_strain("ins_1", Vital.MEMORY, _GROWS)
    await vitals.set_strain("ins_1", Vital.EVENTS, _LATE)

    one = await known(instances)
    assert (one.strain, one.event_lag_s, one.healthy, one.is_fit) == (f"{_LATE}; {_GROWS}", 14.2, True, False)
    assert (await tell(vitals, 100)).strained

    await vitals.set_strain("ins_1", Vital.EVENTS, None)
    await vitals.set_strain("ins_1", Vital.MEMORY, None)
    assert (await known(instances)).is_fit


async def test_memory_that_nobody_tells_of_any_more_says_nothing(
    vitals: PostgresVitals, instances: PostgresInstances, database: Database
) -> None:
    await tell(vitals, 100)
    await vitals.set_strain("ins_1", Vital.MEMORY, _GROWS)

    await age(database, 301)

    one = await known(instances)
    assert (one.strain, one.memory_bytes) == ("", None)


async def test_a_server_that_is_well_again_is_taken_back_slowly(
    vitals: PostgresVitals, instances: PostgresInstances, database: Database
) -> None:
    for strained_for_s in (1, 60):
        assert (await known(instances)).recovered_ago_s is None
        await vitals.set_strain("ins_1", Vital.EVENTS, _LATE)
        await age(database, strained_for_s)
        await vitals.set_strain("ins_1", Vital.EVENTS, None)

    assert (await known(instances)).recovered_ago_s == pytest.approx(0, abs=5)


async def test_an_idle_server_that_stays_strained_is_started_anew_one_after_the_other(
    vitals: PostgresVitals, instances: PostgresInstances, database: Database
) -> None:
    async def taken(after_s: float = 60) -> list[str]:
        return [one.id for one in await instances.take_restarts(after_s=after_s, every_s=300, drain_s=600)]

    await vitals.set_strain("ins_1", Vital.EVENTS, _LATE)
    await vitals.set_strain("ins_2", Vital.EVENTS, _LATE)
    assert await taken() == []
    await age(database, 61)

    at_once = await asyncio.gather(*(taken() for _ in range(3)))

    assert sorted(len(one) for one in at_once) == [0, 0, 1]
    assert await taken() == []  # not while the other has only just been
    await database.system().execute("UPDATE instances SET restarted_at = restarted_at - interval '61 s'")
    assert await taken() == ["ins_2"]


async def test_a_strained_server_with_runs_is_drained_first_for_a_while(
    vitals: PostgresVitals, instances: PostgresInstances, database: Database
) -> None:
    await add_organization(database, "org_a")
    await add_execution(database, ExecutionSeed("exe_1", "org_a", status=Status.RUNNING, instance_id="ins_1"))
    await vitals.set_strain("ins_1", Vital.EVENTS, _LATE)
    await age(database, 599)
    assert await instances.take_restarts(after_s=60, every_s=300, drain_s=600) == []

    await age(database, 2)

    assert [one.id for one in await instances.take_restarts(after_s=60, every_s=300, drain_s=600)] == ["ins_1"]


async def test_a_server_whose_events_come_was_heard_of_half_a_minute_ago_at_most(
    vitals: PostgresVitals, instances: PostgresInstances, database: Database
) -> None:
    async def heard_of_ago_s() -> float:
        row = await database.system().one(
            "SELECT EXTRACT(EPOCH FROM now() - checked_at)::float8 AS s FROM instances WHERE id = 'ins_1'"
        )
        assert row is not None
        return float(row["s"])

    await vitals.set_event_lag("ins_1", 0.0)
    for seconds, at_most_s in ((20, 25), (40, 5)):
        await database.system().execute(
            f"UPDATE instances SET checked_at = now() - interval '{seconds} seconds' WHERE id = 'ins_1'"
        )

        await vitals.set_event_lag("ins_1", 0.0)

        assert await heard_of_ago_s() < at_most_s
