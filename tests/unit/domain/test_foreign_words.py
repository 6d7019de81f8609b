"""What callers may read of what went wrong inside."""

import pytest

from nubabel_workers.domain.executions import ExecutionError
from nubabel_workers.domain.foreign_words import for_callers


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ("APIError (status 400): no such model", "APIError (status 400): no such model"),
        ("no answer from http://opencode-1:4096/session?x=1: refused", "no answer from [address] refused"),
        ("connect to 10.0.0.5:4096 failed", "connect to [address] failed"),
        ("no answer from http://[::1]:4096/x in time", "no answer from [address] in time"),
        ("connect to [::1]:4096 failed", "connect to [address] failed"),
        ("connect to opencode-1:4096 failed", "connect to [address] failed"),
        ("opencode-1.railway.internal is unknown", "[address] is unknown"),
        ("key sk-0123456789abcdefghij is wrong", "key [redacted] is wrong"),
        ("postgresql://nubabel:hunter22@db/x", "[address]"),
        ("two\nlines\tand  more", "two lines and more"),
        ("model openai/gpt-5.2 at 12:30, version 1.18.33", "model openai/gpt-5.2 at 12:30, version 1.18.33"),
    ],
)
def test_the_reason_is_one_line_without_secrets_and_addresses(inside: str, outside: str) -> None:
    assert for_callers(inside) == outside


def test_a_long_reason_is_cut() -> None:
    assert for_callers("가" * 2000) == "가" * 299 + "…"


def test_without_words_for_operators_there_is_no_reason() -> None:
    assert ExecutionError("cancelled", "Stopped.").told()["detail"] is None
