"""When a breaker opens, how long it stays open, what closes it."""

from collections.abc import Iterable

import pytest

from nubabel_workers.domain.circuit_breaker import (
    BreakerPolicy,
    BreakerState,
    CallKind,
    CallOutcome,
    Seen,
    Standing,
    after,
    gate,
    is_forgotten,
    with_probe,
)

POLICY = BreakerPolicy(
    failures_in_a_row=3, failing_share=0.5, least_calls=10, window_s=30, first_wait_s=2, max_wait_s=10, probe_s=5
)
NOW = 1000.0
OK, FAIL, AWAY = CallOutcome.SERVED, CallOutcome.FAILED, CallOutcome.AWAY
PROMPT, SESSION, LOOK = CallKind.PROMPT, CallKind.SESSION, CallKind.LOOK
OPEN_BY_PROMPTS = Standing(opened_at=NOW, until=NOW + 2, openings=1)
OPEN_AS_AWAY = Standing(opened_at=NOW, until=NOW + 2, openings=1, looks_fail=True)


def seen(*outcomes: CallOutcome, began_ago_s: float = 0.0) -> Seen:
    total = Seen()
    for outcome in outcomes:
        total = total.and_then(outcome, began_ago_s=began_ago_s)
    return total


def step(
    standing: Standing,
    outcomes: Iterable[CallOutcome],
    *,
    kind: CallKind = PROMPT,
    now: float = NOW,
    probing: bool = False,
    jitter: float = 1.0,
    began_ago_s: float = 0.0,
) -> Standing:
    report = {kind: seen(*outcomes, began_ago_s=began_ago_s)}
    return after(standing, report, now, POLICY, jitter=jitter, probing=probing)


@pytest.mark.parametrize(
    ("reports", "state"),
    [
        pytest.param([[FAIL, FAIL, FAIL]], BreakerState.OPEN, id="in a row, one process"),
        pytest.param([[FAIL], [FAIL], [FAIL]], BreakerState.OPEN, id="in a row, three reports"),
        pytest.param([[AWAY, FAIL], [AWAY]], BreakerState.OPEN, id="of several kinds of failure"),
        pytest.param([[FAIL, FAIL]], BreakerState.CLOSED, id="too few"),
        pytest.param([[FAIL, FAIL, OK, FAIL, FAIL]], BreakerState.CLOSED, id="a success between"),
        pytest.param([[FAIL, FAIL], [OK], [FAIL, FAIL]], BreakerState.CLOSED, id="another process's success between"),
        pytest.param([[FAIL, OK] * 5], BreakerState.OPEN, id="half of them"),
        pytest.param([[FAIL, OK], [OK, FAIL]] * 3, BreakerState.OPEN, id="half of them, in many reports"),
        pytest.param([[FAIL, OK] * 4, [OK] * 2], BreakerState.CLOSED, id="a success opens nothing"),
        pytest.param([[OK, FAIL, OK, OK] * 10], BreakerState.CLOSED, id="a quarter"),
        pytest.param([[OK, FAIL] * 4], BreakerState.CLOSED, id="half of too few calls"),
        pytest.param([[OK] * 100], BreakerState.CLOSED, id="all well"),
    ],
)
def test_failures_in_a_row_or_a_failing_share_open_it(reports: list[list[CallOutcome]], state: BreakerState) -> None:
    standing = Standing()
    for outcomes in reports:
        standing = step(standing, outcomes)

    assert gate(standing, NOW).state is state


def test_looks_that_succeed_hide_no_failing_prompts() -> None:
    standing = Standing()
    for _ in range(3):
        standing = step(standing, [FAIL])
        standing = step(standing, [OK, OK, OK], kind=LOOK)

    assert gate(standing, NOW).state is BreakerState.OPEN


@pytest.mark.parametrize(("apart_s", "state"), [(20, BreakerState.OPEN), (40, BreakerState.CLOSED)])
def test_failures_far_apart_are_no_row(apart_s: float, state: BreakerState) -> None:
    standing = Standing()
    for number in range(3):
        standing = step(standing, [FAIL], now=NOW + number * apart_s)

    assert gate(standing, NOW + 2 * apart_s).state is state


def test_the_share_is_one_of_its_window() -> None:
    standing = step(Standing(), [FAIL, OK] * 4)

    standing = step(standing, [OK, FAIL] * 4, now=NOW + 31)

    assert gate(standing, NOW + 31).state is BreakerState.CLOSED


def test_open_ends_in_one_probe_at_a_time() -> None:
    assert gate(OPEN_BY_PROMPTS, NOW + 1).wait_s == 1
    assert with_probe(OPEN_BY_PROMPTS, NOW + 1, POLICY) is None

    probing = with_probe(OPEN_BY_PROMPTS, NOW + 2, POLICY)

    assert probing is not None
    assert gate(probing, NOW + 2).state is BreakerState.HALF_OPEN
    assert not gate(probing, NOW + 2).lets_probe
    assert with_probe(probing, NOW + 6, POLICY) is None


def test_a_probe_of_a_process_that_died_is_followed_by_another() -> None:
    probing = with_probe(OPEN_BY_PROMPTS, NOW + 2, POLICY)

    assert probing is not None
    assert with_probe(probing, NOW + 2 + POLICY.probe_s, POLICY) is not None


