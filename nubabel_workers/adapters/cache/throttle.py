"""Limits that several processes keep together: windows that we count, blocks that the other side told us about."""

import time

import redis.asyncio as redis

from nubabel_workers.adapters.cache.connection import PREFIX, translated_errors
from nubabel_workers.domain.errors import UnavailableError

_ANY_BLOCK = f"{PREFIX}blocks"
_LOOK_EVERY_S = 0.25


class RedisThrottle:
    """Implements ports.Throttle. Without the cache everything is allowed: the other side still says no by itself.

    Blocks are rare and asked about before every call, so one key says whether there is any at all, and a process that
    found none looks again after a moment. Another process's block is obeyed that much later; then the other side says
    no once more.
    """

    def __init__(self, cache: "redis.Redis") -> None:
        self._cache = cache
        self._none_until = 0.0  # monotonic

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
        if time.monotonic() < self._none_until:
            return 0.0
        try:
            with translated_errors():
                async with self._cache.pipeline(transaction=False) as pipeline:
                    pipeline.exists(_ANY_BLOCK)
                    pipeline.pttl(_block_key(key))
                    is_any, left_ms = await pipeline.execute()
        except UnavailableError:
            return 0.0
        if not is_any:
            self._none_until = time.monotonic() + _LOOK_EVERY_S
        return max(0, int(left_ms)) / 1000

    async def block(self, key: str, *, for_s: float) -> None:
        self._none_until = 0.0
        for_ms = max(1, int(for_s * 1000))
        try:
            with translated_errors():
                async with self._cache.pipeline(transaction=False) as pipeline:
                    pipeline.set(_block_key(key), "1", px=for_ms)
                    pipeline.set(_ANY_BLOCK, "1", nx=True, px=for_ms)
                    pipeline.pexpire(_ANY_BLOCK, for_ms, gt=True)
                    await pipeline.execute()
        except UnavailableError:
            return


def _block_key(key: str) -> str:
    return f"{PREFIX}block:{key}"
