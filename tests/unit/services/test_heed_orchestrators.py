"""Orchestrators whose calls fail or hang, and their breaker."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from nubabel_workers.domain.circuit_breaker import CallKind, CallOutcome, Gate
from nubabel_workers.domain.errors import PermanentError, RateLimitedError, TransientError, UncertainError
from nubabel_workers.domain.ports import HintPublisher
from nubabel_workers.domain.ports.orchestrators import Call, CallableOrchestrator, CallAnswer, CallStore
from nubabel_workers.domain.rollout import Orchestrator
from nubabel_workers.services.heed_orchestrators import HeedOrchestrators

CALL = Call("key", ["a question"])


class Breakers:
    """Implements ports.CircuitBreakers: all closed, and keeps what was seen."""

    def __init__(self) -> None:
        self.seen: list[CallOutcome] = []
        self.reports = 0

    def saw(self, _name: str, _kind: CallKind, outcome: CallOutcome, *, began_ago_s: float = 0.0) -> None:
        assert began_ago_s >= 0
        self.seen.append(outcome)

    async def gates(self) -> Mapping[str, Gate]:
        return {}

    async def take_probe(self, _name: str) -> bool:
        return True

    async def report(self) -> list[str]:
        self.reports += 1
        return []


class Called:
    def __init__(self, answer: BaseException | None) -> None:
        self._answer = answer

    async def answer(self, _call: Call, *, timeout_s: float) -> CallAnswer:
        if self._answer is not None:
            raise self._answer
        await asyncio.sleep(timeout_s + 60)
        raise AssertionError("it was not ended")


async def heeded(called: Called, *, hangs_after_s: float = 60.0, timeout_s: float = 0.01) -> Breakers:
    breakers = Breakers()
    nobody: Any = None
    heed = HeedOrchestrators(
        breakers, cast("CallStore", nobody), cast("HintPublisher", nobody), hangs_after_s=hangs_after_s
    )
    with pytest.raises(BaseException):  # noqa: B017, PT011 - whatever the call raises
        await heed.answer(Orchestrator.DELEGATE, cast("CallableOrchestrator", called), CALL, timeout_s=timeout_s)
    assert breakers.reports == 1
    return breakers


async def test_one_that_hangs_until_the_deadline_has_failed() -> None:
    assert (await heeded(Called(None), hangs_after_s=0.01)).seen == [CallOutcome.FAILED]


async def test_a_request_with_little_time_says_nothing_of_the_orchestrator() -> None:
    """Or one organization's short deadlines would keep it from all others."""
    assert (await heeded(Called(None), hangs_after_s=60)).seen == []


async def test_a_call_that_is_cancelled_says_nothing_of_the_orchestrator() -> None:
    assert (await heeded(Called(asyncio.CancelledError()))).seen == []


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TransientError("it answered HTTP 500"), CallOutcome.FAILED),
        (UncertainError("lost"), CallOutcome.FAILED),
        (RateLimitedError("limited"), CallOutcome.SERVED),
        (PermanentError("no"), CallOutcome.SERVED),
    ],
)
async def test_what_an_error_says_of_the_orchestrator(error: Exception, outcome: CallOutcome) -> None:
    assert (await heeded(Called(error))).seen == [outcome]
