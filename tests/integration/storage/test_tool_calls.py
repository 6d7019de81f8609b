"""The ledger of tool calls: the intent is there before the call, the outcome stays what it was, nobody calls twice."""

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from nubabel_workers.adapters.process import SystemChance
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.maintenance import PostgresMaintenance
from nubabel_workers.adapters.storage.tool_call_reports import PostgresToolCallReports
from nubabel_workers.adapters.storage.tool_calls import PostgresToolCalls
from nubabel_workers.domain.administration import ToolCallFilter
from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.ids import ExecutionId, OrganizationId, ToolConnectionId
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.tool_calls import (
    CallStatus,
    NewToolCall,
    Tool,
    ToolCallEnd,
    ToolCallError,
    ToolRequest,
    ToolResult,
    ended,
    new_tool_call,
)
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration

ORGANIZATION, EXECUTION = OrganizationId("org_a"), ExecutionId("exe_a")
MINE, THEIRS = Lease("lse_mine", 0), Lease("lse_theirs", 0)


@pytest.fixture
async def ledger(database: Database) -> PostgresToolCalls:
    for organization_id in (ORGANIZATION, "org_b"):
        await add_organization(database, organization_id)
    await add_execution(database, ExecutionSeed(EXECUTION, ORGANIZATION, status="running"))
    return PostgresToolCalls(database, lease_s=10)


def request(call_id: str = "call_1", **changes: Any) -> ToolRequest:
    asked = ToolRequest(
        ORGANIZATION, EXECUTION, "ses_oc", call_id, "create_page", {"title": "A", "token": "t0p-secret"}
    )
    return replace(asked, **changes)


def intent(asked: ToolRequest | None = None, *, repeatable: bool = False) -> NewToolCall:
    tool = Tool("create_page", "", {}, repeatable=repeatable)
    return new_tool_call(asked or request(), ToolConnectionId("con_1"), "notion", tool)


async def its_process_died(database: Database) -> None:
    await database.system().execute("UPDATE tool_calls SET lease_until = now() - interval '1 s'")


async def timeline(database: Database) -> list[tuple[str, dict[str, Any]]]:
    rows = await database.system().all("SELECT kind, detail FROM execution_events ORDER BY id")
    return [(row["kind"], row["detail"]) for row in rows]


async def test_an_intent_is_written_once_with_its_secrets_masked(ledger: PostgresToolCalls, database: Database) -> None:
    record, mine = await ledger.begin(intent(), MINE)

    assert (mine, record.status, record.try_number) == (True, CallStatus.STARTED, 1)
    row = await database.system().one("SELECT arguments::text AS text, lease_owner FROM tool_calls")
    assert row == {"text": '{"title": "A", "token": "[redacted]"}', "lease_owner": "lse_mine"}
    ((kind, detail),) = await timeline(database)
    assert (kind, detail["tool"], detail["provider"]) == ("tool_call_started", "create_page", "notion")


async def test_a_call_that_another_process_makes_is_not_ours(ledger: PostgresToolCalls) -> None:
    await ledger.begin(intent(), THEIRS)

    record, mine = await ledger.begin(intent(), MINE)

    assert (mine, record.status) == (False, CallStatus.STARTED)


async def test_of_many_at_once_one_makes_the_call(ledger: PostgresToolCalls) -> None:
    begun = await asyncio.gather(*(ledger.begin(intent(), Lease(f"lse_{n}", 0)) for n in range(8)))

    assert sum(mine for _, mine in begun) == 1


async def test_an_outcome_is_stored_and_told_in_the_timeline(ledger: PostgresToolCalls, database: Database) -> None:
    record, _ = await ledger.begin(intent(), MINE)

    assert await ledger.finish(record, ended(ToolResult("done, xoxb-123456789012", {"id": 7})))

    again, mine = await ledger.begin(intent(), THEIRS)
    assert (mine, again.status, again.altered) == (False, CallStatus.SUCCEEDED, True)
    assert again.result == {"text": "done, [redacted]", "structured": {"id": 7}}
    assert again.ended_at is not None
    assert again.ended_at >= again.started_at
    kind, detail = (await timeline(database))[-1]
    assert (kind, detail["outcome"]) == ("tool_call_ended", "succeeded")
    assert detail["seconds"] >= 0


