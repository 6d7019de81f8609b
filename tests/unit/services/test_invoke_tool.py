"""A tool call is made once, with the organization's credentials, and its outcome is told truthfully."""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from nubabel_workers.domain.errors import (
    CredentialsError,
    PermanentError,
    UnansweredError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.ids import ExecutionId, OrganizationId, ToolConnectionId
from nubabel_workers.domain.ports import MaintenanceStore
from nubabel_workers.domain.tool_calls import CallStatus, Tool, ToolOutcome, ToolRequest, ToolResult, tool_call_id
from nubabel_workers.domain.tools import ConnectionKind, ConnectionStatus, ToolConnection
from nubabel_workers.services.ask_tool_servers import AskLimits, AskToolServers
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.invoke_tool import InvokeLimits, InvokeTool
from nubabel_workers.services.list_tools import ListTools
from tests.fakes.clock import FakeChance, FakeClock
from tests.fakes.tools import FakeToolCallLedger, FakeToolConnections, FakeToolServers

ORGANIZATION = OrganizationId("org_a")
LIMITS = InvokeLimits(wait_s=0, look_every_s=0, write_wait_s=0)
ASK_LIMITS = AskLimits(max_chars=1_000)
SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
CREATE = Tool("create_page", "Make a page", SCHEMA)
SEARCH = Tool("search", "Search", {"type": "object"}, repeatable=True)


def connection(provider: str, **changes: Any) -> ToolConnection:
    made = ToolConnection(
        ToolConnectionId(f"mcp_{provider}"),
        ORGANIZATION,
        provider,
        ConnectionKind.HTTP,
        ConnectionStatus.ACTIVE,
        url="https://mcp.example",
    )
    return replace(made, **changes)


def request(**changes: Any) -> ToolRequest:
    asked = ToolRequest(ORGANIZATION, ExecutionId("exe_a"), "ses_oc", "call_1", "create_page", {"title": "A"})
    return replace(asked, **changes)


@dataclass
class Stage:
    connections: FakeToolConnections = field(default_factory=lambda: FakeToolConnections([connection("notion")]))
    servers: FakeToolServers = field(default_factory=lambda: FakeToolServers({"mcp_notion": [CREATE, SEARCH]}))
    ledger: FakeToolCallLedger = field(default_factory=FakeToolCallLedger)
    clock: FakeClock = field(default_factory=FakeClock)
    limits: InvokeLimits = LIMITS
    ask_limits: AskLimits = ASK_LIMITS

    def __post_init__(self) -> None:
        ask = AskToolServers(self.connections, self.servers, self.ask_limits)
        self.list = ListTools(self.connections, ask)
        leases = LeaseHolder(cast("MaintenanceStore", None), self.clock, FakeChance(), lease_s=10)  # renews nothing
        self.invoke = InvokeTool(self.connections, ask, self.ledger, leases, self.clock, FakeChance(), self.limits)

    def row_status(self, asked: ToolRequest | None = None) -> CallStatus:
        return self.ledger.rows[tool_call_id(asked or request())].status


@pytest.fixture
def stage() -> Stage:
    return Stage()


def code(outcome: ToolOutcome) -> str:
    assert outcome.error is not None
    return outcome.error.code


async def test_a_call_is_written_down_made_and_its_outcome_stored(stage: Stage) -> None:
    stage.servers.answers = [ToolResult("made", {"id": 7})]

    outcome = await stage.invoke.run(request())

    assert (outcome.ok, outcome.content, outcome.structured) == (True, "made", {"id": 7})
    assert outcome.call_id == tool_call_id(request())
    assert stage.servers.calls == [("notion", "create_page", {"title": "A"})]
    assert stage.row_status() is CallStatus.SUCCEEDED
    assert stage.connections.executions == {"exe_a"}


async def test_a_repeat_gets_the_stored_outcome_even_with_the_server_away(stage: Stage) -> None:
    await stage.invoke.run(request())
    stage.servers.away = {"mcp_notion"}

    again = await stage.invoke.run(request())

    assert (again.ok, again.content) == (True, "done")
    assert len(stage.servers.calls) == 1


async def test_another_call_under_the_same_id_is_refused(stage: Stage) -> None:
    await stage.invoke.run(request())

    assert code(await stage.invoke.run(request(arguments={"title": "B"}))) == "call_id_used"
    assert len(stage.servers.calls) == 1


@pytest.mark.parametrize("error", [UncertainError("lost"), UnansweredError("silent")])
async def test_a_call_that_may_have_taken_effect_is_unknown_and_never_made_again(
    stage: Stage, error: Exception
) -> None:
    stage.servers.answers = [error]

    outcomes = [await stage.invoke.run(request()), await stage.invoke.run(request())]

    assert [code(one) for one in outcomes] == ["outcome_unknown", "outcome_unknown"]
    assert len(stage.servers.calls) == 1
    assert stage.row_status() is CallStatus.UNKNOWN


async def test_an_unknown_call_that_only_reads_is_made_again(stage: Stage) -> None:
    stage.servers.answers = [UncertainError("lost"), ToolResult("found")]
    asked = request(tool_name="search")

    await stage.invoke.run(asked)
    again = await stage.invoke.run(asked)

    assert (again.content, len(stage.servers.calls)) == ("found", 2)


async def test_a_call_id_that_comes_back_in_a_later_message_is_another_call(stage: Stage) -> None:
    for message in ("msg_1", "msg_2", "msg_2"):
        assert (await stage.invoke.run(request(message_id=message))).ok

    assert len(stage.servers.calls) == 2


async def test_an_operator_may_forbid_repeats_of_what_the_server_calls_repeatable(stage: Stage) -> None:
    stage.connections.connections = [connection("notion", repeatable_tools=frozenset())]
    stage.servers.answers = [UncertainError("lost")]
    asked = request(tool_name="search")

    outcomes = [await stage.invoke.run(asked), await stage.invoke.run(asked)]

    assert [code(one) for one in outcomes] == ["outcome_unknown", "outcome_unknown"]
    assert len(stage.servers.calls) == 1


async def test_an_operator_may_allow_repeats_of_what_the_server_says_nothing_about(stage: Stage) -> None:
    stage.connections.connections = [connection("notion", repeatable_tools=frozenset({"create_page"}))]
    stage.servers.answers = [UncertainError("lost"), ToolResult("made")]

    await stage.invoke.run(request())

    assert (await stage.invoke.run(request())).content == "made"


async def test_a_call_whose_process_died_is_unknown(stage: Stage) -> None:
    stage.servers.hold = asyncio.Event()
    dying = asyncio.create_task(stage.invoke.run(request()))
    await _until(lambda: bool(stage.servers.calls))
    stage.ledger.dead = {tool_call_id(request())}

    assert code(await stage.invoke.run(request())) == "outcome_unknown"
    assert len(stage.servers.calls) == 1
    stage.servers.hold.set()
    await dying


async def test_a_call_that_is_still_under_way_is_not_made_twice(stage: Stage) -> None:
    stage.servers.hold = asyncio.Event()
    first = asyncio.create_task(stage.invoke.run(request()))
    await _until(lambda: bool(stage.servers.calls))

    assert code(await stage.invoke.run(request())) == "under_way"

    stage.servers.hold.set()
    assert (await first).ok
    assert len(stage.servers.calls) == 1


async def test_a_caller_that_goes_away_breaks_nothing_off(stage: Stage) -> None:
    stage.servers.hold = asyncio.Event()
    caller = asyncio.create_task(stage.invoke.run(request()))
    await _until(lambda: bool(stage.servers.calls))
    caller.cancel()
    await asyncio.wait([caller])
    stage.servers.hold.set()

    await stage.invoke.close()

    assert stage.row_status() is CallStatus.SUCCEEDED


async def test_a_call_that_outlasts_the_process_is_broken_off_and_unknown() -> None:
    stage = Stage(limits=replace(LIMITS, close_s=0))
    stage.servers.hold = asyncio.Event()
    caller = asyncio.create_task(stage.invoke.run(request()))
    await _until(lambda: bool(stage.servers.calls))

    await stage.invoke.close()

    await asyncio.wait([caller])
    assert stage.row_status() is CallStatus.UNKNOWN


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UnavailableError("away"), "provider_unavailable"),
        (PermanentError("no", code="forbidden"), "forbidden"),
    ],
)
async def test_a_call_that_was_refused_has_failed(stage: Stage, error: Exception, told: str) -> None:
    stage.servers.answers = [error]

    assert code(await stage.invoke.run(request())) == told
    assert stage.row_status() is CallStatus.FAILED


