"""Calls behind a circuit breaker: which may go, and what the breaker is told of them."""

import asyncio

import pytest

from nubabel_workers.domain.circuit_breaker import BreakerState, CallKind, CallOutcome, Gate
from nubabel_workers.domain.watched_calls import away_for_s, wait_to_pass_s, watched
from tests.fakes.breakers import FakeBreakers


@pytest.mark.parametrize(
    ("gate", "wait_s"),
    [
        pytest.param(Gate(), None, id="closed"),
        pytest.param(Gate(BreakerState.OPEN, 7.0), 7.0, id="open"),
        pytest.param(Gate(BreakerState.OPEN, 0.1), 1.0, id="open for a moment more"),
        pytest.param(Gate(BreakerState.HALF_OPEN), None, id="this one is the probe"),
        pytest.param(Gate(BreakerState.HALF_OPEN, 1.0), 1.0, id="another is the probe"),
    ],
)
async def test_who_may_call(gate: Gate, wait_s: float | None) -> None:
    assert await wait_to_pass_s(FakeBreakers({"one": gate}), "one") == wait_s


@pytest.mark.parametrize(
    ("gate", "away_s"),
    [
        pytest.param(Gate(), None, id="closed"),
        pytest.param(Gate(BreakerState.OPEN, 7.0), 7.0, id="open"),
        pytest.param(Gate(BreakerState.HALF_OPEN), None, id="a probe may go"),
        pytest.param(Gate(BreakerState.HALF_OPEN, 1.0), 1.0, id="a probe is on its way"),
    ],
)
async def test_how_long_one_is_away(gate: Gate, away_s: float | None) -> None:
    assert await away_for_s(FakeBreakers({"one": gate}), "one") == away_s


async def test_who_comes_second_to_the_probe_waits() -> None:
    class Taken(FakeBreakers):
        async def take_probe(self, instance_id: str) -> bool:
            return False

    assert await wait_to_pass_s(Taken({"one": Gate(BreakerState.HALF_OPEN)}), "one") == 1.0


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        pytest.param(None, [("one", CallOutcome.SERVED)], id="it answers"),
        pytest.param(ValueError(), [("one", CallOutcome.FAILED)], id="an error that says something of it"),
        pytest.param(asyncio.CancelledError(), [], id="one that says nothing"),
    ],
)
def test_what_becomes_of_a_call_is_told_once(error: BaseException | None, seen: list[tuple[str, CallOutcome]]) -> None:
    breakers, times = FakeBreakers(), iter((10.0, 12.5, 12.5))
    heard: list[float] = []

    def told_by(raised: BaseException, after_s: float) -> CallOutcome | None:
        heard.append(after_s)
        return CallOutcome.FAILED if isinstance(raised, ValueError) else None

    def call() -> None:
        with watched(breakers, "one", CallKind.LOOK, told_by=told_by, now=lambda: next(times)):
            if error is not None:
                raise error

    if error is None:
        call()
    else:
        with pytest.raises(type(error)):
            call()
    assert breakers.seen == seen
    assert heard == ([] if error is None else [2.5])
