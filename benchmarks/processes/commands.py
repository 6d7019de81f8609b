"""How the bench talks to its own processes: one JSON object per line on stdin, one answer per line on stdout.

A process ends when its stdin does, so none outlives the bench.
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

Json = dict[str, Any]
Handler = Callable[[Json], Awaitable[Any]]

_LINE_BYTES = 64 * 1024 * 1024
_STOP_GRACE_S = 10.0


class ProcessError(Exception):
    """A process of the bench ended or failed; its own traceback is on stderr."""


class Remote:
    """The bench's side of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, command: str, **arguments: Any) -> Any:
        """The answer to one command; commands are answered in order."""
        if self._process.stdin is None or self._process.stdout is None:
            raise ProcessError("the process has no pipes")
        async with self._turn:
            self._process.stdin.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
            await self._process.stdin.drain()
            line = await self._process.stdout.readline()
        if not line:
            raise ProcessError(f"process {self._process.pid} ended while it did {command!r}")
        answer = json.loads(line)
        if "error" in answer:
            raise ProcessError(f"{command}: {answer['error']}")
        return answer["value"]


@asynccontextmanager
async def started(module: str) -> AsyncIterator[Remote]:
    """Run `python -m module` until the block ends."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, stdin=PIPE, stdout=PIPE, limit=_LINE_BYTES, start_new_session=True
    )
    try:
        yield Remote(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), _STOP_GRACE_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def serve(handlers: Mapping[str, Handler]) -> None:
    """The process's side: answer commands until stdin ends, which also ends the command at work."""
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    working: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.create_task(_answer(handlers, json.loads(line)))
        working.add(task)
        task.add_done_callback(working.discard)
    for task in working:
        task.cancel()


async def _answer(handlers: Mapping[str, Handler], request: Json) -> None:
    try:
        answer: Json = {"value": await handlers[request.pop("command")](request)}
    except Exception as error:  # noqa: BLE001  # whatever it is, the bench is told
        answer = {"error": f"{type(error).__name__}: {error}"}
        sys.excepthook(type(error), error, error.__traceback__)
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
