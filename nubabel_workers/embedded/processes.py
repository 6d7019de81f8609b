"""Child processes: started in a session of their own, watched, stopped by pid. Nothing here knows what they run.

`ChildProcess` is one process; `Supervisor` keeps several running, as `nubabel up` needs it.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from nubabel_workers.adapters.guardian import guardian

_POLL_S = 0.01  # a foreign process gives no event for "ready"; this is how often it is asked
_LOG_TAIL_BYTES = 4000


class ProcessFailedError(Exception):
    """A process ended, or was not ready, before its deadline; the message holds the end of its log."""


class RunningProcess(Protocol):
    """What of a `subprocess.Popen` is used here."""

    @property
    def pid(self) -> int: ...
    @property
    def stdout(self) -> IO[bytes] | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def send_signal(self, sig: int, /) -> None: ...


StartProcess = Callable[..., RunningProcess]
"""Takes what `subprocess.Popen` takes."""


@dataclass(frozen=True, slots=True)
class RunAs:
    """An unprivileged user for a child of root."""

    uid: int
    gid: int


class ChildProcess:
    """One process in its own session, its output appended to log_path. Only the pid started here is ever signalled.

    It is ended (stop_signal, then SIGKILL) when this process disappears without having stopped it.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path,
        log_path: Path,
        env: Mapping[str, str] | None = None,
        run_as: RunAs | None = None,
        pipe_output: bool = False,
        stop_signal: signal.Signals = signal.SIGTERM,
        start: StartProcess = subprocess.Popen,
    ) -> None:
        """env: the whole environment of the child; None passes ours on. pipe_output: to `stdout`, not to the log;
        whoever reads it closes it.
        """
        self.log_path = log_path
        self._stop_signal = stop_signal
        self._log_start = log_path.stat().st_size if log_path.exists() else 0
        with log_path.open("ab") as log:
            self._process = start(  # argv is ours, never a shell
                [str(part) for part in argv],
                cwd=cwd,
                env=None if env is None else dict(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipe_output else log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal reaches us alone; we order the stop
                user=run_as.uid if run_as else None,
                group=run_as.gid if run_as else None,
                extra_groups=[] if run_as else None,
            )
        self._guarded = True
        guardian.watch(self.pid, stop_signal)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes] | None:
        return self._process.stdout

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        code = self._process.poll()
        if code is not None and self._guarded:
            self._guarded = False
            guardian.forget(self.pid)
        return code

    @property
    def is_running(self) -> bool:
        return self.returncode is None

    def log_tail(self) -> str:
        """The last lines that this process wrote to its log."""
        size = self.log_path.stat().st_size
        with self.log_path.open("rb") as log:
            log.seek(max(self._log_start, size - _LOG_TAIL_BYTES))
            return log.read().decode("utf-8", "replace")

    def wait_until(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Return when ready() is true; raise ProcessFailedError if the process ends first or the time is over."""
        deadline = time.monotonic() + timeout_s
        while not ready():
            if not self.is_running:
                raise ProcessFailedError(f"process {self.pid} ended with {self.returncode}:\n{self.log_tail()}")
            if time.monotonic() >= deadline:
                raise ProcessFailedError(f"process {self.pid} not ready within {timeout_s:g} s:\n{self.log_tail()}")
            time.sleep(_POLL_S)

    def wait(self, *, timeout_s: float | None) -> bool:
        """Whether the process has ended within timeout_s (None: for ever, without looking again and again)."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return not self.is_running

    def send_signal(self, signal_number: signal.Signals) -> None:
        """Signal the process unless it has ended."""
        self._process.send_signal(signal_number)

    def stop(self, *, grace_s: float = 10.0) -> None:
        """Ask the process to end, wait grace_s, then kill it."""
        self.ask_to_stop()
        self.wait_or_kill(grace_s=grace_s)

    def ask_to_stop(self) -> None:
        """Once: for many programs a second signal means "at once"."""
        self.send_signal(self._stop_signal)
        self.send_signal(signal.SIGCONT)  # a stopped process (a test's hung server) hears nothing else

    def wait_or_kill(self, *, grace_s: float) -> None:
        if not self.wait(timeout_s=grace_s):
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self.send_signal(signal.SIGKILL)
        self.wait(timeout_s=None)


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run under a name.

    env: added to the supervisor's. cwd: None is the supervisor's folder. grace_s: from the stop signal to SIGKILL.
    revive: start it again when it ends by itself.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    grace_s: float = 10.0
    revive: bool = True


@dataclass(slots=True)
class _Supervised:
    spec: ProcessSpec
    process: ChildProcess
    reader: threading.Thread
    started_at: float
    restarts: int = 0


class Supervisor:
    """Keeps named processes running: a dead one is started again, at once the first time, then after growing waits.

    on_line(name, line) receives every line of output, from reader threads; without it output goes to
    <directory>/<name>.log. on_exit(name, returncode, wait_s) tells of each death.
    base_env: what every process gets; None is our own environment. start: another way to start them.
    """

    _FIRST_WAIT_S = 0.2
    _MAX_WAIT_S = 10.0
    _LAST_LINES_S = 5.0  # a process that the stopped one has left behind may hold its output open
    _STABLE_S = 30.0  # a process that lived this long starts with a clean record

    def __init__(
        self,
        directory: Path,
        *,
        on_line: Callable[[str, str], None] | None = None,
        on_exit: Callable[[str, int, float], None] | None = None,
        base_env: Mapping[str, str] | None = None,
        start: StartProcess = subprocess.Popen,
    ) -> None:
        self._start = start
        self._directory = directory
        self._base_env = dict(os.environ if base_env is None else base_env)
        self._on_line = on_line
        self._on_exit = on_exit
        self._running: dict[str, _Supervised] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()

    def start(self, spec: ProcessSpec) -> ChildProcess:
        """Start spec and keep it running until stop() or stop_all()."""
        with self._lock:
            if spec.name in self._running:
                raise ValueError(f"process {spec.name!r} is already supervised")
            supervised = self._spawn(spec)
            self._running[spec.name] = supervised
            return supervised.process

    def process(self, name: str) -> ChildProcess:
        """The current process of that name (a restart replaces it)."""
        with self._lock:
            return self._running[name].process

    def names(self) -> list[str]:
        with self._lock:
            return list(self._running)

    def stop(self, name: str) -> None:
        """Stop one process and forget it."""
        with self._lock:
            supervised = self._running.pop(name)
        supervised.process.stop(grace_s=supervised.spec.grace_s)
        supervised.reader.join(self._LAST_LINES_S)

    def stop_all(self) -> None:
        """Stop every process, all at once, each within its own grace time."""
        self._stopping.set()
        with self._lock:
            leaving = list(self._running.values())
            self._running.clear()
        for supervised in leaving:
            supervised.process.ask_to_stop()
        for supervised in leaving:
            supervised.process.wait_or_kill(grace_s=supervised.spec.grace_s)
        for supervised in leaving:
            supervised.reader.join(self._LAST_LINES_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop_all()

    def _spawn(self, spec: ProcessSpec, *, restarts: int = 0) -> _Supervised:
        process = ChildProcess(
            spec.argv,
            cwd=spec.cwd or self._directory,
            log_path=self._directory / f"{spec.name}.log",
            env={**self._base_env, **spec.env},
            pipe_output=self._on_line is not None,
            start=self._start,
        )
        reader = threading.Thread(target=self._watch, args=(spec, process), name=f"watch-{spec.name}", daemon=True)
        supervised = _Supervised(spec, process, reader, time.monotonic(), restarts)
        reader.start()
        return supervised

    def _watch(self, spec: ProcessSpec, process: ChildProcess) -> None:
        if process.stdout is not None and self._on_line is not None:
            with process.stdout as output:
                for line in output:
                    self._on_line(spec.name, line.decode("utf-8", "replace").rstrip("\n"))
        process.wait(timeout_s=None)
        if spec.revive:
            self._revive(spec, process)

    def _revive(self, spec: ProcessSpec, process: ChildProcess) -> None:
        with self._lock:
            supervised = self._running.get(spec.name)
            if supervised is None or supervised.process is not process:
                return  # stopped on purpose
        if time.monotonic() - supervised.started_at >= self._STABLE_S:
            supervised.restarts = 0
        restarts = supervised.restarts
        wait_s = 0.0 if restarts == 0 else min(self._MAX_WAIT_S, self._FIRST_WAIT_S * 2 ** (restarts - 1))
        if self._on_exit is not None:
            self._on_exit(spec.name, process.returncode or 0, wait_s)
        if self._stopping.wait(wait_s):
            return
        with self._lock:
            if self._running.get(spec.name) is supervised:
                self._running[spec.name] = self._spawn(spec, restarts=restarts + 1)
