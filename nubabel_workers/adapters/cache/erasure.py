"""Take out of the cache what bears somebody's names."""

from collections.abc import Set as AbstractSet

import orjson
import redis.asyncio as redis

from nubabel_workers.adapters.cache.circuit_breakers import OF_TOOLS
from nubabel_workers.adapters.cache.connection import PREFIX, translated_errors

_AT_A_TIME = 500
_ROOTS = f"{PREFIX}root:"  # names a sub-agent's session, of which we store nothing; its value names the root


class RedisOrganizationCache:
    """Implements ports.administration.OrganizationCache: mappings, progress streams, windows, blocks, breakers.

    Our keys are made of names between colons, and tell by themselves whose they are.
    """

    def __init__(self, cache: "redis.Redis") -> None:
        self._cache = cache

    async def forget(self, names: AbstractSet[str]) -> int:
        found: list[str] = []
        with translated_errors():
            async for key in self._cache.scan_iter(match=f"{PREFIX}*", count=_AT_A_TIME):
                is_root = key.startswith(_ROOTS)
                if not names.isdisjoint(key.split(":")) or (is_root and _root(await self._cache.get(key)) in names):
                    found.append(key)
            for start in range(0, len(found), _AT_A_TIME):
                await self._cache.delete(*found[start : start + _AT_A_TIME])
            fields = [field async for field, _ in self._cache.hscan_iter(f"{PREFIX}{OF_TOOLS.key}") if field in names]
            if fields:
                await self._cache.hdel(f"{PREFIX}{OF_TOOLS.key}", *fields)
        return len(found) + len(fields)


def _root(stored: str | bytes | None) -> str:
    try:
        return str(orjson.loads(stored or "null")[0])
    except (ValueError, TypeError, IndexError, KeyError):
        return ""
