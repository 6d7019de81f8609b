"""One server's event stream over HTTP: connect, read in bursts, decode, until the connection ends.

Connecting again is the listener's business, or that of `reconnection`.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Mapping

import aiohttp
import httpx
from pydantic import SecretStr

from nubabel_workers.adapters.opencode import transport, wire
from nubabel_workers.adapters.opencode.arrivals import ArrivalWatch
from nubabel_workers.adapters.opencode.decoding import UnexpectedAnswerError
from nubabel_workers.adapters.opencode.sse import EventDecoder
from nubabel_workers.domain.errors import CredentialsError, UnavailableError
from nubabel_workers.domain.opencode_events import ServerEvent

# Frames come one by one. Leaving them in the kernel's buffer for a moment and reading them together costs a tenth of
# the CPU. An event waits 20 ms at the most, and half of that while a server says little: there is CPU to spare then.
_REST_S = 0.02
_LITTLE_BYTES = 16 * 1024  # about sixty frames in one read
# A read this large says that resting would only hold back what is waiting already.
_FULL_READ_BYTES = 128 * 1024
# The server sends a heartbeat every 10 s; without any frame for this long the connection is dead.
_SILENCE_S = 30.0
_CONNECT_S = 5.0
_OK = 200
_UNAUTHORIZED = 401


async def events(
    session: aiohttp.ClientSession,
    base_url: str,
    *,
    username: str = wire.DEFAULT_USERNAME,
    password: SecretStr | None = None,
    decoder: EventDecoder | None = None,
    arrivals: ArrivalWatch | None = None,
    rest_s: float = _REST_S,
    silence_s: float = _SILENCE_S,
) -> AsyncGenerator[list[ServerEvent], None]:
    """Events of all directories of a server, in bursts of at least one, until the connection ends.

    session: from `new_stream_session()`. decoder: a fresh one, to watch sessions or to count frames. arrivals: a fresh
    one, to be told how late they come, too. The first event is ServerConnected: what happened before it has to be read
    over HTTP. Close the generator when done (`contextlib.aclosing`). It never ends by itself: raises UnavailableError
    on a lost or silent connection, and CredentialsError when refused.
    """
    decoder = decoder or EventDecoder()
    headers = _headers(username, password)
    url = wire.checked_base_url(base_url) + wire.EVENT_STREAM_PATH
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=silence_s)
    try:
        async with session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
            _check(response.status, response.headers)
            asked_at = time.time()
            while chunk := await response.content.readany():
                burst = decoder.feed(chunk)
                if arrivals is not None:
                    burst += arrivals.saw(chunk, asked_at=asked_at, read_at=time.time())
                if burst:
                    yield burst
                if len(chunk) < _FULL_READ_BYTES:
                    await _rest(response, rest_s if len(chunk) > _LITTLE_BYTES else rest_s / 2)
                asked_at = time.time()
    except transport.TRANSPORT_ERRORS as error:
        raise _broken(error) from error
    raise _closed()


def sync_events(
    http: httpx.Client,
    base_url: str,
    *,
    username: str = wire.DEFAULT_USERNAME,
    password: SecretStr | None = None,
    decoder: EventDecoder | None = None,
    silence_s: float = _SILENCE_S,
) -> Generator[list[ServerEvent], None, None]:
    """As `events`, for code without an event loop. It holds one connection of the client's pool while it is open."""
    decoder = decoder or EventDecoder()
    url = wire.checked_base_url(base_url) + wire.EVENT_STREAM_PATH
    timeout = httpx.Timeout(connect=_CONNECT_S, pool=_CONNECT_S, write=_CONNECT_S, read=silence_s)
    try:
        with http.stream("GET", url, headers=_headers(username, password), timeout=timeout) as response:
            _check(response.status_code, response.headers)
            for chunk in response.iter_raw():
                if burst := decoder.feed(chunk):
                    yield burst
    except transport.TRANSPORT_ERRORS as error:
        raise _broken(error) from error
    raise _closed()


def _headers(username: str, password: SecretStr | None) -> dict[str, str]:
    headers = {"accept-encoding": "identity"}
    if (authorization := wire.basic_authorization(username, password)) is not None:
        headers["authorization"] = authorization.get_secret_value()
    return headers


def _broken(error: Exception) -> UnavailableError:
    return UnavailableError(f"the event stream of OpenCode broke: {transport.reason(error)}")


def _closed() -> UnavailableError:
    return UnavailableError("OpenCode closed its event stream")


def _check(status: int, headers: Mapping[str, str]) -> None:
    if status == _UNAUTHORIZED:
        raise CredentialsError("OpenCode refused the credentials for its event stream")
    if status != _OK:
        raise UnavailableError(f"OpenCode answered {status} for its event stream")
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "text/event-stream":
        raise UnexpectedAnswerError(f"OpenCode answered {content_type or 'nothing'} instead of an event stream")


async def _rest(response: aiohttp.ClientResponse, rest_s: float) -> None:
    """Leave the socket alone for a moment, so that what arrives meanwhile costs one read."""
    connection = response.connection
    socket = connection.transport if connection is not None else None
    if socket is None or socket.is_closing():
        return
    socket.pause_reading()
    try:
        await asyncio.sleep(rest_s)
    finally:
        if not socket.is_closing():
            socket.resume_reading()
