"""What the services that work on claimed rows share: how much they take, how a row's work ends, what Flower shows."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from nubabel_workers.domain.errors import LeaseLostError, NubabelError, UncertainError

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BatchLimits:
    """batch: rows per claim. rows_per_task, task_s: after so many rows or seconds a task claims no more and leaves
    the rest to the next hint. row_s: seconds for one row; with task_s it stays below a task's own time limit.

    lone_deliveries: how often a suspect row is tried alone before it is set aside.
    """

    batch: int = 32
    rows_per_task: int = 256
    task_s: float = 15.0
    row_s: float = 25.0
    lone_deliveries: int = 5


class Claimed(Protocol):
    """others_wait: ready rows were left, as suspect ones are taken one at a time."""

    @property
    def others_wait(self) -> bool: ...


def took_all(claimed: Sequence[Claimed], limit: int) -> bool:
    """Whether the claim left nothing that was ready."""
    return len(claimed) < limit and not any(item.others_wait for item in claimed)


class Tally:
    """Counts what happened to which rows; as text: `3 dispatched exe_a exe_b exe_c; 1 again exe_d`."""

    _SHOWN = 4

    def __init__(self, limits: BatchLimits) -> None:
        self._rows: defaultdict[str, list[str]] = defaultdict(list)
        self._last: str | None = None
        self._limits = limits
        self._ends_at = asyncio.get_running_loop().time() + limits.task_s

    def add(self, word: str, row_id: str) -> None:
        self._rows[word].append(row_id)
        self._last = row_id

    @property
    def words(self) -> Collection[str]:
        """What happened."""
        return self._rows.keys()

    @property
    def last(self) -> str | None:
        """The row that was counted last."""
        return self._last

    @property
    def full(self) -> bool:
        """Whether the task has done its share."""
        rows = sum(len(ids) for ids in self._rows.values())
        return rows >= self._limits.rows_per_task or asyncio.get_running_loop().time() >= self._ends_at

    async def settle(
        self,
        row_id: str,
        work: Coroutine[Any, Any, str],
        after_failure: Callable[[NubabelError], Awaitable[str]],
    ) -> None:
        """Do a row's work, or what follows its failure, and count the word that either returns. Raises nothing.

        A bug leaves the row to its lease: it comes back as a suspect, alone, and takes no other row with it.
        """
        try:
            word = await self._result(work, after_failure)
        except LeaseLostError:
            log.warning("row.lease_lost")
            word = "lost"
        except NubabelError as error:  # the database is away: the lease runs out, and the row comes back by itself
            log.warning("row.left_to_its_lease", error=str(error))
            word = "left"
        except Exception:
            log.exception("row.crashed")
            word = "crashed"
        self.add(word, row_id)

    async def _result(
        self, work: Coroutine[Any, Any, str], after_failure: Callable[[NubabelError], Awaitable[str]]
    ) -> str:
        try:
            async with asyncio.timeout(self._limits.row_s):
                return await work
        except LeaseLostError:
            raise
        except NubabelError as error:
            return await after_failure(error)
        except TimeoutError:
            return await after_failure(UncertainError("it took too long and was given up in the middle"))

    def __str__(self) -> str:
        parts = []
        for word, ids in self._rows.items():
            shown = " ".join(ids[: self._SHOWN]) + (" …" if len(ids) > self._SHOWN else "")
            parts.append(f"{len(ids)} {word} {shown}")
        return "; ".join(parts) or "nothing to do"
