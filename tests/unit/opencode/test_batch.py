"""Many jobs: in order, bounded, and nobody suffers from somebody else's failure."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from itertools import count

import pytest

from nubabel_workers.opencode import Done, Failed, InvalidInputError, run_all, sync_run_all

BROKEN = ValueError("broken")


def job(number: int) -> Callable[[], Awaitable[int]]:
    async def run() -> int:
        await asyncio.sleep(0)
        if number == 2:
            raise BROKEN
        return number

    return run


async def test_results_are_in_order_and_one_failure_loses_no_other() -> None:
    outcomes = await run_all([job(n) for n in range(4)], limit=3)

    assert outcomes == [Done(0), Done(1), Failed(BROKEN), Done(3)]


async def test_no_more_than_the_limit_run_at_once() -> None:
    running, peak = 0, 0
    proceed = asyncio.Event()

    async def meet() -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        if running == 3:
            proceed.set()
        await proceed.wait()
        await asyncio.sleep(0)
        running -= 1

    await run_all([meet] * 20, limit=3)

    assert peak == 3


async def test_jobs_are_taken_when_there_is_room() -> None:
    taken: list[int] = []

    async def stuck() -> None:
        await asyncio.Event().wait()

    def endless() -> Iterator[Callable[[], Awaitable[None]]]:
        for number in count():
            taken.append(number)
            yield stuck

    batch = asyncio.create_task(run_all(endless(), limit=2))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch

    assert taken == [0, 1]


async def test_nothing_to_do_is_no_error() -> None:
    assert await run_all([]) == []
    assert sync_run_all([]) == []


@pytest.mark.parametrize("limit", [0, -1])
async def test_batch_needs_room_for_one(limit: int) -> None:
    with pytest.raises(InvalidInputError):
        await run_all([], limit=limit)
    with pytest.raises(InvalidInputError):
        sync_run_all([], limit=limit)


def test_threads_do_the_same() -> None:
    meeting = threading.Barrier(2, timeout=10)

    def work(number: int) -> int:
        if number == 2:
            raise BROKEN
        if number < 2:
            meeting.wait()
        return number

    outcomes = sync_run_all([lambda n=n: work(n) for n in range(4)], limit=2)  # type: ignore[misc]

    assert outcomes == [Done(0), Done(1), Failed(BROKEN), Done(3)]
