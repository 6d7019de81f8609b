"""What an HTTP status of an MCP server means for a call."""

import pytest

from nubabel_workers.adapters.mcp.failures import Failures, SessionGoneError, refusal
from nubabel_workers.domain.errors import (
    CredentialsError,
    NubabelError,
    PermanentError,
    RateLimitedError,
    UnavailableError,
    UncertainError,
)


@pytest.mark.parametrize(
    ("status", "in_session", "kind"),
    [
        (302, False, PermanentError),
        (401, True, CredentialsError),
        (403, True, PermanentError),
        (404, True, SessionGoneError),
        (410, True, SessionGoneError),
        (429, False, RateLimitedError),
        (500, False, UncertainError),
        (502, True, UncertainError),
        (503, False, UnavailableError),
    ],
)
def test_a_status_says_whether_something_may_have_taken_effect(
    status: int, kind: type[NubabelError], *, in_session: bool
) -> None:
    error = refusal("tools.example", status, {"Retry-After": "7"}, in_session=in_session)

    assert type(error) is kind


@pytest.mark.parametrize("status", [200, 202, 400, 404])
def test_other_answers_speak_for_themselves(status: int) -> None:
    assert refusal("tools.example", status, {}, in_session=False) is None


def test_an_error_that_was_put_aside_is_taken_once() -> None:
    failures, error = Failures(), UnavailableError("away")
    token = failures.put(error)

    assert failures.take(token) is error
    assert failures.take(token) is None
    assert failures.take({"told": "by a server"}) is None


def test_errors_that_nobody_takes_do_not_pile_up() -> None:
    failures = Failures()

    first = failures.put(UnavailableError("first"))
    last = [failures.put(UnavailableError(str(number))) for number in range(1_000)][-1]

    assert failures.take(first) is None
    assert str(failures.take(last)) == "999"
