"""How much work something is, without a clock: lines of Python that it executes in one folder."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any


@dataclass
class Executed:
    lines: int = 0


@contextmanager
def executed_lines(folder: Path) -> Iterator[Executed]:
    """Those of this thread, each time that one is executed, also of what goes on meanwhile in its event loop."""
    executed, prefix = Executed(), f"{folder}/"

    def count(_frame: FrameType, event: str, _arg: object) -> Any:
        executed.lines += event == "line"
        return count

    def enter(frame: FrameType, _event: str, _arg: object) -> Any:
        return count if frame.f_code.co_filename.startswith(prefix) else None

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        yield executed
    finally:
        sys.settrace(before)
