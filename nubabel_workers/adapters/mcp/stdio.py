"""Servers that are started by a command and spoken to through their pipes: one line, one message.

Own transport, since the SDK's hands parts of our environment on, reads lines of any length and leaves its children
behind when this process is killed. https://modelcontextprotocol.io/specification/draft/basic/transports
"""

import asyncio
import os
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

import anyio
import structlog
from mcp.client._transport import TransportStreams
from mcp.shared.message import SessionMessage
from mcp.types import ErrorData, JSONRPCError, jsonrpc_message_adapter

from nubabel_workers.adapters.guardian import guardian
from nubabel_workers.adapters.mcp.failures import FAILED_HERE, Failures, too_large
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.redaction import masked

log = structlog.get_logger(__name__)

_CHUNK_BYTES: Final = 64 * 1024
_STDERR_BYTES: Final = 4 * 1024  # of its last words
_ENDS: Final = 200  # bytes at both ends of a line that is too long, where its id is
_GRACE_S: Final = 2.0  # after its input was closed, and after SIGTERM
# The id of an answer: first as most servers write it, or last as the official one for Node.js does.
_ID_FIRST: Final = re.compile(rb'\A\{"jsonrpc":\s?"2\.0",\s?"id":\s?(\d+)[,}]')
_ID_LAST: Final = re.compile(rb'"id":\s?(\d+)\}\s*\Z')


@dataclass(frozen=True)
class Command:
    """What to start. environment: the whole of it."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]


@asynccontextmanager
async def command_streams(
    command: Command, failures: Failures, *, max_bytes: int, on_end: Callable[[], None]
) -> AsyncIterator[TransportStreams]:
    """The streams that the SDK's session runs on; the process ends with them. on_end: it ended by itself."""
    process = await _start(command)
    incoming, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_server, outgoing = anyio.create_memory_object_stream[SessionMessage](0)

    async def read() -> None:
        async with incoming:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                async for line in _lines(process, max_bytes):
                    message = _message_of(line, failures, max_bytes)
                    if message is not None:
                        await incoming.send(message)
        on_end()

    async def write() -> None:
        async with outgoing:
            with suppress(OSError, anyio.ClosedResourceError):
                async for message in outgoing:
                    await _send(process, message)

    try:
        async with anyio.create_task_group() as pipes:
            pipes.start_soon(read)
            pipes.start_soon(write)
            pipes.start_soon(_listen_to_last_words, process, command.name)
            try:
                yield from_server, to_server
            finally:
                for stream in (from_server, to_server):
                    await stream.aclose()
                with anyio.CancelScope(shield=True):
                    await _stop(process)
                pipes.cancel_scope.cancel()
    finally:
        guardian.forget(process.pid)


async def _start(command: Command) -> Process:
    try:
        process = await asyncio.create_subprocess_exec(
            *command.argv,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=dict(command.environment),
            cwd="/",
            start_new_session=True,  # signalled as a group, and out of reach of signals to ours
        )
    except (OSError, ValueError) as error:
        raise UnavailableError(f"the server {command.name} cannot be started ({type(error).__name__})") from None
    guardian.watch(process.pid)
    return process


@dataclass(frozen=True)
class _Line:
    """tail: the last bytes of a line that was too long; None for one that is whole."""

    content: bytes
    tail: bytes | None = None


async def _lines(process: Process, max_bytes: int) -> AsyncIterator[_Line]:
    """What is too long is read to its end, and not kept."""
    content, tail, too_long = bytearray(), b"", False
    while chunk := await _pipe(process.stdout).read(_CHUNK_BYTES):
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            too_long = too_long or len(content) + len(part) > max_bytes
            yield _Line(bytes(content + part)[:max_bytes], (tail + part)[-_ENDS:] if too_long else None)
            content, tail, too_long = bytearray(), b"", False
        too_long = too_long or len(content) + len(rest) > max_bytes
        content += rest[: max_bytes - len(content)]
        tail = (tail + rest)[-_ENDS:]


def _message_of(line: _Line, failures: Failures, max_bytes: int) -> SessionMessage | None:
    """None for what is no message: some servers print other things."""
    if line.tail is not None:
        return _too_large(line, failures, max_bytes)
    try:
        return SessionMessage(jsonrpc_message_adapter.validate_json(line.content, by_name=False))
    except ValueError:
        if line.content.strip():
            log.warning("mcp.line_not_understood", bytes=len(line.content))
        return None


def _too_large(line: _Line, failures: Failures, max_bytes: int) -> SessionMessage | None:
    found = _ID_FIRST.search(line.content[:_ENDS]) or _ID_LAST.search(line.tail or b"")
    if found is None:
        log.warning("mcp.line_too_long", limit=max_bytes)
        return None
    error = too_large(max_bytes)
    data = ErrorData(code=FAILED_HERE, message=str(error), data=failures.put(error))
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=int(found[1]), error=data))


async def _send(process: Process, message: SessionMessage) -> None:
    text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
    stdin = process.stdin
    if stdin is not None:
        stdin.write(text.encode("utf-8", "replace") + b"\n")
        await stdin.drain()


async def _listen_to_last_words(process: Process, name: str) -> None:
    """Its standard error is read, so that it never waits for us; what it said last is told once it has ended."""
    words = b""
    while chunk := await _pipe(process.stderr).read(_CHUNK_BYTES):
        words = (words + chunk)[-_STDERR_BYTES:]
    if process.stdin is not None and not process.stdin.is_closing():
        log.warning("mcp.server_ended", server=name, said=masked(words.decode("utf-8", "replace")))


async def _stop(process: Process) -> None:
    """As the specification wants it: its input is closed, then SIGTERM, then SIGKILL; the whole group."""
    if process.stdin is not None:
        process.stdin.close()
    if await _has_ended(process):
        _signal_group(process, signal.SIGKILL)  # whoever it started and left
        return
    _signal_group(process, signal.SIGTERM)
    if not await _has_ended(process):
        _signal_group(process, signal.SIGKILL)
        await _has_ended(process)


async def _has_ended(process: Process) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    return process.returncode is not None


def _signal_group(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _pipe(stream: asyncio.StreamReader | None) -> asyncio.StreamReader:
    if stream is None:
        raise RuntimeError("the process was started without pipes")
    return stream
