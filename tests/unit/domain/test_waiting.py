"""What a queued execution waits for, in words."""

from dataclasses import replace

import pytest

from nubabel_workers.domain.budgets import WAITS_FOR_BUDGET
from nubabel_workers.domain.limits import Limits
from nubabel_workers.domain.masking import WAITS_FOR_MASKING
from nubabel_workers.domain.placement import AWAY, FULL, PACE
from nubabel_workers.domain.waiting import AGAIN, IN_FLIGHT, MOST_AHEAD, SESSION, STARTING, TURN, Line, waiting_of

_READY = Line(session_is_taken=False, ahead=0, in_flight=0, stored_reason=None, wait_s=0.0, usual_run_s=20.0)


@pytest.mark.parametrize(
    ("line", "limits", "free_places", "reason", "starts_in_s"),
    [
        (_READY, Limits(), 1, STARTING, 0.0),
        (replace(_READY, session_is_taken=True), Limits(), 1, SESSION, 20.0),
        (replace(_READY, session_is_taken=True, usual_run_s=None), Limits(), 1, SESSION, None),
        (replace(_READY, session_is_taken=True, running_for_s=15.0), Limits(), 1, SESSION, 5.0),
        (replace(_READY, session_is_taken=True, running_for_s=21.0), Limits(), 1, SESSION, None),  # longer than usual
        (replace(_READY, in_flight=2), Limits(in_flight=2), 1, IN_FLIGHT, 20.0),
        (replace(_READY, in_flight=2, running_for_s=15.0), Limits(in_flight=2), 1, IN_FLIGHT, 5.0),
        (replace(_READY, in_flight=2, ahead=2, running_for_s=15.0), Limits(in_flight=2), 1, IN_FLIGHT, 25.0),
        (replace(_READY, in_flight=2, running_for_s=30.0), Limits(in_flight=2), 1, IN_FLIGHT, None),
        (replace(_READY, in_flight=2, ahead=2), Limits(in_flight=2), 1, IN_FLIGHT, 40.0),
        (replace(_READY, in_flight=2, usual_run_s=None), Limits(in_flight=2), 1, IN_FLIGHT, None),
        (_READY, Limits(in_flight=0), 1, IN_FLIGHT, None),
        (replace(_READY, in_flight=2), Limits(in_flight=3), 1, STARTING, 0.0),
        (_READY, Limits(), 0, FULL, None),  # others have all places
        (replace(_READY, in_flight=2, running_for_s=15.0), Limits(), 0, FULL, 5.0),
        (replace(_READY, in_flight=2, ahead=3, running_for_s=15.0), Limits(), 0, FULL, 25.0),
        (replace(_READY, in_flight=2, ahead=MOST_AHEAD, running_for_s=15.0), Limits(), 0, FULL, None),
        (replace(_READY, ahead=3), Limits(), 1, TURN, None),
        (replace(_READY, in_flight=1, ahead=3, running_for_s=15.0), Limits(), 1, TURN, 65.0),
        (replace(_READY, ahead=3), Limits(), 4, TURN, 0.0),
        (replace(_READY, wait_s=3.0, stored_reason=AWAY), Limits(), 0, AWAY, None),
        (replace(_READY, wait_s=3.0, stored_reason=PACE), Limits(), 1, PACE, 3.0),
        (replace(_READY, wait_s=3.0, stored_reason=WAITS_FOR_MASKING), Limits(), 1, WAITS_FOR_MASKING, None),
        (replace(_READY, wait_s=3.0, stored_reason=WAITS_FOR_BUDGET), Limits(), 1, WAITS_FOR_BUDGET, None),
        (replace(_READY, paused=True, session_is_taken=True), Limits(), 1, WAITS_FOR_BUDGET, None),
        (replace(_READY, wait_s=3.0, stored_reason="the model said no"), Limits(), 1, AGAIN, 3.0),
        (replace(_READY, wait_s=-1.0, stored_reason=AWAY), Limits(), 1, STARTING, 0.0),  # it may be taken again
    ],
)
def test_the_first_thing_in_the_way_is_the_reason(
    line: Line, limits: Limits, free_places: int, reason: str, starts_in_s: float | None
) -> None:
    waiting = waiting_of(line, limits, free_places=free_places)

    assert (waiting.reason, waiting.starts_in_s) == (reason, starts_in_s)


def test_the_words_say_why_where_and_when() -> None:
    waiting = waiting_of(replace(_READY, in_flight=2, ahead=2), Limits(in_flight=2), free_places=9)

    assert waiting.words == (
        "its organization runs 2 at once, which is its limit; place 3 in its organization's queue; "
        "expected to start in about 40 s"
    )


def test_of_a_long_queue_not_all_is_counted() -> None:
    waiting = waiting_of(replace(_READY, ahead=MOST_AHEAD), Limits(), free_places=1)

    assert "place more than 1000" in waiting.words
    assert "cannot be told" in waiting.words


@pytest.mark.parametrize(
    ("cap", "words"),
    [
        (
            "cost_per_day",
            "leaves no room (cost_per_day); place 1 in its organization's queue; there is room at 00:00 UTC",
        ),
        ("tokens_per_month", "there is room on the first of the next month"),
        ("cost_per_execution", "it goes on when an administrator allows it more"),
    ],
)
def test_a_budget_is_named_and_when_it_frees(cap: str, words: str) -> None:
    line = replace(_READY, wait_s=3.0, stored_reason=WAITS_FOR_BUDGET, cap=cap)

    assert words in waiting_of(line, Limits(), free_places=1).words
