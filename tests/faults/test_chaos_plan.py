"""The plan of faults follows from its seed, covers every kind and hits nothing twice at once."""

from dataclasses import replace
from itertools import pairwise

import pytest

from tests.faults.chaos.plan import BUDGET_FAULTS, FaultKind, PlanOptions, make_plan

OPTIONS = PlanOptions(
    duration_s=300,
    every_s=3,
    processes=["web", "web.2", "scheduler"],
    teams=["T1", "T2"],
    opencode_servers=2,
    spender="T2",
)


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    assert make_plan(7, OPTIONS) == make_plan(7, OPTIONS)
    assert make_plan(7, OPTIONS) != make_plan(8, OPTIONS)


def test_five_minutes_hold_every_kind_of_fault() -> None:
    plan = make_plan(1, OPTIONS)

    assert {fault.kind for fault in plan} == set(FaultKind)
    assert 0 < plan[0].at_s < plan[-1].at_s <= OPTIONS.duration_s


def test_a_plan_may_be_of_some_kinds_only() -> None:
    plan = make_plan(1, replace(OPTIONS, kinds=[FaultKind.KILL_IN_POST, FaultKind.KILL_IN_SUBMIT]))

    assert {fault.kind for fault in plan} == {FaultKind.KILL_IN_POST, FaultKind.KILL_IN_SUBMIT}


@pytest.mark.parametrize("seed", range(20))
def test_nothing_is_hit_again_while_it_suffers(seed: int) -> None:
    plan = make_plan(seed, OPTIONS)

    for subject in {fault.subject for fault in plan}:
        its_own = [fault for fault in plan if fault.subject == subject]
        assert all(earlier.at_s + earlier.hold_s <= later.at_s for earlier, later in pairwise(its_own))


def test_a_stopped_process_sleeps_longer_than_a_lease() -> None:
    stops = [fault for fault in make_plan(3, OPTIONS) if fault.kind is FaultKind.STOP]

    assert stops
    assert all(12 <= fault.hold_s <= 18 for fault in stops)


@pytest.mark.parametrize("seed", range(5))
def test_a_cap_of_money_or_tokens_befalls_the_organization_whose_requests_cost_something(seed: int) -> None:
    caps = [fault for fault in make_plan(seed, OPTIONS) if fault.kind in BUDGET_FAULTS]

    assert caps
    assert {fault.target for fault in caps} == {"T2"}


def test_a_server_that_is_given_up_is_away_for_longer_than_any_other() -> None:
    plan = make_plan(1, OPTIONS)

    given_up = [fault.hold_s for fault in plan if fault.kind is FaultKind.FLEET_GIVE_UP]
    away = [fault.hold_s for fault in plan if fault.kind in {FaultKind.OPENCODE_CRASH, FaultKind.OPENCODE_WIPE}]
    assert min(given_up) > 2 * max(away)
