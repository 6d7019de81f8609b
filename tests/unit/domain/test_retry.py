"""Retry decisions, as a table: error, attempt, policy -> when, or never."""

import pytest

from nubabel_workers.domain.dead_letters import DeadLetterReason
from nubabel_workers.domain.errors import (
    InvalidInputError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UncertainError,
)
from nubabel_workers.domain.retry import GiveUp, RetryPolicy, TryAgain, next_attempt, pace_of_waiting

POLICY = RetryPolicy(max_attempts=4, first_wait_s=2, max_wait_s=5)


@pytest.mark.parametrize(
    ("attempt", "jitter", "wait_s"),
    [(1, 0.5, 1.0), (2, 0.5, 2.0), (3, 0.5, 2.5), (3, 1.0, 5.0), (1, 0.0, 0.0)],
    ids=["first wait", "doubles", "is capped", "fills the ceiling", "full jitter reaches zero"],
)
def test_waits_grow_up_to_their_cap(attempt: int, jitter: float, wait_s: float) -> None:
    assert next_attempt(TransientError("x"), attempt, POLICY, jitter=jitter) == TryAgain(wait_s)


def test_the_last_attempt_is_the_last() -> None:
    assert next_attempt(TransientError("x"), 4, POLICY, jitter=0.5) == GiveUp("attempts_exhausted")


@pytest.mark.parametrize("error", [PermanentError("x", code="archived"), InvalidInputError("x", code="archived")])
def test_a_permanent_error_is_never_repeated(error: PermanentError) -> None:
    assert next_attempt(error, 1, POLICY, jitter=0.5) == GiveUp("archived")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TransientError("x"), DeadLetterReason.ATTEMPTS_EXHAUSTED),
        (UncertainError("x"), DeadLetterReason.ATTEMPTS_EXHAUSTED),
        (PermanentError("x"), DeadLetterReason.PERMANENT_ERROR),
    ],
)
def test_why_it_is_given_up_stands_in_the_dead_letter(error: Exception, reason: DeadLetterReason) -> None:
    decision = next_attempt(error, 4, POLICY, jitter=0.5)

    assert isinstance(decision, GiveUp)
    assert decision.reason is reason


def test_retry_after_is_a_floor() -> None:
    decision = next_attempt(RateLimitedError("x", retry_after_s=30), 1, POLICY, jitter=0.0)

    assert decision == TryAgain(30)


def test_jitter_spreads_those_that_were_told_the_same_retry_after() -> None:
    decision = next_attempt(RateLimitedError("x", retry_after_s=30), 1, POLICY, jitter=0.5)

    assert decision == TryAgain(31)


def test_an_unknown_outcome_is_looked_up_first() -> None:
    assert next_attempt(UncertainError("x"), 1, POLICY, jitter=0.5) == TryAgain(1.0, look_first=True)


@pytest.mark.parametrize(
    ("waited_s", "wait_s"),
    [(0, 2.0), (60, 6.0), (3600, 30.0)],
    ids=["often at first", "a tenth of the time", "rarely later"],
)
def test_what_is_away_is_looked_for_less_and_less_often(waited_s: float, wait_s: float) -> None:
    assert pace_of_waiting(waited_s, jitter=0.5) == wait_s
