"""Rows of the way back: callbacks of OpenCode's plugin, callers who follow executions, calls of organizations' tools.

Load comes at a steady rate and is timed from when it was due, so that a web process that falls behind shows it.
"""

import asyncio
import itertools
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson
from mcp import Client
from pydantic import SecretStr

from benchmarks.figures import Report, percentile
from benchmarks.processes.commands import started
from benchmarks.sizes import Sizes
from benchmarks.system import System
from nubabel_workers.domain.callback_signature import (
    INSTANCE_HEADER,
    NONCE_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    SignedCall,
    signature_of,
)
from nubabel_workers.services.manage_callback_keys import ManageCallbackKeys

CPU = "CPU of the way back, ms"
_MS = 1000.0
_AIM_CALLBACK_MS = 100.0
_AIM_DELIVERY_MS = 100.0
_AIM_TOOL_MS = 30.0
_CALLBACKS_PER_S = 200
_CALLING_SESSIONS = 40
_UPDATE_EVERY = 10  # callbacks; the others are progress
_TOLD_EVERY_S = 0.5  # to each execution
_TOOL_CALLS_PER_S = 20
_TOOL = "greet"
_ARGUMENTS = {"name": "you"}
_FIRST_CALLS = 4  # of each organization: sessions begin, tools are listed
_LONGEST_S = 3600
_BEGIN_S = 20.0
_END_S = 20.0
_LAST_DELIVERIES_S = 5.0


@dataclass(frozen=True)
class _Run:
    """An execution that goes on."""

    execution_id: str
    organization_id: str
    instance_id: str
    opencode_session_id: str


@asynccontextmanager
async def _running(system: System, count: int) -> AsyncIterator[Sequence[_Run]]:
    """So many executions of all organizations; they are cancelled when the block ends."""
    await system.send(count, f"[[delay={_LONGEST_S}]] [[gap=0]]", timeout_s=_BEGIN_S)
    await system.until_running(count, timeout_s=_BEGIN_S)
    rows = await system.stack.services.database.system().all(
        """
        SELECT id AS execution_id, organization_id, instance_id, opencode_session_id
        FROM executions WHERE status = 'running'
        """
    )
    runs = [_Run(**row) for row in rows]
    try:
        yield runs
    finally:
        await _cancel(system, runs)


async def _cancel(system: System, runs: Sequence[_Run]) -> None:
    for tenant in system.stack.tenants:
        async with system.stack.client(tenant) as api:
            for run in runs:
                if run.organization_id == tenant.id:
                    (await api.post(f"/v1/executions/{run.execution_id}/cancel")).raise_for_status()
    await system.until_idle(timeout_s=_END_S)


@dataclass(frozen=True)
class _Plugin:
    """Signs as the plugin of that server does."""

    http: aiohttp.ClientSession
    web_url: str
    instance_id: str
    key: SecretStr = field(repr=False)

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Status and answer."""
        raw = orjson.dumps(body)
        timestamp, nonce = str(int(time.time())), secrets.token_hex(16)
        headers = {
            "content-type": "application/json",
            INSTANCE_HEADER: self.instance_id,
            TIMESTAMP_HEADER: timestamp,
            NONCE_HEADER: nonce,
            SIGNATURE_HEADER: signature_of(
                SignedCall("POST", path.encode(), raw), self.key, timestamp=timestamp, nonce=nonce
            ),
        }
        async with self.http.post(self.web_url + path, data=raw, headers=headers) as answer:
            return answer.status, await answer.json()


@asynccontextmanager
async def _plugin(system: System) -> AsyncIterator[_Plugin]:
    """Of the system's one server."""
    instances = system.stack.services.instances
    (instance,) = await instances.loads()
    key = await ManageCallbackKeys(instances, secrets.token_bytes).create(instance.id, actor="bench")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        yield _Plugin(http, system.stack.api_url, instance.id, key)


async def _at_a_rate(per_s: float, for_s: float, work: Callable[[int], Awaitable[None]]) -> list[float]:
    """Begin work(0), work(1) … when each is due, whether or not the others have ended. Seconds each took from then."""
    began = time.monotonic()

    async def one(number: int) -> float:
        due = began + number / per_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await work(number)
        return time.monotonic() - due

    return await asyncio.gather(*(one(number) for number in range(int(per_s * for_s))))


