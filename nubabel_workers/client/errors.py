"""What a client call may raise.

NubabelClientError
  ApiError                    the gateway refused; has status, code, detail, correlation_id, errors
    InvalidRequestError       400, 413, 422: the request does not fit; change it
      IdempotencyKeyReusedError  the key stands for another request; take a new key
    AuthenticationError       401: the token is unknown, expired or revoked
    ForbiddenError            403: the token may not do this, or its organization is disabled
    ExecutionNotFoundError    404: your organization has no such execution or session
    TooManyRequestsError      429: wait retry_after_s seconds
    UnavailableError          5xx: tried again and given up; safe to send again
  ConnectionFailedError       no answer; safe to send again, the idempotency key makes a repeat harmless
  NotAcceptedError            a broker submission has no execution after the time that you gave it
  WaitTimeoutError            the execution did not end within the time that you gave it
"""

from collections.abc import Mapping, Sequence
from typing import Any

_NAMED = 5  # parts of a request that an error's text names; `errors` has all


class NubabelClientError(Exception):
    """Anything that this client raises on purpose."""


class ApiError(NubabelClientError):
    """The gateway's problem (RFC 9457). code is stable; quote correlation_id to the operators."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        correlation_id: str = "",
        errors: Sequence[Mapping[str, Any]] = (),
        retry_after_s: float | None = None,
    ) -> None:
        named = [words for words in map(_words_of, errors[:_NAMED]) if words]
        parts = ": ".join([detail, "; ".join(named)]) if named else detail
        more = f" and {len(errors) - _NAMED} more" if len(errors) > _NAMED else ""
        super().__init__(f"{status} {code}: {parts}{more}" + (f" ({correlation_id})" if correlation_id else ""))
        self.status = status
        self.code = code
        self.detail = detail
        self.correlation_id = correlation_id
        self.errors = tuple(errors)
        self.retry_after_s = retry_after_s


class InvalidRequestError(ApiError):
    """The request does not fit; `errors` names the parts."""


class IdempotencyKeyReusedError(InvalidRequestError):
    """The key was used for another request."""


class AuthenticationError(ApiError):
    """The token is missing, unknown, expired or revoked."""


class ForbiddenError(ApiError):
    """The token may not do this, or its organization is disabled."""


class ExecutionNotFoundError(ApiError):
    """Your organization has no such execution or session."""


class TooManyRequestsError(ApiError):
    """Too much at once."""


class UnavailableError(ApiError):
    """The gateway could not serve, also after trying again."""


class ConnectionFailedError(NubabelClientError):
    """No answer came, also after trying again. Whether the request arrived is unknown; sending it again is safe."""


class NotAcceptedError(NubabelClientError):
    """A broker submission has no execution yet. It may still get one; submitting again with the same key is safe."""


class WaitTimeoutError(NubabelClientError):
    """The execution did not end in time; it goes on."""


_CLASSES: Mapping[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: AuthenticationError,
    403: ForbiddenError,
    404: ExecutionNotFoundError,
    408: InvalidRequestError,
    413: InvalidRequestError,
    422: InvalidRequestError,
    429: TooManyRequestsError,
}


def _words_of(error: Mapping[str, Any]) -> str:
    """`prompt: Field required`: where, and what is wrong there."""
    location, message = error.get("location"), error.get("message")
    steps = location if isinstance(location, list) else []
    where = ".".join(str(step) for number, step in enumerate(steps) if number or step != "body")
    return ": ".join(str(words) for words in (where, message) if words)


def error_class(status: int, code: str) -> type[ApiError]:
    if code == "idempotency_key_reused":
        return IdempotencyKeyReusedError
    return _CLASSES.get(status, UnavailableError if status >= 500 else ApiError)  # noqa: PLR2004 - HTTP's classes
