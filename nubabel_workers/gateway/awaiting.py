"""A connection that waits for an execution's end: no worker, no polling; its caller may leave at any time."""

import asyncio
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from fastapi import Header, Request

from nubabel_workers.domain.executions import Execution
from nubabel_workers.gateway.dependencies import GatewayParts
from nubabel_workers.gateway.streams import StreamCounter
from nubabel_workers.services.await_execution import AwaitExecution

Prefer = Annotated[
    str | None,
    Header(
        max_length=200,
        description="RFC 7240: `wait=20` waits for so many seconds at most; never longer than the server's own limit.",
        examples=["wait=20"],
    ),
]
_WAIT = re.compile(r"(?:^|[,;])\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)
_CANCEL_AGAIN_S = 0.1
_GRACE_S = 1.0  # a look at the row may be under way when the time is up


class WaitEnd(StrEnum):
    """Why a wait ended: the execution did, the time was up, the caller has left, or this process stops."""

    ENDED = "ended"
    TIME = "time"
    LEFT = "left"
    STOPPING = "stopping"


@dataclass(frozen=True)
class Waited:
    why: WaitEnd
    execution: Execution | None = None


def preferred_wait_s(prefer: str | None) -> int | None:
    """Seconds that a Prefer header asks for; None when it says nothing that we understand."""
    found = _WAIT.search(prefer or "")
    return int(found[1]) if found else None


async def wait_for_end(
    request: Request, parts: GatewayParts, organization_id: str, execution_id: str, *, at_most_s: float
) -> Waited:
    """Whoever asks has looked for room among the streams before. The execution itself goes on in any case."""
    streams: StreamCounter = request.app.state.streams
    stopping: asyncio.Event = request.app.state.stopping
    wait = AwaitExecution(parts.read, parts.progress, parts.clock, row_check_s=parts.limits.stream_row_check_s)
    end = asyncio.create_task(wait.final(organization_id, execution_id, timeout_s=at_most_s))
    left = asyncio.create_task(_left(request))
    stop = asyncio.create_task(stopping.wait())
    with streams.counted(organization_id):
        try:
            await asyncio.wait({end, left, stop}, timeout=at_most_s + _GRACE_S, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                execution = end.result()
                return Waited(WaitEnd.TIME if execution is None else WaitEnd.ENDED, execution)
            return Waited(WaitEnd.LEFT if left.done() else WaitEnd.STOPPING if stop.done() else WaitEnd.TIME)
        finally:
            await _cancel({end, left, stop})


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """Again until they have ended: a connection that breaks in that moment tells of that instead, and hides it."""
    open_ones = tasks
    while open_ones:
        for task in open_ones:
            task.cancel()
        _, open_ones = await asyncio.wait(open_ones, timeout=_CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)


async def _left(request: Request) -> None:
    """Returns when the caller has closed its connection. The body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