def _p95_ms(seconds: Sequence[float]) -> float | None:
    value = percentile(seconds, 0.95)
    return None if value is None else value * _MS


# --- callbacks --------------------------------------------------------------------------------------------------------


async def measure_callbacks(system: System, sizes: Sizes, report: Report) -> None:
    """Progress of running sessions, and now and then that one is idle, so that its run is looked at."""
    refused: list[int] = []
    async with _running(system, _CALLING_SESSIONS) as runs, _plugin(system) as plugin:

        async def call(number: int) -> None:
            session_id = runs[number % len(runs)].opencode_session_id
            kind, body = _callback(session_id, number)
            status, _ = await plugin.post(f"/api/sidecar/sessions/{session_id}/{kind}", body)
            if status != HTTPStatus.ACCEPTED:
                refused.append(status)

        before = await system.read()
        times = await _at_a_rate(_CALLBACKS_PER_S, sizes.callbacks_s, call)
        spent = (await system.read()).since(before)
    what = f"{_CALLBACKS_PER_S}/s to one web process, p95"
    report.add("callbacks", what, _p95_ms(times), "ms", aim=_AIM_CALLBACK_MS)
    report.add("callbacks", "CPU of the web process, per callback", spent.cpu["web"] * _MS / len(times), "ms")
    report.add_column(CPU, "callback", {name: cpu * _MS / len(times) for name, cpu in spent.cpu.items()})
    if refused:
        report.problems.append(f"callbacks: {len(refused)} of {len(times)} were not accepted ({set(refused)})")


def _callback(session_id: str, number: int) -> tuple[str, Mapping[str, Any]]:
    turn = number // _CALLING_SESSIONS  # shifts the updates, so that each session has one now and then
    if (number + turn) % _UPDATE_EVERY == 0:
        return "update", {"type": "session.idle", "session_id": session_id}
    tool = {"type": "tool", "session_id": session_id, "call_id": f"call_{number}", "tool": "bash", "status": "running"}
    return "progress", {"items": [tool]}


# --- listeners --------------------------------------------------------------------------------------------------------


@dataclass
class _Deliveries:
    """begun: streams that have said something. late: seconds from told to delivered."""

    begun: int = 0
    late: list[float] = field(default_factory=list)


async def measure_listeners(system: System, sizes: Sizes, report: Report) -> None:
    """Progress that is told to many executions, each followed by several callers: when each of them has it."""
    per_execution = sizes.listeners // sizes.followed
    seen = _Deliveries()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None)
    async with (
        _running(system, sizes.followed) as runs,
        aiohttp.ClientSession(connector=connector, timeout=timeout) as http,
    ):
        followers = [
            asyncio.create_task(_follow(http, system, run, seen)) for run in runs for _ in range(per_execution)
        ]
        try:
            await _until(lambda: seen.begun == len(followers), timeout_s=_BEGIN_S)
            before = await system.read()
            told = await _tell_all(system, runs, sizes.told_s)
            expected = told * per_execution
            await _until(lambda: len(seen.late) >= expected, timeout_s=_LAST_DELIVERIES_S)
            spent = (await system.read()).since(before)
        finally:
            for follower in followers:
                follower.cancel()
            ends = await asyncio.gather(*followers, return_exceptions=True)
    broken = [end for end in ends if not isinstance(end, asyncio.CancelledError)]
    if broken:
        reasons = {getattr(end, "status", type(end).__name__) for end in broken}  # not its repr, which has the token
        report.problems.append(f"listeners: {len(broken)} streams ended too early ({reasons})")
    row = "listeners"
    per_s = expected / sizes.told_s
    what = f"{len(followers)} on one web process, {per_s:,.0f} deliveries a second, told to delivered, p95"
    report.add(row, what, _p95_ms(seen.late), "ms", aim=_AIM_DELIVERY_MS)
    report.add(row, "of what was told, delivered", 100 * len(seen.late) / expected, "%")
    report.add(row, "CPU of the web process, per delivery", spent.cpu["web"] * _MS / expected, "ms")
    report.add_column(CPU, "delivery", {name: cpu * _MS / expected for name, cpu in spent.cpu.items()})


