"""Session mappings in both directions: Redis for a while, in front of PostgreSQL which knows them for good.

What is stored bears a seal over its key and value: whoever can write to the cache, which many programs may share,
cannot give one organization's session to another. A value without it, or of another key's making, is as good as none.
"""

import hashlib
import hmac
from collections.abc import Sequence

import orjson
import redis.asyncio as redis
import structlog

from nubabel_workers.adapters.cache.connection import PREFIX, translated_errors
from nubabel_workers.adapters.storage.executions import PostgresExecutions
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.ports import SessionMapping

log = structlog.get_logger(__name__)

_KEEP_ROOTS_S = 3600


class CachedSessionMappings:
    """Implements ports.SessionMappings. A cache that is away or wrong in form counts as empty."""

    def __init__(self, cache: "redis.Redis", executions: PostgresExecutions, *, keep_s: int, seal_key: bytes) -> None:
        self._cache = cache
        self._executions = executions
        self._keep_s = keep_s
        self._seal_key = seal_key

    async def find(self, organization_id: str, session_id: str) -> SessionMapping | None:
        cached = await self._get(_session_key(organization_id, session_id))
        if cached is not None:
            return SessionMapping(*cached)  # type: ignore[arg-type] # as sealed by us
        row = await self._executions.find_session_mapping(organization_id, session_id)
        if row is None:
            return None
        mapping = SessionMapping(row["instance_id"], row["opencode_session_id"], row["opencode_directory"])
        await self.remember(organization_id, session_id, mapping)
        return mapping

    async def session_of(self, instance_id: str, opencode_session_id: str) -> tuple[str, str] | None:
        cached = await self._get(_opencode_key(instance_id, opencode_session_id))
        if cached is not None:
            return (str(cached[0]), str(cached[1]))
        found = await self._executions.session_of(instance_id, opencode_session_id)
        if found is None:
            return None
        organization_id, session_id, directory = found
        await self.remember(organization_id, session_id, SessionMapping(instance_id, opencode_session_id, directory))
        return organization_id, session_id

    async def root_of(self, instance_id: str, opencode_session_id: str) -> str | None:
        found = await self._get(_root_key(instance_id, opencode_session_id))
        return str(found[0]) if found else None

    async def remember_root(self, instance_id: str, opencode_session_id: str, root_id: str) -> None:
        try:
            with translated_errors():
                key = _root_key(instance_id, opencode_session_id)
                await self._cache.set(key, self._sealed(key, [root_id]), ex=_KEEP_ROOTS_S)
        except UnavailableError:
            log.warning("cache.root_not_remembered", opencode_session_id=opencode_session_id)

    async def remember(self, organization_id: str, session_id: str, mapping: SessionMapping) -> None:
        forward = _session_key(organization_id, session_id)
        backward = _opencode_key(mapping.instance_id, mapping.opencode_session_id)
        place = [mapping.instance_id, mapping.opencode_session_id, mapping.directory]
        try:
            with translated_errors():
                async with self._cache.pipeline(transaction=False) as pipeline:
                    pipeline.set(forward, self._sealed(forward, place), ex=self._keep_s)
                    pipeline.set(backward, self._sealed(backward, [organization_id, session_id]), ex=self._keep_s)
                    await pipeline.execute()
        except UnavailableError:
            log.warning("cache.mapping_not_remembered", organization_id=organization_id, session_id=session_id)

    async def forget(self, organization_id: str, session_id: str) -> None:
        """Both directions: what still comes from the old OpenCode session belongs to nobody."""
        key = _session_key(organization_id, session_id)
        forward = await self._get(key)
        try:
            with translated_errors():
                await self._cache.delete(key, *([_opencode_key(str(forward[0]), str(forward[1]))] if forward else []))
        except UnavailableError:
            log.warning("cache.mapping_not_forgotten", organization_id=organization_id, session_id=session_id)

    async def _get(self, key: str) -> list[str | None] | None:
        try:
            with translated_errors():
                stored = await self._cache.get(key)
            told = orjson.loads(stored) if stored else None
        except (UnavailableError, ValueError):  # away, or neither text nor JSON
            return None
        if not isinstance(told, list) or not told:
            return None
        *value, seal = told
        genuine = isinstance(seal, str) and hmac.compare_digest(seal.encode(), self._seal(key, value).encode())
        return value if genuine else None

    def _sealed(self, key: str, value: Sequence[str | None]) -> bytes:
        return orjson.dumps([*value, self._seal(key, value)])

    def _seal(self, key: str, value: Sequence[str | None]) -> str:
        return hmac.new(self._seal_key, orjson.dumps([key, *value]), hashlib.sha256).hexdigest()


def _session_key(organization_id: str, session_id: str) -> str:
    return f"{PREFIX}session:{organization_id}:{session_id}"


def _root_key(instance_id: str, opencode_session_id: str) -> str:
    return f"{PREFIX}root:{instance_id}:{opencode_session_id}"


def _opencode_key(instance_id: str, opencode_session_id: str) -> str:
    return f"{PREFIX}opencode:{instance_id}:{opencode_session_id}"
