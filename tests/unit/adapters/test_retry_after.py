from datetime import UTC, datetime

import pytest

from nubabel_workers.adapters.retry_after import read_retry_after

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DAY_S = 24 * 3600.0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("9" * 400, DAY_S),
        ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 21 Nov 2026 12:00:30", 30.0),
        ("Fri, 20 Nov 2026 12:00:30 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", DAY_S),
    ],
)
def test_seconds_and_dates_are_read_and_bounded(value: str, seconds: float) -> None:
    assert read_retry_after(value, NOW) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-1",
        "1.5",
        "nan",
        "\u00b2",
        "\u0661",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "1 Jan 2026 +9999",
    ],
)
def test_what_cannot_be_read_is_as_good_as_absent(value: str) -> None:
    assert read_retry_after(value, NOW) is None


def test_without_a_clock_dates_are_not_read() -> None:
    assert read_retry_after("Sat, 21 Nov 2026 12:00:30 GMT") is None
