"""A server that answers with given bytes, whatever it is asked, and hangs up; and the bytes that it answers with."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from hypothesis import strategies as st

from tasks.runtime import LoopThread
from tests.faults.raw_input.values import RAW

_STATUSES = (200, 200, 201, 204, 301, 304, 400, 401, 403, 404, 408, 409, 410, 429, 500, 502, 503, 504, 599, 999)
_NO_STATUS_LINES = (
    *(b"", b"HTTP/1.1", b"HTTP/1.1 0200 OK", b"HTTP/1.1 -1 X", b"HTTP/9.9 200 OK", b"ICY 200 OK", b"SSH-2.0-x"),
    b"\x00",
)
_STATUS_LINES = st.one_of(
    st.sampled_from(_STATUSES).map(lambda status: f"HTTP/1.1 {status} X".encode()), st.sampled_from(_NO_STATUS_LINES)
)
_RETRY_AFTER = (
    *(b"1", b"-1", b"0x10", b"1e9", b"nan", b"9" * 400, "\u00b2".encode(), "\u0661".encode()),
    *(b"Fri, 31 Dec 9999 23:59:59 GMT", b"Mon, 01 Jan 0001 00:00:00 -2359"),
    b"Mon, 01 Jan 99999999999999999999 0:0:0 GMT",
)
_ODD_HEADERS = (
    *(b"Content-Type: text/html", b"Content-Type: ", b"Content-Type: \xff", b"Content-Type: a/b; c=d; c=e"),
    *(b"Content-Length: -1", b"Content-Length: 99999999999", b"Content-Length: 3", b"Content-Length: x"),
    *(b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", b"Location: http://[::1", b"Set-Cookie: \xff"),
    *(b"X-Next-Cursor: \xff\xfe", b"no colon", b": no name", b"X: " + b"y" * 20_000, b"A\x00B: c"),
)
_HEADERS = st.lists(
    st.one_of(
        st.sampled_from(_RETRY_AFTER).map(lambda value: b"Retry-After: " + value),
        st.sampled_from(_ODD_HEADERS),
        st.binary(max_size=40),
    ),
    max_size=3,
)


@st.composite
def answers(draw: st.DrawFn, bodies: st.SearchStrategy[bytes], content_type: bytes) -> bytes:
    """Mostly HTTP that says something odd; sometimes no HTTP."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    body = draw(bodies | RAW)
    usual = [b"Content-Type: " + content_type, b"Content-Length: %d" % len(body), b"Connection: close"]
    head = [draw(_STATUS_LINES), *draw(_HEADERS), *draw(st.lists(st.sampled_from(usual), max_size=3, unique=True))]
    whole = b"\r\n".join(head) + b"\r\n\r\n" + body
    return whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 4)) == 0 else whole


class RawServer:
    """Answers with `answer`, once per connection."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.answer = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            await writer.drain()
        writer.close()


@contextmanager
def raw_server(loop: LoopThread) -> Iterator[RawServer]:
    raw = RawServer(0)

    async def start() -> asyncio.Server:
        return await asyncio.start_server(raw.serve, "127.0.0.1", 0)

    server = loop.run(start(), timeout_s=5)
    raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield raw
    loop.call_soon(server.close)
