"""What the processes of a stack write: kept in one file each, passed on, and waited for."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_TAIL_BYTES = 4000

OnLine = Callable[[str, str], None]


@dataclass(slots=True)
class _Awaited:
    names: frozenset[str]
    pattern: re.Pattern[str]
    times: int
    call: Callable[[], object]

    def satisfied_by(self, name: str, line: str) -> bool:
        """Count the line; whether it was the last one missing."""
        if name in self.names and self.pattern.search(line):
            self.times -= 1
            if self.times == 0:
                self.call()
        return self.times == 0


class StackLogs:
    """Takes lines from the supervisor's reader threads. pass_on(name, line) receives each of them too."""

    def __init__(self, directory: Path, pass_on: OnLine | None = None) -> None:
        self._directory = directory
        self._pass_on = pass_on
        self._files: dict[str, IO[str]] = {}
        self._awaited: list[_Awaited] = []
        self._lock = threading.Lock()

    def take(self, name: str, line: str) -> None:
        with self._lock:
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = self.path(name).open("a", encoding="utf-8", errors="replace", buffering=1)
            file.write(f"{line}\n")
            self._awaited = [awaited for awaited in self._awaited if not awaited.satisfied_by(name, line)]
        if self._pass_on is not None:
            self._pass_on(name, line)

    def next_lines(self, names: Iterable[str], pattern: str, *, times: int = 1) -> "asyncio.Future[None]":
        """Done when these processes together have written that many more lines that contain the pattern.

        Ask before what causes the lines.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def resolve() -> None:
            if not future.done():
                future.set_result(None)

        if times == 0:
            resolve()
            return future
        with self._lock:
            self._awaited.append(
                _Awaited(frozenset(names), re.compile(pattern), times, lambda: loop.call_soon_threadsafe(resolve))
            )
        return future

    def path(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def tail(self, name: str) -> str:
        """The last lines of a process; empty when it wrote none."""
        path = self.path(name)
        if not path.exists():
            return ""
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace")

    def close(self) -> None:
        with self._lock:
            for file in self._files.values():
                file.close()
            self._files.clear()
