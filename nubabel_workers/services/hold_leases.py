"""Leases of this process: issued before a claim, renewed while the work lasts, lost when renewal fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from nubabel_workers.domain.errors import LeaseLostError, TransientError
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.ports import Chance, Clock, MaintenanceStore

log = structlog.get_logger(__name__)

_RENEWALS_PER_LEASE = 3  # one lost renewal must not cost the lease


class LeaseHolder:
    """Issues leases and renews all that are held by one statement. `start` it once per process."""

    def __init__(self, maintenance: MaintenanceStore, clock: Clock, chance: Chance, *, lease_s: float) -> None:
        self._maintenance = maintenance
        self._clock = clock
        self._chance = chance
        self._lease_s = lease_s
        self._held: dict[str, Lease] = {}
        self._renewing: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._renewing = asyncio.create_task(self._renew_for_ever(), name="lease-renewal")

    async def stop(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewing

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[Lease]:
        """A lease to claim rows under; renewed until the block ends.

        The process's own deadline starts before the claim is sent, so that it never outlives the database's.
        """
        lease = Lease(self._chance.new_id("lse"), self._clock.monotonic() + self._lease_s)
        self._held[lease.token] = lease
        try:
            yield lease
        finally:
            del self._held[lease.token]

    def time_to_act_s(self, lease: Lease, wanted_s: float) -> float:
        """Seconds for a call that must end while the lease still holds, at most wanted_s.

        Raises LeaseLostError when too little is left: a process that was stopped and wakes up posts nothing.
        """
        left = lease.remaining_s(self._clock.monotonic()) - 0.5
        if left < 1:
            raise LeaseLostError("the lease ends too soon to begin a call under it")
        return min(wanted_s, left)

    def must_hold(self, lease: Lease) -> None:
        """Directly before something goes out that may outlast the lease, which is renewed meanwhile.

        Raises LeaseLostError when it may be lost by now: the process stood still, or could not renew it.
        """
        self.time_to_act_s(lease, 0)

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._lease_s / _RENEWALS_PER_LEASE)
            if self._held:
                await self._renew(dict(self._held))

    async def _renew(self, held: dict[str, Lease]) -> None:
        asked_at = self._clock.monotonic()
        try:
            kept = await self._maintenance.renew(list(held), lease_s=self._lease_s)
        except TransientError as error:
            log.warning("leases.not_renewed", held=len(held), error=str(error))
            return
        except Exception:
            log.exception("leases.renewal_crashed", held=len(held))  # the next renewal must come all the same
            return
        for token, lease in held.items():
            if token in kept:
                lease.until_monotonic = asked_at + self._lease_s
