"""The command line's long-running commands, started as everybody does, and what is left of them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NUBABEL = str(Path(sys.executable).with_name("nubabel"))


@contextmanager
def started(
    command: str, temporary: Path, *options: str, **settings: str
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The command with its output in a file. What it starts has `temporary` in its environment or its arguments."""
    output = temporary / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [NUBABEL, command, *options],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(temporary), **settings},
        )
    try:
        yield process, output
    finally:
        process.kill()
        process.wait()


def left_over(temporary: Path) -> list[str]:
    """Command lines of processes that belong to a stack in that folder."""
    mark, found = os.fsencode(temporary), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command_line, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if command_line and mark in command_line + environment:
            found.append(command_line.replace(b"\0", b" ").decode(errors="replace"))
    return found
