"""Nothing of an erased organization is left anywhere, and nothing of another is touched, whatever dies meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.adapters.storage.erasure import TAKES_ALONG
from nubabel_workers.adapters.storage.row_sets import TENANT_TABLES
from nubabel_workers.bootstrap import erase_organization, open_connections
from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError, TransientError
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.progress import ProgressSource, ToolProgress
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.erase_organization import Erased, EraseOrganization, ErasureTimes
from tests.integration.pipeline.conftest import ORGANIZATION, TEAM, Pipeline, gives_each_its_directory
from tests.integration.storage.seeds import ROWS_OF_TABLES, add_row_of_every_table

pytestmark = pytest.mark.integration

PIPELINE = Organization(OrganizationId(ORGANIZATION), "Pipeline")
OTHER = "org_other"
DIRECTORIES = "/srv/opencode/directories"
AT_ONCE = ErasureTimes(settle_s=0, hand_over_s=0, unload_s=0)


class DiedError(Exception):
    """The process ended before this call."""


@pytest.fixture
async def erase(pipeline: Pipeline) -> AsyncIterator[EraseOrganization]:
    """Of an organization that has something of everything, and works."""
    services = pipeline.services
    await gives_each_its_directory(services)
    workspace = await pipeline.one("SELECT id FROM workspaces WHERE organization_id = 'org_pipeline'")
    await pipeline.mention("done")
    await pipeline.answer_everything()
    question = await pipeline.mention("[[hang]] think for ever")
    await pipeline.say("and then?", thread_ts=question.ts)
    await pipeline.take_events()
    await pipeline.dispatch()
    running = await pipeline.one("SELECT id, session_id FROM executions WHERE status = 'running'")
    for statement in (
        *(
            "execution_groups",
            "service_tokens",
            "submit_keys",
            "mcp_connections",
            "mcp_authorizations",
            "dead_letters",
            "usage",
            "budget_holds",
            "tool_calls",
        ),
        "audit_log",
    ):
        sql = ROWS_OF_TABLES[statement].format(o=ORGANIZATION, n=7)
        sql = sql.replace(f"exe_{ORGANIZATION}", str(running["id"])).replace(f"mcp_{ORGANIZATION}", "mcp_7")
        await services.database.system().execute(sql)
    await add_row_of_every_table(services.database, OTHER, number=8)
    for table, over in (("executions", "completed"), ("inbound_events", "done"), ("notifications", "sent")):
        await services.database.system().execute(
            f"UPDATE {table} SET status = %(over)s WHERE organization_id = 'org_other'", {"over": over}
        )
    item = ToolProgress("ses_child", "call_1", "bash", "running")
    await services.progress.tell(ORGANIZATION, str(running["id"]), [item], ProgressSource.LISTENER)
    await services.progress.append(OTHER, f"exe_{OTHER}", {"type": "state", "status": "running"})
    root = next(iter(pipeline.opencode.simulator.store.sessions))
    await services.mappings.remember_root("ins_1", "ses_child", root)
    await services.mappings.remember_root("ins_1", "ses_others_child", "ses_others_root")
    await services.throttle.take(f"slack-read:{ORGANIZATION}:{workspace['id']}", per_s=60, limit=50)
    await services.throttle.block(f"slack-post:{ORGANIZATION}:{workspace['id']}:C1", for_s=60)
    await services.cache.hset("nubabel:tool-breakers", mapping={"mcp_7": "{}", "mcp_8": "{}"})
    async with AsyncExitStack() as stack:
        manage = open_connections(services, stack).manage
        yield erase_organization(services, lambda: manage, times=AT_ONCE)


async def test_what_operators_were_told_of_it_goes_with_either_side(
    pipeline: Pipeline, erase: EraseOrganization
) -> None:
    audit = PostgresAuditTrail(pipeline.services.database)
    named, not_listed = AuditAction.FOREIGN_ID_NAMED, AuditAction.FOREIGN_IDS_NOT_LISTED
    refused = AuditAction.REFUSALS_NOT_LISTED
    for action, caller, owner in (
        (named, ORGANIZATION, OTHER),
        (named, OTHER, ORGANIZATION),
        (named, OTHER, "org_third"),
        (not_listed, ORGANIZATION, None),
    ):
        await audit.add(AuditEntry("token:t", action, None, "exe_1", {"organization": caller, "owner": owner}))
    for organization_id in (ORGANIZATION, OTHER):
        await audit.add(AuditEntry("instance:ins_1", refused, organization_id, "", {"refused": 3}))

    await run(erase)

    entries = await audit.list(organization_id=None, limit=100)
    left = [(one.organization_id, one.detail) for one in entries if one.action in {named, not_listed, refused}]
    assert left == [(OTHER, {"refused": 3}), (None, {"organization": OTHER, "owner": "org_third"})]


async def test_what_is_told_of_it_while_it_goes_or_later_is_not_kept(
    pipeline: Pipeline, erase: EraseOrganization
) -> None:
    """A process sums up what it did not list a minute later."""
    audit = PostgresAuditTrail(pipeline.services.database)
    late = AuditEntry("instance:ins_1", AuditAction.REFUSALS_NOT_LISTED, ORGANIZATION, "", {"refused": 3})
    await pipeline.services.database.system().execute(
        "UPDATE organizations SET erasing_at = now() WHERE id = 'org_pipeline'"
    )

    await audit.add(late)
    told_while_it_goes = await audit.list(organization_id=ORGANIZATION, limit=100)
    await run(erase)
    await audit.add(late)

    assert late.action not in {entry.action for entry in told_while_it_goes}
    left = await audit.list(organization_id=ORGANIZATION, limit=100)
    assert [entry.action for entry in left] == [AuditAction.ORGANIZATION_ERASED]


async def run(erase: EraseOrganization) -> Erased:
    return await erase.run(PIPELINE, confirmed="Pipeline", actor="cli:anna")


async def rows_of(pipeline: Pipeline, organization_id: str) -> dict[str, list[str]]:
    found = {}
    for table in TENANT_TABLES:
        owner = "id" if table == "organizations" else "organization_id"
        rows = await pipeline.services.database.system().all(
            f"SELECT to_jsonb(t)::text AS row FROM {table} t WHERE {owner} = %(id)s", {"id": organization_id}
        )
        found[table] = sorted(row["row"] for row in rows)
    return found


async def cached(pipeline: Pipeline) -> dict[str, Any]:
    cache = pipeline.services.cache
    keys = [key async for key in cache.scan_iter("nubabel:*")]
    return {key: await cache.hgetall(key) if await cache.type(key) == "hash" else "" for key in keys}


async def test_nothing_is_left_but_the_tombstone_and_another_organization_is_untouched(
    pipeline: Pipeline, erase: EraseOrganization
) -> None:
    assert {table for table, rows in (await rows_of(pipeline, ORGANIZATION)).items() if not rows} == set()
    names = await erase._erasure.names(ORGANIZATION)
    before = {table: len(rows) for table, rows in (await rows_of(pipeline, ORGANIZATION)).items()}
    others = await rows_of(pipeline, OTHER)
    assert {key.split(":")[1] for key in await cached(pipeline) if not names.isdisjoint(key.split(":"))} >= {
        *("session", "opencode", "progress", "window", "block")
    }

    erased = await run(erase)

    left = await rows_of(pipeline, ORGANIZATION)
    (tombstone,) = left.pop("audit_log")
    assert {table: rows for table, rows in left.items() if rows} == {}
    assert '"organization.erased"' in tombstone
    assert '"cli:anna"' in tombstone
    assert "Pipeline" not in tombstone
    assert (erased.opencode_sessions, erased.directories) == (2, 1)
    written_meanwhile = 2  # that it began, and that a connection was removed
    assert erased.rows == before | {"audit_log": before["audit_log"] + written_meanwhile}
    entries = await PostgresAuditTrail(pipeline.services.database).list(organization_id=ORGANIZATION, limit=10)
    assert [entry.detail["rows"] for entry in entries] == [erased.rows]
    after = await cached(pipeline)
    assert [key for key in after if not names.isdisjoint(key.split(":"))] == []
    assert after["nubabel:tool-breakers"] == {"mcp_8": "{}"}
    assert [key for key in after if ":root:" in key] == ["nubabel:root:ins_1:ses_others_child"]
    assert f"nubabel:progress:{OTHER}:exe_{OTHER}" in after
    assert pipeline.opencode.simulator.store.sessions == {}
    assert pipeline.opencode.simulator.disk.entries(DIRECTORIES) == []
    assert await rows_of(pipeline, OTHER) == others


async def test_every_row_that_goes_along_is_counted(pipeline: Pipeline) -> None:
    found = await pipeline.services.database.system().all(
        """
        SELECT p.relname AS parent, c.relname AS child FROM pg_constraint k
        JOIN pg_class p ON p.oid = k.confrelid JOIN pg_class c ON c.oid = k.conrelid
        WHERE k.contype = 'f' AND k.confdeltype = 'c' AND p.relname <> 'organizations'
        """
    )

    going_along = {(row["parent"], row["child"]) for row in found}
    counted = {(parent, child) for parent, (_, children) in TAKES_ALONG.items() for child in children}
    assert going_along == counted | {("sessions", "executions")}  # of which none is left when sessions go


async def test_it_dies_before_each_of_its_calls_and_is_run_again_until_it_is_done(
    pipeline: Pipeline, erase: EraseOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [0]
    for port in (erase._erasure, erase._cache, erase._sessions, erase._directories):
        for name in [one for one in dir(port) if not one.startswith("_") and callable(getattr(port, one))]:
            monkeypatch.setattr(port, name, _dying(getattr(port, name), left))

    deaths = 0
    while True:
        left[0] = deaths
        try:
            await run(erase)
            break
        except DiedError:
            deaths += 1
        except NotFoundError:  # it died behind the last step
            break

    assert deaths > 15
    remaining = await rows_of(pipeline, ORGANIZATION)
    assert {table: len(rows) for table, rows in remaining.items() if rows} == {"audit_log": 1}
    assert pipeline.opencode.simulator.store.sessions == {}
    assert pipeline.opencode.simulator.disk.entries(DIRECTORIES) == []


def _dying(call: Any, left: list[int]) -> Any:
    async def counted(*args: Any, **kwargs: Any) -> Any:
        if left[0] == 0:
            raise DiedError
        left[0] -= 1
        return await call(*args, **kwargs)

    return counted


async def test_two_at_once_are_as_good_as_one(pipeline: Pipeline, erase: EraseOrganization) -> None:
    before = await rows_of(pipeline, ORGANIZATION)

    one, other = await asyncio.gather(run(erase), run(erase))

    remaining = await rows_of(pipeline, ORGANIZATION)
    for table in ("organizations", "executions", "attempts", "execution_events", "inbound_events"):
        assert one.rows.get(table, 0) + other.rows.get(table, 0) == len(before[table])
    assert {table: len(rows) for table, rows in remaining.items() if rows} == {"audit_log": 1}


async def test_a_connection_that_two_remove_at_once_is_counted_once(
    pipeline: Pipeline, erase: EraseOrganization, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_have_found_it = asyncio.Barrier(2)
    revoke = erase._connections()._revoke
    look_up = revoke.of

    async def together(organization_id: str, connection_id: str) -> Any:
        await both_have_found_it.wait()
        return await look_up(organization_id, connection_id)

    monkeypatch.setattr(revoke, "of", together)
    before = await rows_of(pipeline, ORGANIZATION)

    one, other = await asyncio.gather(run(erase), run(erase))

    assert one.connections + other.connections == len(before["mcp_connections"]) == 1
    assert one.rows.get("mcp_connections", 0) + other.rows.get("mcp_connections", 0) == 1


async def test_what_comes_afterwards_is_refused_and_harms_nothing(pipeline: Pipeline, erase: EraseOrganization) -> None:
    running = next(iter(pipeline.opencode.simulator.store.sessions))
    old = await pipeline.one("SELECT id FROM executions WHERE status = 'running'")
    await run(erase)
    pipeline.services.tenants._installations.clear()  # as after the moment that the command waits
    pipeline.services.tenants._workspaces.clear()

    await pipeline.mention("are you there?", team=TEAM)

    assert await pipeline.take_events() == "nothing to do"
    assert await pipeline.services.dispatch_executions.run() == "nothing to do"
    assert await pipeline.services.complete_executions.run(str(old["id"])) == "nothing to do"
    assert await pipeline.services.executions.wake_by_sessions("ins_1", [running]) == []
    assert await pipeline.services.executions.session_anywhere(running) is None
    assert {table for table, rows in (await rows_of(pipeline, ORGANIZATION)).items() if rows} == {"audit_log"}


async def test_an_organization_with_servers_of_its_own_keeps_everything(
    pipeline: Pipeline, erase: EraseOrganization
) -> None:
    await pipeline.services.database.system().execute(
        "INSERT INTO instances (id, url, organization_id) VALUES ('ins_own', 'http://own', %(id)s)",
        {"id": ORGANIZATION},
    )

    with pytest.raises(InvalidInputError, match="ins_own"):
        await run(erase)

    assert await pipeline.one("SELECT disabled_at FROM organizations WHERE id = 'org_pipeline'") == {
        "disabled_at": None
    }


async def test_a_server_that_is_away_keeps_the_rows_that_know_of_its_sessions(
    pipeline: Pipeline, erase: EraseOrganization
) -> None:
    await pipeline.services.database.system().execute("UPDATE instances SET url = 'http://127.0.0.1:1'")

    with pytest.raises(TransientError, match="ins_1"):
        await run(erase)
    assert (await rows_of(pipeline, ORGANIZATION))["sessions"] != []
    await pipeline.services.instances.set_status("ins_1", "removed", only_if_idle=False, actor="tests")
    await run(erase)

    assert (await rows_of(pipeline, ORGANIZATION))["sessions"] == []
