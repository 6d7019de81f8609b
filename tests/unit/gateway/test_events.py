"""Following an execution: progress, resuming, and in any case the end."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import orjson
import pytest

from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.executions import Execution, Status
from nubabel_workers.gateway.dependencies import GatewayLimits
from nubabel_workers.gateway.event_stream import ExecutionEvents, StreamEvent, StreamPace
from tests.fakes.front_door import ACME, FrontDoor
from tests.unit.gateway.conftest import client_of
from tests.waiting import eventually

PACE = StreamPace(row_check_s=0.05, max_s=60)


async def submitted(door: FrontDoor, status: Status = Status.RUNNING) -> Execution:
    async with client_of(door, token=door.token()) as http:
        execution_id = (await http.post("/v1/executions", json={"prompt": "Hello"})).json()["id"]
    return door.executions.move(execution_id, status)


async def collect(events: AsyncIterator[StreamEvent], into: list[StreamEvent]) -> None:
    async for event in events:
        into.append(event)  # noqa: PERF401 - tests look at it while it grows


def stream_of(door: FrontDoor, execution: Execution, pace: StreamPace = PACE) -> ExecutionEvents:
    return ExecutionEvents(execution, door.parts.waiting, door.parts.read, door.progress, door.clock, pace)


async def told_so_many(seen: list[StreamEvent], number: int) -> None:
    await eventually(lambda: len(seen) == number)


def names(events: list[StreamEvent]) -> list[str]:
    return [event.event for event in events]


async def test_progress_is_shown_as_it_happens_and_the_end_with_its_outcome(door: FrontDoor) -> None:
    execution = await submitted(door)
    seen: list[StreamEvent] = []
    task = asyncio.create_task(collect(stream_of(door, execution).after(""), seen))

    await door.progress.append(ACME.id, execution.id, {"type": "tool", "tool": "bash", "state": "running"})
    await eventually(lambda: len(seen) == 2)
    door.executions.move(execution.id, Status.COMPLETED, output="Two.")
    await door.progress.append(ACME.id, execution.id, {"type": "done"})
    await asyncio.wait_for(task, 5)

    assert names(seen) == ["state", "tool", "done"]
    assert orjson.loads(seen[0].data) == {"type": "state", "status": "running"}
    assert orjson.loads(seen[1].data)["tool"] == "bash"
    assert orjson.loads(seen[2].data)["output"] == "Two."
    assert [event.id for event in seen] == [None, "1-0", "end"]


async def test_the_end_is_told_though_the_cache_lost_everything(door: FrontDoor) -> None:
    execution = await submitted(door)
    seen: list[StreamEvent] = []
    task = asyncio.create_task(collect(stream_of(door, execution).after(""), seen))

    await eventually(lambda: door.progress.readers == 1)
    door.progress.wipe()
    door.executions.move(execution.id, Status.FAILED)
    await asyncio.wait_for(task, 5)

    assert names(seen) == ["state", "done"]


async def test_the_end_is_told_though_the_cache_is_away(door: FrontDoor) -> None:
    execution = await submitted(door)
    door.progress.away = True
    seen: list[StreamEvent] = []
    task = asyncio.create_task(collect(stream_of(door, execution).after(""), seen))

    await eventually(lambda: seen)
    door.executions.move(execution.id, Status.CANCELLED)
    await asyncio.wait_for(task, 5)

    assert names(seen) == ["state", "done"]


async def test_a_database_that_is_away_for_a_moment_ends_no_stream(door: FrontDoor) -> None:
    execution = await submitted(door)
    door.executions.error = UnavailableError("the database cannot be reached")
    seen: list[StreamEvent] = []
    task = asyncio.create_task(collect(stream_of(door, execution).after(""), seen))

    await door.progress.append(ACME.id, execution.id, {"type": "state", "status": "running"})
    await door.progress.append(ACME.id, execution.id, {"type": "text", "text": "a"})
    await eventually(lambda: len(seen) == 2)
    door.executions.error = None
    door.executions.move(execution.id, Status.COMPLETED)
    await asyncio.wait_for(task, 5)

    assert names(seen) == ["state", "text", "done"]


async def test_each_state_is_told_once_as_the_row_has_it(door: FrontDoor) -> None:
    execution = await submitted(door, Status.QUEUED)
    seen: list[StreamEvent] = []
    task = asyncio.create_task(collect(stream_of(door, execution).after(""), seen))

    for told, status in enumerate((Status.RUNNING, Status.WAITING_BUDGET, Status.QUEUED, Status.RUNNING), start=1):
        await told_so_many(seen, told)
        door.executions.move(execution.id, status)
        await door.progress.append(ACME.id, execution.id, {"type": "state", "status": status.value})
        await door.progress.append(ACME.id, execution.id, {"type": "state", "status": status.value})
    await eventually(lambda: len(seen) == 5)
    door.executions.move(execution.id, Status.COMPLETED)
    await asyncio.wait_for(task, 5)

    states = [orjson.loads(event.data) for event in seen if event.event == "state"]
    assert [state["status"] for state in states] == ["queued", "running", "waiting_budget", "queued", "running"]
    assert ["waiting_for" in state for state in states] == [True, False, True, True, False]
    assert {state["type"] for state in states} == {"state"}
    assert names(seen)[-1] == "done"


async def test_what_an_execution_waits_for_is_told_again_when_that_is_something_else(door: FrontDoor) -> None:
    execution = await submitted(door, Status.QUEUED)
    seen: list[StreamEvent] = []
    task = asyncio.create_task(collect(stream_of(door, execution).after(""), seen))

    for told, reason in enumerate(("server away", "pace"), start=1):
        await told_so_many(seen, told)
        door.executions.move(execution.id, Status.QUEUED, waiting_for=reason)
    await told_so_many(seen, 3)
    door.executions.move(execution.id, Status.COMPLETED)
    await asyncio.wait_for(task, 5)

    assert names(seen) == ["state", "state", "state", "done"]


async def test_whoever_comes_after_the_end_is_told_all_that_happened(door: FrontDoor) -> None:
    execution = await submitted(door, Status.COMPLETED)
    for event in (
        {"type": "state", "status": "running"},
        {"type": "tool", "tool": "bash", "status": "completed"},
        {"type": "state", "status": "queued"},
        {"type": "tool", "tool": "read", "status": "completed"},
        {"type": "state", "status": "completed"},
    ):
        await door.progress.append(ACME.id, execution.id, event)
    seen: list[StreamEvent] = []
    stream = stream_of(door, replace(execution, status=Status.RUNNING))  # as it was when the client asked

    await asyncio.wait_for(collect(stream.after(""), seen), 5)

    assert [orjson.loads(event.data).get("tool") for event in seen] == [None, "bash", "read", None]


async def test_whoever_comes_late_is_told_where_it_stands_and_not_where_it_stood(door: FrontDoor) -> None:
    execution = await submitted(door)
    for status in ("running", "waiting_budget", "queued"):
        await door.progress.append(ACME.id, execution.id, {"type": "state", "status": status})
    await door.progress.append(ACME.id, execution.id, {"type": "tool", "tool": "bash"})
    seen: list[StreamEvent] = []
    task = asyncio.create_task(collect(stream_of(door, execution).after(""), seen))

    await eventually(lambda: len(seen) == 2)
    door.executions.move(execution.id, Status.COMPLETED)
    await asyncio.wait_for(task, 5)

    assert names(seen) == ["state", "tool", "done"]


async def test_an_unbroken_flow_of_progress_does_not_hide_the_end(door: FrontDoor) -> None:
    execution = await submitted(door)
    door.executions.move(execution.id, Status.COMPLETED)
    seen: list[StreamEvent] = []
    events = stream_of(door, execution, StreamPace(row_check_s=3, max_s=60)).after("")
    task = asyncio.create_task(collect(events, seen))

    await eventually(lambda: door.progress.readers == 1)
    door.clock.advance(3)
    await door.progress.append(ACME.id, execution.id, {"type": "text", "text": "a"})
    await asyncio.wait_for(task, 5)

    assert names(seen) == ["state", "text", "done"]


async def test_a_client_resumes_after_what_it_has_seen(door: FrontDoor) -> None:
    execution = await submitted(door, Status.COMPLETED)
    for number in range(3):
        await door.progress.append(ACME.id, execution.id, {"type": "tool", "number": number})
    seen: list[StreamEvent] = []

    await collect(stream_of(door, execution).after("2-0"), seen)

    assert [orjson.loads(event.data).get("number") for event in seen] == [None, 2, None]
    assert names(seen) == ["state", "tool", "done"]


async def test_a_stream_ends_at_its_time_and_says_no_end(door: FrontDoor) -> None:
    execution = await submitted(door)
    seen: list[StreamEvent] = []
    task = asyncio.create_task(collect(stream_of(door, execution).after(""), seen))

    await eventually(lambda: door.progress.readers == 1)
    door.clock.advance(61)
    await asyncio.wait_for(task, 5)

    assert names(seen) == ["state"]
    assert door.progress.readers == 0


async def test_a_reader_that_leaves_leaves_nothing_behind(door: FrontDoor) -> None:
    execution = await submitted(door)
    task = asyncio.create_task(collect(stream_of(door, execution).after(""), []))
    await eventually(lambda: door.progress.readers == 1)

    task.cancel()
    await asyncio.wait({task})

    assert door.progress.readers == 0


async def test_over_http_the_stream_is_server_sent_events(door: FrontDoor, http: httpx.AsyncClient) -> None:
    execution = await submitted(door, Status.COMPLETED)
    await door.progress.append(ACME.id, execution.id, {"type": "tool", "title": "두 줄\nund mehr"})

    answer = await http.get(f"/v1/executions/{execution.id}/events")

    frames = answer.text.strip().split("\n\n")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert frames[0] == 'event: state\ndata: {"type":"state","status":"completed"}'
    assert frames[1] == 'id: 1-0\nevent: tool\ndata: {"type":"tool","title":"두 줄\\nund mehr"}'
    assert frames[2].startswith("id: end\nevent: done\ndata: {")


async def test_whoever_has_seen_the_end_is_told_not_to_come_back(door: FrontDoor, http: httpx.AsyncClient) -> None:
    execution = await submitted(door, Status.COMPLETED)

    answer = await http.get(f"/v1/executions/{execution.id}/events", headers={"last-event-id": "end"})

    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last", ["0", "$", "1-0; FLUSHALL", "x" * 65, "-1-0"])
async def test_an_id_that_no_stream_gave_is_refused(door: FrontDoor, http: httpx.AsyncClient, last: str) -> None:
    execution = await submitted(door)

    answer = await http.get(f"/v1/executions/{execution.id}/events", headers={"last-event-id": last})

    assert answer.status_code == 422


async def test_an_organization_opens_only_so_many_streams() -> None:
    door = FrontDoor(limits=GatewayLimits(streams_per_organization=1, stream_row_check_s=0.05))
    execution = await submitted(door)
    async with client_of(door, token=door.token()) as http:
        first = asyncio.create_task(http.get(f"/v1/executions/{execution.id}/events"))
        await eventually(lambda: door.progress.readers == 1)
        refused = await http.get(f"/v1/executions/{execution.id}/events")
        door.executions.move(execution.id, Status.COMPLETED)
        ended = await asyncio.wait_for(first, 5)
        again = await http.get(f"/v1/executions/{execution.id}/events")

    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_streams")
    assert refused.headers["retry-after"]
    assert (ended.status_code, again.status_code) == (200, 200)


async def test_a_gateway_opens_only_so_many_streams() -> None:
    door = FrontDoor(limits=GatewayLimits(streams_at_once=0, stream_row_check_s=0.05))
    execution = await submitted(door)
    async with client_of(door, token=door.token()) as http:
        refused = await http.get(f"/v1/executions/{execution.id}/events")

    assert (refused.status_code, refused.json()["code"]) == (503, "streams_exhausted")