async def test_a_call_whose_process_died_is_unknown_and_not_begun_again(
    ledger: PostgresToolCalls, database: Database
) -> None:
    await ledger.begin(intent(), THEIRS)
    await its_process_died(database)

    record, mine = await ledger.begin(intent(), MINE)

    assert (mine, record.status, record.try_number) == (False, CallStatus.UNKNOWN, 1)
    assert (await timeline(database))[-1][1]["outcome"] == "unknown"
    assert (await ledger.begin(intent(), MINE))[0].status is CallStatus.UNKNOWN
    assert len(await timeline(database)) == 2


async def test_a_repeatable_call_whose_process_died_is_begun_again(
    ledger: PostgresToolCalls, database: Database
) -> None:
    await ledger.begin(intent(repeatable=True), THEIRS)
    await its_process_died(database)

    record, mine = await ledger.begin(intent(repeatable=True), MINE)

    assert (mine, record.status, record.try_number) == (True, CallStatus.STARTED, 2)


async def test_a_call_that_was_repeatable_and_is_no_more_is_unknown(
    ledger: PostgresToolCalls, database: Database
) -> None:
    await ledger.begin(intent(repeatable=True), THEIRS)
    await its_process_died(database)

    record, mine = await ledger.begin(intent(repeatable=False), MINE)

    assert (mine, record.status, record.try_number) == (False, CallStatus.UNKNOWN, 1)
    assert (await ledger.begin(intent(repeatable=False), MINE))[0].status is CallStatus.UNKNOWN


async def test_the_scheduler_tells_what_became_of_a_call_whose_process_died(
    ledger: PostgresToolCalls, database: Database
) -> None:
    await ledger.begin(intent(), THEIRS)
    await its_process_died(database)
    maintenance = PostgresMaintenance(database, SystemChance())

    assert await maintenance.release_expired_leases() == 1

    found = await ledger.find(ORGANIZATION, intent().id)
    assert found is not None
    assert found.status is CallStatus.UNKNOWN
    assert found.error is not None
    assert found.error.code == "outcome_unknown"
    assert (await timeline(database))[-1][1]["outcome"] == "unknown"


async def test_a_lease_is_renewed_with_the_others(ledger: PostgresToolCalls, database: Database) -> None:
    await ledger.begin(intent(), MINE)

    assert await PostgresMaintenance(database, SystemChance()).renew(["lse_mine"], lease_s=10) == {"lse_mine"}


async def test_the_truth_about_a_try_that_was_given_up_is_written_all_the_same(
    ledger: PostgresToolCalls, database: Database
) -> None:
    record, _ = await ledger.begin(intent(), MINE)
    await its_process_died(database)
    await PostgresMaintenance(database, SystemChance()).release_expired_leases()

    assert await ledger.finish(record, ended(ToolResult("done after all")))

    found = await ledger.find(ORGANIZATION, record.id)
    assert found is not None
    assert (found.status, found.error) == (CallStatus.SUCCEEDED, None)


async def test_an_older_try_says_nothing_about_a_newer_one(ledger: PostgresToolCalls, database: Database) -> None:
    older, _ = await ledger.begin(intent(repeatable=True), THEIRS)
    await its_process_died(database)
    await ledger.begin(intent(repeatable=True), MINE)

    assert not await ledger.finish(older, ToolCallEnd(CallStatus.FAILED, error=ToolCallError("x", "y")))


async def test_an_outcome_is_final(ledger: PostgresToolCalls) -> None:
    record, _ = await ledger.begin(intent(), MINE)
    await ledger.finish(record, ended(ToolResult("first")))

    assert not await ledger.finish(record, ToolCallEnd(CallStatus.UNKNOWN))


async def test_another_call_under_the_same_id_changes_nothing(ledger: PostgresToolCalls, database: Database) -> None:
    first, _ = await ledger.begin(intent(repeatable=True), THEIRS)
    await its_process_died(database)

    record, mine = await ledger.begin(intent(request(arguments={"title": "B"}), repeatable=True), MINE)

    assert not mine
    assert (record.fingerprint, record.try_number) == (first.fingerprint, 1)


@pytest.mark.parametrize(
    ("asked", "statement"),
    [
        (request(), "UPDATE executions SET status = 'completed'"),
        (request(), "UPDATE executions SET cancel_requested_at = now()"),
        (request(organization_id=OrganizationId("org_b")), "SELECT 1"),
        (request(execution_id=ExecutionId("exe_other")), "SELECT 1"),
    ],
    ids=["over", "about to be stopped", "another organization's", "unknown"],
)
async def test_no_call_is_begun_for_an_execution_that_is(
    asked: ToolRequest, statement: str, ledger: PostgresToolCalls, database: Database
) -> None:
    await database.system().execute(statement)

    with pytest.raises(NotFoundError):
        await ledger.begin(intent(asked), MINE)

    assert await database.system().all("SELECT 1 FROM tool_calls") == []


