"""Wait until an execution is over, telling what is seen meanwhile."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

import structlog

from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.executions import FINAL, Execution
from nubabel_workers.domain.ports import Clock, ProgressStream
from nubabel_workers.services.read_execution import ReadExecution

_SAYS_SOMETHING_CHANGED = frozenset({"state", "done"})
_SHORTEST_REST_S = 0.01

log = structlog.get_logger(__name__)


class AwaitExecution:
    """Progress comes from the cache, which may lose anything; the end comes from the row.

    row_check_s: how long an end may go unnoticed while the cache says nothing.
    """

    def __init__(
        self, read: ReadExecution, progress: ProgressStream, clock: Clock, *, row_check_s: float = 2.0
    ) -> None:
        self._read = read
        self._progress = progress
        self._clock = clock
        self._row_check_s = row_check_s

    async def final(
        self,
        organization_id: str,
        execution_id: str,
        *,
        timeout_s: float,
        on_progress: Callable[[Mapping[str, Any]], None] = lambda _event: None,
    ) -> Execution | None:
        """The execution at its end; None when timeout_s seconds were not enough. Raises NotFoundError.

        While the database is away nothing is known, and the wait goes on.
        """
        ends_at = self._clock.monotonic() + timeout_s
        async with aclosing(self._signs(organization_id, execution_id, on_progress, ends_at)) as signs:
            async for _ in signs:
                execution = await self._look(organization_id, execution_id)
                if execution is not None and execution.status in FINAL:
                    return execution
                if self._clock.monotonic() >= ends_at:
                    return None
        return None

    async def _look(self, organization_id: str, execution_id: str) -> Execution | None:
        try:
            return await self._read.by_id(organization_id, execution_id)
        except TransientError as error:
            log.warning("wait.row_unavailable", execution_id=execution_id, error=str(error))
            return None

    async def _signs(
        self,
        organization_id: str,
        execution_id: str,
        on_progress: Callable[[Mapping[str, Any]], None],
        ends_at: float,
    ) -> AsyncGenerator[None, None]:
        """One each time that the row is worth a look: at first, after news, after a quiet while. Endless."""
        yield
        last = ""
        while True:
            source = self._progress.read(organization_id, execution_id, after=last, idle_s=self._rest_s(ends_at))
            try:
                async for item in source:
                    if item is not None:
                        last, event = item
                        on_progress(event)
                    if item is None or event.get("type") in _SAYS_SOMETHING_CHANGED:
                        yield
                    if self._rest_s(ends_at) < self._row_check_s:
                        break  # the rest of a reader is fixed: the last one is shorter
            except TransientError:
                await asyncio.sleep(self._rest_s(ends_at))
                yield
            finally:
                if isinstance(source, AsyncGenerator):
                    await source.aclose()

    def _rest_s(self, ends_at: float) -> float:
        return max(_SHORTEST_REST_S, min(self._row_check_s, ends_at - self._clock.monotonic()))
