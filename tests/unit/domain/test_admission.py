"""Who is refused at the door, in which words, and how long a count can be relied on."""

import re

import pytest

from nubabel_workers.domain.admission import (
    QUEUED,
    REQUESTS,
    SESSIONS,
    Occupied,
    Refusal,
    good_for_s,
    refusal_for,
)
from nubabel_workers.domain.limits import Limits
from nubabel_workers.domain.wording import Language

_TIGHT = Limits(queued=2, sessions=3, requests_per_minute=60)


@pytest.mark.parametrize(
    ("limits", "occupied", "session_is_open", "refused_by"),
    [
        (Limits(), Occupied(10**6, 10**6), False, None),
        (_TIGHT, Occupied(1, 2), False, None),
        (_TIGHT, Occupied(2, 2), False, QUEUED),
        (_TIGHT, Occupied(2, 3), True, QUEUED),
        (_TIGHT, Occupied(0, 3), False, SESSIONS),
        (_TIGHT, Occupied(0, 3), True, None),
        (Limits(queued=0), Occupied(0, 0), False, QUEUED),
    ],
)
def test_a_request_is_refused_at_a_limit(
    limits: Limits, occupied: Occupied, *, session_is_open: bool, refused_by: str | None
) -> None:
    refusal = refusal_for(limits, occupied, session_is_open=session_is_open)

    assert (refusal.limit if refusal else None) == refused_by


@pytest.mark.parametrize("limit", [REQUESTS, QUEUED, SESSIONS])
@pytest.mark.parametrize("language", list(Language))
def test_every_refusal_says_the_limit_and_whom_to_ask(limit: str, language: Language) -> None:
    words = Refusal(limit, 37, 12.2).words(language)

    assert "37" in words
    assert {Language.ENGLISH: "administrator", Language.KOREAN: "관리자"}[language] in words


@pytest.mark.parametrize("limit", [REQUESTS, QUEUED, SESSIONS])
def test_a_limit_of_one_reads_as_well(limit: str) -> None:
    words = Refusal(limit, 1, 1.0).words()

    assert "(1)" in words
    assert not re.search(r"\b1 (requests|conversations|seconds)", words)


def test_a_refusal_by_the_minute_says_when_to_ask_again() -> None:
    refusal = Refusal(REQUESTS, 30, 12.2)

    assert "in 13 s," in refusal.words()
    assert refusal.retry_after_s == 12.2


@pytest.mark.parametrize(
    ("limits", "occupied", "good_s"),
    [
        (Limits(queued=50, requests_per_minute=30), Occupied(0, 0), 50.0),  # 100 s to use 50 up, half of that
        (Limits(queued=200_000, requests_per_minute=60_000), Occupied(0, 0), 60.0),
        (Limits(queued=50, requests_per_minute=30), Occupied(50, 0), 0.251),
        (Limits(queued=50, sessions=11, requests_per_minute=60), Occupied(0, 10), 0.5),
        (Limits(queued=1000), Occupied(0, 0), 0.5),
        (Limits(queued=100_000), Occupied(100_000, 0), 2.25),  # a long queue is not counted all the time
    ],
)
def test_a_count_is_good_while_half_of_what_is_left_cannot_be_used_up(
    limits: Limits, occupied: Occupied, good_s: float
) -> None:
    assert good_for_s(limits, occupied) == pytest.approx(good_s)
