"""One server's event stream over HTTP: connect, read in bursts, decode. Reconnecting is the listener's business."""

import asyncio
from collections.abc import AsyncGenerator

import aiohttp
from pydantic import SecretStr

from nubabel_workers.adapters.opencode import transport, wire
from nubabel_workers.adapters.opencode.decoding import UnexpectedAnswerError
from nubabel_workers.adapters.opencode.sse import EventDecoder
from nubabel_workers.domain.errors import CredentialsError, UnavailableError
from nubabel_workers.domain.opencode_events import ServerEvent

# Frames come one by one. Leaving them in the kernel's buffer for a moment and reading them together costs a tenth of
# the CPU, and an event waits 20 ms at the most.
_REST_S = 0.02
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
    rest_s: float = _REST_S,
    silence_s: float = _SILENCE_S,
) -> AsyncGenerator[list[ServerEvent], None]:
    """Events of all directories of a server, in bursts of at least one, until the connection ends.

    session: from `new_stream_session()`. decoder: a fresh one, to watch sessions or to count frames. The first event is
    ServerConnected: what happened before it has to be read over HTTP. Close the generator when done
    (`contextlib.aclosing`). It never ends by itself: raises UnavailableError on a lost or silent connection, and
    CredentialsError when refused.
    """
    decoder = decoder or EventDecoder()
    authorization = wire.basic_authorization(username, password)
    headers = {"authorization": authorization.get_secret_value()} if authorization is not None else {}
    url = wire.checked_base_url(base_url) + wire.EVENT_STREAM_PATH
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=silence_s)
    try:
        async with session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
            _check(response)
            while chunk := await response.content.readany():
                if burst := decoder.feed(chunk):
                    yield burst
                if len(chunk) < _FULL_READ_BYTES:
                    await _rest(response, rest_s)
    except transport.TRANSPORT_ERRORS as error:
        raise UnavailableError(f"the event stream of OpenCode broke: {transport.reason(error)}") from error
    raise UnavailableError("OpenCode closed its event stream")


def _check(response: aiohttp.ClientResponse) -> None:
    if response.status == _UNAUTHORIZED:
        raise CredentialsError("OpenCode refused the credentials for its event stream")
    if response.status != _OK:
        raise UnavailableError(f"OpenCode answered {response.status} for its event stream")
    if response.content_type != "text/event-stream":
        raise UnexpectedAnswerError(f"OpenCode answered {response.content_type} instead of an event stream")


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
