"""Where log lines are written: a disk that is full, or a reader that is gone, costs lines, never the process."""

import io
import sys
import threading
from typing import BinaryIO

_lost = 0


def lines_lost() -> int:
    """How many lines of this process could not be written."""
    return _lost


class LogTarget:
    """Writes lines whole: the lock keeps those of several threads apart.

    Unbuffered where it can be: what a buffer could not get rid of would come up again at the end of the process, as an
    error.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = getattr(stream, "raw", stream)
        self._lock = threading.Lock()
        self._failing = False

    def write(self, line: bytes) -> None:
        """Raises nothing: a line that cannot be written is counted, and the first of several is told on stderr."""
        global _lost  # noqa: PLW0603  # standard output is the process's own
        with self._lock:
            try:
                self._write_all(line + b"\n")
                self._failing = False
            except (OSError, ValueError) as error:  # ValueError: closed
                _lost += 1
                self._tell_once(error)

    def _write_all(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            written = self._stream.write(left)
            if not written:
                raise BlockingIOError("nobody reads")
            left = left[written:]
        if not isinstance(self._stream, io.RawIOBase):
            self._stream.flush()

    def _tell_once(self, error: Exception) -> None:
        if self._failing:
            return
        self._failing = True
        try:
            sys.stderr.write(f"log lines are lost: {error}\n")
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            return  # the same disk, or no stderr: the metric counts
