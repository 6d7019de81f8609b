"""Streamable HTTP through the egress guard. https://modelcontextprotocol.io/specification/draft/basic/transports"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import orjson
from mcp.client._transport import TransportStreams
from mcp.client.streamable_http import MCP_SESSION_ID, streamable_http_client

from nubabel_workers.adapters.egress.guard import EGRESS_REFUSED, INVALID_URL, EgressGuard
from nubabel_workers.adapters.egress.http_client import EgressRefusedError, GuardedTransport
from nubabel_workers.adapters.mcp.failures import (
    FAILED_HERE,
    Failures,
    SessionGoneError,
    SilentCutError,
    refusal,
    too_large,
)
from nubabel_workers.domain.errors import (
    NubabelError,
    PermanentError,
    UnansweredError,
    UnavailableError,
)

_JSON: Final = "application/json"
_SUBSCRIPTION: Final = "subscriptions/listen"
_MESSAGES_PER_ANSWER: Final = 8  # a stream may carry notifications before the answer: so many times its largest size
_BAD_REQUEST: Final = 400


@dataclass(frozen=True)
class HttpLimits:
    """Seconds, and bytes of one answer."""

    connect_s: float
    answer_s: float
    max_bytes: int


@asynccontextmanager
async def http_streams(
    guard: EgressGuard, url: str, headers: Mapping[str, str], failures: Failures, limits: HttpLimits
) -> AsyncIterator[TransportStreams]:
    """The streams that the SDK's session runs on."""
    async with (
        httpx2.AsyncClient(
            transport=AnsweringTransport(GuardedTransport(guard), failures, limits),
            headers=dict(headers),
            timeout=httpx2.Timeout(limits.connect_s, read=limits.answer_s),
            follow_redirects=False,
            trust_env=False,
        ) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=limits.max_bytes) as streams,
    ):
        yield streams


@dataclass(frozen=True)
class _Message:
    """Of a JSON-RPC message that is sent: id is None for a notification, which has no answer."""

    id: int | str | None
    method: str


class AnsweringTransport(httpx2.AsyncBaseTransport):
    """A request that breaks is answered here, with an error, since the SDK would end its session with all others in it.

    The error's data is the token under which `failures` has the reason.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport, failures: Failures, limits: HttpLimits) -> None:
        self._inner = inner
        self._failures = failures
        self._limits = limits

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method != "POST":
            if request.method == "GET":  # a stream of news, which may be silent for as long as it likes
                _wait_for_ever(request)
            return await self._inner.handle_async_request(request)
        message = _message_of(await request.aread())
        if message.method == _SUBSCRIPTION:
            _wait_for_ever(request)
        try:
            return await self._answer(request, message)
        except NubabelError as error:
            return self._answered_with(error, request, message)
        except httpx2.TransportError as error:
            return self._answered_with(_in_our_words(error), request, message)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def _answer(self, request: httpx2.Request, message: _Message) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        if message.id is None:
            return response
        host, in_session = request.url.host, MCP_SESSION_ID in request.headers
        refused = refusal(host, response.status_code, response.headers, in_session=in_session)
        if refused is not None:
            await response.aclose()
            raise refused
        if response.headers.get("content-type", "").lower().startswith(_JSON):
            content = await self._read(response)
            if response.status_code == _BAD_REQUEST and in_session and b"session" in content.lower():
                raise SessionGoneError(f"{host} does not know the session any more")  # as many servers say it
            return _response(response.status_code, content, request)
        if message.method != _SUBSCRIPTION:
            response.stream = _BoundedStream(response.stream, _MESSAGES_PER_ANSWER * self._limits.max_bytes)
        return response

    async def _read(self, response: httpx2.Response) -> bytes:
        content = bytearray()
        try:
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > self._limits.max_bytes:
                    raise too_large(self._limits.max_bytes)
        finally:
            await response.aclose()
        return bytes(content)

    def _answered_with(self, error: NubabelError, request: httpx2.Request, message: _Message) -> httpx2.Response:
        if message.id is None:
            return httpx2.Response(202, request=request)
        answer = {
            "jsonrpc": "2.0",
            "id": message.id,
            "error": {"code": FAILED_HERE, "message": str(error), "data": self._failures.put(error)},
        }
        return _response(200, orjson.dumps(answer), request)


class _BoundedStream(httpx2.AsyncByteStream):
    def __init__(self, inner: Any, max_bytes: int) -> None:
        self._inner = inner
        self._left = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._inner:
            self._left -= len(chunk)
            if self._left < 0:
                raise httpx2.ReadError("the answer has no end")
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


def _in_our_words(error: httpx2.TransportError) -> NubabelError:
    match error:
        case EgressRefusedError():
            return PermanentError(str(error), code=EGRESS_REFUSED)
        case httpx2.UnsupportedProtocol():
            return PermanentError(str(error), code=INVALID_URL)
        case httpx2.ConnectError() | httpx2.ConnectTimeout() | httpx2.PoolTimeout():
            return UnavailableError(str(error))
        case httpx2.TimeoutException():
            return UnansweredError(str(error))
        case _:
            return SilentCutError(str(error))


def _message_of(content: bytes) -> _Message:
    message = orjson.loads(content)
    method = message.get("method")
    return _Message(message.get("id") if method else None, method or "")


def _wait_for_ever(request: httpx2.Request) -> None:
    request.extensions["timeout"] = {**request.extensions.get("timeout", {}), "read": None}


def _response(status: int, content: bytes, request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(status, headers={"content-type": _JSON}, content=content, request=request)