async def test_what_a_tool_says_of_its_failure_is_told_without_the_credentials(stage: Stage) -> None:
    stage.servers.answers = [ToolResult("cannot log in with t0ken-of-the-tenant-1", is_error=True)]

    outcome = await stage.invoke.run(request())

    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.message) == ("tool_error", "cannot log in with [redacted]")
    assert "t0ken" not in str(stage.ledger.rows)


async def test_a_long_answer_is_cut(stage: Stage) -> None:
    stage.servers.answers = [ToolResult("x" * 5_000)]

    assert len((await stage.invoke.run(request())).content) < 1_100


async def test_arguments_that_do_not_fit_are_told_before_anything_is_done(stage: Stage) -> None:
    outcome = await stage.invoke.run(request(arguments={"titel": "A"}))

    assert outcome.error is not None
    assert outcome.error.code == "invalid_arguments"
    assert "'title' is a required property" in outcome.error.message
    assert (stage.servers.calls, stage.ledger.rows) == ([], {})


async def test_an_unusable_schema_leaves_the_judgement_to_the_server(stage: Stage) -> None:
    stage.servers.offers["mcp_notion"] = [Tool("create_page", "", {"type": 5})]

    assert (await stage.invoke.run(request())).ok


async def test_a_tool_that_is_not_allowed_is_neither_called_nor_listed(stage: Stage) -> None:
    stage.connections.connections = [connection("notion", allowed_tools=frozenset({"search"}))]

    assert code(await stage.invoke.run(request())) == "tool_not_allowed"
    assert stage.servers.calls == []
    (offer,) = await stage.list.run(ORGANIZATION)
    assert [tool.name for tool in offer.tools] == ["search"]


