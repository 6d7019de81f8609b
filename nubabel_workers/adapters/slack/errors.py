"""Slack's answers in our words: which failures are final, which pass, and which leave the outcome open.

Codes and classes: the error tables of Slack's method pages and https://docs.slack.dev/apis/web-api/rate-limits
"""

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any, Final

import aiohttp
import structlog
from slack_sdk.errors import SlackApiError

from nubabel_workers.adapters.retry_after import read_retry_after
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

log = structlog.get_logger(__name__)


class ErrorClass(Enum):
    """What a code asks for. UNCERTAIN only matters for calls that do harm when repeated."""

    RATE_LIMITED = auto()
    RETRY_SLOWLY = auto()  # passes, but not within minutes
    UNCERTAIN = auto()  # may have taken effect
    REINSTALL = auto()  # the tenant's administrator must act
    PERMANENT = auto()


_SLOW_RETRY_S: Final = 600.0

ERROR_CLASSES: Final[Mapping[str, ErrorClass]] = {
    **dict.fromkeys(("ratelimited", "rate_limited"), ErrorClass.RATE_LIMITED),
    **dict.fromkeys(("team_added_to_org", "org_login_required", "message_limit_exceeded"), ErrorClass.RETRY_SLOWLY),
    **dict.fromkeys(
        (
            *("service_unavailable", "internal_error", "fatal_error", "request_timeout"),
            *("duplicate_message_not_found", "duplicate_channel_not_found"),
        ),
        ErrorClass.UNCERTAIN,
    ),
    **dict.fromkeys(
        (
            *("invalid_auth", "account_inactive", "token_revoked", "token_expired", "not_authed"),
            *("invalid_refresh_token", "invalid_grant"),
            *("missing_scope", "no_permission", "not_allowed_token_type"),
            *("team_access_not_granted", "access_denied", "accesslimited"),
            *("two_factor_setup_required", "ekm_access_denied"),
        ),
        ErrorClass.REINSTALL,
    ),
    **dict.fromkeys(
        (
            *("channel_not_found", "not_in_channel", "is_archived", "messages_tab_disabled"),
            *("cannot_reply_to_message", "thread_not_found", "message_not_found"),
            *("cant_update_message", "cant_delete_message", "edit_window_closed"),
            *("msg_too_long", "msg_blocks_too_long", "metadata_too_large"),
            *("too_many_attachments", "attachment_payload_limit_exceeded"),
            *("markdown_text_conflict", "invalid_arguments", "invalid_arg_name", "invalid_charset"),
            *("invalid_form_data", "no_text", "no_item_specified", "invalid_name", "too_many_reactions"),
            *("user_not_found", "users_not_found", "cannot_dm_bot"),
            *("unknown_method", "method_deprecated", "feature_disabled", "not_authorized"),
        ),
        ErrorClass.PERMANENT,
    ),
}

# Families whose members carry details in their name.
_PERMANENT_PREFIXES: Final = ("restricted_action", "invalid_blocks", "invalid_metadata", "invalid_block")

# Slack's way to say that the wished-for state is already there.
REACTION_IS_THERE: Final = frozenset({"already_reacted"})
REACTION_IS_GONE: Final = frozenset({"no_reaction", "message_not_found"})
MESSAGE_IS_GONE: Final = frozenset({"message_not_found"})

_HTTP_OK: Final = 200
_HTTP_REQUEST_TIMEOUT: Final = 408
_HTTP_TOO_MANY_REQUESTS: Final = 429
_HTTP_SERVER_ERROR: Final = 500
_CODE = re.compile(r"[a-z0-9_.]{1,64}")

# Raised before a byte of the request is sent: nothing can have taken effect.
_NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)


def classify_code(code: str) -> ErrorClass:
    """Slack adds codes without notice; an unknown one is permanent, so that nothing loops on it, and logged loudly."""
    known = ERROR_CLASSES.get(code)
    if known is not None:
        return known
    if not code.startswith(_PERMANENT_PREFIXES):
        log.error("slack.unknown_error_code", code=code)
    return ErrorClass.PERMANENT


def error_code(error: Exception) -> str | None:
    """Slack's own word for a refusal (`"ok": false`); None when the answer had none or never came."""
    data = getattr(getattr(error, "response", None), "data", None)
    code = data.get("error") if isinstance(data, dict) else None
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None


def translate(error: Exception, *, method: str, repeatable: bool) -> NubabelError:
    """Turn whatever a Web API call raised into our taxonomy.

    repeatable: a second call does no harm (edits, deletions, reactions, reads), so an open outcome is merely transient.
    """
    if isinstance(error, _NEVER_SENT):
        return UnavailableError(f"{method}: Slack could not be reached ({type(error).__name__})")
    if not isinstance(error, SlackApiError):
        return _without_answer(error, method, repeatable=repeatable)
    status, headers = _status_and_headers(error)
    code = error_code(error)
    log.warning("slack.call_failed", method=method, status=status, code=code, request_id=headers.get("x-slack-req-id"))
    if status == _HTTP_TOO_MANY_REQUESTS:
        return RateLimitedError(f"{method}: rate limited by Slack", retry_after_s=_retry_after_s(headers))
    if code is not None and status < _HTTP_SERVER_ERROR:
        return _from_code(error, code, method, headers, repeatable=repeatable)
    if status in {_HTTP_OK, _HTTP_REQUEST_TIMEOUT} or status >= _HTTP_SERVER_ERROR:
        return _open_outcome(f"{method}: no usable answer (HTTP {status})", repeatable=repeatable)
    return PermanentError(f"{method}: refused with HTTP {status}", code=f"http_{status}")


def _without_answer(error: Exception, method: str, *, repeatable: bool) -> NubabelError:
    if isinstance(error, TimeoutError) and not repeatable:
        return UnansweredError(f"{method}: no answer in time")
    return _open_outcome(f"{method}: no usable answer ({type(error).__name__})", repeatable=repeatable)


def _from_code(
    error: SlackApiError, code: str, method: str, headers: Mapping[str, str], *, repeatable: bool
) -> NubabelError:
    message = f"{method}: Slack answered {code}"
    match classify_code(code):
        case ErrorClass.RATE_LIMITED:
            return RateLimitedError(message, retry_after_s=_retry_after_s(headers))
        case ErrorClass.RETRY_SLOWLY:
            return TransientError(message, retry_after_s=_SLOW_RETRY_S)
        case ErrorClass.UNCERTAIN:
            return _open_outcome(message, repeatable=repeatable)
        case ErrorClass.REINSTALL:
            return CredentialsError(message + _scopes(error), code=code)
        case ErrorClass.PERMANENT:
            return PermanentError(message, code=code)


def _open_outcome(message: str, *, repeatable: bool) -> NubabelError:
    return UnavailableError(message) if repeatable else UncertainError(message)


def _status_and_headers(error: SlackApiError) -> tuple[int, Mapping[str, str]]:
    """The SDK attaches its own response, or aiohttp's when the body was not JSON."""
    response: Any = error.response
    status = getattr(response, "status_code", None) or getattr(response, "status", None) or 0
    headers = getattr(response, "headers", None)
    return int(status), headers if isinstance(headers, Mapping) else {}


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    return read_retry_after(headers.get("Retry-After", ""))


def _scopes(error: SlackApiError) -> str:
    """`missing_scope` names what the app needs; an administrator wants to read it."""
    data = getattr(error.response, "data", None)
    needed = data.get("needed") if isinstance(data, dict) else None
    return f" (needed: {needed[:200]})" if isinstance(needed, str) and needed.isprintable() else ""
