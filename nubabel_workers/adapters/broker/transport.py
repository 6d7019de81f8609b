"""kombu's Redis transport: cheaper per message, without a gap at the fetch, proof against items that are no envelopes.

Cheaper: kombu 5.7 makes a new Redis client for every command (70 µs each with redis-py 8.1) and wraps the commands of
reserving and of acknowledging a message into MULTI and EXEC. Here a channel keeps its client, and the commands travel
together without a transaction: whichever of them a crash leaves out, the message is done or comes again.

Without a gap: kombu pops a message (BRPOP) and writes it down as fetched in a second step; a worker that is killed in
between, or while it waits for the next message, takes one along. A channel that consumes a single queue moves it
(BLMOVE) to a list of fetched items instead, from which the reservation removes it; items that stay there go back.

Every priority: what producers left in a queue's lists of other priorities is moved to the one that is consumed.
"""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty
from typing import Any, ClassVar

import redis
import structlog
from kombu import Connection
from kombu.transport import virtual
from kombu.transport.redis import Channel, QoS, Transport
from kombu.utils.json import dumps
from kombu.utils.uuid import uuid

from nubabel_workers.adapters.broker.envelopes import BadEnvelopeError, check_envelope, settle_delivery
from nubabel_workers.adapters.broker.hints import flag_of
from nubabel_workers.adapters.broker.priority_lists import move_to_queue

_FETCH = "BRPOP"
_MOVE = "BLMOVE"
_SWEEP_S = 2.0  # far longer than a living worker leaves an item unreserved; and no long wait for a low priority
_PUT_BACK = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 1 then
    redis.call('RPUSH', KEYS[2], ARGV[1])
end
"""

log = structlog.get_logger(__name__)

RefuseItem = Callable[[str, bytes, str], None]
"""Told (queue, item, problem) of each queue item that is no envelope; must not raise."""


class LeanQoS(QoS):
    """Reserves and acknowledges with one round trip each."""

    channel: "LeanChannel"

    def append(self, message: Any, delivery_tag: str) -> None:
        """Reserve: from here on the message comes again after the visibility timeout unless it is acknowledged."""
        where = message.delivery_info
        entry = dumps([message._raw, where["exchange"], where["routing_key"]])  # noqa: SLF001  # as kombu restores it
        flag = flag_of(message.headers.get("task"))
        with self.pipe_or_acquire() as pipe:
            pipe.zadd(self.unacked_index_key, {delivery_tag: time.time()})
            pipe.hset(self.unacked_key, delivery_tag, entry)
            self.channel.forget_fetched(pipe)
            if flag is not None:  # from here on a new hint is needed for rows that its task doesn't see
                pipe.delete(flag)
            pipe.execute()
        virtual.QoS.append(self, message, delivery_tag)

    @contextmanager
    def pipe_or_acquire(self, pipe: Any = None, client: Any = None) -> Iterator[Any]:
        if pipe:
            yield pipe
            return
        with self.channel.conn_or_acquire(client) as acquired:
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

    def _connparams(self, *args: Any, **kwargs: Any) -> Any:
        """Of a closed transport there are none. kombu falls over that with an AttributeError, which ends the worker
        when the broker dies at the wrong moment; a lost connection is what it is, and what Celery can deal with.
        """
        if self.connection is None or self.connection.client is None:
            raise redis.ConnectionError("the connection of this channel is closed")
        return super()._connparams(*args, **kwargs)  # type: ignore[misc]  # not in the stubs

    def forget_fetched(self, pipe: Any) -> None:
        """Nothing is noted at the fetch here."""


class LeanTransport(Transport):
    Channel = LeanChannel


class LeanConnection(Connection):
    """For publishers. The URL stays redis://, as logs and Flower show it."""

    chosen_transport: ClassVar[type[Transport]] = LeanTransport

    def get_transport_cls(self) -> type[Transport]:
        return self.chosen_transport


