"""Guards against messages that stop, or endlessly reconnect, a stock Celery 5.7 worker on Redis.

Two places see a message before any task does: the transport, which takes an item from a Redis list (`transport.py`),
and the consumer, which finds the task for it. What they cannot work with is parked first and rejected then, so that
nothing vanishes. On Redis a rejected message is a deleted one.

`KeyError` counts as a lost connection in kombu 5.7: one that a malformed message causes must not get out.
"""

from typing import Any, ClassVar

import structlog
from celery import Celery
from celery.worker.consumer import Consumer
from kombu import Message
from kombu.exceptions import ContentDisallowed, DecodeError

from nubabel_workers.adapters.broker.messages import check_content, plain_headers
from nubabel_workers.adapters.broker.parking import Parking, describe
from nubabel_workers.adapters.broker.transport import guarded_connection
from nubabel_workers.domain.dead_letters import DeadLetterReason

log = structlog.get_logger(__name__)


def install_guards(app: Celery, parking: Parking) -> None:
    """Make workers of this app use the guarded transport and consumer. Before the worker starts."""

    def refuse(queue: str, item: bytes, problem: str) -> None:
        parking.park(describe(DeadLetterReason.BAD_ENVELOPE, queue=queue, task="", error=problem, raw=item))

    app.amqp.Connection = guarded_connection(refuse)
    app.conf.worker_consumer = type("ParkingConsumer", (GuardedConsumer,), {"parking": parking})


class GuardedConsumer(Consumer):
    """Celery's consumer, except that what it would drop, or fall over, is parked."""

    parking: ClassVar[Parking]
    connection_errors: tuple[type[Exception], ...]  # set by Celery, not in its stubs; nor is the next one
    strategies: dict[str, Any]

    def on_unknown_task(self, _body: Any, message: Message, exc: Exception) -> None:
        self._set_aside(DeadLetterReason.UNKNOWN_TASK, message, exc)

    def on_unknown_message(self, _body: Any, message: Message) -> None:
        self._set_aside(DeadLetterReason.UNKNOWN_MESSAGE, message, "no task is named")

    def on_invalid_task(self, _body: Any, message: Message, exc: Exception) -> None:
        self._set_aside(DeadLetterReason.INVALID, message, exc)

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        self._set_aside(DeadLetterReason.UNDECODABLE, message, exc)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        handle = super().create_task_handler(*args, **kwargs)
        # KeyError is among these, for a reason of kombu's; here it means a malformed message.
        connection_lost = tuple(error for error in self.connection_errors if not issubclass(KeyError, error))

        def guarded(message: Message) -> Any:
            if not (message.headers and "task" in message.headers):
                return self.on_unknown_message(None, message)
            try:
                message.headers = plain_headers(message.headers)
                if message.headers["task"] in self.strategies:
                    self._check_body(message)
                return handle(message)
            except connection_lost:
                raise
            except Exception as error:  # noqa: BLE001  # anything else would end the worker
                return self._set_aside(DeadLetterReason.HANDLER_CRASH, message, error)

        return guarded

    def _check_body(self, message: Message) -> None:
        """Before the pool gets it: what its threads stumble over is neither done nor given back."""
        try:
            content = message.payload
        except (ContentDisallowed, DecodeError):
            return  # the handler meets these again, and has a place for them
        check_content(content)

    def _set_aside(self, reason: DeadLetterReason, message: Message, error: Exception | str) -> None:
        raw = getattr(message, "_raw", None) or {}
        headers = raw.get("headers") or {}
        kept = self.parking.park(
            describe(
                reason,
                queue=_text((message.delivery_info or {}).get("routing_key")),
                task=headers.get("task"),
                error=error if isinstance(error, str) else f"{type(error).__name__}: {error}",
                raw=raw or message.body,
                headers=headers,
            )
        )
        if kept and not message.acknowledged:  # else it stays with the broker and comes again
            message.reject_log_error(_StandardLog, self.connection_errors)


class _StandardLog:
    """What kombu expects of a logger when a rejection fails."""

    @staticmethod
    def critical(text: str, *args: Any, **_options: Any) -> None:
        log.error("broker.reject_failed", error=text % args)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
