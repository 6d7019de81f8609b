"""Random interleavings of everything that can happen: nothing lost, nothing twice, after each step and at the end.

`HYPOTHESIS_PROFILE=hunt pytest tests/faults/stateful` searches for as long as it is let, elsewhere each time.
"""

import asyncio
import os
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from nubabel_workers.services.deliver_to_slack import DeliverToSlack
from tests.faults.stateful.machine import ServicesUnderFaults
from tests.faults.stateful.world import World

pytestmark = pytest.mark.integration

_PLAIN = settings(
    deadline=None,
    max_examples=20,
    stateful_step_count=30,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    phases=[Phase.generate, Phase.shrink],
)
_PROFILES = {
    "plain": _PLAIN,
    "hunt": settings(_PLAIN, max_examples=1_000_000, stateful_step_count=50, derandomize=False),
    # Without making a failure smaller, which takes minutes.
    "look": settings(
        _PLAIN, max_examples=1_000_000, stateful_step_count=50, derandomize=False, phases=[Phase.generate]
    ),
}


@pytest.mark.timeout(0)
def test_every_accepted_request_has_one_outcome(world: tuple[asyncio.Runner, World]) -> None:
    profile = _PROFILES[os.environ.get("HYPOTHESIS_PROFILE", "plain")]

    run_state_machine_as_test(cast("Any", lambda: ServicesUnderFaults(*world)), settings=profile)


@pytest.mark.timeout(0)
def test_a_post_that_is_repeated_without_a_look_is_found(
    world: tuple[asyncio.Runner, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a search that cannot fail proves nothing."""

    async def finds_nothing(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(DeliverToSlack, "_find", finds_nothing)
    until_found = settings(_PLAIN, max_examples=200, phases=[Phase.generate])

    with pytest.raises(AssertionError, match=r"was posted \d+ times"):
        run_state_machine_as_test(cast("Any", lambda: ServicesUnderFaults(*world)), settings=until_found)
