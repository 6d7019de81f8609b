"""Who of several processes does what only one may do: leases in the cache, and a register of who is there.

Losing the cache may leave nobody or, for a moment, two in charge; what they do must bear both (events are hints).
"""

import redis.asyncio as redis

from nubabel_workers.adapters.cache.connection import PREFIX, translated_errors

# Renew or release only while it is still ours; the owner is compared and the key changed in one step.
_RENEW = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('pexpire', KEYS[1], ARGV[2]) end return 0"
# Members are compared by the cache's own clock: those of the processes may differ.
_SIGN_IN = """
local time = redis.call('time')
local now = time[1] + time[2] / 1000000
redis.call('zadd', KEYS[1], now, ARGV[1])
redis.call('zremrangebyscore', KEYS[1], '-inf', now - ARGV[2])
redis.call('expire', KEYS[1], math.ceil(ARGV[2] * 2))
return redis.call('zcard', KEYS[1])
"""
_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class RedisLeadership:
    """group: processes that share something, e.g. `listeners`. member: this process's name among them."""

    def __init__(self, cache: "redis.Redis", group: str, member: str, *, lease_s: float) -> None:
        self._cache = cache
        self._group = f"{PREFIX}{group}"
        self._member = member
        self._lease_s = lease_s
        self._sign_in = cache.register_script(_SIGN_IN)
        self._renew = cache.register_script(_RENEW)
        self._release = cache.register_script(_RELEASE)

    async def members(self) -> int:
        """Sign in and count who signed in within the lease time, this process included."""
        with translated_errors():
            return int(await self._sign_in(keys=[self._group], args=[self._member, self._lease_s]))

    async def take(self, what: str) -> bool:
        """Whether this process is in charge of it now: newly, or still."""
        with translated_errors():
            milliseconds = int(self._lease_s * 1000)
            if await self._cache.set(self._key(what), self._member, nx=True, px=milliseconds):
                return True
            return bool(await self._renew(keys=[self._key(what)], args=[self._member, milliseconds]))

    async def release(self, what: str) -> None:
        with translated_errors():
            await self._release(keys=[self._key(what)], args=[self._member])

    async def leave(self) -> None:
        with translated_errors():
            await self._cache.zrem(self._group, self._member)

    def _key(self, what: str) -> str:
        return f"{self._group}:{what}"
