"""Limits that several processes keep together: windows that we count, blocks that the other side told us about."""

import time

import redis.asyncio as redis

from nubabel_workers.adapters.cache.connection import PREFIX, translated_errors
from nubabel_workers.domain.errors import UnavailableError


class RedisThrottle:
    """Implements ports.Throttle. Without the cache everything is allowed: the other side still says no by itself."""

    def __init__(self, cache: "redis.Redis") -> None:
        self._cache = cache

    async def take(self, key: str, *, per_s: float, limit: int, wanted: int = 1) -> int:
        window = int(time.time() / per_s)  # a clock that is off only moves this process's windows
        name = f"{PREFIX}window:{key}:{window}"
        try:
            with translated_errors():
                async with self._cache.pipeline(transaction=False) as pipeline:
                    pipeline.incrby(name, wanted)
                    pipeline.expire(name, int(per_s) + 2)
                    taken, _ = await pipeline.execute()
        except UnavailableError:
            return wanted
        return max(0, min(wanted, limit - (int(taken) - wanted)))

    async def blocked_for_s(self, key: str) -> float:
        try:
            with translated_errors():
                left_ms = await self._cache.pttl(f"{PREFIX}block:{key}")
        except UnavailableError:
            return 0.0
        return max(0, int(left_ms)) / 1000

    async def block(self, key: str, *, for_s: float) -> None:
        try:
            with translated_errors():
                await self._cache.set(f"{PREFIX}block:{key}", "1", px=max(1, int(for_s * 1000)))
        except UnavailableError:
            return
