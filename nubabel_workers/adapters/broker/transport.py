"""kombu's Redis transport, made cheaper per message and proof against queue items that are no envelopes.

Cheaper: kombu 5.7 makes a new Redis client for every command (70 µs each with redis-py 8.1) and wraps the two commands
of reserving and of acknowledging a message into MULTI and EXEC. Here a channel keeps its client, and the two commands
travel together without a transaction: whichever of them a crash leaves out, the message is done or comes again.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import redis
import structlog
from kombu import Connection
from kombu.transport.redis import Channel, QoS, Transport

from nubabel_workers.adapters.broker.envelopes import BadEnvelopeError, check_envelope

_FETCH = "BRPOP"

log = structlog.get_logger(__name__)

RefuseItem = Callable[[str, bytes, str], None]
"""Told (queue, item, problem) of each queue item that is no envelope; must not raise."""


class LeanQoS(QoS):
    """Reserves and acknowledges with one round trip of two commands."""

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        if pipe:
            yield pipe
            return
        with self.channel.conn_or_acquire(client) as acquired:  # type: ignore[attr-defined]  # not in the stubs
            yield acquired.pipeline(transaction=False)


class LeanChannel(Channel):
    """Keeps one client for its commands instead of making one for each."""

    QoS = LeanQoS
    _kept_client: Any = None

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        if client:
            yield client
            return
        if self._kept_client is None or self._kept_client.connection_pool is not self.pool:
            self._kept_client = self._create_client()  # type: ignore[attr-defined]  # not in the stubs
        yield self._kept_client


class LeanTransport(Transport):
    Channel = LeanChannel


class LeanConnection(Connection):
    """For publishers. The URL stays redis://, as logs and Flower show it."""

    chosen_transport: ClassVar[type[Transport]] = LeanTransport

    def get_transport_cls(self) -> type[Transport]:
        return self.chosen_transport


class GuardedClient(redis.Redis):
    """The Redis client of a consuming channel: an item that is no message envelope is refused, not handed on."""

    def __init__(self, *args: Any, refuse: RefuseItem, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refuse = refuse

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        reply = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != _FETCH or not reply:
            return reply
        queue, item = reply
        try:
            check_envelope(item)
        except BadEnvelopeError as error:
            self._refuse(queue.decode("utf-8", "replace"), item, str(error))
            return None  # as if nothing had come within the fetch's time
        return reply


class GuardedChannel(LeanChannel):
    """A consuming channel: refuses what is no envelope."""

    refuse: ClassVar[RefuseItem]

    def _get_client(self) -> Any:
        if self.global_keyprefix:
            raise ValueError("global_keyprefix is not supported: producers know nothing of it")
        return functools.partial(GuardedClient, refuse=type(self).refuse)

    def _deliver_fanout_message(self, message: Any, exchange: str) -> Any:
        """Remote control is published, not queued: nothing to keep, but nothing to fall over either."""
        try:
            return super()._deliver_fanout_message(message, exchange)  # type: ignore[misc]  # newer than the stubs
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.warning("broker.control_message_refused", exchange=exchange, error=type(error).__name__)
            return True


def guarded_connection(refuse: RefuseItem) -> type[Connection]:
    """A connection class for consumers, which tells `refuse` of items that are no envelopes."""
    channel = type("ParkingChannel", (GuardedChannel,), {"refuse": staticmethod(refuse)})
    transport = type("ParkingTransport", (Transport,), {"Channel": channel})
    return type("ParkingConnection", (LeanConnection,), {"chosen_transport": transport})
