"""Breakers that all processes share: one hash in the cache, server -> standing. The decisions are the domain's.

Own code, since the kept libraries (purgatory, pybreaker, aiobreaker) count failures in a row only, let every process
probe at once when half open, and ask the store at each call.

While a breaker is closed a success costs nothing here: it is counted in this process, and shared only when failures are
on record. Everything fails open: a cache that was wiped, is away or hangs holds no call back.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import redis.asyncio as redis
import structlog

from nubabel_workers.adapters.cache.connection import PREFIX, translated_errors
from nubabel_workers.domain.circuit_breaker import (
    BreakerPolicy,
    CallKind,
    CallOutcome,
    Count,
    Gate,
    Seen,
    Standing,
    after,
    gate,
    is_forgotten,
    with_probe,
)
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.ports import Chance


@dataclass(frozen=True)
class Guarded:
    """What a set of breakers stands before. key: in the cache; event, id_field: in the log."""

    key: str
    event: str
    id_field: str


OF_OPENCODE = Guarded("breakers", "opencode", "instance_id")
OF_TOOLS = Guarded("tool-breakers", "tool_server", "connection_id")
OF_ORCHESTRATORS = Guarded("orchestrator-breakers", "orchestrator", "orchestrator")

_KEEP_MS = 3_600_000
_LOOK_EVERY_S = 0.25  # how late another process's first failure may be known here; from then on all is known at once
_PATIENCE_S = 0.3  # for one exchange with the cache: nothing here is worth more
_RECORD_AGE_S = 5.0  # how old the news may be by which a success is not worth sharing
_REST_S = 5.0  # while the cache is away, how long it isn't asked again
_TRIES = 5  # to change a standing that others change at the same moment

# Change a field only while it is what the decision was made from. An empty value stands for none.
_SWAP = """
if (redis.call('hget', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then redis.call('hdel', KEYS[1], ARGV[1]) return 1 end
redis.call('hset', KEYS[1], ARGV[1], ARGV[3])
redis.call('pexpire', KEYS[1], ARGV[4])
return 1
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Snapshot:
    """All standings at one moment. read_at: monotonic; the cache's clock said now then."""

    now: float
    read_at: float
    raw: Mapping[str, str]
    standings: Mapping[str, Standing]

    def time(self) -> float:
        return self.now + self.age_s()

    def age_s(self) -> float:
        return time.monotonic() - self.read_at


@dataclass
class _Unreported:
    """What this process saw of one server and has not shared. since: monotonic."""

    since: float
    seen: dict[CallKind, Seen] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        return any(seen.failed for seen in self.seen.values())


class RedisCircuitBreakers:
    """Implements ports.CircuitBreakers. on_opened is told the server of each opening that this process caused."""

    def __init__(
        self,
        cache: "redis.Redis",
        chance: Chance,
        *,
        policy: BreakerPolicy,
        on_opened: Callable[[str], None] = lambda _: None,
        guarded: Guarded = OF_OPENCODE,
    ) -> None:
        """guarded: whose servers; all that stand before the same ones share what they know."""
        self._key = f"{PREFIX}{guarded.key}"
        self._guarded = guarded
        self._cache = cache
        self._chance = chance
        self._policy = policy
        self._on_opened = on_opened
        self._swap = cache.register_script(_SWAP)
        self._snapshot: _Snapshot | None = None
        self._unreported: dict[str, _Unreported] = {}
        self._probing: set[str] = set()
        self._asked_again_at = 0.0  # monotonic

    def saw(self, instance_id: str, kind: CallKind, outcome: CallOutcome, *, began_ago_s: float = 0.0) -> None:
        now = time.monotonic()
        known = self._unreported.get(instance_id)
        if known is None or (now - known.since > self._policy.window_s and not known.failed):
            known = self._unreported[instance_id] = _Unreported(now)
        known.seen[kind] = known.seen.get(kind, Seen()).and_then(outcome, began_ago_s=began_ago_s)

    async def gates(self) -> Mapping[str, Gate]:
        snapshot = self._snapshot
        if snapshot is None or snapshot.standings or snapshot.age_s() > _LOOK_EVERY_S:
            snapshot = await self._fresh()
        if snapshot is None:
            return {}
        now = snapshot.time()
        found = {instance_id: gate(standing, now) for instance_id, standing in snapshot.standings.items()}
        return {instance_id: one for instance_id, one in found.items() if not one.lets_all}

    async def take_probe(self, instance_id: str) -> bool:
        for _ in range(_TRIES):
            snapshot = await self._fresh()
            if snapshot is None:
                return True
            standing = snapshot.standings.get(instance_id, Standing())
            taken = with_probe(standing, snapshot.time(), self._policy)
            if taken is None:
                return gate(standing, snapshot.time()).lets_all
            if await self._put(snapshot, instance_id, taken):
                self._probing.add(instance_id)
                return True
        return False

    async def report(self) -> list[str]:
        if self._unreported and (self._snapshot is None or self._snapshot.age_s() > _RECORD_AGE_S):
            await self._fresh()
        self._forget_old()
        due = [instance_id for instance_id, one in self._unreported.items() if self._is_news(instance_id, one)]
        due += [instance_id for instance_id in self._probing if instance_id not in due]
        return [instance_id for instance_id in due if await self._share(instance_id)]

    def _forget_old(self) -> None:
        """Successes of servers that are not called any more: connections come and go for as long as we run."""
        now = time.monotonic()
        for instance_id, one in list(self._unreported.items()):
            if now - one.since > self._policy.window_s and not self._is_news(instance_id, one):
                del self._unreported[instance_id]

    def _is_news(self, instance_id: str, unreported: _Unreported) -> bool:
        on_record = self._snapshot is not None and instance_id in self._snapshot.standings
        return unreported.failed or on_record

    async def _share(self, instance_id: str) -> bool:
        """Whether that closed its breaker."""
        probing = instance_id in self._probing
        told = self._unreported.pop(instance_id, None) or _Unreported(time.monotonic())
        self._probing.discard(instance_id)
        for _ in range(_TRIES):
            snapshot = await self._fresh()
            if snapshot is None:
                break
            before = snapshot.standings.get(instance_id, Standing())
            now = snapshot.time()
            standing = after(before, told.seen, now, self._policy, jitter=self._chance.jitter(), probing=probing)
            if await self._put(snapshot, instance_id, standing):
                self._tell(instance_id, before, standing)
                return before.until is not None and standing.until is None
        self._keep(instance_id, told)
        return False

    def _keep(self, instance_id: str, told: _Unreported) -> None:
        """What could not be shared is shared with the next report."""
        later = self._unreported.get(instance_id)
        if later is not None:
            kinds = {*told.seen, *later.seen}
            told.seen = {kind: told.seen.get(kind, Seen()).before(later.seen.get(kind, Seen())) for kind in kinds}
        self._unreported[instance_id] = told

    def _tell(self, instance_id: str, before: Standing, standing: Standing) -> None:
        whose = {self._guarded.id_field: instance_id}
        if standing.until is not None and standing.openings > before.openings:
            self._on_opened(instance_id)
            wait_s = round(standing.until - standing.opened_at, 1)
            log.warning(self._event("breaker_opened"), **whose, openings=standing.openings, wait_s=wait_s)
        elif before.until is not None and standing.until is None:
            log.info(self._event("breaker_closed"), **whose)

    def _event(self, what: str) -> str:
        return f"{self._guarded.event}.{what}"

    # --- the cache ---

    async def _fresh(self) -> _Snapshot | None:
        """None: closed, for all that is known."""
        if time.monotonic() < self._asked_again_at:
            return None
        try:
            with translated_errors():
                async with asyncio.timeout(_PATIENCE_S), self._cache.pipeline(transaction=False) as pipeline:
                    pipeline.time()
                    pipeline.hgetall(self._key)
                    (seconds, microseconds), raw = await pipeline.execute()
        except UnavailableError as error:
            self._rest(error)
            return None
        standings = {instance_id: _standing_from(text) for instance_id, text in raw.items()}
        self._snapshot = _Snapshot(seconds + microseconds / 1e6, time.monotonic(), raw, standings)
        return self._snapshot

    async def _put(self, snapshot: _Snapshot, instance_id: str, standing: Standing) -> bool:
        """Whether it was still as in the snapshot. The snapshot of this process follows."""
        forgotten = is_forgotten(standing, snapshot.time(), self._policy)
        text = "" if forgotten else _text_of(standing)
        args: list[str | int] = [instance_id, snapshot.raw.get(instance_id, ""), text, _KEEP_MS]
        try:
            with translated_errors():
                async with asyncio.timeout(_PATIENCE_S):
                    swapped = bool(await self._swap(keys=[self._key], args=args))
        except UnavailableError as error:
            self._rest(error)
            return False
        if swapped and self._snapshot is snapshot:
            raw, standings = dict(snapshot.raw), dict(snapshot.standings)
            raw.pop(instance_id, None)
            standings.pop(instance_id, None)
            if not forgotten:
                raw[instance_id], standings[instance_id] = text, standing
            self._snapshot = _Snapshot(snapshot.now, snapshot.read_at, raw, standings)
        return swapped

    def _rest(self, error: UnavailableError) -> None:
        self._asked_again_at = time.monotonic() + _REST_S
        self._snapshot = None
        log.warning(self._event("breakers_not_shared"), error=str(error))


def _text_of(standing: Standing) -> str:
    counts = {str(kind): vars(count) for kind, count in standing.counts.items()}
    return orjson.dumps({**vars(standing), "counts": counts}).decode()


def _standing_from(text: str) -> Standing:
    """Closed, where another release wrote what this one cannot read."""
    try:
        stored: dict[str, Any] = orjson.loads(text)
        counts = {CallKind(kind): Count(**count) for kind, count in stored.pop("counts").items()}
        return Standing(counts=counts, **stored)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Standing()
