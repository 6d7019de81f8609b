"""No child outlives us, not even after SIGKILL: a tiny process that ends what we started once we are gone.

The guardian reads the pids of our children from a pipe. The kernel closes the pipe when this process ends, however it
ends; the guardian then stops what is still registered and leaves. The kernel's own "signal me when my parent dies"
won't do: it is tied to the *thread* that started the child, is lost when the child changes its user, and is Linux only.
"""

import atexit
import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

_GRACE_S = 4.0  # from the polite signal to SIGKILL, once the parent is gone
_POLL_S = 0.05


class Guardian:
    """Started with the first child; registers and forgets pids. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def watch(self, pid: int, stop_signal: signal.Signals = signal.SIGTERM) -> None:
        """End pid, the leader of its own session, when this process is gone."""
        self._tell(f"+{pid} {int(stop_signal)}\n")

    def forget(self, pid: int) -> None:
        """The child was waited for: its pid may belong to anybody from now on."""
        self._tell(f"-{pid} 0\n")

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._process is None:
                self._process = self._start()
                atexit.register(self._close)
            if self._process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):  # somebody killed the guardian: children live without it
                    self._process.stdin.write(line.encode())
                    self._process.stdin.flush()

    def _close(self) -> None:
        """An ordinary end: with nothing left to stop the guardian leaves at once."""
        if self._process is not None:
            self._process.communicate()

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  # this very file
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )


guardian = Guardian()  # one per process, as the promise is about this process


def _open_pidfd(pid: int) -> int | None:
    """A handle that can't be confused with a later process of the same number (Linux; elsewhere None)."""
    opener = getattr(os, "pidfd_open", None)
    if opener is None:
        return None
    with contextlib.suppress(OSError):
        handle: int = opener(pid)
        return handle
    return None


def _is_alive(pid: int, pidfd: int | None) -> bool:
    if pidfd is not None:
        readable, _, _ = select.select([pidfd], [], [], 0)  # readable: it ended, waited for or not
        return not readable
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _signal_group(pid: int, pidfd: int | None, number: int) -> None:
    if _is_alive(pid, pidfd):
        with contextlib.suppress(OSError):
            os.killpg(pid, number)


def _serve(lines: Iterable[str]) -> None:
    """Keep book until the pipe closes, then end what is left."""
    watched: dict[int, tuple[int | None, int]] = {}
    for line in lines:
        pid, number = (int(word) for word in line[1:].split())
        if line.startswith("+"):
            watched[pid] = (_open_pidfd(pid), number)
        else:
            pidfd, _ = watched.pop(pid, (None, 0))
            if pidfd is not None:
                os.close(pidfd)
    _end(watched)


def _end(watched: dict[int, tuple[int | None, int]]) -> None:
    for pid, (pidfd, number) in watched.items():
        _signal_group(pid, pidfd, number)
        _signal_group(pid, pidfd, signal.SIGCONT)  # a stopped process hears nothing else
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline and any(_is_alive(pid, pidfd) for pid, (pidfd, _) in watched.items()):
        time.sleep(_POLL_S)
    for pid, (pidfd, _) in watched.items():
        _signal_group(pid, pidfd, signal.SIGKILL)


if __name__ == "__main__":
    _serve(sys.stdin)
