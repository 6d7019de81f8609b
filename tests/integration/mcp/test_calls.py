"""Tool calls on real PostgreSQL and a real MCP server: once, by however many processes, and whoever dies."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.adapters.storage.encryption import generate_key
from nubabel_workers.bootstrap import Services, open_connections, open_services, open_tool_calls
from nubabel_workers.domain.ids import ExecutionId, OrganizationId
from nubabel_workers.domain.tool_calls import ToolRequest
from nubabel_workers.domain.tool_connections import Authentication, NewConnection
from nubabel_workers.services.tool_calls import ToolCalls
from tests.forking import ForkedProcess
from tests.integration.gateway.conftest import environment_of
from tests.integration.mcp.tool_server import TOKEN, HttpToolServer
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization
from tests.waiting import eventually, eventually_true

pytestmark = pytest.mark.integration

ORGANIZATION = OrganizationId("org_a")
LEASE_S = 3.0
NOWHERE = SecretStr("redis://127.0.0.1:1/0")  # without the shared state every call may go
CHANGE = ToolRequest(ORGANIZATION, ExecutionId("exe_a"), "ses_oc", "call_1", "change", {"name": "A"})
LOOK = replace(CHANGE, call_id="call_2", tool_name="look")


@pytest.fixture
async def http() -> AsyncIterator[HttpToolServer]:
    server = HttpToolServer()
    async with server.running():
        yield server


@pytest.fixture
def settings(database_url: str, http: HttpToolServer) -> Settings:
    return Settings(
        _env_file=None,
        environment="development",
        database_url=SecretStr(database_url),
        broker_url=NOWHERE,
        cache_url=NOWHERE,
        encryption_keys=(generate_key(),),
        database_pool_min=0,
        lease_s=LEASE_S,
        egress_allow=(http.url.removeprefix("http://").removesuffix("/mcp"),),
    )


@pytest.fixture
async def services(settings: Settings) -> AsyncIterator[Services]:
    async with open_services(settings, application_name="tests") as opened:
        for organization_id in (ORGANIZATION, "org_b"):
            await add_organization(opened.database, organization_id)
        await add_execution(opened.database, ExecutionSeed("exe_a", ORGANIZATION, status="running"))
        await add_execution(opened.database, ExecutionSeed("exe_b", "org_b", status="running"))
        yield opened


@pytest.fixture
async def tools(services: Services, http: HttpToolServer) -> AsyncIterator[ToolCalls]:
    async with AsyncExitStack() as stack:
        connections = open_connections(services, stack)
        new = NewConnection(
            url=http.url, provider="web", authentication=Authentication.TOKEN, secrets={"token": SecretStr(TOKEN)}
        )
        await connections.manage.add(ORGANIZATION, new, actor="tests")
        yield open_tool_calls(services, connections, stack)


@asynccontextmanager
async def started(settings: Settings, request: ToolRequest, *death: str) -> AsyncIterator[ForkedProcess]:
    """Another process that is about to make this call."""
    with ForkedProcess(
        ["python", "-m", "tests.integration.mcp.calling", json.dumps(asdict(request)), *death],
        cwd=Path.cwd(),
        env={
            **environment_of(settings, http_port=1),
            "NUBABEL_EGRESS_ALLOW": ",".join(settings.egress_allow),
            "NUBABEL_LOG_LEVEL": "error",
            "NUBABEL_LEASE_S": str(settings.lease_s),
        },
        stdin=PIPE,
    ) as process:
        async with asyncio.timeout(60):
            assert await asyncio.to_thread(process.read_line) == b"ready\n"
        yield process


async def killed(settings: Settings, request: ToolRequest, method: str, moment: str) -> None:
    async with started(settings, request, method, moment) as process:
        async with asyncio.timeout(60):
            await asyncio.to_thread(process.communicate, b"\n")
        assert process.poll() == -signal.SIGKILL


async def its_lease_ends(services: Services) -> None:
    await services.database.system().execute("UPDATE tool_calls SET lease_until = now() WHERE status = 'started'")


async def statuses(services: Services) -> list[str]:
    rows = await services.database.system().all("SELECT status FROM tool_calls ORDER BY started_at")
    return [row["status"] for row in rows]


async def timeline(services: Services) -> list[str]:
    rows = await services.database.system().all("SELECT kind FROM execution_events ORDER BY id")
    return [row["kind"] for row in rows]


async def test_a_call_is_made_with_the_tenants_credentials_and_is_in_the_timeline(
    tools: ToolCalls, services: Services, http: HttpToolServer
) -> None:
    outcome = await tools.invoke.run(CHANGE)
    again = await tools.invoke.run(CHANGE)

    assert (outcome.ok, outcome.content, again.content) == (True, "A is changed", "A is changed")
    assert http.calls["change"] == 1
    assert await timeline(services) == ["tool_call_started", "tool_call_ended"]


async def test_tools_are_listed_per_organization(tools: ToolCalls) -> None:
    (offer,) = await tools.list.run(ORGANIZATION)

    assert (offer.name, offer.error) == ("web", None)
    assert {"look", "change"} <= {tool.name for tool in offer.tools}
    assert await tools.list.run("org_b") == []


async def test_an_organization_reaches_no_execution_and_no_connection_of_another(
    tools: ToolCalls, http: HttpToolServer
) -> None:
    theirs = replace(CHANGE, organization_id=OrganizationId("org_b"), execution_id=ExecutionId("exe_b"))
    mixed = replace(CHANGE, execution_id=ExecutionId("exe_b"))

    outcomes = [await tools.invoke.run(theirs), await tools.invoke.run(mixed)]

    assert [one.error.code for one in outcomes if one.error] == ["no_providers", "execution_over"]
    assert http.calls["change"] == 0


async def test_an_error_that_echoes_the_credentials_reaches_nobody(
    tools: ToolCalls, services: Services, http: HttpToolServer
) -> None:
    outcome = await tools.invoke.run(replace(CHANGE, tool_name="tell", arguments={}))

    assert outcome.error is not None
    assert TOKEN not in outcome.error.message
    row = await services.database.system().one("SELECT t::text AS text FROM tool_calls t")
    assert row is not None
    assert TOKEN not in row["text"]


async def test_refused_credentials_mark_the_connection_and_nothing_was_called(
    tools: ToolCalls, services: Services, http: HttpToolServer
) -> None:
    await tools.list.run(ORGANIZATION)
    http.tokens = set()

    outcome = await tools.invoke.run(CHANGE)
    later = await tools.invoke.run(replace(CHANGE, call_id="call_9", provider="web"))

    assert [one.error.code for one in (outcome, later) if one.error] == ["connection_refused", "connection_refused"]
    assert http.calls["change"] == 0
    assert await statuses(services) == ["failed"]


async def test_of_two_processes_at_once_one_makes_the_call_and_both_tell_its_result(
    tools: ToolCalls, settings: Settings, services: Services, http: HttpToolServer
) -> None:
    async with started(settings, CHANGE) as one, started(settings, CHANGE) as other, asyncio.timeout(60):
        calling = [asyncio.to_thread(process.communicate, b"\n") for process in (one, other)]
        told = await asyncio.gather(*calling)

    outcomes: list[dict[str, Any]] = [json.loads(out.splitlines()[-1]) for out in told]
    assert [(outcome["ok"], outcome["content"]) for outcome in outcomes] == [(True, "A is changed")] * 2
    assert http.calls["change"] == 1
    assert await statuses(services) == ["succeeded"]


@pytest.mark.parametrize(
    ("method", "moment", "calls", "code"),
    [
        ("begin", "before", 1, None),  # nothing was written: the next one makes the call
        ("begin", "after", 0, "outcome_unknown"),  # nobody can know that it was not made
        ("finish", "before", 1, "outcome_unknown"),
        ("finish", "after", 1, None),
    ],
)
async def test_a_process_that_dies_never_makes_a_call_happen_twice(
    tools: ToolCalls,
    settings: Settings,
    services: Services,
    http: HttpToolServer,
    *,
    method: str,
    moment: str,
    calls: int,
    code: str | None,
) -> None:
    await killed(settings, CHANGE, method, moment)
    await its_lease_ends(services)

    outcomes = [await tools.invoke.run(CHANGE), await tools.invoke.run(CHANGE)]

    assert [one.error.code if one.error else None for one in outcomes] == [code, code]
    assert http.calls["change"] == calls


@pytest.mark.parametrize(("method", "moment", "calls"), [("begin", "after", 1), ("finish", "before", 2)])
async def test_a_call_that_only_reads_is_made_again_after_a_death(
    tools: ToolCalls,
    settings: Settings,
    services: Services,
    http: HttpToolServer,
    *,
    method: str,
    moment: str,
    calls: int,
) -> None:
    await killed(settings, LOOK, method, moment)
    await its_lease_ends(services)

    outcome = await tools.invoke.run(LOOK)

    assert (outcome.content, http.calls["look"]) == ("A is there", calls)
    assert await statuses(services) == ["succeeded"]


@pytest.mark.parametrize(
    ("tool_name", "content", "code", "calls"),
    [("hang", "", "outcome_unknown", 1), ("hang_once", "answered", None, 2)],
    ids=["unknown", "repeatable"],
)
async def test_a_call_whose_process_is_killed_in_it_ends_with_the_next_request_within_about_its_lease(
    tools: ToolCalls,
    settings: Settings,
    http: HttpToolServer,
    *,
    tool_name: str,
    content: str,
    code: str | None,
    calls: int,
) -> None:
    asked = replace(CHANGE, tool_name=tool_name, arguments={})
    async with started(settings, asked) as process:
        process.give(b"\n")
        await eventually(lambda: http.calls[tool_name] == 1, timeout_s=30, what="the call")
        await tools.list.run(ORGANIZATION)  # what follows is the wait for the lease alone
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
    killed_at = time.monotonic()

    outcome = await tools.invoke.run(asked)

    assert (outcome.content, outcome.error.code if outcome.error else None) == (content, code)
    assert http.calls[tool_name] == calls
    assert time.monotonic() - killed_at < LEASE_S + 2


async def test_the_lease_of_a_call_is_renewed_while_the_call_lasts(
    tools: ToolCalls, services: Services, http: HttpToolServer
) -> None:
    calling = asyncio.create_task(tools.invoke.run(replace(CHANGE, tool_name="hang", arguments={})))
    await eventually(lambda: http.calls["hang"] == 1, timeout_s=30, what="the call")

    async def renewed() -> bool:
        row = await services.database.system().one(
            "SELECT lease_until - started_at > make_interval(secs => %(lease_s)s) AS longer FROM tool_calls",
            {"lease_s": LEASE_S + 0.1},
        )
        return row is not None and row["longer"]

    await eventually_true(renewed, what="the renewal")
    calling.cancel()
