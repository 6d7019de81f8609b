"""What the processes of a stack write: kept in one file each, passed on, and waited for."""

import asyncio
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

_TAIL_BYTES = 4000

OnLine = Callable[[str, str], None]


class StackLogs:
    """Takes lines from the supervisor's reader threads. pass_on(name, line) receives each of them too."""

    def __init__(self, directory: Path, pass_on: OnLine | None = None) -> None:
        self._directory = directory
        self._pass_on = pass_on
        self._files: dict[str, IO[str]] = {}
        self._awaited: list[tuple[str, re.Pattern[str], Callable[[], None]]] = []
        self._lock = threading.Lock()

    def take(self, name: str, line: str) -> None:
        with self._lock:
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = self.path(name).open("a", encoding="utf-8", errors="replace", buffering=1)
            file.write(f"{line}\n")
            for awaited in [one for one in self._awaited if one[0] == name and one[1].search(line)]:
                self._awaited.remove(awaited)
                awaited[2]()
        if self._pass_on is not None:
            self._pass_on(name, line)

    def next_line(self, name: str, pattern: str) -> "asyncio.Future[None]":
        """Done with the next line of that process that contains the pattern. Ask before what causes the line."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def resolve() -> None:
            if not future.done():
                future.set_result(None)

        def found() -> None:
            loop.call_soon_threadsafe(resolve)

        with self._lock:
            self._awaited.append((name, re.compile(pattern), found))
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
