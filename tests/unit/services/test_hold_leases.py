"""Leases of a process: renewed while the work lasts, and not acted under once they may be lost."""

from collections.abc import Sequence
from typing import cast

import pytest

from nubabel_workers.domain.errors import LeaseLostError, UnavailableError
from nubabel_workers.domain.ports import MaintenanceStore
from nubabel_workers.services.hold_leases import LeaseHolder
from tests.fakes.clock import FakeChance, FakeClock
from tests.waiting import eventually


class Renewals:
    """The one statement that a lease holder uses; errors come first, one per call."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.calls = 0

    async def renew(self, tokens: Sequence[str], *, lease_s: float) -> set[str]:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return set(tokens)


def holder(renewals: Renewals, clock: FakeClock, *, lease_s: float = 10) -> LeaseHolder:
    return LeaseHolder(cast("MaintenanceStore", renewals), clock, FakeChance(), lease_s=lease_s)


async def test_the_time_to_act_ends_before_the_lease() -> None:
    clock = FakeClock()
    async with holder(Renewals(), clock).hold() as lease:
        assert holder(Renewals(), clock).time_to_act_s(lease, 8) == 8
        assert holder(Renewals(), clock).time_to_act_s(lease, 60) < 10


async def test_a_process_that_was_stopped_for_longer_than_its_lease_does_nothing() -> None:
    clock = FakeClock()
    leases = holder(Renewals(), clock)
    async with leases.hold() as lease:
        clock.advance(9)
        with pytest.raises(LeaseLostError):
            leases.time_to_act_s(lease, 8)


@pytest.mark.parametrize("error", [UnavailableError("away"), ZeroDivisionError()], ids=["outage", "bug"])
async def test_a_renewal_that_fails_is_followed_by_the_next(error: Exception) -> None:
    renewals = Renewals(error)
    leases = holder(renewals, FakeClock(), lease_s=0.03)
    leases.start()
    try:
        async with leases.hold():
            await eventually(lambda: renewals.calls > 1, what="another renewal")
    finally:
        await leases.stop()
