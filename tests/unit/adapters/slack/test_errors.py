"""Slack's error codes in our taxonomy: the table, and the three outcomes of a call."""

from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from slack_sdk.errors import SlackApiError

from nubabel_workers.adapters.slack.errors import ERROR_CLASSES, ErrorClass, classify_code, translate
from nubabel_workers.domain.errors import (
    CredentialsError,
    NubabelError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UnansweredError,
    UnavailableError,
    UncertainError,
)

ERRORS_OF_A_POST = {
    ErrorClass.RATE_LIMITED: RateLimitedError,
    ErrorClass.RETRY_SLOWLY: TransientError,
    ErrorClass.UNCERTAIN: UncertainError,
    ErrorClass.REINSTALL: CredentialsError,
    ErrorClass.PERMANENT: PermanentError,
}


def api_error(
    code: str | None, status: int = 200, headers: dict[str, str] | None = None, **details: Any
) -> SlackApiError:
    data = {"ok": False, "error": code, **details} if code is not None else {}
    response = SimpleNamespace(status_code=status, headers=headers or {}, data=data)
    return SlackApiError("the request failed", response)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(("code", "error_class"), ERROR_CLASSES.items())
def test_every_code_of_the_table_becomes_its_error(code: str, error_class: ErrorClass) -> None:
    error = translate(api_error(code), method="chat.postMessage", repeatable=False)

    assert type(error) is ERRORS_OF_A_POST[error_class]
    if isinstance(error, PermanentError):
        assert error.code == code


@pytest.mark.parametrize(("code", "error_class"), ERROR_CLASSES.items())
def test_repeatable_call_is_never_uncertain(code: str, error_class: ErrorClass) -> None:
    error = translate(api_error(code), method="chat.update", repeatable=True)

    expected = UnavailableError if error_class is ErrorClass.UNCERTAIN else ERRORS_OF_A_POST[error_class]
    assert type(error) is expected


@pytest.mark.parametrize(
    "code", ["restricted_action_read_only_channel", "invalid_blocks_format", "invalid_metadata_schema", "never_heard"]
)
def test_families_and_unknown_codes_are_permanent(code: str) -> None:
    assert classify_code(code) is ErrorClass.PERMANENT


@pytest.mark.parametrize(("value", "seconds"), [("30", 30.0), ("", None), ("soon", None), ("-1", None), ("1.5", None)])
def test_retry_after_is_slacks_word_or_nothing(value: str, seconds: float | None) -> None:
    error = translate(api_error("ratelimited", 429, {"Retry-After": value}), method="x", repeatable=True)

    assert isinstance(error, RateLimitedError)
    assert error.retry_after_s == seconds


def test_missing_scope_says_which_one_is_needed() -> None:
    error = translate(api_error("missing_scope", needed="reactions:write"), method="reactions.add", repeatable=True)

    assert "reactions:write" in str(error)


@pytest.mark.parametrize(
    ("error", "of_a_post"),
    [
        (aiohttp.ServerDisconnectedError(), UncertainError),
        (aiohttp.ClientOSError(104, "reset"), UncertainError),
        (aiohttp.ClientPayloadError(), UncertainError),
        (aiohttp.SocketTimeoutError(), UnansweredError),
        (TimeoutError(), UnansweredError),
        (ConnectionResetError(), UncertainError),
        (AttributeError("'str' object has no attribute 'get'"), UncertainError),
        (aiohttp.ConnectionTimeoutError(), UnavailableError),
        (
            aiohttp.ClientConnectorError(
                ConnectionKey("slack.com", 443, True, True, None, None, None), OSError(111, "refused")
            ),
            UnavailableError,
        ),
        (api_error(None, 500), UncertainError),
        (api_error(None, 502), UncertainError),
        (api_error("internal_error", 500), UncertainError),
        (api_error(None, 408), UncertainError),
        (api_error(None, 200), UncertainError),
        (api_error(None, 403), PermanentError),
        (api_error("Not A Code!", 200), UncertainError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.__name__,
)
def test_three_outcomes_of_a_post(error: Exception, of_a_post: type[NubabelError]) -> None:
    assert type(translate(error, method="chat.postMessage", repeatable=False)) is of_a_post
