"""The event stream's connection: bursts, silence, and every way to end."""

import asyncio
import contextlib

import pytest

from nubabel_workers.adapters.opencode import (
    UnexpectedAnswerError,
    events,
    new_stream_session,
    new_sync_http_client,
    sync_events,
)
from nubabel_workers.domain.errors import CredentialsError, NubabelError, UnavailableError
from tests.unit.adapters.opencode.tcp import Behaviour, free_url, server


def streaming(body: bytes, content_type: str = "text/event-stream") -> Behaviour:
    async def stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\nconnection: close\r\n\r\n".encode() + body)
        await writer.drain()

    return stream


CONNECTED = b'data: {"payload":{"id":"evt_1","type":"server.connected","properties":{}}}\n\n'


async def read_all(url: str, *, silence_s: float = 5.0) -> int:
    """How many bursts came before the error that ends a stream."""
    bursts = 0
    async with (
        new_stream_session() as session,
        contextlib.aclosing(events(session, url, silence_s=silence_s)) as stream,
    ):
        async for _ in stream:
            bursts += 1
    return bursts


async def test_closed_stream_is_an_error() -> None:
    async with server(streaming(CONNECTED)) as url:
        with pytest.raises(UnavailableError, match="closed"):
            await read_all(url)


async def test_silent_stream_is_dead() -> None:
    async def connected_then_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await streaming(CONNECTED)(reader, writer)
        await reader.read()

    async with server(connected_then_silent) as url:
        with pytest.raises(UnavailableError, match="SocketTimeoutError"):
            await read_all(url, silence_s=0.1)


async def test_web_page_is_no_event_stream() -> None:
    async with server(streaming(b"<html>", "text/html")) as url:
        with pytest.raises(UnexpectedAnswerError):
            await read_all(url)


async def test_unreachable_stream_is_unavailable() -> None:
    with pytest.raises(UnavailableError):
        await read_all(await free_url())


async def test_frames_that_arrive_together_are_one_burst() -> None:
    async with (
        server(streaming(CONNECTED * 50)) as url,
        new_stream_session() as session,
        contextlib.aclosing(events(session, url)) as stream,
    ):
        burst = await anext(stream)

    assert len(burst) == 50


def refusing(status: int) -> Behaviour:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status} No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()

    return refuse


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await streaming(CONNECTED)(reader, writer)
    await reader.read()


@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        pytest.param(streaming(CONNECTED), UnavailableError, id="closed"),
        pytest.param(silent, UnavailableError, id="silent"),
        pytest.param(streaming(b"<html>", "text/html"), UnexpectedAnswerError, id="web page"),
        pytest.param(refusing(401), CredentialsError, id="refused"),
        pytest.param(refusing(503), UnavailableError, id="overloaded"),
    ],
)
async def test_blocking_twin_ends_alike(behaviour: Behaviour, error: type[NubabelError]) -> None:
    def read(url: str) -> None:
        with new_sync_http_client() as http, contextlib.closing(sync_events(http, url, silence_s=0.2)) as stream:
            for _ in stream:
                pass

    async with server(behaviour) as url:
        with pytest.raises(error) as in_a_thread:
            await asyncio.to_thread(read, url)
        with pytest.raises(error) as in_the_loop:
            await read_all(url, silence_s=0.2)

    assert type(in_a_thread.value) is type(in_the_loop.value)
