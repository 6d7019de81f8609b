"""Times and outside text as operators read them."""

from datetime import UTC, datetime, timedelta

import pytest

from nubabel_workers.cli.wording import ago, clock_time, counted, duration, plain, plain_lines, shortened

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0.00 s"),
        (0.4242, "0.42 s"),
        (41.2, "41 s"),
        (119, "119 s"),
        (200, "3 min 20 s"),
        (18_720, "5 h 12 min"),
        (3 * 86_400, "3 days"),
    ],
)
def test_durations_have_the_unit_that_fits(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.5, "now"), (2.4, "2 s ago"), (200, "3 min 20 s ago"), (-60, "in 60 s")],
)
def test_times_are_told_from_now(seconds: float, words: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == words


def test_what_never_happened_says_so() -> None:
    assert (ago(None, NOW), clock_time(None), clock_time(NOW)) == ("never", "-", "2026-01-01 12:00:00")


def test_one_thing_is_not_several() -> None:
    assert (counted(0, "row"), counted(1, "row"), counted(2, "row")) == ("0 rows", "1 row", "2 rows")
    assert (counted(1, "folder", "n/a"), counted(2, "directory", "directories")) == ("1 folder", "2 directories")


def test_control_characters_become_visible() -> None:
    assert plain("a\x1b[31m\nb\tc\u202e") == "a·[31m b c·"
    assert plain_lines("a\x1b\r\n\tb\x00") == "a·\n\tb·"


def test_long_text_is_cut_and_marked() -> None:
    assert shortened("안녕하세요 여러분", 6) == "안녕하세요…"
    assert shortened("short", 5) == "short"
