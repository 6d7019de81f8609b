"""Wake what waits for a server or an orchestrator that is back."""

from collections.abc import Awaitable, Callable, Sequence

from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.ports import HintPublisher

# Each step wakes a batch. They end, since what is put off anew meanwhile (it is away again) would be woken anew.
_MOST_STEPS = 20


async def wake_in_steps(wake: Callable[[], Awaitable[Sequence[str]]], hints: HintPublisher) -> int:
    """How many were woken. The first go on before the last are awake; what is left after all steps awakes by itself.

    wake: the next batch; the ids of its executions.
    """
    count = 0
    for _ in range(_MOST_STEPS):
        woken = await wake()
        if not woken:
            break
        if count == 0:
            hints.publish(Hint(HintTask.DISPATCH, woken[0]))
        count += len(woken)
    return count
