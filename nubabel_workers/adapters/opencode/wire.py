"""OpenCode's HTTP API as values: requests out, answers and errors in. Pure; the clients only carry bytes.

Measured on opencode 1.18.33. Two traps shape this module: an unknown path answers 200 with the web page, so the content
type is checked before anything is decoded; and a prompt whose answer got lost may be running, so it is never reported
as something that may simply be repeated.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from nubabel_workers.adapters.opencode import decoding
from nubabel_workers.adapters.retry_after import read_retry_after
from nubabel_workers.domain.errors import (
    CredentialsError,
    InvalidInputError,
    NotFoundError,
    NubabelError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UnavailableError,
    UncertainError,
)

_T = TypeVar("_T")

DEFAULT_USERNAME = "opencode"
EVENT_STREAM_PATH = "/global/event"
_SUCCESS = range(200, 300)
_SERVER_ERROR = 500
_UNAVAILABLE = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer. headers: with lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def content_type(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Call(Generic[_T]):
    """One request and how to read its answer.

    repeatable: doing it twice does no harm. What is not repeatable and was sent without a clear answer is uncertain.
    patience_s: the server answers when it has finished its work, which may take this long; None: at once.
    secret: the body holds credentials and is shown to nobody, not even to hooks that asked for bodies.
    """

    name: str
    method: str
    target: str  # path and query
    decode: Callable[[Answer], _T] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    repeatable: bool = True
    patience_s: float | None = None
    secret: bool = False


def read_answer(call: Call[_T], answer: Answer) -> _T:
    """The decoded answer, or the error of our taxonomy that it means."""
    if answer.status not in _SUCCESS:
        raise _refusal(call, answer)
    return call.decode(answer)


def not_sent(call: Call[Any], reason: str) -> NubabelError:
    """No connection was made: nothing can have happened on the server."""
    return UnavailableError(f"OpenCode could not be reached for {call.name}: {reason}")


def no_answer(call: Call[Any], reason: str) -> NubabelError:
    """The request was sent, in whole or in part, and no complete answer came."""
    if call.repeatable:
        return UnavailableError(f"OpenCode did not answer {call.name}: {reason}")
    return UncertainError(f"OpenCode did not answer {call.name}, which may have taken effect: {reason}")


def _refusal(call: Call[Any], answer: Answer) -> NubabelError:  # noqa: PLR0911  # one line per meaning reads best
    name = decoding.error_name(answer.body)
    told = f"OpenCode answered {answer.status} to {call.name}" + (f" ({name})" if name else "")
    status = answer.status
    if status >= _SERVER_ERROR and not call.repeatable:
        return UncertainError(told)
    if status in _UNAVAILABLE:
        return UnavailableError(told, retry_after_s=_retry_after_s(answer))
    if status >= _SERVER_ERROR:
        return TransientError(told, retry_after_s=_retry_after_s(answer))
    if status == 429:  # noqa: PLR2004  # HTTP's own number
        return RateLimitedError(told, retry_after_s=_retry_after_s(answer))
    if status in {408, 409}:  # timeout; SessionBusyError
        return TransientError(told)
    if status in {401, 403}:
        return CredentialsError(told)
    if status == 404:  # noqa: PLR2004  # HTTP's own number
        return NotFoundError(told)
    if status in {400, 422}:
        return InvalidInputError(told)
    return PermanentError(told, code=f"http_{status}")


def _retry_after_s(answer: Answer) -> float | None:
    return read_retry_after(answer.headers.get("retry-after", ""))


def basic_authorization(username: str, password: SecretStr | None) -> SecretStr | None:
    """The Authorization header's value; None for a server without a password."""
    if password is None:
        return None
    pair = f"{username}:{password.get_secret_value()}".encode()
    return SecretStr("Basic " + base64.b64encode(pair).decode("ascii"))


def checked_base_url(url: str) -> str:
    """The URL without a trailing slash. Credentials in it are refused: URLs appear in logs."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.password:
        raise InvalidInputError("an OpenCode URL is http(s)://host[:port][/path] without credentials in it")
    return url.rstrip("/")
