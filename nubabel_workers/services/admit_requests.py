"""The door for new requests: an organization that is at a limit of its own is refused, before anything is stored.

A request that was accepted before is let through whatever the limits say: it is only told so again.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import structlog

from nubabel_workers.domain.admission import (
    MINUTE_S,
    REQUESTS,
    LimitReachedError,
    Occupied,
    Refusal,
    counted_again_after_s,
    good_for_s,
    refusal_for,
)
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.limits import Limits
from nubabel_workers.domain.ports import AdmissionStore, Clock, KnownRequest, Throttle
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.read_limits import ReadLimits

T = TypeVar("T")

log = structlog.get_logger(__name__)

_REMEMBERED = 10_000  # organizations
_SHARES = 100  # a process takes a hundredth of a minute's requests at a time, so that few requests ask the cache


@dataclass
class _Minute:
    """What this process may still accept in this minute, of so many that are allowed."""

    number: int
    allowed: int
    left: int = 0


@dataclass
class _Count:
    """accepted: by this process since. made_at, good_until: monotonic. limits: those that good_until is for."""

    limits: Limits
    occupied: Occupied
    made_at: float
    good_until: float
    accepted: int = 0

    @property
    def now(self) -> Occupied:
        return self.occupied.with_more(self.accepted)


class AdmitRequests:
    """Requests per minute are counted in the cache, and not at all while it is away; the rest from the rows.

    Each process remembers its counts for as long as they can be relied on (`good_for_s`).
    """

    def __init__(
        self,
        limits: ReadLimits,
        store: AdmissionStore,
        throttle: Throttle,
        clock: Clock,
    ) -> None:
        self._limits = limits
        self._store = store
        self._throttle = throttle
        self._clock = clock
        self._minutes: OrderedDict[str, _Minute] = OrderedDict()
        self._counts: OrderedDict[str, _Count] = OrderedDict()

    async def admit(self, organization: Organization, *, idempotency_key: str, session_key: str) -> None:
        """Raises LimitReachedError. idempotency_key: as it is stored."""
        limits = self._limits.of(organization)
        count = await self._count(organization.id, limits)
        known: KnownRequest | None = None
        refusal = refusal_for(limits, count.now, session_is_open=False)
        if refusal is not None:
            known = await self._known(organization.id, idempotency_key, session_key)
            refusal = refusal_for(limits, count.now, session_is_open=known.session_is_open)
        refusal = refusal or await self._over_the_minute(organization.id, limits)
        if refusal is None:
            count.accepted += 1
            return
        known = known or await self._known(organization.id, idempotency_key, session_key)
        if not known.request:
            _refuse(organization, refusal)

    async def admit_group(self, organization: Organization, requests: int, *, idempotency_key: str) -> None:
        """All of them, each as if it began a conversation, or none. Raises LimitReachedError.

        InvalidInputError for more than a minute may ever have: waiting would not help.
        """
        limits = self._limits.of(organization)
        a_minute = limits.requests_per_minute
        if a_minute is not None and requests > a_minute:
            if await self._store.knows_group(organization.id, idempotency_key=idempotency_key):
                return
            raise InvalidInputError(
                f"the batch has {requests} requests, and the organization may send {a_minute} a minute "
                "(requests_per_minute): send it in parts",
                code="batch_too_large",
            )
        count = await self._count(organization.id, limits)
        refusal = refusal_for(limits, count.now.with_more(requests - 1), session_is_open=False)
        refusal = refusal or await self._over_the_minute(organization.id, limits, requests)
        if refusal is None:
            count.accepted += requests
        elif not await self._store.knows_group(organization.id, idempotency_key=idempotency_key):
            _refuse(organization, refusal)

    async def _known(self, organization_id: str, idempotency_key: str, session_key: str) -> KnownRequest:
        """Asked only for what would be refused."""
        return await self._store.known(organization_id, idempotency_key=idempotency_key, session_key=session_key)

    async def _count(self, organization_id: str, limits: Limits) -> _Count:
        if limits.queued is None and limits.sessions is None:
            return _Count(limits, Occupied(0, 0), 0.0, 0.0)
        count = self._counts.get(organization_id)
        if count is None or self._is_out_of_date(count, limits):
            occupied = await self._store.occupied(organization_id)
            now = self._clock.monotonic()
            count = _Count(limits, occupied, now, now + good_for_s(limits, occupied))
            _remember(self._counts, organization_id, count)
        return count

    def _is_out_of_date(self, count: _Count, limits: Limits) -> bool:
        """Also when what this process has accepted since would be too much: meanwhile some may have begun."""
        if limits != count.limits:
            return True
        now = self._clock.monotonic()
        too_much = refusal_for(limits, count.now, session_is_open=False) is not None
        return now >= count.good_until or (too_much and now >= count.made_at + counted_again_after_s(count.occupied))

    async def _over_the_minute(self, organization_id: str, limits: Limits, requests: int = 1) -> Refusal | None:
        allowed = limits.requests_per_minute
        if allowed is None:
            return None
        now_s = self._clock.now().timestamp()
        minute = self._minute(organization_id, int(now_s // MINUTE_S), allowed)
        if minute.left < requests:
            share = max(requests - minute.left, allowed // _SHARES)
            key = f"requests:{organization_id}"
            granted = await self._throttle.take(key, per_s=MINUTE_S, limit=allowed, wanted=share)
            minute.left += granted  # not in one line: several may be waiting for their share at once
        if minute.left < requests:
            return Refusal(REQUESTS, allowed, MINUTE_S - now_s % MINUTE_S)
        minute.left -= requests
        return None

    def _minute(self, organization_id: str, number: int, allowed: int) -> _Minute:
        """A share of more than is allowed by now is good no more."""
        minute = self._minutes.get(organization_id)
        if minute is None or minute.number != number or minute.allowed > allowed:
            minute = _Minute(number, allowed)
            _remember(self._minutes, organization_id, minute)
        return minute


def _refuse(organization: Organization, refusal: Refusal) -> NoReturn:
    log.info("execution.refused_by_limit", organization_id=organization.id, limit=refusal.limit)
    raise LimitReachedError(refusal)


def _remember(kept: OrderedDict[str, T], organization_id: str, value: T) -> None:
    kept[organization_id] = value
    kept.move_to_end(organization_id)
    if len(kept) > _REMEMBERED:
        kept.popitem(last=False)
