"""What goes wrong between us and an MCP server, in our own words. No word of a server is in these errors."""

import secrets
from collections.abc import Mapping
from typing import Any, Final

from mcp import MCPError
from mcp.types import CONNECTION_CLOSED, PARSE_ERROR, REQUEST_TIMEOUT

from nubabel_workers.adapters.retry_after import read_retry_after
from nubabel_workers.domain.errors import (
    CredentialsError,
    NubabelError,
    PermanentError,
    RateLimitedError,
    UnansweredError,
    UnavailableError,
    UncertainError,
)

UNAUTHORIZED: Final = "unauthorized"
RESULT_TOO_LARGE: Final = "result_too_large"
FAILED_HERE: Final = -31_900  # the code of errors that we put into a session's way; outside of JSON-RPC's own range

_MAX_UNDER_WAY: Final = 1_000
_OF_THE_SDK: Final = ("Connection closed", "SSE stream", "Failed to parse")  # how its own errors begin
_TOO_LONG_FOR_THE_SDK: Final = "byte limit"
_STATUS_UNAUTHORIZED, _STATUS_FORBIDDEN, _STATUS_TOO_MANY, _STATUS_UNAVAILABLE = 401, 403, 429, 503
_STATUS_GONE: Final = frozenset({404, 410})


class SessionGoneError(UnavailableError):
    """The server does not know the session any more: it did nothing, and a new session may be opened."""


class SilentCutError(UncertainError):
    """The connection broke while an answer was awaited."""


class Failures:
    """Errors on their way through the SDK, which carries a token in their place.

    One that nobody waits for any more is never taken: only the newest are kept, far more than one session's calls.
    """

    def __init__(self) -> None:
        self._under_way: dict[str, NubabelError] = {}

    def put(self, error: NubabelError) -> str:
        token = secrets.token_hex(16)
        self._under_way[token] = error
        if len(self._under_way) > _MAX_UNDER_WAY:
            del self._under_way[next(iter(self._under_way))]
        return token

    def take(self, token: Any) -> NubabelError | None:
        return self._under_way.pop(token, None) if isinstance(token, str) else None


def too_large(max_bytes: int) -> PermanentError:
    return PermanentError(
        f"the tool was called, but its answer is larger than the {max_bytes // 1024} KiB that are read; ask for less",
        code=RESULT_TOO_LARGE,
    )


def refusal(host: str, status: int, headers: Mapping[str, str], *, in_session: bool) -> NubabelError | None:
    """What an HTTP status says about a request, where it says more than the answer's body may."""
    if status in {_STATUS_TOO_MANY, _STATUS_UNAVAILABLE}:
        return _later(host, status, read_retry_after(headers.get("Retry-After", "")))
    if 300 <= status < 400:  # noqa: PLR2004 - RFC 9110, 15.4
        return PermanentError(
            f"{host} redirects to another address; the connection has to name that one", code="redirected"
        )
    if status == _STATUS_UNAUTHORIZED:
        return CredentialsError(f"{host} refuses the credentials", code=UNAUTHORIZED)
    if status == _STATUS_FORBIDDEN:
        return PermanentError(f"{host} forbids this to the connection's credentials", code="forbidden")
    if status in _STATUS_GONE and in_session:
        return SessionGoneError(f"{host} does not know the session any more")
    return UncertainError(f"{host} failed (HTTP {status})") if status >= 500 else None  # noqa: PLR2004


def _later(host: str, status: int, retry_after_s: float | None) -> NubabelError:
    if status == _STATUS_TOO_MANY:
        return RateLimitedError(f"{host} takes no more requests for now", retry_after_s=retry_after_s)
    return UnavailableError(f"{host} is not available for now", retry_after_s=retry_after_s)


def of_the_connection(error: MCPError, failures: Failures, *, max_bytes: int) -> NubabelError | None:
    """What the SDK's error says about the way to the server; None when it is the server's own answer."""
    ours = failures.take(error.data)
    if ours is not None:
        return ours
    if error.code == REQUEST_TIMEOUT and error.message.endswith("timed out"):
        return UnansweredError("the tool gave no answer in time")
    if error.code in {CONNECTION_CLOSED, PARSE_ERROR} and error.message.startswith(_OF_THE_SDK):
        if _TOO_LONG_FOR_THE_SDK in error.message:
            return too_large(max_bytes)
        return SilentCutError("the connection was lost before the tool's answer was there")
    return None
