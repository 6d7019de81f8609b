"""The simulator takes thousands of sessions, at once and after each other. What one costs does not grow with them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

import nubabel_workers.simulators.opencode
from nubabel_workers.simulators.opencode import RunningSimulator, SimulatorConfig, simulator
from tests.executed_lines import executed_lines

pytestmark = pytest.mark.asyncio(loop_scope="module")

_SIMULATOR = Path(nubabel_workers.simulators.opencode.__file__).parent
_SESSIONS = 3_000
_KEPT = 200
_CONNECTIONS = 50


@pytest_asyncio.fixture(loop_scope="module")
async def running() -> AsyncIterator[RunningSimulator]:
    async with simulator(SimulatorConfig(plugin="none", keep_sessions=_KEPT)) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def http(running: RunningSimulator) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    async with aiohttp.ClientSession(running.url, connector=connector) as client:
        yield client


async def _begin(http: aiohttp.ClientSession, text: str) -> str:
    async with http.post("/session", json={}) as response:
        session_id: str = (await response.json())["id"]
    prompt = {"parts": [{"type": "text", "text": text}]}
    async with http.post(f"/session/{session_id}/prompt_async", json=prompt) as response:
        assert response.status == 204
    return session_id


async def _converse(running: RunningSimulator, http: aiohttp.ClientSession) -> int:
    """One whole session; how many messages it has."""
    session_id = await _begin(http, "hello")
    run = running.simulator.store.sessions[session_id].run
    if run is not None and run.task is not None:
        await run.task
    async with http.get(f"/session/{session_id}/message") as response:
        return len(await response.json())


async def test_thousands_of_sessions_work_at_once_with_one_task_each_and_end_by_their_aborts(
    running: RunningSimulator, http: aiohttp.ClientSession
) -> None:
    store, engine, tasks = running.simulator.store, running.simulator.engine, len(asyncio.all_tasks())
    sessions = await asyncio.gather(*(_begin(http, "[[hang]]") for _ in range(_SESSIONS)))

    at_work = (engine.active, sum(map(len, store.busy.values())))
    each = len(asyncio.all_tasks()) - tasks
    runs = [run.task for one in sessions if (run := store.sessions[one].run) is not None and run.task is not None]
    await asyncio.gather(*(_abort(http, one) for one in sessions))
    await asyncio.wait(runs)

    assert at_work == (_SESSIONS, _SESSIONS)
    assert each <= _SESSIONS + 2 * _CONNECTIONS
    assert (engine.active, engine.peak, engine.aborts) == (0, _SESSIONS, _SESSIONS)
    assert sum(map(len, store.busy.values())) == 0


async def _abort(http: aiohttp.ClientSession, session_id: str) -> None:
    async with http.post(f"/session/{session_id}/abort") as response:
        assert response.status == 200


async def test_thousands_of_sessions_after_each_other_cost_what_the_first_one_did_and_leave_no_more_than_is_kept(
    running: RunningSimulator, http: aiohttp.ClientSession
) -> None:
    store = running.simulator.store
    await _converse(running, http)  # whatever is found out once
    with executed_lines(_SIMULATOR) as first:
        messages = await _converse(running, http)
    for _ in range(_SESSIONS // _CONNECTIONS):
        await asyncio.gather(*(_converse(running, http) for _ in range(_CONNECTIONS)))
    with executed_lines(_SIMULATOR) as last:
        await _converse(running, http)

    assert messages == 2
    assert first.lines > 0
    assert last.lines < 2 * first.lines  # the store is full by then: each time one is forgotten
    assert len(store.sessions) <= _KEPT
    kept = {message for session in store.sessions.values() for message in session.messages}
    assert set(store.owners) | set(store.model_runs) <= kept