async def test_old_calls_go_and_running_ones_stay(ledger: PostgresToolCalls, database: Database) -> None:
    over, _ = await ledger.begin(intent(request("call_1")), MINE)
    await ledger.finish(over, ended(ToolResult("done")))
    await ledger.begin(intent(request("call_2")), MINE)
    await database.system().execute(
        "UPDATE tool_calls SET started_at = %(at)s", {"at": datetime.fromisoformat("2020-01-01T00:00:00Z")}
    )

    deleted = await PostgresMaintenance(database, SystemChance()).expire(retention_s={"tool_calls": 60}, batch=10)

    assert deleted == {"tool_calls": 1}
    rows = await database.system().all("SELECT call_id FROM tool_calls")
    assert [row["call_id"] for row in rows] == ["call_2"]


# --- as operators read it ---


async def three_calls(ledger: PostgresToolCalls, database: Database) -> list[str]:
    """Their ids, oldest first: done in the session, failed in a sub-agent's, begun for another organization."""
    await add_execution(database, ExecutionSeed("exe_b", "org_b", status="running", session_id="ses_b"))
    theirs = request(organization_id=OrganizationId("org_b"), execution_id=ExecutionId("exe_b"), tool_name="search")
    asked = [request("call_1"), request("call_2", opencode_session_id="ses_child"), theirs]
    begun = [(await ledger.begin(intent(one), MINE))[0] for one in asked]
    await ledger.finish(begun[0], ended(ToolResult("done", {"id": 7})))
    await ledger.finish(begun[1], ToolCallEnd(CallStatus.FAILED, error=ToolCallError("tool_error", "no such page")))
    return [one.id for one in begun]


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        (ToolCallFilter(), [2, 1, 0]),
        (ToolCallFilter(organization_id="org_a"), [1, 0]),
        (ToolCallFilter(organization_id="org_a", execution_id="exe_b"), []),
        (ToolCallFilter(execution_id="exe_b"), [2]),
        (ToolCallFilter(session_id="ses_of_exe_a"), [1, 0]),
        (ToolCallFilter(session_id="ses_child"), [1]),
        (ToolCallFilter(tool_name="search"), [2]),
        (ToolCallFilter(provider="linear"), []),
        (ToolCallFilter(statuses=frozenset({CallStatus.FAILED, CallStatus.STARTED})), [2, 1]),
    ],
    ids=[
        "all",
        "organization",
        "another's execution",
        "execution",
        "session",
        "sub-agent",
        "tool",
        "provider",
        "state",
    ],
)
async def test_calls_are_listed_newest_first_by_every_choice(
    chosen: ToolCallFilter, found: list[int], ledger: PostgresToolCalls, database: Database
) -> None:
    ids = await three_calls(ledger, database)

    listed = await PostgresToolCallReports(database).list(chosen, limit=10)

    assert [one.id for one in listed] == [ids[place] for place in found]


async def test_a_call_is_read_with_what_is_kept_of_it(ledger: PostgresToolCalls, database: Database) -> None:
    done, failed, _ = await three_calls(ledger, database)
    reports = PostgresToolCallReports(database)

    first, second = await reports.find("org_a", done), await reports.find("org_a", failed)

    assert first is not None
    assert (first.call.session_id, first.opencode_call_id, first.error) == ("ses_of_exe_a", "call_1", None)
    assert first.arguments == {"title": "A", "token": "[redacted]"}
    assert first.result == {"text": "done", "structured": {"id": 7}}
    assert second is not None
    assert (second.call.error_code, second.result) == ("tool_error", None)
    assert second.error == ToolCallError("tool_error", "no such page")


async def test_a_call_is_read_by_its_own_organization_only(ledger: PostgresToolCalls, database: Database) -> None:
    done, _, theirs = await three_calls(ledger, database)
    reports = PostgresToolCallReports(database)

    assert await reports.find("org_b", done) is None
    assert await reports.organization_of(theirs) == "org_b"
    assert await reports.organization_of("tc_none") is None
