"""Many jobs with bounded concurrency: results in the order of the jobs, and a failure takes no other job with it.

A session answers prompts that arrive together with one answer: give each prompt of a batch a session of its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from nubabel_workers.domain.errors import InvalidInputError

_T = TypeVar("_T")

_LIMIT = 8


@dataclass(frozen=True, slots=True)
class Done(Generic[_T]):
    value: _T


@dataclass(frozen=True, slots=True)
class Failed:
    error: Exception


async def run_all(jobs: Iterable[Callable[[], Awaitable[_T]]], *, limit: int = _LIMIT) -> list[Done[_T] | Failed]:
    """At most `limit` jobs at once; the next one is taken when one has ended. Cancelling it cancels what runs."""
    _check(limit)
    waiting = iter(enumerate(jobs))
    outcomes: dict[int, Done[_T] | Failed] = {}

    async def work() -> None:
        for number, job in waiting:
            try:
                outcomes[number] = Done(await job())
            except Exception as error:  # noqa: BLE001  # whatever a job raises is its result
                outcomes[number] = Failed(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(limit):
            group.create_task(work())
    return [outcomes[number] for number in range(len(outcomes))]


def sync_run_all(jobs: Iterable[Callable[[], _T]], *, limit: int = _LIMIT) -> list[Done[_T] | Failed]:
    """As `run_all`, in threads."""
    _check(limit)
    with ThreadPoolExecutor(max_workers=limit) as threads:
        return list(threads.map(_outcome, jobs))


def _outcome(job: Callable[[], _T]) -> Done[_T] | Failed:
    try:
        return Done(job())
    except Exception as error:  # noqa: BLE001  # whatever a job raises is its result
        return Failed(error)


def _check(limit: int) -> None:
    if limit < 1:
        raise InvalidInputError("a batch runs at least one job at a time")
