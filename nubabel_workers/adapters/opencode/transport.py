"""The one place that chooses how bytes travel to OpenCode, and that tells "not sent" from "sent, no answer".

httpx is the interface, aiohttp carries the async side: httpx's own pool inspects every connection at every request,
which costs twenty times as much CPU with a hundred connections. No proxy is ever used: OpenCode is our own server.
"""

from dataclasses import dataclass

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

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


def new_http_client(*, max_connections: int = 200) -> httpx.AsyncClient:
    """One per process, shared by the clients of all servers; close it with `aclose()`."""

    def new_session() -> aiohttp.ClientSession:  # called at the first request: it belongs to the running loop
        connector = aiohttp.TCPConnector(
            limit=max_connections, limit_per_host=max_connections, keepalive_timeout=_KEEPALIVE_S
        )
        return aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, auto_decompress=False
        )

    return httpx.AsyncClient(transport=AiohttpTransport(client=new_session), trust_env=False)


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
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientError):
        # httpx-aiohttp turns every lost connection into a ConnectTimeout; aiohttp's own class knows better.
        error = cause
    if isinstance(error, aiohttp.ClientError):
        return not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL)
    return not isinstance(
        error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.UnsupportedProtocol
    )


def reason(error: BaseException) -> str:
    """What to say of it in logs: the class. Texts of transport errors may hold URLs."""
    cause = error.__cause__
    return type(cause if isinstance(cause, aiohttp.ClientError) else error).__name__
