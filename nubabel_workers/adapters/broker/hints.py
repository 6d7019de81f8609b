"""Hints to the broker: published by one thread, so that a slow or hung broker never holds the event loop up.

A hint wakes a task, and the task takes every row that is ready; therefore one pending hint per task is enough. That is
kept in two places: here, until the thread has published it, and in the cache, as a flag that lives for at most a
second and that the consumer removes before it claims. Never is a hint left out because of the state of a row.
"""

import threading
import time
import uuid
from collections.abc import Callable, Mapping

import redis
import redis.asyncio
import structlog
from celery import Celery
from kombu import Connection, Producer
from kombu.exceptions import BatchPublishError  # type: ignore[attr-defined]  # newer than the stubs
from redis.backoff import NoBackoff
from redis.retry import Retry

from nubabel_workers.adapters.broker.messages import task_headers
from nubabel_workers.adapters.broker.transport import LeanConnection
from nubabel_workers.domain.hints import Hint

_FLAG = "nubabel:hint:{task}"
_FLAG_TIMEOUT_S = 0.5  # a flag saves a message; it isn't worth waiting for
_FLAG_REST_S = 5.0  # while the cache is away, how long it isn't asked again
_CONNECT_ONCE = {"max_retries": 0}  # the scheduler repeats a lost hint; kombu would try for a minute

log = structlog.get_logger(__name__)

HintOutcome = Callable[[str, str], None]
"""Told (task, outcome) for each hint: published, suppressed or failed."""


def _ignore(_task: str, _outcome: str) -> None:
    """Nobody counts."""


class CeleryHintPublisher:
    """publish() returns at once, from any thread; the hint is on its way, or lost with a log line.

    app: how to reach the broker; its transport options must set socket timeouts, which bound every publish.
    queue_of_task: where each task's messages go. flag_ms: how long one hint stands for all of its task, at most;
    None publishes every one.
    """

    def __init__(
        self,
        app: Celery,
        queue_of_task: Mapping[str, str],
        *,
        cache_url: str,
        flag_ms: int | None = 1000,
        on_outcome: HintOutcome = _ignore,
    ) -> None:
        self._app = app
        self._queue_of_task = queue_of_task
        self._flags = _Flags(cache_url, flag_ms) if flag_ms else None
        self._on_outcome = on_outcome
        self._pending: dict[str, Hint] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._connection: Connection | None = None
        self._thread: threading.Thread | None = None

    def publish(self, hint: Hint) -> None:
        with self._changed:
            if self._closing:
                return
            if hint.task in self._pending:
                self._on_outcome(hint.task, "suppressed")
                return
            self._pending[hint.task] = hint
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
            wanted = [hint for hint in hints if self._flags is None or self._flags.set(hint.task)]
            for hint in hints:
                if hint not in wanted:
                    self._on_outcome(hint.task, "suppressed")
            self._send(wanted)
        self._drop_connection()
        if self._flags is not None:
            self._flags.close()

    def _take(self) -> list[Hint]:
        """Wait for hints; an empty list says that there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
            hints = list(self._pending.values())
            self._pending.clear()
            return hints

    def _send(self, hints: list[Hint]) -> None:
        """Twice at most: an old connection may belong to a broker that was restarted since."""
        for _ in range(2 if hints else 0):
            reused = self._connection is not None
            try:
                self._publish(hints)
            except Exception as error:  # noqa: BLE001  # whatever it is, this thread serves the next hints too
                self._drop_connection()
                if not (reused and _connection_was_lost(error)):
                    self._failed(hints, error)
                    return
            else:
                return

    def _publish(self, hints: list[Hint]) -> None:
        if self._connection is None:
            self._connection = self._new_connection()
        producer = Producer(self._connection)
        if len(hints) == 1:
            self._publish_one(producer, hints[0])
        else:
            with producer.batch(max_size=len(hints)):  # type: ignore[attr-defined]  # newer than the stubs
                for hint in hints:
                    self._publish_one(producer, hint)
        for hint in hints:
            self._on_outcome(hint.task, "published")

    def _new_connection(self) -> Connection:
        conf = self._app.conf
        return LeanConnection(
            conf.broker_url,
            ssl=conf.broker_use_ssl,
            transport_options={**conf.broker_transport_options, **_CONNECT_ONCE},
        )

    def _publish_one(self, producer: Producer, hint: Hint) -> None:
        queue = self._queue_of_task[hint.task]
        task_id = str(uuid.uuid4())
        producer.publish(
            ((hint.row_id,), {}, {}),
            serializer="json",
            exchange="",  # the default exchange: straight to the queue of that name
            routing_key=queue,
            correlation_id=task_id,
            headers=task_headers(hint.task, task_id, argsrepr=f"({hint.row_id!r},)"),
        )

    def _failed(self, hints: list[Hint], error: Exception) -> None:
        tasks = [str(hint.task) for hint in hints]
        log.warning("hints.not_published", tasks=tasks, error=f"{type(error).__name__}: {error}")
        for task in tasks:
            self._on_outcome(task, "failed")

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.release()
        except Exception as error:  # noqa: BLE001  # the connection is broken: cleaning up may say anything
            log.debug("hints.connection_cleanup", error=str(error))


class RedisHintFlags:
    """The consumer's side of the flags."""

    def __init__(self, cache: redis.asyncio.Redis) -> None:
        self._cache = cache

    async def clear(self, task: str) -> None:
        """Remove the task's flag. A cache that is away is no reason to wait: the flag expires by itself."""
        try:
            await self._cache.delete(_FLAG.format(task=task))
        except (redis.RedisError, OSError) as error:
            log.debug("hints.flag_not_cleared", task=task, error=type(error).__name__)


class _Flags:
    """The publisher's side: set() says whether a hint is needed. While the cache is away, every hint is."""

    def __init__(self, cache_url: str, lifetime_ms: int) -> None:
        self._lifetime_ms = lifetime_ms
        self._ask_again_at = 0.0
        self._cache = redis.Redis.from_url(
            cache_url,
            socket_timeout=_FLAG_TIMEOUT_S,
            socket_connect_timeout=_FLAG_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )

    def set(self, task: str) -> bool:
        if time.monotonic() < self._ask_again_at:
            return True
        try:
            return bool(self._cache.set(_FLAG.format(task=task), "1", nx=True, px=self._lifetime_ms))
        except (redis.RedisError, OSError) as error:
            self._ask_again_at = time.monotonic() + _FLAG_REST_S
            log.warning("hints.flags_unavailable", error=type(error).__name__)
            return True

    def close(self) -> None:
        self._cache.close()


def _connection_was_lost(error: BaseException | None) -> bool:
    """A batch that failed on its connection wraps the reason."""
    lost = isinstance(error, (redis.ConnectionError, OSError)) and not isinstance(error, TimeoutError)
    return lost or (isinstance(error, BatchPublishError) and _connection_was_lost(error.__cause__))
