"""The egress guard for libraries that bring their own HTTP: a client of httpx2 that can leave no other way.

The MCP SDK speaks with httpx2; the guard is its transport, so that what the SDK does by itself is guarded too.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import aiohttp
import httpx2
from yarl import URL

from nubabel_workers.adapters.egress.guard import EgressGuard
from nubabel_workers.domain.errors import PermanentError

_IDENTITY: Final = "identity"
# Ours, or the connection's own: they say how the bytes travel, which aiohttp decides.
_NOT_FORWARDED: Final = frozenset({"accept-encoding", "connection", "content-length", "transfer-encoding"})


class EgressRefusedError(httpx2.ConnectError):
    """The guard let nothing out: the address is out of bounds. Trying again is pointless."""


def guarded_client(
    guard: EgressGuard, *, timeout_s: float, read_timeout_s: float, headers: Mapping[str, str] | None = None
) -> httpx2.AsyncClient:
    """No redirects, no proxies, no cookies. read_timeout_s: between two pieces of an answer."""
    return httpx2.AsyncClient(
        transport=GuardedTransport(guard),
        headers=dict(headers or {}),
        timeout=httpx2.Timeout(timeout_s, read=read_timeout_s),
        follow_redirects=False,
        trust_env=False,  # a proxy of the environment would be another way out
    )


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Connections of its own: streams that stay open take none from webhooks."""

    def __init__(self, guard: EgressGuard) -> None:
        self._guard = guard
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises EgressRefusedError, and httpx2's own errors for everything that goes wrong outside."""
        content = await request.aread()
        with _errors_of_httpx2(request):
            self._guard.check_url(str(request.url))
            answer = await self._connected().request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=_sent_headers(request),
                data=content or None,
                allow_redirects=False,
                timeout=_timeout(request),
            )
        encoding = answer.headers.get("Content-Encoding", _IDENTITY).strip().lower()
        if encoding != _IDENTITY:  # nobody asked for it; unpacked it could be of any size
            answer.close()
            raise httpx2.RemoteProtocolError(f"the answer is packed ({encoding[:20]})", request=request)
        return httpx2.Response(
            answer.status, headers=_shown_headers(answer), stream=_AnswerStream(answer, request), request=request
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = self._guard.new_session()
        return self._session


class _AnswerStream(httpx2.AsyncByteStream):
    def __init__(self, answer: aiohttp.ClientResponse, request: httpx2.Request) -> None:
        self._answer = answer
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _errors_of_httpx2(self._request):
            async for chunk in self._answer.content.iter_any():
                yield chunk

    async def aclose(self) -> None:
        if self._answer.content.at_eof():
            self._answer.release()
        else:
            self._answer.close()


def _sent_headers(request: httpx2.Request) -> list[tuple[str, str]]:
    return [(name, value) for name, value in request.headers.multi_items() if name.lower() not in _NOT_FORWARDED]


def _shown_headers(answer: aiohttp.ClientResponse) -> list[tuple[str, str]]:
    """Without where a redirect leads: the SDK would follow it."""
    return [(name, value) for name, value in answer.headers.items() if name.lower() != "location"]


def _timeout(request: httpx2.Request) -> aiohttp.ClientTimeout:
    asked = request.extensions.get("timeout", {})
    return aiohttp.ClientTimeout(
        total=None, connect=asked.get("pool"), sock_connect=asked.get("connect"), sock_read=asked.get("read")
    )


@contextmanager
def _errors_of_httpx2(request: httpx2.Request) -> Iterator[None]:
    host = request.url.host
    try:
        yield
    except PermanentError as error:
        raise EgressRefusedError(str(error), request=request) from None
    except (aiohttp.ConnectionTimeoutError, aiohttp.ClientConnectorError) as error:
        raise httpx2.ConnectError(f"{host} could not be reached ({type(error).__name__})", request=request) from None
    except TimeoutError as error:  # aiohttp's are too
        raise httpx2.ReadTimeout(f"{host} gave no answer ({type(error).__name__})", request=request) from None
    except (aiohttp.InvalidURL, UnicodeError) as error:
        raise httpx2.UnsupportedProtocol(f"the URL is not usable ({type(error).__name__})", request=request) from None
    except (aiohttp.ClientError, OSError) as error:
        raise httpx2.ReadError(f"{host} gave no answer ({type(error).__name__})", request=request) from None
