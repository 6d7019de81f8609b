"""How a row's work ends, and when a task has done its share."""

import asyncio

import pytest

from nubabel_workers.domain.errors import LeaseLostError, NubabelError, UnavailableError, UncertainError
from nubabel_workers.services.batches import BatchLimits, Tally

LIMITS = BatchLimits(rows_per_task=2, task_s=60, row_s=60)


async def settled(*errors: BaseException | None, limits: BatchLimits = LIMITS) -> tuple[str, list[NubabelError]]:
    """The tally after one row; errors: of its work, and of what follows its failure."""
    tally = Tally(limits)
    seen: list[NubabelError] = []
    of_work, of_failure = (*errors, None, None)[:2]

    async def work() -> str:
        if of_work is not None:
            raise of_work
        return "done"

    async def after_failure(error: NubabelError) -> str:
        seen.append(error)
        if of_failure is not None:
            raise of_failure
        return "again"

    await tally.settle("exe_1", work(), after_failure)
    return str(tally), seen


@pytest.mark.parametrize(
    ("errors", "line"),
    [
        ((), "1 done exe_1"),
        ((UnavailableError("away"),), "1 again exe_1"),
        ((LeaseLostError("taken over"),), "1 lost exe_1"),
        ((UnavailableError("away"), LeaseLostError("taken over")), "1 lost exe_1"),
        ((UnavailableError("away"), UnavailableError("still away")), "1 left exe_1"),
        ((ZeroDivisionError(),), "1 crashed exe_1"),
        ((UnavailableError("away"), ZeroDivisionError()), "1 crashed exe_1"),
    ],
)
async def test_every_end_of_a_row_has_its_word(errors: tuple[BaseException, ...], line: str) -> None:
    assert (await settled(*errors))[0] == line


async def test_a_row_that_takes_too_long_is_in_doubt() -> None:
    tally = Tally(BatchLimits(row_s=0))
    seen: list[NubabelError] = []

    async def hang() -> str:
        await asyncio.Future()
        return "never"

    async def after_failure(error: NubabelError) -> str:
        seen.append(error)
        return "again"

    await tally.settle("exe_1", hang(), after_failure)

    assert str(tally) == "1 again exe_1"
    assert [type(error) for error in seen] == [UncertainError]


async def test_a_stopped_task_is_no_failure_of_its_row() -> None:
    with pytest.raises(asyncio.CancelledError):
        await settled(asyncio.CancelledError())


async def test_a_task_has_done_its_share_by_rows_or_by_time() -> None:
    tally = Tally(LIMITS)
    assert not tally.full

    tally.add("done", "exe_1")
    tally.add("done", "exe_2")

    assert tally.full
    assert Tally(BatchLimits(task_s=0)).full
