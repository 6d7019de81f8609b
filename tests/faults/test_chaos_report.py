"""The table of the chaos rig says what happened, and the verdict follows from lost, doubled, stuck and order alone."""

import pytest

from tests.faults.chaos.ledger import Fate, Job, JobFate, ModelRun, Saying, Told, Way
from tests.faults.chaos.plan import FaultKind
from tests.faults.chaos.report import Result, first_outcome_s, percentile, recovery_s, table
from tests.faults.chaos.suffering import Suffered, Takeover


def fate(number: int, fate: Fate, *, accepted_at: float = 1.0, outcome_at: float | None = 4.0) -> JobFate:
    job = Job(number, "t", Way.EVENTS, accepted_at - 0.1, accepted_at=accepted_at)
    outcomes = [] if outcome_at is None else [Told(outcome_at, Saying.ANSWER, "t", number)]
    return JobFate(job, fate, outcomes)


def result(*fates: JobFate) -> Result:
    return Result(fates=fates, out_of_order=[], runs={1: [ModelRun(1, 2, 3, answered=True)]}, rerun=[], load_s=10)


@pytest.mark.parametrize("bad", [Fate.LOST, Fate.TWICE, Fate.STUCK])
def test_one_broken_promise_breaks_the_run_and_is_named(bad: Fate) -> None:
    run = result(fate(1, Fate.ONCE), fate(2, bad))

    assert run.broken
    assert f"#2 {bad}" in table(run)


def test_answers_apologies_and_refusals_are_fine() -> None:
    run = result(fate(1, Fate.ONCE), fate(2, Fate.APOLOGISED), fate(3, Fate.REFUSED), fate(4, Fate.NEVER_ACCEPTED))

    assert not run.broken
    assert "nothing lost, nothing twice" in table(run)


def test_recovery_counts_from_the_end_of_the_fault() -> None:
    fault = Suffered(FaultKind.POSTGRES_KILL, "postgres", began=2.0, ended=5.0)
    fates = [
        fate(1, Fate.ONCE, accepted_at=1, outcome_at=12),
        fate(2, Fate.ONCE, accepted_at=1, outcome_at=1.5),
        fate(3, Fate.ONCE, accepted_at=6, outcome_at=8),
    ]

    assert recovery_s(fault, fates) == 7.0
    assert first_outcome_s(fault, fates) == 3.0


def test_the_waits_for_the_next_owner_are_told_by_worker() -> None:
    run = Result(
        fates=[],
        out_of_order=[],
        runs={},
        rerun=[],
        takeovers=[Takeover("worker-notifications", 11.0), Takeover("worker-notifications", None)],
    )

    assert "worker-notifications, 2 times  p50 11.0, p95 11.0, max 11.0 s, 1 not seen" in table(run)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([1, 2, 3, 4], 0.5) == 2
    assert percentile([1, 2, 3, 4], 0.95) == 4
    assert percentile([], 0.5) == 0
