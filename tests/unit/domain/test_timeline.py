"""The timeline in plain words: why did this one take so long?"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from nubabel_workers.domain.administration import SessionWait
from nubabel_workers.domain.executions import EventKind, SessionLeft, TimelineEvent
from nubabel_workers.domain.ids import ExecutionId
from nubabel_workers.domain.masking import WAITS_FOR_MASKING
from nubabel_workers.domain.timeline import Span, narrate, time_spent

START = datetime(2026, 1, 1, tzinfo=UTC)


def _at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def _event(seconds: float, event_kind: EventKind, /, **detail: Any) -> TimelineEvent:
    return TimelineEvent(_at(seconds), event_kind, detail)


ANSWERED = [
    _event(0, EventKind.ACCEPTED, source="slack"),
    _event(0.5, EventKind.SUBMITTED, attempt=1, instance="ins_1", category="quick", agent="Sisyphus - x"),
    _event(42, EventKind.FINISHED, status="completed", verdict="succeeded"),
    _event(42.25, EventKind.DELIVERED, kind="outcome", waited_s=0.25, repeated=False),
]


def test_an_answered_request_reads_as_a_story() -> None:
    steps = narrate(ANSWERED)

    assert [(step.since_start_s, step.words) for step in steps] == [
        (0, "accepted from slack"),
        (0.5, "submitted to OpenCode on ins_1, attempt 1 (category quick, agent Sisyphus - x)"),
        (42, "completed"),
        (42.25, "the answer was delivered"),
    ]


def test_the_time_of_an_answered_request_is_shared_out_completely() -> None:
    spans = time_spent(ANSWERED, session_wait=None, until=None)

    assert spans == [
        Span("waited for its turn", 0.5),
        Span("OpenCode worked on it", 41.5),
        Span("until the answer was delivered", 0.25),
    ]


def test_waiting_for_the_session_is_told_apart_from_waiting_for_a_worker() -> None:
    busy = SessionWait(ExecutionId("exe_0"), _at(8))
    events = [_event(0, EventKind.ACCEPTED), _event(10, EventKind.SUBMITTED)]

    spans = time_spent(events, session_wait=busy, until=_at(11))

    assert spans == [
        Span("waited for an earlier request of the session, exe_0", 8),
        Span("waited for its turn", 2),
        Span("OpenCode worked on it", 1),
    ]


def test_a_session_that_is_still_busy_is_to_blame_for_all_of_the_waiting() -> None:
    busy = SessionWait(ExecutionId("exe_0"), None)

    spans = time_spent([_event(0, EventKind.ACCEPTED)], session_wait=busy, until=_at(30))

    assert spans == [Span("waited for an earlier request of the session, exe_0", 30)]


def test_repeated_waits_for_the_same_thing_are_added_up() -> None:
    events = [
        _event(0, EventKind.ACCEPTED),
        _event(1, EventKind.WAITING, reason="capacity", wait_s=2),
        _event(3, EventKind.WAITING, reason="pace", wait_s=1),
        _event(4, EventKind.WAITING, reason="capacity", wait_s=2),
        _event(9, EventKind.SUBMITTED),
    ]

    spans = {span.words: span.seconds for span in time_spent(events, session_wait=None, until=None)}

    assert spans == {
        "waited for its turn": 1,
        "waited for a free place: every suitable OpenCode server was full": 7,
        "waited for its turn: the OpenCode server takes only so many prompts a second": 1,
    }


def test_failures_of_attempts_and_of_slack_are_named() -> None:
    events = [
        _event(0, EventKind.ACCEPTED),
        _event(1, EventKind.SUBMITTED, attempt=1),
        _event(5, EventKind.RETRY, reason="HTTP 503", wait_s=10),
        _event(15, EventKind.SUBMITTED, attempt=2),
        _event(20, EventKind.FINISHED, status="completed"),
        _event(21, EventKind.DELIVERY_RETRY, kind="outcome", error="ratelimited", wait_s=30),
        _event(51, EventKind.DELIVERED, kind="outcome"),
    ]

    spans = {span.words: span.seconds for span in time_spent(events, session_wait=None, until=None)}

    assert spans == {
        "waited for its turn": 1,
        "OpenCode worked on it": 9,
        "waited for the next attempt, after: HTTP 503": 10,
        "until the answer was delivered": 1,
        "waited to tell the answer again, after: ratelimited": 30,
    }


def test_a_worker_lost_before_the_submit_is_named_and_one_lost_while_it_runs_costs_nothing() -> None:
    events = [
        _event(0, EventKind.ACCEPTED),
        _event(1, EventKind.LEASE_TAKEN_OVER),
        _event(3, EventKind.SUBMITTED),
        _event(5, EventKind.LEASE_TAKEN_OVER),
        _event(6, EventKind.FINISHED, status="completed"),
    ]

    spans = {span.words: span.seconds for span in time_spent(events, session_wait=None, until=None)}

    assert spans == {
        "waited for its turn": 1,
        "waited for another worker, the first one disappeared": 2,
        "OpenCode worked on it": 3,
    }


@pytest.mark.parametrize("kind", list(EventKind))
def test_every_event_has_words_even_without_details(kind: EventKind) -> None:
    (step,) = narrate([_event(0, kind)])

    assert step.words


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (_event(0, EventKind.FINISHED, status="failed", verdict="deadline_exceeded"), "failed: deadline_exceeded"),
        (_event(0, EventKind.FINISHED, status="cancelled", verdict="cancelled", reason="stop"), "cancelled (stop)"),
        (_event(0, EventKind.DELIVERED, kind="outcome", repeated=True), "the answer was delivered, marked as a pos"),
        (_event(0, EventKind.DELIVERED, kind="webhook"), "the webhook was delivered"),
        (
            _event(0, EventKind.WAITING, reason="budget", wait_s=60),
            "waits for room in the organization's budget; again in 60.0 s",
        ),
        (
            _event(0, EventKind.WAITING, reason=WAITS_FOR_MASKING),
            "waits for time to look through it for sensitive data",
        ),
        (_event(0, EventKind.MASKED, kinds={"key": 2}), "masked before it left: key (2)"),
        (
            _event(0, EventKind.MASKED, kinds={"key": 1}, unread={"picture": 2, "archive": 1}, held_back=False),
            "masked before it left: key (1); files that could not be looked through, sent as they were: picture (2), a",
        ),
        (
            _event(0, EventKind.MASKED, kinds={}, left_out={"thread": 1, "files": 2, "earlier turns": 3}),
            "left out, there was no time to look through it: thread (1), files (2), earlier turns (3)",
        ),
        (
            _event(0, EventKind.MASKED, kinds={}, unread={"archive": 1}, held_back=True),
            "files that could not be looked through, held back: archive (1)",
        ),
        (_event(0, EventKind.ASK_REJECTED, permission="bash"), "OpenCode asked for bash: refused"),
        (_event(0, EventKind.REPLAYED, by="cli:anna"), "replayed by cli:anna"),
        (
            _event(0, EventKind.SESSION_REPLACED, reason="policy"),
            "its organization's policy moved it to other servers: a new OpenCode session gets what was said before",
        ),
        (_event(0, EventKind.SESSION_REPLACED, reason="removed"), "its OpenCode server was taken out of use: "),
        (_event(0, EventKind.SESSION_REPLACED), "its OpenCode session is gone or cannot be used"),
    ],
)
def test_details_are_put_into_words(event: TimelineEvent, words: str) -> None:
    assert narrate([event])[0].words.startswith(words)


@pytest.mark.parametrize("why", SessionLeft)
def test_each_reason_to_leave_a_session_has_words_of_its_own(why: SessionLeft) -> None:
    (told,) = narrate([_event(0, EventKind.SESSION_REPLACED, reason=why.value)])
    (untold,) = narrate([_event(0, EventKind.SESSION_REPLACED)])

    assert told.words != untold.words


def test_no_events_are_no_story() -> None:
    assert narrate([]) == []
    assert time_spent([], session_wait=None, until=_at(5)) == []


def test_a_delegation_is_told_with_what_is_known_of_it() -> None:
    known = {"category": "deep", "skills": ["git-master", "frontend"], "model": "a/b", "session_id": "ses_1"}
    steps = narrate([_event(0, EventKind.DELEGATED, **known), _event(0, EventKind.DELEGATED, agent="oracle")])

    assert [step.words for step in steps] == [
        "delegated to category deep (skills git-master, frontend; model a/b; session ses_1)",
        "delegated to oracle",
    ]


def test_an_answer_without_delegation_says_so() -> None:
    (step,) = narrate([_event(0, EventKind.FINISHED, status="completed", verdict="succeeded", delegated=False)])

    assert step.words == "completed; nothing was delegated"


def test_what_a_server_was_away_that_a_run_was_taken_from_is_not_time_that_it_worked() -> None:
    events = [
        _event(0, EventKind.ACCEPTED),
        _event(1, EventKind.SUBMITTED, attempt=1),
        _event(601, EventKind.SESSION_REPLACED, reason=SessionLeft.REMOVED, away_s=590.0),
        _event(601, EventKind.RETRY, reason="the OpenCode server of this session was removed"),
        _event(603, EventKind.SUBMITTED, attempt=2),
        _event(613, EventKind.FINISHED, status="completed"),
    ]

    spans = {span.words: span.seconds for span in time_spent(events, session_wait=None, until=None)}

    assert spans == {
        "waited for its turn": 1,
        "OpenCode worked on it": 20,
        "waited for an OpenCode server that can be reached": 590,
        "waited for the next attempt, after: the OpenCode server of this session was removed": 2,
    }


def test_a_worker_that_takes_over_while_the_server_is_away_makes_it_no_time_that_it_worked() -> None:
    events = [
        _event(0, EventKind.SUBMITTED, attempt=1),
        _event(301, EventKind.LEASE_TAKEN_OVER),
        _event(310, EventKind.SESSION_REPLACED, reason=SessionLeft.GIVEN_UP, away_s=300.0),
    ]

    spans = {span.words: span.seconds for span in time_spent(events, session_wait=None, until=None)}

    assert spans == {"OpenCode worked on it": 10, "waited for an OpenCode server that can be reached": 300}


def test_no_more_is_taken_from_a_run_than_it_lasted() -> None:
    events = [
        _event(0, EventKind.SUBMITTED, attempt=1),
        _event(10, EventKind.SESSION_REPLACED, reason=SessionLeft.GIVEN_UP, away_s=11.0),
    ]

    spans = {span.words: span.seconds for span in time_spent(events, session_wait=None, until=None)}

    assert spans == {
        "OpenCode worked on it": 0,
        "waited for an OpenCode server that can be reached": 10,
    }
