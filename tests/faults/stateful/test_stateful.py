"""Random interleavings of everything that can happen: nothing lost, nothing twice, after each step and at the end.

HYPOTHESIS_PROFILE=hunt searches for half an hour instead of seconds, in another place each time.
"""

import asyncio
import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.stateful.machine import ServicesUnderFaults
from tests.faults.stateful.world import World

pytestmark = pytest.mark.integration

_PLAIN = settings(
    deadline=None,
    max_examples=20,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    phases=[Phase.generate, Phase.shrink],
)
_PROFILES = {
    "plain": _PLAIN,
    "shrink": settings(_PLAIN, max_examples=2000, derandomize=False),
    "look": settings(_PLAIN, max_examples=2000, derandomize=False, phases=[Phase.generate]),
    "hunt": settings(_PLAIN, max_examples=100_000, stateful_step_count=80, derandomize=False),
}


@pytest.mark.timeout(0)
def test_every_accepted_request_has_one_outcome(world: tuple[asyncio.Runner, World]) -> None:
    profile = _PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "plain")]

    run_state_machine_as_test(lambda: ServicesUnderFaults(*world), settings=profile)
