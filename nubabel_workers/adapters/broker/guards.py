"""Guards against messages that stop, or endlessly reconnect, a stock Celery 5.7 worker on Redis.

Two places see a message before any task does: the transport, which takes an item from a Redis list, and the consumer,
which finds the task for it. Both are subclassed here, and what they cannot work with is parked first and rejected
then, so that nothing vanishes. On Redis a rejected message is a deleted one.

`KeyError` counts as a lost connection in kombu 5.7: one that a malformed message causes must not get out.
"""

import functools
from typing import Any, ClassVar

import redis
import structlog
from celery import Celery
from celery.worker.consumer import Consumer
from kombu import Connection, Message
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.transport.redis import Channel, Transport

from nubabel_workers.adapters.broker.envelopes import BadEnvelopeError, check_envelope
from nubabel_workers.adapters.broker.messages import check_content, plain_headers
from nubabel_workers.adapters.broker.parking import Parking, describe
from nubabel_workers.domain.dead_letters import DeadLetterReason

_FETCH = "BRPOP"

log = structlog.get_logger(__name__)


def install_guards(app: Celery, parking: Parking) -> None:
    """Make workers of this app use the guarded transport and consumer. Before the worker starts."""
    channel = type("ParkingChannel", (GuardedChannel,), {"parking": parking})
    transport = type("ParkingTransport", (Transport,), {"Channel": channel})
    app.amqp.Connection = type("ParkingConnection", (GuardedConnection,), {"guarded_transport": transport})
    app.conf.worker_consumer = type("ParkingConsumer", (GuardedConsumer,), {"parking": parking})


class GuardedConnection(Connection):
    """kombu's connection over the guarded transport; its URL stays redis://, as logs and Flower show it."""

    guarded_transport: ClassVar[type[Transport]]

    def get_transport_cls(self) -> type[Transport]:
        return self.guarded_transport


class GuardedClient(redis.Redis):
    """The Redis client of a consuming channel: an item that is no message envelope is parked, not handed on."""

    def __init__(self, *args: Any, parking: Parking, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._parking = parking

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        reply = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != _FETCH or not reply:
            return reply
        queue, item = reply
        try:
            check_envelope(item)
        except BadEnvelopeError as error:
            letter = describe(DeadLetterReason.BAD_ENVELOPE, queue=_text(queue), task="", error=str(error), raw=item)
            self._parking.park(letter)
            return None  # as if nothing had come within the fetch's time
        return reply


class GuardedChannel(Channel):
    """kombu's channel with the guarded client."""

    parking: ClassVar[Parking]

    def _get_client(self) -> Any:
        if self.global_keyprefix:
            raise ValueError("global_keyprefix is not supported: producers know nothing of it")
        return functools.partial(GuardedClient, parking=self.parking)

    def _deliver_fanout_message(self, message: Any, exchange: str) -> Any:
        """Remote control is published, not queued: nothing to keep, but nothing to fall over either."""
        try:
            return super()._deliver_fanout_message(message, exchange)  # type: ignore[misc]  # newer than the stubs
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning("broker.control_message_refused", exchange=exchange, error=type(error).__name__)
            return True


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
