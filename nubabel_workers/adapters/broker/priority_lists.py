"""Where producers with other transport options leave messages: kombu's lists of a queue's priorities.

kombu on Redis keeps a list for each step of its `priority_steps`, by default 0, 3, 6 and 9, and a message goes to the
list of its priority's step: the queue's own for step 0, one whose name ends with the step for another. Our workers
consume the queue's own list alone, since an item can be moved without a gap from one list only; they move there what
lies in the others. Whoever comes first is served first: priorities among requests are the rows' business.

Source: https://docs.celeryq.dev/en/stable/userguide/routing.html#redis-message-priorities
"""

from typing import Any

from kombu.transport.redis import Channel

_STEPS = range(1, 10)  # Celery's priorities; a producer may have chosen any steps among them
_AT_ONCE = 1000  # a round trip stays short, whatever lies there


def priority_lists(queue: str) -> tuple[str, ...]:
    """The lists beside the queue's own, the most urgent first."""
    return tuple(f"{queue}{Channel.sep}{step}" for step in _STEPS)


def move_to_queue(client: Any, queue: str) -> tuple[int, bool]:
    """Move the oldest messages of each priority behind those that wait already, each in one step.

    Returns how many were moved, and whether more lie there. Safe to run in several workers at once.
    """
    lists = priority_lists(queue)
    with client.pipeline(transaction=False) as pipe:
        for name in lists:
            pipe.llen(name)
        lengths = [_count(reply) for reply in pipe.execute(raise_on_error=False)]
        for name, length in zip(lists, lengths, strict=True):
            for _ in range(min(length, _AT_ONCE)):
                pipe.lmove(name, queue, "RIGHT", "LEFT")
        moved = sum(reply is not None for reply in pipe.execute())
    return moved, max(lengths) > _AT_ONCE


def _count(reply: Any) -> int:
    """What is no list under such a name is none of ours, and must not stop a worker."""
    return reply if isinstance(reply, int) else 0
