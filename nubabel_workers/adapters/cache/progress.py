"""Progress of executions: one bounded, expiring Redis stream each. Lossy by design; rows hold what matters."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
import redis.asyncio as redis
import structlog

from nubabel_workers.adapters.cache.connection import PREFIX, translated_errors
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.progress import TOOL_STATES, ProgressItem, ProgressSource, ToolProgress

log = structlog.get_logger(__name__)

MAX_EVENTS = 1000
MAX_NAMED = 5000  # calls and parts of one execution that are remembered; what comes after those is not told
_BATCH = 32  # events that a reader holds at a time: one that does not take them costs no more than these
_FIRST = "0-0"
_WATCH = f"{PREFIX}watch"
_PUBSUB_WAIT_S = 10.0
# KEYS: stream, what was told of each call and part. ARGV: events kept, calls and parts kept, seconds; then of each item
# name (t... or p...), state or source, title, event. The rule is `domain.progress.news_of`.
_TELL = """
local told = 0
for at = 4, #ARGV, 4 do
  local name, mark, title, event = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local known = redis.call('HGET', KEYS[2], name)
  local news = nil
  if not known then
    if redis.call('HLEN', KEYS[2]) < tonumber(ARGV[2]) then news = mark .. title end
  elseif string.sub(name, 1, 1) == 'p' then
    if known == 'listener' and mark == 'listener' then news = mark end
  else
    local state, known_state, known_title = tonumber(mark), tonumber(string.sub(known, 1, 1)), string.sub(known, 2)
    if state > known_state or (state == known_state and title ~= '' and title ~= known_title) then
      news = mark .. (title ~= '' and title or known_title)
    end
  end
  if news then
    if news ~= known then redis.call('HSET', KEYS[2], name, news) end
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'e', event)
    told = told + 1
  end
end
if told > 0 then
  redis.call('EXPIRE', KEYS[1], ARGV[3])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
end
return told
"""


class RedisProgress:
    """Implements ports.ProgressStream, and tells the listener which executions somebody watches."""

    def __init__(self, cache: "redis.Redis", reading: "redis.Redis", *, keep_s: int) -> None:
        """reading: a client whose sockets may rest in XREAD for a while. keep_s: after the last event."""
        self._cache = cache
        self._reading = reading
        self._keep_s = keep_s
        self._tell = cache.register_script(_TELL)

    async def append(self, organization_id: str, execution_id: str, event: Mapping[str, Any]) -> None:
        key = _key(organization_id, execution_id)
        try:
            with translated_errors():
                async with self._cache.pipeline(transaction=False) as pipeline:
                    pipeline.xadd(key, {"e": orjson.dumps(event)}, maxlen=MAX_EVENTS, approximate=True)
                    pipeline.expire(key, self._keep_s)
                    await pipeline.execute()
        except UnavailableError:
            log.warning("cache.progress_lost", organization_id=organization_id, execution_id=execution_id)

    async def tell(
        self, organization_id: str, execution_id: str, items: Sequence[ProgressItem], source: ProgressSource
    ) -> int:
        key = _key(organization_id, execution_id)
        arguments: list[str | int | bytes] = [MAX_EVENTS, MAX_NAMED, self._keep_s]
        for item in items:
            arguments += [*_named(item, source), orjson.dumps(item.event())]
        try:
            with translated_errors():
                return int(await self._tell(keys=[key, f"{key}:told"], args=arguments))
        except UnavailableError:
            log.warning("cache.progress_lost", organization_id=organization_id, execution_id=execution_id)
            return 0

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
                answer = await self._reading.xread({key: last}, count=_BATCH, block=max(1, int(idle_s * 1000)))
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


def _named(item: ProgressItem, source: ProgressSource) -> tuple[str, str, str]:
    if isinstance(item, ToolProgress):
        return f"t{' '.join(item.name)}", str(TOOL_STATES.get(item.status, 0)), item.title or ""
    return f"p{item.part_id}", source.value, ""


def _entries(answer: Any, key: str) -> list[tuple[str, Mapping[str, str]]]:
    """redis-py answers with a dict under RESP3 and with a list under RESP2."""
    if isinstance(answer, dict):
        batches = answer.get(key) or []
        return [entry for batch in batches for entry in (batch if isinstance(batch, list) else [batch])]
    return [entry for _stream, entries in answer for entry in entries]


def _key(organization_id: str, execution_id: str) -> str:
    return f"{PREFIX}progress:{organization_id}:{execution_id}"
