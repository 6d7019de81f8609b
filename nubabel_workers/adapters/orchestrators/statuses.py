"""HTTP statuses of orchestrators, as errors of ours."""

from collections.abc import Mapping
from datetime import datetime
from http import HTTPStatus

from nubabel_workers.adapters.retry_after import read_retry_after
from nubabel_workers.domain.errors import (
    CredentialsError,
    NotFoundError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UnavailableError,
    UncertainError,
)

_LATER = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_EARLY})
_OVERLOADED = 529  # Anthropic's API
_AWAY = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, _OVERLOADED})


def require_success(status: int, headers: Mapping[str, str], *, who: str, now: datetime) -> None:
    """headers: names in lower case, or a mapping that does not mind. Raises unless status is 2xx.

    Only who says that it does not serve now is away, which costs no attempt; one that failed at this request may do so
    for ever.
    """
    retry_after_s = read_retry_after(headers.get("retry-after", ""), now)
    match status:
        case _ if 200 <= status < 300:  # noqa: PLR2004 - HTTP's own ranges
            return
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            raise CredentialsError(f"{who} refused our credentials (HTTP {status})")
        case HTTPStatus.NOT_FOUND:
            raise NotFoundError(f"{who} answered HTTP 404")
        case HTTPStatus.TOO_MANY_REQUESTS:
            raise RateLimitedError(f"{who} limits us", retry_after_s=retry_after_s)
        case HTTPStatus.BAD_GATEWAY | HTTPStatus.GATEWAY_TIMEOUT:
            raise UncertainError(f"something before {who} answered HTTP {status}: it may be working on it")
        case _ if status in _AWAY:
            raise UnavailableError(f"{who} answered HTTP {status}", retry_after_s=retry_after_s)
        case _ if status >= 500 or status in _LATER:  # noqa: PLR2004 - HTTP's own ranges
            raise TransientError(f"{who} answered HTTP {status}", retry_after_s=retry_after_s)
        case _:
            raise PermanentError(f"{who} refused with HTTP {status}", code=f"http_{status}")
