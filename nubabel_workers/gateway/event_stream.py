"""One execution as a stream of events: where it stands, its progress while it runs, and in any case its end.

Progress comes from the cache, which may lose anything. Where it stands and its end come from the row: it is looked at
when the cache says that something changed, when it has been quiet for a while, and every few seconds in any case.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
import structlog

from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.executions import FINAL, Execution, Status
from nubabel_workers.domain.ports import Clock, ProgressStream
from nubabel_workers.domain.progress import state_event
from nubabel_workers.gateway.models import ExecutionView, WaitingView
from nubabel_workers.services.read_execution import ReadExecution
from nubabel_workers.services.read_waiting import ReadWaiting

END_ID = "end"  # a client that comes back with this Last-Event-ID has seen everything
FROM_THE_BEGINNING = ""
_RESUMABLE = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")  # ids of the cache's streams
_EVENT_NAME = re.compile(r"[a-z_]{1,32}")
_SAYS_SOMETHING_CHANGED = frozenset({"state", "done"})
_LAST_WORDS = frozenset(status.value for status in FINAL)
_DRAIN_IDLE_S = 0.05

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class StreamEvent:
    """One server-sent event. Without an id it does not move the place from which a client resumes."""

    event: str
    data: str
    id: str | None = None


@dataclass(frozen=True)
class StreamPace:
    """Seconds. row_check_s: how long a stream may outlive its execution when the cache says nothing."""

    row_check_s: float
    max_s: float


def is_resumable(last_event_id: str) -> bool:
    return last_event_id == FROM_THE_BEGINNING or _RESUMABLE.fullmatch(last_event_id) is not None


class ExecutionEvents:
    """The events of one client's stream."""

    def __init__(
        self,
        execution: Execution,
        waiting: ReadWaiting,
        read: ReadExecution,
        progress: ProgressStream,
        clock: Clock,
        pace: StreamPace,
    ) -> None:
        self._execution = execution
        self._waiting = waiting
        self._read = read
        self._progress = progress
        self._clock = clock
        self._pace = pace
        self._last = FROM_THE_BEGINNING
        self._told: tuple[Status, str | None] | None = None
        self._read_to_the_end = False  # the cache's own last word was seen
        self._ends_at = clock.monotonic() + pace.max_s
        self._next_look = clock.monotonic() + pace.row_check_s

    async def after(self, last_event_id: str) -> AsyncGenerator[StreamEvent, None]:
        """Ends with `done`; or without it after max_s, then the client comes back with the last id it has seen."""
        self._last = last_event_id
        yield await self._state()
        while not self._ended:
            if self._clock.monotonic() >= self._ends_at:
                return
            async with aclosing(self._follow()) as events:
                async for event in events:
                    yield event
        if not self._read_to_the_end:
            async with aclosing(self._rest()) as events:
                async for event in events:
                    yield event
        yield _event("done", ExecutionView.of(self._execution).model_dump(mode="json"), END_ID)

    @property
    def _ended(self) -> bool:
        return self._execution.status in FINAL

    @property
    def _stands_elsewhere(self) -> bool:
        """Than was told. Its end has an event of its own."""
        return self._stands != self._told and not self._ended

    @property
    def _stands(self) -> tuple[Status, str | None]:
        """Its status, and while it waits what it was put back for."""
        reason = self._execution.waiting_for if self._execution.status is Status.QUEUED else None
        return self._execution.status, reason

    async def _state(self) -> StreamEvent:
        self._told = self._stands
        state = state_event(self._execution.status)
        try:
            waiting = await self._waiting.of(self._execution)
        except TransientError as error:  # what it waits for can be asked for again
            log.warning("stream.row_unavailable", execution_id=self._execution.id, error=str(error))
            return _event("state", state)
        if waiting is not None:
            state["waiting_for"] = WaitingView.of(waiting).model_dump(mode="json")
        return _event("state", state)

    async def _follow(self) -> AsyncGenerator[StreamEvent, None]:
        """Live progress until the row says that it is over, the time is up, or the cache goes away."""
        try:
            async with aclosing(self._items(self._pace.row_check_s)) as items:
                async for item in items:
                    says_so = item is not None and item.event in _SAYS_SOMETHING_CHANGED
                    if item is not None and not says_so:
                        yield item
                    if item is None or says_so or self._look_is_due():
                        await self._look()
                    if self._stands_elsewhere:
                        yield await self._state()
                    if self._ended or self._clock.monotonic() >= self._ends_at:
                        return
        except TransientError as error:
            log.warning("stream.progress_unavailable", execution_id=self._execution.id, error=str(error))
            await asyncio.sleep(self._pace.row_check_s)
            await self._look()
            if self._stands_elsewhere:
                yield await self._state()

    async def _rest(self) -> AsyncGenerator[StreamEvent, None]:
        """Progress that was written before the end and not read yet."""
        try:
            async with aclosing(self._items(_DRAIN_IDLE_S)) as items:
                async for item in items:
                    if item is None:
                        return
                    if item.event not in _SAYS_SOMETHING_CHANGED:
                        yield item
        except TransientError:
            return

    async def _items(self, idle_s: float) -> AsyncGenerator[StreamEvent | None, None]:
        owner = self._execution.organization_id, self._execution.id
        source = self._progress.read(*owner, after=self._last, idle_s=idle_s)
        try:
            async for item in source:
                if item is None:
                    yield None
                    continue
                self._last, event = item
                self._read_to_the_end = _is_last(event)
                yield _event(_name(event), event, self._last)
        finally:
            if isinstance(source, AsyncGenerator):
                await source.aclose()  # gives the connection back now, not when the garbage is collected

    def _look_is_due(self) -> bool:
        return self._clock.monotonic() >= self._next_look

    async def _look(self) -> None:
        """Read the row. While the database is away nothing is known, and the next look comes in its time."""
        self._next_look = self._clock.monotonic() + self._pace.row_check_s
        try:
            self._execution = await self._read.by_id(self._execution.organization_id, self._execution.id)
        except TransientError as error:
            log.warning("stream.row_unavailable", execution_id=self._execution.id, error=str(error))


def _event(name: str, data: Mapping[str, Any], event_id: str | None = None) -> StreamEvent:
    return StreamEvent(name, orjson.dumps(data).decode(), event_id)


def _is_last(event: Mapping[str, Any]) -> bool:
    return event.get("type") == "done" or (event.get("type") == "state" and event.get("status") in _LAST_WORDS)


def _name(event: Mapping[str, Any]) -> str:
    name = event.get("type")
    return name if isinstance(name, str) and _EVENT_NAME.fullmatch(name) else "progress"
