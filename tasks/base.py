"""What every Celery task shares: its argument checked, context for logs, a time limit, and an outcome for each error.

A task's own file says what it does, as a coroutine over the services; Celery appears here only.
"""

import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

import structlog
from celery import Task
from celery.exceptions import Reject, Retry
from kombu.exceptions import OperationalError

from config.logging import context
from config.queues import QUEUE_OF_TASK, TaskName
from nubabel_workers.adapters.broker.parking import Parking, describe
from nubabel_workers.domain.dead_letters import DeadLetterReason
from nubabel_workers.domain.errors import InvalidInputError, TransientError, UncertainError
from tasks.runtime import WorkerRuntime

S = TypeVar("S")

_MAX_ID_CHARS = 100
_LONGEST_RETRY_S = 30.0  # a countdown waits in a worker's memory; longer waits belong into PostgreSQL

log = structlog.get_logger(__name__)


class Carries(Enum):
    """What a task's one argument is, and so what a failure may do to the message."""

    ROW_ID = "row id"  # a hint: the row stays and the scheduler hints again, so the message may go
    CONTENT = "content"  # the message is all there is: repeated until it worked, else a dead letter


@dataclass(frozen=True)
class TaskDefinition(Generic[S]):
    """A task: body(services, argument, delivery_id) does the work and says in one line for Flower what it did.

    delivery_id: the message's id, the same for each of its deliveries.
    """

    name: TaskName
    body: Callable[[S, Any, str], Coroutine[Any, Any, str]]
    carries: Carries = Carries.ROW_ID


class TaskFailedError(Exception):
    """A bug, or an error that the body should have dealt with; the message is the line that Flower shows."""


@dataclass(frozen=True)
class TaskSurroundings(Generic[S]):
    """What tasks need of their process. on_run is told (task, outcome, seconds)."""

    runtime: WorkerRuntime[S]
    parking: Parking
    timeout_s: float
    on_run: Callable[[str, str, float], None]


class QueueTask(Task):  # type: ignore[type-arg]  # generic in the stubs only
    """The Celery side of a TaskDefinition."""

    typing = False  # arguments are checked here, where a bad one can be parked
    throws = (TaskFailedError,)  # logged by us already, with its traceback
    max_retries = None

    def __init__(self, definition: TaskDefinition[Any], surroundings: TaskSurroundings[Any]) -> None:
        self.name = str(definition.name)
        self._definition = definition
        self._surroundings = surroundings

    def run(self, *args: Any, **kwargs: Any) -> str:
        started = time.monotonic()
        outcome = "failed"
        try:
            with context(task=self.name, task_id=self.request.id):
                outcome, line = self._attempt(args, kwargs)
        except (Retry, Reject):
            outcome = "again"
            raise
        else:
            return line
        finally:
            self._surroundings.on_run(self.name, outcome, time.monotonic() - started)

    def _attempt(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, str]:
        try:
            line = self._do(self._argument(args, kwargs))
        except (TransientError, UncertainError, TimeoutError) as error:
            log.warning("task.again_later", error=f"{type(error).__name__}: {error}")
            self._repeat_if_needed()
            return "again", f"again later: {error or type(error).__name__}"
        except InvalidInputError as error:
            self._park(DeadLetterReason.BAD_ARGUMENTS, str(error), args, kwargs)
            return "refused", f"refused: {error}"
        except Exception as error:
            log.exception("task.failed")
            self._park_content(error, args, kwargs)
            raise TaskFailedError(f"failed: {type(error).__name__}") from None
        log.info("task.done", line=line)
        return "done", line

    def _do(self, argument: Any) -> str:
        delivery_id = str(self.request.id)
        return self._surroundings.runtime.run(
            lambda services: self._definition.body(services, argument, delivery_id),
            timeout_s=self._surroundings.timeout_s,
        )

    def _argument(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) != 1 or kwargs:
            raise InvalidInputError("exactly one positional argument is expected")
        (argument,) = args
        if self._definition.carries is Carries.CONTENT:
            if not isinstance(argument, dict):
                raise InvalidInputError("the argument is not a JSON object")
        elif not isinstance(argument, str) or not 0 < len(argument) <= _MAX_ID_CHARS:
            raise InvalidInputError("the argument is not an id")
        return argument

    def _repeat_if_needed(self) -> None:
        """A message that carries content comes again; a hint need not."""
        if self._definition.carries is not Carries.CONTENT:
            return
        wait_s = min(_LONGEST_RETRY_S, 2.0 ** min(self.request.retries, 5)) * random.uniform(0.5, 1)  # noqa: S311  # jitter
        try:
            raise self.retry(countdown=wait_s)
        except OperationalError as error:  # the broker doesn't take the repetition: give the original back
            raise Reject(str(error), requeue=True) from None

    def _park_content(self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep a message that would be gone. The parking task itself is not parked: that would go in circles."""
        if self._definition.name is TaskName.PARK:
            log.critical("task.dead_letter_not_kept", args=args)
        elif self._definition.carries is Carries.CONTENT:
            self._park(DeadLetterReason.HANDLER_CRASH, f"{type(error).__name__}: {error}", args, kwargs)

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:  # noqa: ARG002  # Celery's signature
        """Celery calls this for every failure; those of `run` are dealt with, the rest never reached it."""
        if not isinstance(exc, TaskFailedError):
            self._park(DeadLetterReason.BAD_ARGUMENTS, f"{type(exc).__name__}: {exc}", args, kwargs)

    def _park(self, reason: DeadLetterReason, error: str, args: Any, kwargs: Any) -> None:
        letter = describe(
            reason,
            queue=str(QUEUE_OF_TASK[self._definition.name]),
            task=self.name,
            error=error,
            raw={"args": args, "kwargs": kwargs},
            headers={"id": self.request.id, "origin": self.request.origin, "retries": self.request.retries},
        )
        if not self._surroundings.parking.park(letter):
            raise Reject("nowhere to keep it", requeue=True)
