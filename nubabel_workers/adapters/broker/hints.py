"""Hints to the broker: published by one thread, so that a slow or hung broker never holds the event loop up.

A hint wakes a task, and the task takes every row that is ready; therefore one pending hint per task is enough. That is
kept in two places: here, until the thread has published it, and in the broker, as a flag that lives for at most a
second and that goes when a worker takes the message, which is before its task claims. Never is a hint left out because
of the state of a row.

A hint that may wait is held back for that long, so that those of the same task become one message with it.

Flag and message go to the broker as one script and leave it in one reservation: a hint costs a single round trip at
either end.
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import redis
import structlog

from nubabel_workers.adapters.broker.messages import compose_message
from nubabel_workers.domain.hints import Hint, HintTask

# KEYS: flag and queue of each hint. ARGV: the flags' lifetime in ms (0: no flags), then each hint's message.
_PUBLISH = """
local published = {}
for i = 1, #KEYS / 2 do
    local flag, queue, message = KEYS[2 * i - 1], KEYS[2 * i], ARGV[i + 1]
    if ARGV[1] == '0' or redis.call('SET', flag, '1', 'NX', 'PX', ARGV[1]) then
        redis.call('LPUSH', queue, message)
        published[i] = 1
    else
        published[i] = 0
    end
end
return published
"""

log = structlog.get_logger(__name__)

HintOutcome = Callable[[str, str], None]
"""Told (task, outcome) for each hint: published, suppressed or failed."""

_FLAGS = {str(task): f"nubabel:hint:{task}" for task in HintTask}


def flag_of(task: object) -> str | None:
    """The key of the flag that a message of that task has set; None for tasks that are no hints."""
    return _FLAGS.get(task) if isinstance(task, str) else None


def _ignore(_task: str, _outcome: str) -> None:
    """Nobody counts."""


@dataclass(frozen=True)
class _Pending:
    """due: monotonic seconds, when it has to go at the latest."""

    hint: Hint
    due: float


class BrokerHintPublisher:
    """publish() returns at once, from any thread; the hint is on its way, or lost with a log line.

    broker: a client of its own with time limits, which bound every publish; closed with the publisher.
    queue_of_task: where each task's messages go. flag_ms: how long one hint stands for all of its task, at most;
    None publishes every one.
    """

    def __init__(
        self,
        broker: "redis.Redis",
        queue_of_task: Mapping[str, str],
        *,
        flag_ms: int | None = 1000,
        on_outcome: HintOutcome = _ignore,
    ) -> None:
        self._broker = broker
        self._script = broker.register_script(_PUBLISH)
        self._queue_of_task = queue_of_task
        self._flag_ms = flag_ms or 0
        self._on_outcome = on_outcome
        self._pending: dict[str, _Pending] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def publish(self, hint: Hint) -> None:
        new = _Pending(hint, time.monotonic() + hint.may_wait_s)
        with self._changed:
            if self._closing:
                return
            known = self._pending.get(hint.task)
            if known is not None:
                self._on_outcome(hint.task, "suppressed")
                if known.due <= new.due:
                    return
            self._pending[hint.task] = new
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hint-publisher", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self, *, timeout_s: float = 2.0) -> None:
        """Publish what is pending, for at most timeout_s; what is left then is lost, as hints may be."""
        with self._changed:
            self._closing = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _run(self) -> None:
        while hints := self._take():
            try:
                published = self._send(hints)
            except Exception as error:  # noqa: BLE001  # whatever it is, this thread serves the next hints too
                self._failed(hints, error)
            else:
                for hint, is_published in zip(hints, published, strict=True):
                    self._on_outcome(hint.task, "published" if is_published else "suppressed")
        self._broker.close()

    def _take(self) -> list[Hint]:
        """Wait for hints that are due; an empty list says that there will be none."""
        with self._changed:
            while True:
                now = time.monotonic()
                due = [task for task, pending in self._pending.items() if pending.due <= now or self._closing]
                if due or self._closing:
                    return [self._pending.pop(task).hint for task in due]
                next_due = min((pending.due for pending in self._pending.values()), default=None)
                self._changed.wait(None if next_due is None else next_due - now)

    def _send(self, hints: Sequence[Hint]) -> Sequence[int]:
        keys, messages = [], []
        for hint in hints:
            queue = self._queue_of_task[hint.task]
            keys += [_FLAGS[hint.task], queue]
            messages.append(_message(hint, queue))
        published: list[int] = self._script(keys=keys, args=[self._flag_ms, *messages])
        return published

    def _failed(self, hints: Sequence[Hint], error: Exception) -> None:
        tasks = [str(hint.task) for hint in hints]
        log.warning("hints.not_published", tasks=tasks, error=f"{type(error).__name__}: {error}")
        for task in tasks:
            self._on_outcome(task, "failed")


def _message(hint: Hint, queue: str) -> bytes:
    task_id = str(uuid.uuid4())
    return compose_message(
        queue, hint.task, hint.row_id, task_id=task_id, delivery_tag=task_id, shown=f"({hint.row_id!r},)"
    )