async def test_connections_of_others_serve_nobody_else(stage: Stage) -> None:
    assert code(await stage.invoke.run(request(organization_id=OrganizationId("org_b")))) == "no_providers"
    assert await stage.list.run("org_b") == []


async def test_an_ambiguous_tool_goes_to_the_default_or_the_named_provider(stage: Stage) -> None:
    stage.connections.connections = [connection("linear"), connection("notion")]
    stage.servers.offers["mcp_linear"] = [CREATE]

    assert code(await stage.invoke.run(request())) == "ambiguous_tool"
    assert (await stage.invoke.run(request(provider="linear"))).ok
    stage.connections.connections[1] = connection("notion", is_default=True)
    assert (await stage.invoke.run(request(call_id="call_2"))).ok
    assert [provider for provider, _, _ in stage.servers.calls] == ["linear", "notion"]


async def test_refused_credentials_are_renewed_once(stage: Stage) -> None:
    stage.servers.answers = [CredentialsError("no", code="unauthorized"), ToolResult("made")]

    assert (await stage.invoke.run(request())).content == "made"
    assert (stage.connections.revision, stage.connections.marked) == (2, [])


async def test_credentials_that_are_refused_after_a_renewal_mark_the_connection(stage: Stage) -> None:
    refused = CredentialsError("no", code="unauthorized")
    stage.servers.answers = [refused, refused]

    assert code(await stage.invoke.run(request())) == "unauthorized"
    assert stage.connections.marked == [("mcp_notion", 2)]
    assert stage.row_status() is CallStatus.FAILED


async def test_an_execution_that_is_over_calls_nothing(stage: Stage) -> None:
    stage.ledger.over = True

    assert code(await stage.invoke.run(request())) == "execution_over"
    assert stage.servers.calls == []


async def test_a_process_that_stood_still_before_the_call_does_not_make_it(stage: Stage) -> None:
    stage.servers.before_call = lambda: stage.clock.advance(10)

    assert code(await stage.invoke.run(request())) == "not_made"
    assert (stage.servers.calls, stage.row_status()) == ([], CallStatus.FAILED)


async def test_a_call_that_takes_longer_than_its_lease_goes_on(stage: Stage) -> None:
    def late() -> ToolResult:
        stage.clock.advance(100)
        return ToolResult("made")

    stage.servers.answers = [late]

    assert (await stage.invoke.run(request())).content == "made"


async def test_while_the_ledger_is_away_the_request_may_be_sent_again(stage: Stage) -> None:
    stage.ledger.away = True

    with pytest.raises(UnavailableError):
        await stage.invoke.run(request())

    assert stage.servers.calls == []


@pytest.mark.parametrize("tool_name", ["create_page", "search"])
async def test_a_call_that_was_begun_and_cannot_be_made_again_is_unknown(stage: Stage, tool_name: str) -> None:
    asked = request(tool_name=tool_name)
    stage.servers.hold = asyncio.Event()
    dying = asyncio.create_task(stage.invoke.run(asked))
    await _until(lambda: bool(stage.servers.calls))
    stage.servers.away = {"mcp_notion"}

    assert code(await stage.invoke.run(asked)) == "outcome_unknown"

    stage.servers.hold.set()
    await dying


async def test_an_outcome_is_told_even_if_it_can_be_written_later_only(stage: Stage) -> None:
    stage.ledger.fails = 2

    assert (await stage.invoke.run(request())).ok
    assert stage.row_status() is CallStatus.SUCCEEDED


async def test_an_outcome_that_cannot_be_written_is_told_and_a_repeat_is_unknown(stage: Stage) -> None:
    stage.ledger.fails = 4
    assert (await stage.invoke.run(request())).ok
    stage.ledger.dead = {tool_call_id(request())}

    assert code(await stage.invoke.run(request())) == "outcome_unknown"
    assert len(stage.servers.calls) == 1


async def test_a_call_has_a_time_limit_and_is_unknown_after_it() -> None:
    stage = Stage(servers=FakeToolServers({"mcp_notion": [CREATE]}), ask_limits=AskLimits(call_s=0.01))
    stage.servers.hold = asyncio.Event()

    assert code(await stage.invoke.run(request())) == "outcome_unknown"
    assert stage.row_status() is CallStatus.UNKNOWN


async def test_a_provider_that_cannot_be_asked_is_listed_with_the_reason(stage: Stage) -> None:
    stage.connections.connections += [connection("linear"), connection("old", status=ConnectionStatus.DISABLED)]
    stage.servers.away = {"mcp_linear"}

    notion, linear, old = await stage.list.run(ORGANIZATION)

    assert (notion.error, linear.error) == (None, "it is away")
    assert "switched off" in str(old.error)


async def _until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - what it waits for is no event
            await asyncio.sleep(0)