async def _tell_all(system: System, runs: Sequence[_Run], for_s: float) -> int:
    """Tell every execution something every so often, evenly spread; how many times in all."""
    progress = system.stack.services.progress

    async def tell(number: int) -> None:
        run = runs[number % len(runs)]
        event = {"type": "text", "text": str(time.monotonic())}
        await progress.append(run.organization_id, run.execution_id, event)

    return len(await _at_a_rate(len(runs) / _TOLD_EVERY_S, for_s, tell))


async def _follow(http: aiohttp.ClientSession, system: System, run: _Run, seen: _Deliveries) -> None:
    (tenant,) = (tenant for tenant in system.stack.tenants if tenant.id == run.organization_id)
    headers = {"authorization": f"Bearer {tenant.token.get_secret_value()}"}
    url = f"{system.stack.api_url}/v1/executions/{run.execution_id}/events"
    async with http.get(url, headers=headers) as response:
        response.raise_for_status()
        await response.content.readline()  # of the event that says where it stands
        seen.begun += 1
        async for line in response.content:
            if line.startswith(b'data: {"type":"text"'):
                seen.late.append(time.monotonic() - float(json.loads(line.removeprefix(b"data: "))["text"]))


async def _until(condition: Callable[[], bool], *, timeout_s: float) -> None:
    """Or until the time is over."""
    ends_at = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < ends_at:  # noqa: ASYNC110  # an event each would cost what is measured
        await asyncio.sleep(0.05)


# --- tool calls -------------------------------------------------------------------------------------------------------


async def measure_tool_calls(system: System, sizes: Sizes, report: Report) -> None:
    """The same call of the same MCP server, by itself and through us, in turns."""
    tenants = system.stack.tenants
    async with started("benchmarks.processes.tools") as process, _running(system, len(tenants)) as runs:
        url = await process.ask("open")
        for tenant in tenants:
            async with system.stack.client(tenant) as api:
                connection = {"url": url, "provider": "bench", "authentication": "none"}
                (await api.post("/v1/connections", json=connection)).raise_for_status()
        async with Client(url) as client, _plugin(system) as plugin:
            call = _ToolCalls(plugin, runs)
            for _ in range(_FIRST_CALLS * len(runs)):
                await client.call_tool(_TOOL, _ARGUMENTS)
                await call()
            call.failed = 0
            before = await system.read()
            direct, through = await _in_turns(client, call, sizes.tool_calls_s)
            spent = (await system.read()).since(before)
    beside = percentile(direct, 0.5) or 0.0
    what = f"{_TOOL_CALLS_PER_S}/s, beyond the median of direct calls, p95"
    report.add("tool calls", what, _p95_ms([one - beside for one in through]), "ms", aim=_AIM_TOOL_MS)
    report.add("tool calls", "direct calls of the same MCP server, p95", _p95_ms(direct), "ms")
    report.add("tool calls", "CPU of the web process, per call", spent.cpu["web"] * _MS / len(through), "ms")
    report.add_column(CPU, "tool call", {name: cpu * _MS / len(through) for name, cpu in spent.cpu.items()})
    if call.failed:
        report.problems.append(f"tool calls: {call.failed} of {len(through)} failed")


class _ToolCalls:
    """Calls as the plugin makes them, in the sessions of all organizations by turns."""

    def __init__(self, plugin: _Plugin, runs: Sequence[_Run]) -> None:
        self.failed = 0
        self._plugin = plugin
        self._runs = itertools.cycle(runs)
        self._numbers = itertools.count(1)

    async def __call__(self) -> None:
        body = {
            "session_id": next(self._runs).opencode_session_id,
            "call_id": f"call_{next(self._numbers)}",
            "tool_name": _TOOL,
            "arguments": _ARGUMENTS,
        }
        status, answer = await self._plugin.post("/api/sidecar/mcp/invoke", body)
        self.failed += status != HTTPStatus.OK or not answer["ok"]


async def _in_turns(client: Client, call: _ToolCalls, for_s: float) -> tuple[list[float], list[float]]:
    """Seconds of each direct call and of each through us; every second one of a steady row is direct."""
    direct: list[float] = []
    through: list[float] = []

    async def one(number: int) -> None:
        began = time.monotonic()
        if number % 2:
            await call()
            through.append(time.monotonic() - began)
        else:
            await client.call_tool(_TOOL, _ARGUMENTS)
            direct.append(time.monotonic() - began)

    await _at_a_rate(2 * _TOOL_CALLS_PER_S, for_s, one)
    return direct, through
