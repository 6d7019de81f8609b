"""The one place that chooses how bytes travel to OpenCode, and that tells "not sent" from "sent, no answer".

The async side is aiohttp itself, behind one method: with httpx in front of it a small request costs three times as
much CPU (0.44 ms instead of 0.13), and httpx's own pool is worse. The sync twin, for scripts, is httpx. No proxy is
ever used: OpenCode is our own server.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import aiohttp
import httpx

from nubabel_workers.adapters.opencode.decoding import UnexpectedAnswerError
from nubabel_workers.adapters.opencode.wire import Answer

MAX_ANSWER_BYTES = 64 * 1024 * 1024
# Shorter than servers keep idle connections: a POST on one that is just being closed has an uncertain outcome.
_KEEPALIVE_S = 4.0
_STREAM_BUFFER_BYTES = 1024 * 1024

# Everything that may come out of a request of either client.
TRANSPORT_ERRORS = (httpx.HTTPError, aiohttp.ClientError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. connect: also waiting for a free connection. read: between two pieces of an answer. total: all of it."""

    connect_s: float = 5.0
    read_s: float = 20.0
    total_s: float = 30.0


DEFAULT_TIMEOUTS = Timeouts()


class AsyncHttp(Protocol):
    """What the async client needs of HTTP."""

    async def exchange(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, connect_s: float, read_s: float
    ) -> Answer:
        """One request and its whole answer. Raises TRANSPORT_ERRORS, or UnexpectedAnswerError for an endless answer."""
        ...


class HttpClient:
    """AsyncHttp over one pool of connections: one per process, for all servers. Close it with `aclose()`."""

    def __init__(self, *, max_connections: int = 200) -> None:
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None

    async def exchange(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, connect_s: float, read_s: float
    ) -> Answer:
        timeout = aiohttp.ClientTimeout(total=None, connect=connect_s, sock_connect=connect_s, sock_read=read_s)
        async with self._opened().request(
            method, url, headers=headers, data=body, timeout=timeout, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await _read(response))

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        """Opened at the first request: it belongs to the running loop."""
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._max_connections, limit_per_host=self._max_connections, keepalive_timeout=_KEEPALIVE_S
            )
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False
            )
        return self._session


def new_http_client(*, max_connections: int = 200) -> HttpClient:
    """One per process, shared by the clients of all servers; close it with `aclose()`."""
    return HttpClient(max_connections=max_connections)


def new_sync_http_client(*, max_connections: int = 20) -> httpx.Client:
    """For scripts and producers without an event loop; thread-safe."""
    limits = httpx.Limits(max_connections=max_connections, keepalive_expiry=_KEEPALIVE_S)
    return httpx.Client(transport=httpx.HTTPTransport(limits=limits, trust_env=False), trust_env=False)


def new_stream_session() -> aiohttp.ClientSession:
    """For event streams: no limit of connections, large reads. Call it inside of the running loop; close it."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        read_bufsize=_STREAM_BUFFER_BYTES,
    )


def was_sent(error: BaseException) -> bool:
    """Whether the request may have reached the server. Any doubt counts as yes."""
    if isinstance(error, aiohttp.ClientError):
        return not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL)
    return not isinstance(
        error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol
    )


def reason(error: BaseException) -> str:
    """What to say of it in logs: the class. Texts of transport errors may hold URLs."""
    return type(error).__name__


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if (response.content_length or 0) > MAX_ANSWER_BYTES:
        raise answer_too_long()
    if response.content_length is not None:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise answer_too_long()
    return bytes(body)


def answer_too_long() -> UnexpectedAnswerError:
    return UnexpectedAnswerError(f"OpenCode's answer is longer than {MAX_ANSWER_BYTES} bytes")