def test_a_probe_that_came_to_nothing_is_free_again() -> None:
    probing = with_probe(OPEN_BY_PROMPTS, NOW + 2, POLICY)
    assert probing is not None

    standing = after(probing, {}, NOW + 3, POLICY, jitter=0, probing=True)

    assert gate(standing, NOW + 3).lets_probe


@pytest.mark.parametrize(
    ("standing", "kind", "outcomes", "probing", "state"),
    [
        pytest.param(OPEN_BY_PROMPTS, PROMPT, [OK], True, BreakerState.CLOSED, id="the probe succeeds"),
        pytest.param(OPEN_BY_PROMPTS, LOOK, [OK], True, BreakerState.CLOSED, id="the probe finds its earlier prompt"),
        pytest.param(OPEN_BY_PROMPTS, LOOK, [OK], False, BreakerState.HALF_OPEN, id="a look proves nothing of prompts"),
        pytest.param(OPEN_BY_PROMPTS, SESSION, [OK], False, BreakerState.HALF_OPEN, id="nor does a new session"),
        pytest.param(OPEN_AS_AWAY, LOOK, [OK], False, BreakerState.CLOSED, id="a look, when looks had failed"),
        pytest.param(OPEN_AS_AWAY, LOOK, [OK, FAIL], False, BreakerState.OPEN, id="a look among failing ones"),
        pytest.param(OPEN_BY_PROMPTS, PROMPT, [FAIL], True, BreakerState.OPEN, id="the probe fails"),
        pytest.param(OPEN_AS_AWAY, LOOK, [AWAY], False, BreakerState.OPEN, id="a look fails meanwhile"),
    ],
)
def test_what_follows_half_open(
    standing: Standing, kind: CallKind, outcomes: list[CallOutcome], probing: bool, state: BreakerState
) -> None:
    now = NOW + 2

    assert gate(step(standing, outcomes, kind=kind, now=now, probing=probing), now).state is state


def test_a_look_closes_also_before_the_wait_is_over() -> None:
    standing = step(OPEN_AS_AWAY, [OK], kind=LOOK, now=NOW + 0.5)

    assert gate(standing, NOW + 0.5).lets_all


def test_a_call_from_before_the_opening_proves_nothing() -> None:
    standing = step(OPEN_AS_AWAY, [OK], kind=LOOK, now=NOW + 0.5, began_ago_s=1)

    assert gate(standing, NOW + 0.5).state is BreakerState.OPEN


def test_failures_while_open_prolong_nothing() -> None:
    standing = step(OPEN_AS_AWAY, [AWAY] * 50, kind=LOOK, now=NOW + 1)

    assert standing.until == OPEN_AS_AWAY.until
    assert standing.openings == 1


def test_waits_double_up_to_their_limit() -> None:
    standing, now, waits = step(Standing(), [FAIL] * 3), NOW, []
    for _ in range(5):
        assert standing.until is not None
        waits.append(standing.until - now)
        now = standing.until
        standing = step(standing, [FAIL], now=now, probing=True)

    assert waits == [2, 4, 8, 10, 10]


@pytest.mark.parametrize(("jitter", "wait_s"), [(0.0, 1.0), (0.5, 1.5), (1.0, 2.0)])
def test_jitter_takes_up_to_half_of_a_wait(jitter: float, wait_s: float) -> None:
    assert step(Standing(), [FAIL] * 3, jitter=jitter).until == NOW + wait_s


@pytest.mark.parametrize(("calm_s", "openings"), [(5, 2), (60, 1)])
def test_an_opening_soon_after_another_is_a_longer_one(calm_s: float, openings: int) -> None:
    closed = step(OPEN_BY_PROMPTS, [OK], now=NOW + 2, probing=True)

    standing = step(closed, [FAIL] * 3, now=NOW + 2 + calm_s)

    assert standing.openings == openings


@pytest.mark.parametrize(
    ("kind", "outcome", "looks"),
    [
        pytest.param(PROMPT, FAIL, True, id="prompts are refused"),
        pytest.param(SESSION, FAIL, True, id="sessions are refused"),
        pytest.param(LOOK, FAIL, False, id="looks fail"),
        pytest.param(PROMPT, AWAY, False, id="nothing is reached"),
    ],
)
def test_looks_are_held_back_only_where_looks_fail(kind: CallKind, outcome: CallOutcome, looks: bool) -> None:
    standing = step(Standing(), [outcome] * 3, kind=kind)

    assert gate(standing, NOW).looks is looks


def test_a_look_that_fails_later_holds_looks_back_too() -> None:
    standing = step(OPEN_BY_PROMPTS, [FAIL], kind=LOOK, now=NOW + 1)

    assert not gate(standing, NOW + 1).looks


def test_a_closed_one_is_forgotten_after_a_calm_time() -> None:
    standing = step(Standing(), [FAIL])

    assert not is_forgotten(standing, NOW + 40, POLICY)
    assert is_forgotten(standing, NOW + 41, POLICY)
    assert not is_forgotten(OPEN_BY_PROMPTS, NOW + 1000, POLICY)


def test_two_reports_are_as_good_as_one() -> None:
    assert seen(OK, FAIL, FAIL).before(seen(FAIL, AWAY)) == seen(OK, FAIL, FAIL, FAIL, AWAY)
    assert seen(FAIL, FAIL).before(seen(FAIL, OK, FAIL)) == seen(FAIL, FAIL, FAIL, OK, FAIL)
