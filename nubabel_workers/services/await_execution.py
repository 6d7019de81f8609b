"""Wait until an execution is over, telling what is seen meanwhile."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any

from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.executions import FINAL, Execution
from nubabel_workers.domain.ports import Clock, ProgressStream
from nubabel_workers.services.read_execution import ReadExecution

_SAYS_SOMETHING_CHANGED = frozenset({"state", "done"})


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
        on_progress: Callable[[Mapping[str, Any]], None],
    ) -> Execution | None:
        """The execution at its end; None when timeout_s seconds were not enough. Raises NotFoundError."""
        ends_at = self._clock.monotonic() + timeout_s
        async with aclosing(self._signs(organization_id, execution_id, on_progress)) as signs:
            async for _ in signs:
                execution = await self._read.by_id(organization_id, execution_id)
                if execution.status in FINAL:
                    return execution
                if self._clock.monotonic() >= ends_at:
                    return None
        return None

    async def _signs(
        self, organization_id: str, execution_id: str, on_progress: Callable[[Mapping[str, Any]], None]
    ) -> AsyncGenerator[None, None]:
        """One each time that the row is worth a look: at first, after news, after a quiet while. Endless."""
        yield
        last = ""
        while True:
            source = self._progress.read(organization_id, execution_id, after=last, idle_s=self._row_check_s)
            try:
                async for item in source:
                    if item is not None:
                        last, event = item
                        on_progress(event)
                    if item is None or event.get("type") in _SAYS_SOMETHING_CHANGED:
                        yield
            except TransientError:
                await asyncio.sleep(self._row_check_s)
                yield
            finally:
                if isinstance(source, AsyncGenerator):
                    await source.aclose()
