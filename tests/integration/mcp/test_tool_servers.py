"""Real MCP servers, and what becomes of a call when they fail."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from nubabel_workers.adapters.egress.guard import EgressGuard, EgressPolicy
from nubabel_workers.adapters.mcp.pool import SessionLimits
from nubabel_workers.adapters.mcp.servers import McpToolServers, ServerLimits
from nubabel_workers.domain.circuit_breaker import BreakerState, Gate
from nubabel_workers.domain.errors import (
    CredentialsError,
    LeaseLostError,
    PermanentError,
    RateLimitedError,
    UnansweredError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.ids import OrganizationId, ToolConnectionId
from nubabel_workers.domain.tool_calls import Tool, ToolResult
from nubabel_workers.domain.tools import (
    CommandServer,
    ConnectionKind,
    ConnectionStatus,
    ToolConnection,
    ToolCredentials,
)
from nubabel_workers.domain.trace import following
from tests.fakes.breakers import FakeBreakers
from tests.integration.mcp.tool_server import SECRET, TOKEN, HttpToolServer
from tests.waiting import eventually

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
LIMITS = ServerLimits(connect_s=60, call_s=60, max_bytes=100_000)
GOOD = ToolCredentials(1, headers={"Authorization": f"Bearer {TOKEN}"})
OF_THE_PROCESS = ToolCredentials(1, environment={"TOOL_SECRET": SECRET})
CATALOGUE = {
    "tools": CommandServer(
        "tools",
        sys.executable,
        ("-m", "tests.integration.mcp.tool_server"),
        {"PYTHONPATH": str(ROOT)},
        frozenset({"TOOL_SECRET"}),
    )
}


@pytest.fixture
async def http() -> AsyncIterator[HttpToolServer]:
    server = HttpToolServer()
    async with server.running():
        yield server


@pytest.fixture
async def guard() -> AsyncIterator[EgressGuard]:
    guard = EgressGuard(EgressPolicy.parse(["127.0.0.0/8"]))
    yield guard
    await guard.close()


@pytest.fixture
async def servers(guard: EgressGuard) -> AsyncIterator[McpToolServers]:
    servers = McpToolServers(guard, CATALOGUE, FakeBreakers(), LIMITS)
    yield servers
    await servers.close()


def at(http: HttpToolServer) -> ToolConnection:
    return ToolConnection(
        ToolConnectionId("mcp_http"),
        OrganizationId("org_a"),
        "web",
        ConnectionKind.HTTP,
        ConnectionStatus.ACTIVE,
        url=http.url,
    )


BY_COMMAND = ToolConnection(
    ToolConnectionId("mcp_command"),
    OrganizationId("org_a"),
    "local",
    ConnectionKind.COMMAND,
    ConnectionStatus.ACTIVE,
    command_name="tools",
)


def at_once() -> None:
    """May it go? Nobody else could have taken it over."""


def tool(name: str, *, repeatable: bool = False) -> Tool:
    return Tool(name, "", {}, repeatable=repeatable)


async def test_tools_are_listed_with_their_schemas_and_which_may_be_repeated(
    servers: McpToolServers, http: HttpToolServer
) -> None:
    tools = {one.name: one for one in await servers.tools(at(http), GOOD)}

    assert tools["look"].input_schema["required"] == ["name"]
    assert [name for name, one in tools.items() if one.repeatable] == ["look", "hang_once", "crash_once"]


async def test_a_call_comes_back_with_its_answer_and_the_session_is_kept(
    servers: McpToolServers, http: HttpToolServer
) -> None:
    first = await servers.call(at(http), GOOD, tool("change"), {"name": "A"}, may_go=at_once)
    await servers.call(at(http), GOOD, tool("change"), {"name": "B"}, may_go=at_once)

    assert (first.text, first.is_error) == ("A is changed", False)
    assert http.calls["change"] == 2


async def test_a_call_carries_the_trace_of_its_request_though_the_session_is_shared(
    servers: McpToolServers, http: HttpToolServer
) -> None:
    told = []
    for trace in ("4bf92f3577b34da6a3ce929d0e0e4736", "0af7651916cd43dd8448eb211c80319c"):
        with following(f"00-{trace}-00f067aa0ba902b7-01"):
            told.append(await servers.call(at(http), GOOD, tool("trace"), {}, may_go=at_once))
    told.append(await servers.call(at(http), GOOD, tool("trace"), {}, may_go=at_once))

    assert [result.text for result in told] == [
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01",
        "None",
    ]


async def test_many_calls_share_one_session(servers: McpToolServers, http: HttpToolServer) -> None:
    results = await asyncio.gather(
        *(servers.call(at(http), GOOD, tool("look"), {"name": str(n)}, may_go=at_once) for n in range(20))
    )

    assert [result.text for result in results] == [f"{n} is there" for n in range(20)]


async def test_wrong_arguments_are_the_tools_own_refusal(servers: McpToolServers, http: HttpToolServer) -> None:
    result = await servers.call(at(http), GOOD, tool("change"), {}, may_go=at_once)

    assert result.is_error
    assert http.calls["change"] == 0


async def test_a_tool_that_hangs_is_uncertain_and_others_go_on(guard: EgressGuard, http: HttpToolServer) -> None:
    servers = McpToolServers(guard, {}, FakeBreakers(), ServerLimits(connect_s=60, call_s=1, max_bytes=100_000))
    await servers.call(at(http), GOOD, tool("look"), {"name": "A"}, may_go=at_once)

    with pytest.raises(UnansweredError):
        await servers.call(at(http), GOOD, tool("hang"), {}, may_go=at_once)

    assert (await servers.call(at(http), GOOD, tool("look"), {"name": "B"}, may_go=at_once)).text == "B is there"
    assert http.calls["hang"] == 1
    await servers.close()


@pytest.mark.parametrize("by_command", [False, True])
async def test_an_answer_that_is_too_large_is_not_kept(
    servers: McpToolServers, http: HttpToolServer, *, by_command: bool
) -> None:
    connection, credentials = (BY_COMMAND, OF_THE_PROCESS) if by_command else (at(http), GOOD)

    with pytest.raises(PermanentError, match="larger than") as refused:
        await servers.call(connection, credentials, tool("huge"), {}, may_go=at_once)

    assert refused.value.code == "result_too_large"
    assert (
        await servers.call(connection, credentials, tool("look"), {"name": "B"}, may_go=at_once)
    ).text == "B is there"


@pytest.mark.parametrize("by_command", [False, True])
async def test_a_server_that_dies_in_a_call_leaves_it_uncertain_and_it_is_not_sent_again(
    servers: McpToolServers, http: HttpToolServer, *, by_command: bool
) -> None:
    connection, credentials = (BY_COMMAND, OF_THE_PROCESS) if by_command else (at(http), GOOD)

    with pytest.raises(UncertainError):
        await servers.call(connection, credentials, tool("crash_in_the_call"), {}, may_go=at_once)

    assert http.calls["crash"] == (0 if by_command else 1)
    assert (
        await servers.call(connection, credentials, tool("look"), {"name": "B"}, may_go=at_once)
    ).text == "B is there"


async def test_a_repeatable_call_is_sent_once_more(servers: McpToolServers, http: HttpToolServer) -> None:
    result = await servers.call(at(http), GOOD, tool("crash_once", repeatable=True), {}, may_go=at_once)

    assert (result.text, http.calls["crash_once"]) == ("done at last", 2)


async def test_refused_credentials_are_told_as_such_and_newer_ones_serve(
    servers: McpToolServers, http: HttpToolServer
) -> None:
    await servers.call(at(http), GOOD, tool("look"), {"name": "A"}, may_go=at_once)
    http.tokens = {"t0ken-renewed"}

    with pytest.raises(CredentialsError):
        await servers.call(at(http), GOOD, tool("change"), {"name": "A"}, may_go=at_once)

    renewed = ToolCredentials(2, headers={"Authorization": "Bearer t0ken-renewed"})
    assert (await servers.call(at(http), renewed, tool("change"), {"name": "A"}, may_go=at_once)).text == "A is changed"
    assert http.calls["change"] == 1


async def test_limits_of_a_server_are_told_with_its_own_wait(servers: McpToolServers, http: HttpToolServer) -> None:
    await servers.call(at(http), GOOD, tool("look"), {"name": "A"}, may_go=at_once)
    http.refusals = [429]

    with pytest.raises(RateLimitedError) as limited:
        await servers.call(at(http), GOOD, tool("change"), {"name": "A"}, may_go=at_once)

    assert (limited.value.retry_after_s, http.calls["change"]) == (7, 0)


async def test_a_session_that_the_server_has_lost_is_begun_anew_and_the_call_sent_once_more(
    servers: McpToolServers, http: HttpToolServer
) -> None:
    http.has_sessions = True
    await servers.call(at(http), GOOD, tool("look"), {"name": "A"}, may_go=at_once)
    http.forget_sessions()

    result = await servers.call(at(http), GOOD, tool("change"), {"name": "A"}, may_go=at_once)

    assert (result.text, http.calls["change"]) == ("A is changed", 1)
    assert (len(http.forgotten), len(http.sessions)) == (1, 2)


async def test_a_server_that_loses_its_new_session_as_well_took_nothing_and_is_not_asked_again(
    servers: McpToolServers, http: HttpToolServer
) -> None:
    http.has_sessions = True
    await servers.call(at(http), GOOD, tool("look"), {"name": "A"}, may_go=at_once)
    http.forgets = True

    with pytest.raises(UnavailableError, match="does not know the session"):
        await servers.call(at(http), GOOD, tool("change"), {"name": "A"}, may_go=at_once)

    assert (http.calls["change"], len(http.forgotten)) == (0, 2)


async def test_what_is_not_ours_any_more_directly_before_it_is_sent_is_not_sent(
    servers: McpToolServers, http: HttpToolServer
) -> None:
    def lost() -> None:
        raise LeaseLostError("another's by now")

    with pytest.raises(LeaseLostError):
        await servers.call(at(http), GOOD, tool("change"), {"name": "A"}, may_go=lost)

    assert http.calls["change"] == 0


async def test_calls_at_once_to_one_connection_are_bounded(guard: EgressGuard, http: HttpToolServer) -> None:
    servers = McpToolServers(guard, {}, FakeBreakers(), replace(LIMITS, at_once=1, wait_s=0.1))
    first = asyncio.create_task(servers.call(at(http), GOOD, tool("hang"), {}, may_go=at_once))
    await eventually(lambda: http.calls["hang"] == 1, timeout_s=30, what="the call")

    with pytest.raises(UnavailableError, match="1 calls under way"):
        await servers.call(at(http), GOOD, tool("look"), {"name": "A"}, may_go=at_once)

    first.cancel()
    await servers.close()


async def test_want_of_room_is_not_held_against_a_server(guard: EgressGuard, http: HttpToolServer) -> None:
    breakers = FakeBreakers()
    servers = McpToolServers(guard, {}, breakers, replace(LIMITS, sessions=SessionLimits(sessions_of_one=1, wait_s=0)))
    first = asyncio.create_task(servers.call(at(http), GOOD, tool("hang"), {}, may_go=at_once))
    await eventually(lambda: http.calls["hang"] == 1, timeout_s=30, what="the call")
    another = replace(at(http), id=ToolConnectionId("mcp_other"))

    with pytest.raises(UnavailableError, match="of this organization"):
        await servers.call(another, GOOD, tool("look"), {"name": "A"}, may_go=at_once)

    assert breakers.seen == []
    first.cancel()
    await servers.close()


async def test_a_server_that_does_not_list_its_tools_is_told_as_such(
    servers: McpToolServers, http: HttpToolServer
) -> None:
    await servers.call(at(http), GOOD, tool("look"), {"name": "A"}, may_go=at_once)
    http.refusals = [404]

    with pytest.raises(PermanentError, match="does not list its tools"):
        await servers.tools(at(http), GOOD)


async def test_a_server_that_is_not_there_took_nothing(servers: McpToolServers) -> None:
    gone = HttpToolServer(url="http://127.0.0.1:9/mcp")

    with pytest.raises(UnavailableError):
        await servers.call(at(gone), GOOD, tool("change"), {"name": "A"}, may_go=at_once)


async def test_an_address_out_of_bounds_is_never_asked(http: HttpToolServer) -> None:
    guard = EgressGuard(EgressPolicy())
    servers = McpToolServers(guard, {}, FakeBreakers(), LIMITS)

    with pytest.raises(PermanentError) as refused:
        await servers.call(at(http), GOOD, tool("look"), {"name": "A"}, may_go=at_once)

    assert refused.value.code == "egress_refused"
    await servers.close()
    await guard.close()


async def test_an_open_breaker_lets_nothing_go(guard: EgressGuard, http: HttpToolServer) -> None:
    opened = Gate(BreakerState.OPEN, wait_s=3)
    servers = McpToolServers(guard, {}, FakeBreakers({"mcp_http": opened}), LIMITS)

    with pytest.raises(UnavailableError):
        await servers.call(at(http), GOOD, tool("look"), {"name": "A"}, may_go=at_once)

    assert http.calls["look"] == 0
    await servers.close()


async def test_a_command_that_is_no_more_in_the_catalogue_is_not_started(guard: EgressGuard) -> None:
    servers = McpToolServers(guard, {}, FakeBreakers(), LIMITS)

    with pytest.raises(PermanentError) as refused:
        await servers.tools(BY_COMMAND, OF_THE_PROCESS)

    assert refused.value.code == "not_offered"
    await servers.close()


async def test_a_server_that_was_started_sees_its_own_environment_only_and_ends_with_the_pool(
    guard: EgressGuard,
) -> None:
    servers = McpToolServers(guard, CATALOGUE, FakeBreakers(), LIMITS)
    failed: ToolResult = await servers.call(BY_COMMAND, OF_THE_PROCESS, tool("tell"), {}, may_go=at_once)
    assert failed.is_error
    started = [pid for pid in _children() if b"tests.integration.mcp.tool_server" in _command_line(pid)]
    assert len(started) == 1
    environment = _environment(started[0])

    await servers.close()

    assert started[0] not in _children()
    assert f"TOOL_SECRET={SECRET}".encode() in environment
    assert b"HOME=/nonexistent" in environment


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()]


def _environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
