"""The door: limits of an organization refuse new requests, and nothing else."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from nubabel_workers.adapters.plans import load_plans
from nubabel_workers.domain.admission import LimitReachedError
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.executions import Status
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.submission import SubmitRequest
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.admit_requests import AdmitRequests
from nubabel_workers.services.read_limits import ReadLimits
from nubabel_workers.services.submit_execution import Submitted
from tests.fakes.front_door import OTHER, FrontDoor

_AT_ONCE = 0.3  # seconds after which a count at a limit is made anew


class Tenant:
    """An organization with limits of its own, and time that passes only when it is told to."""

    def __init__(self, door: FrontDoor, **limits: float) -> None:
        self.door = door
        self._counts_rows = bool({"queued", "sessions"} & limits.keys())
        self.organization = Organization(OrganizationId("org_limited"), "Limited", limits=limits)
        door.tenants.add_organization(self.organization)
        door.submit._admission = AdmitRequests(
            ReadLimits(door.tenants, load_plans()),
            door.executions,
            door.throttle,
            door.clock,
        )

    async def submit(self, organization: Organization | None = None, **fields: Any) -> Submitted:
        if self._counts_rows:
            self.door.clock.advance(_AT_ONCE)
        request = SubmitRequest.model_validate({"prompt": "Hello", **fields})
        return await self.door.submit.submit(
            organization or self.organization, request, source="cli", correlation_id="req_1", traceparent=""
        )

    async def refused_by(self, **fields: Any) -> str:
        with pytest.raises(LimitReachedError) as refused:
            await self.submit(**fields)
        return refused.value.refusal.limit


@pytest.fixture
def door() -> FrontDoor:
    return FrontDoor()


async def test_a_minutes_requests_may_come_at_once_and_the_next_minute_brings_others(door: FrontDoor) -> None:
    tenant = Tenant(door, requests_per_minute=3)
    for _ in range(3):
        await tenant.submit()

    assert await tenant.refused_by() == "requests_per_minute"
    door.clock.advance(60)
    assert (await tenant.submit()).created


async def test_what_waits_is_limited_and_frees_when_one_begins(door: FrontDoor) -> None:
    tenant = Tenant(door, queued=2)
    first, _ = await tenant.submit(), await tenant.submit()

    assert await tenant.refused_by() == "queued"
    door.executions.move(first.execution_id, Status.RUNNING)
    assert (await tenant.submit()).created


async def test_conversations_are_limited_and_one_that_goes_on_is_none_more(door: FrontDoor) -> None:
    tenant = Tenant(door, sessions=1)
    await tenant.submit(session_key="a")

    assert await tenant.refused_by(session_key="b") == "sessions"
    assert (await tenant.submit(session_key="a")).created


@pytest.mark.parametrize("limits", [{"requests_per_minute": 1}, {"queued": 1}, {"sessions": 1}])
async def test_a_repeat_of_an_accepted_request_is_never_refused(door: FrontDoor, limits: dict[str, float]) -> None:
    tenant = Tenant(door, **limits)
    first = await tenant.submit(idempotency_key="k")

    again = await tenant.submit(idempotency_key="k")

    assert (again.execution_id, again.created) == (first.execution_id, False)
    assert await tenant.refused_by() in limits


async def test_a_refused_request_leaves_nothing_behind(door: FrontDoor) -> None:
    tenant = Tenant(door, queued=0)

    await tenant.refused_by()

    assert (door.executions.rows, door.hints.published) == ({}, [])


async def test_one_organizations_flood_refuses_no_other(door: FrontDoor) -> None:
    tenant = Tenant(door, requests_per_minute=1, queued=1)
    await tenant.submit()
    await tenant.refused_by()

    assert (await tenant.submit(OTHER)).created


async def test_without_the_cache_requests_are_not_counted_but_what_waits_is(door: FrontDoor) -> None:
    tenant = Tenant(door, requests_per_minute=1, queued=2)
    door.throttle.away = True
    await tenant.submit()
    await tenant.submit()

    assert await tenant.refused_by() == "queued"


async def test_where_much_is_allowed_few_requests_ask_the_cache(door: FrontDoor) -> None:
    tenant = Tenant(door, requests_per_minute=1000)

    for _ in range(30):
        await tenant.submit()

    assert door.throttle.asked == 3


async def test_a_changed_limit_is_obeyed_by_the_next_request(door: FrontDoor) -> None:
    tenant = Tenant(door, queued=1000)
    await tenant.submit()

    tenant.organization = door.tenants.add_organization(replace(tenant.organization, limits={"queued": 1}))

    assert await tenant.refused_by() == "queued"


async def test_fewer_requests_a_minute_hold_within_the_minute(door: FrontDoor) -> None:
    tenant = Tenant(door, requests_per_minute=1000)
    await tenant.submit()

    fewer = replace(tenant.organization, limits={"requests_per_minute": 5})

    assert await tenant.refused_by(organization=fewer) == "requests_per_minute"


async def test_who_was_refused_by_the_minute_gets_what_is_allowed_after_all(door: FrontDoor) -> None:
    tenant = Tenant(door, requests_per_minute=1)
    await tenant.submit()
    await tenant.refused_by()
    tenant.organization = door.tenants.add_organization(
        replace(tenant.organization, limits={"requests_per_minute": 100})
    )

    assert (await tenant.submit()).created


async def test_many_at_once_get_all_that_a_minute_allows_and_no_more(door: FrontDoor) -> None:
    tenant = Tenant(door, requests_per_minute=300)

    outcomes = await asyncio.gather(*(tenant.submit() for _ in range(400)), return_exceptions=True)

    assert sum(isinstance(outcome, Submitted) for outcome in outcomes) == 300


@pytest.mark.parametrize("limits", [{"queued": 3}, {"sessions": 3}, {"requests_per_minute": 3}])
async def test_a_batch_is_let_in_as_a_whole_or_not_at_all(door: FrontDoor, limits: dict[str, float]) -> None:
    tenant = Tenant(door, **limits)
    await tenant.submit()
    await tenant.submit()
    door.clock.advance(_AT_ONCE)
    admission = door.submit._admission

    with pytest.raises(LimitReachedError):
        await admission.admit_group(tenant.organization, 2, idempotency_key="key:b")
    door.executions.group_keys.add((tenant.organization.id, "key:b"))

    await admission.admit_group(tenant.organization, 2, idempotency_key="key:b")  # accepted before
    assert (await tenant.submit()).created  # what the batch did not get is there for one


async def test_a_batch_that_no_minute_has_room_for_is_refused_for_good(door: FrontDoor) -> None:
    tenant = Tenant(door, requests_per_minute=2)

    with pytest.raises(InvalidInputError, match="send it in parts") as raised:
        await door.admission.admit_group(tenant.organization, 3, idempotency_key="key:k")

    assert raised.value.code == "batch_too_large"
    await door.admission.admit_group(tenant.organization, 2, idempotency_key="key:k")


async def test_a_batch_that_was_accepted_before_its_limit_was_lowered_is_known_when_it_is_sent_again(
    door: FrontDoor,
) -> None:
    tenant = Tenant(door, requests_per_minute=2)
    door.executions.group_keys.add((tenant.organization.id, "key:k"))

    await door.admission.admit_group(tenant.organization, 3, idempotency_key="key:k")