class GuardedClient(redis.Redis):
    """The Redis client of a consuming channel: an item that is no message envelope is refused, not handed on."""

    moving_from: str | None = None  # the pending fetch is a BLMOVE from this queue; None: a BRPOP
    fetched: tuple[str, bytes] | None = None  # (queue, item) moved, and not reserved yet

    def __init__(self, *args: Any, refuse: RefuseItem, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refuse = refuse

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        if command_name != _FETCH:
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        reply = self._fetch_reply(connection, options)
        if not reply:
            return None
        queue, item = reply
        try:
            check_envelope(item)
        except BadEnvelopeError as error:
            self._refuse(queue.decode("utf-8", "replace"), item, str(error))
            if self.fetched is not None:
                forget(self, self.fetched)
                self.fetched = None
            return None  # as if nothing had come within the fetch's time
        return reply

    def _fetch_reply(self, connection: Any, options: dict[str, Any]) -> tuple[bytes, bytes] | None:
        if self.moving_from is None:
            popped: tuple[bytes, bytes] | None = super().parse_response(connection, _FETCH, **options)  # type: ignore[no-untyped-call]
            return popped
        item: bytes | None = super().parse_response(connection, _MOVE, **options)  # type: ignore[no-untyped-call]
        if item is None:
            return None
        self.fetched = (self.moving_from, item)
        return self.moving_from.encode(), item


class GuardedChannel(LeanChannel):
    """A consuming channel: refuses what is no envelope, and leaves no gap at the fetch when it consumes one queue."""

    refuse: ClassVar[RefuseItem]
    _swept_at = 0.0
    _gathered_at = 0.0
    _seen_fetched: frozenset[bytes] = frozenset()
    _queue_cycle: Any  # kombu's, not in the stubs

    def _get_client(self) -> Any:
        if self.global_keyprefix:
            raise ValueError("global_keyprefix is not supported: producers know nothing of it")
        return functools.partial(GuardedClient, refuse=type(self).refuse)

    def _brpop_start(self, timeout: int | None = None) -> None:
        self._gather_priorities()
        if len(self.active_queues) != 1 or list(self.priority_steps) != [0]:
            self.client.moving_from = None
            super()._brpop_start(timeout)  # type: ignore[misc]  # not in the stubs
            return
        (queue,) = self._queue_cycle.consume(1)
        self._put_back_what_stayed(queue)
        self.client.moving_from = queue
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        wait_s = timeout or self.brpop_timeout
        self.client.connection.send_command(_MOVE, queue, _fetched_list(queue), "RIGHT", "LEFT", wait_s)

    def _gather_priorities(self) -> None:
        """Not in the fetch itself: BLMOVE takes one list, and a BRPOP of many would bring its gap back."""
        if time.monotonic() - self._gathered_at < _SWEEP_S:
            return
        more_lie_there = False
        with self.conn_or_acquire() as client:
            for queue in self.active_queues:
                moved, more = move_to_queue(client, queue)
                more_lie_there |= more
                if moved:
                    log.info("broker.prioritized_messages_moved", queue=queue, messages=moved)
        if not more_lie_there:
            self._gathered_at = time.monotonic()

    def forget_fetched(self, pipe: Any) -> None:
        """Add to a reservation that the item needs no looking after any more."""
        fetched, self.client.fetched = self.client.fetched, None
        if fetched is not None:
            forget(pipe, fetched)

    def _put_back_what_stayed(self, queue: str) -> None:
        """Items found in two looks in a row belong to a worker that is gone; at worst one of them is run twice."""
        if time.monotonic() - self._swept_at < _SWEEP_S:
            return
        self._swept_at = time.monotonic()
        with self.conn_or_acquire() as client:
            found = frozenset(client.lrange(_fetched_list(queue), 0, -1))
            for item in found & self._seen_fetched:
                client.eval(_PUT_BACK, 2, _fetched_list(queue), queue, item)
                log.warning("broker.fetched_message_put_back", queue=queue)
        self._seen_fetched = found

    def _receive_one(self, c: Any) -> Any:
        """Remote control is published, not queued: nothing to keep, but nothing to fall over either."""
        try:
            return super()._receive_one(c)  # type: ignore[misc]  # not in the stubs
        except (Empty, redis.RedisError, OSError):
            raise
        except Exception as error:  # noqa: BLE001  # what kombu doesn't catch here would end the worker
            log.warning("broker.control_message_refused", error=type(error).__name__)
            return None


class GuardedTransport(Transport):
    """Hands envelopes on with a delivery tag of our own, and with the queue that they came from as their way back."""

    def _deliver(self, message: dict[str, Any], queue: Any) -> None:
        settle_delivery(message, queue, uuid())
        super()._deliver(message, queue)


def guarded_connection(refuse: RefuseItem) -> type[Connection]:
    """A connection class for consumers, which tells `refuse` of items that are no envelopes."""
    channel = type("ParkingChannel", (GuardedChannel,), {"refuse": staticmethod(refuse)})
    transport = type("ParkingTransport", (GuardedTransport,), {"Channel": channel})
    return type("ParkingConnection", (LeanConnection,), {"chosen_transport": transport})


def forget(client: Any, fetched: tuple[str, bytes]) -> None:
    """Remove an item from its queue's list of fetched ones. client: or a pipeline."""
    queue, item = fetched
    client.lrem(_fetched_list(queue), 1, item)


def _fetched_list(queue: str) -> str:
    return f"{queue}:fetched"
