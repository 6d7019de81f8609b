"""Progress of executions: one bounded, expiring Redis stream each. Lossy by design; rows hold what matters."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
import redis.asyncio as redis
import structlog

from nubabel_workers.adapters.cache.connection import PREFIX, translated_errors
from nubabel_workers.domain.errors import UnavailableError

log = structlog.get_logger(__name__)

MAX_EVENTS = 1000
_FIRST = "0-0"
_WATCH = f"{PREFIX}watch"
_PUBSUB_WAIT_S = 10.0


class RedisProgress:
    """Implements ports.ProgressStream, and tells the listener which executions somebody watches."""

    def __init__(self, cache: "redis.Redis", reading: "redis.Redis", *, keep_s: int) -> None:
        """reading: a client whose sockets may rest in XREAD for a while. keep_s: after the last event."""
        self._cache = cache
        self._reading = reading
        self._keep_s = keep_s

    async def append(self, organization_id: str, execution_id: str, event: Mapping[str, Any]) -> None:
        key = _key(organization_id, execution_id)
        try:
            with translated_errors():
                async with self._cache.pipeline(transaction=False) as pipeline:
                    pipeline.xadd(key, {"e": orjson.dumps(event)}, maxlen=MAX_EVENTS, approximate=True)
                    pipeline.expire(key, self._keep_s)
                    await pipeline.execute()
        except UnavailableError:
            log.warning("cache.progress_lost", execution_id=execution_id)

    async def read(
        self, organization_id: str, execution_id: str, *, after: str, idle_s: float
    ) -> AsyncIterator[tuple[str, Mapping[str, Any]] | None]:
        """Events after that id (empty: from the beginning), then live; None after each quiet idle_s seconds.

        Ends by being closed. Raises UnavailableError when the cache is away.
        """
        key, last = _key(organization_id, execution_id), after or _FIRST
        while True:
            await self._announce_watcher(execution_id)
            with translated_errors():
                answer = await self._reading.xread({key: last}, count=200, block=max(1, int(idle_s * 1000)))
            if not answer:
                yield None
                continue
            for event_id, fields in _entries(answer, key):
                last = event_id
                yield event_id, orjson.loads(fields["e"])

    async def _announce_watcher(self, execution_id: str) -> None:
        """Tell the listeners that text deltas of this execution are worth their CPU for a while."""
        with translated_errors():
            await self._cache.publish(_WATCH, execution_id)

    async def watched(self) -> AsyncIterator[str]:
        """Executions that somebody reads, each time its reader says so. Raises UnavailableError when the cache goes."""
        with translated_errors():
            async with self._reading.pubsub(ignore_subscribe_messages=True) as subscription:
                await subscription.subscribe(_WATCH)
                while True:
                    message = await subscription.get_message(timeout=_PUBSUB_WAIT_S)
                    if message is not None:
                        yield str(message["data"])


def _entries(answer: Any, key: str) -> list[tuple[str, Mapping[str, str]]]:
    """redis-py answers with a dict under RESP3 and with a list under RESP2."""
    if isinstance(answer, dict):
        batches = answer.get(key) or []
        return [entry for batch in batches for entry in (batch if isinstance(batch, list) else [batch])]
    return [entry for _stream, entries in answer for entry in entries]


def _key(organization_id: str, execution_id: str) -> str:
    return f"{PREFIX}progress:{organization_id}:{execution_id}"
