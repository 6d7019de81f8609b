"""The event stream's connection: bursts, silence, and every way to end."""

import asyncio
import contextlib

import pytest

from nubabel_workers.adapters.opencode import UnexpectedAnswerError, events, new_stream_session
from nubabel_workers.domain.errors import UnavailableError
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
