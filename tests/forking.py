"""Our own processes, forked from one that has everything imported, which costs a tenth of starting them.

Each runs the very command of the Procfile, or a program of the tests. That one process has neither threads nor an event
loop, and of the tests' descriptors only the standard ones: a child is given its environment, its folder and its pipes.
"""

import multiprocessing
import os
import runpy
import shlex
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, TimeoutExpired
from typing import IO, Any, Self

import typer

_IMPORTED_BEFORE_FORKING = (
    "celery.__main__",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.concurrency.thread",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.consumer",
    "flower.command",
    "kombu.transport.redis",
    "uvicorn",
    "nubabel_workers.cli.main",
    "nubabel_workers.cli.migrations",
    "nubabel_workers.cli.wiring",
    "nubabel_workers.gateway.app",
    "nubabel_workers.gateway.configured_workspace",
    "nubabel_workers.gateway.socket_mode",
    "nubabel_workers.gateway.wiring",
    "nubabel_workers.listener.process",
    "nubabel_workers.scheduler.process",
    "tasks.worker",
    "nubabel_workers.adapters.mcp.authorization",
    "nubabel_workers.adapters.mcp.probe",
)


@cache
def forking_context(*also_imported: str) -> ForkServerContext:
    """With the one process started that all others are forked from: its imports take seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_IMPORTED_BEFORE_FORKING, *also_imported, "tests.template_process"])
    first = context.Process(target=_nothing)
    first.start()
    first.join()
    return context


def _nothing() -> None:
    """What the first forked process does."""


def run_command(command: Sequence[str]) -> None:
    """What the command does, in this process. It begins with python -m, celery or nubabel."""
    program, *arguments = command
    if program == "python":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif program == "celery":
        from celery.__main__ import main

        sys.argv = list(command)
        main()
    else:
        sys.argv = list(command)
        command_line()()


@cache
def command_line() -> Any:
    """What `nubabel` runs: its tree of commands, built once where the template process asks for it."""
    from nubabel_workers.cli.main import app

    return typer.main.get_command(app)


class ForkedProcess:
    """In the place of `subprocess.Popen` for a command of ours, or for a line of the Procfile.

    stdin: PIPE, or nothing to read. stdout: PIPE, or an open file. stderr: STDOUT, or that of the tests.
    As a context manager it leaves no process and no pipe behind.
    """

    def __init__(
        self,
        args: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: int = DEVNULL,
        stdout: int | IO[bytes] = PIPE,
        stderr: int | None = None,
        **_: Any,
    ) -> None:
        its_input, self.stdin = _input(stdin)
        its_output, self.stdout = _output(stdout)
        with its_input, its_output:
            self._process = forking_context().Process(
                target=_forked,
                args=(_command(args, env), cwd, dict(env), its_input, its_output),
                kwargs={"errors_too": stderr == STDOUT},
            )
            self._process.start()
        self._reading = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.send_signal(signal.SIGKILL)
        self.wait()
        for pipe in (self.stdin, self.stdout):
            if pipe is not None:
                pipe.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        with self._reading:  # of the exit code, which can be read once
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        wait([self._process.sentinel], timeout)
        code = self.poll()
        if code is None:
            raise TimeoutExpired("forked process", timeout or 0.0)
        return code

    def send_signal(self, sig: int, /) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def read_line(self) -> bytes:
        """The next that it writes to the pipe."""
        assert self.stdout is not None
        return self.stdout.readline()

    def give(self, line: bytes) -> None:
        """That to read from the pipe."""
        assert self.stdin is not None
        self.stdin.write(line)

    def communicate(self, given: bytes = b"") -> bytes:
        """Gives that, and returns what it writes until it ends."""
        if given:
            self.give(given)
        assert self.stdout is not None
        written = self.stdout.read()
        self.wait()
        return written


def _command(args: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """A line of the Procfile comes as `/bin/sh -c "exec ..."`."""
    if args[0] != "/bin/sh":
        return list(args)
    *_shell, line = args
    return shlex.split(line.removeprefix("exec ").replace("${COPY:-1}", environment["COPY"]))


def _input(wanted: int) -> tuple[Connection, IO[bytes] | None]:
    """The child's end, which reaches it through the process that forks, and ours."""
    if wanted != PIPE:
        return Connection(os.open(os.devnull, os.O_RDONLY), writable=False), None
    theirs, ours = multiprocessing.Pipe(duplex=False)
    with ours:
        return theirs, os.fdopen(os.dup(ours.fileno()), "wb", buffering=0)


def _output(wanted: int | IO[bytes]) -> tuple[Connection, IO[bytes] | None]:
    if not isinstance(wanted, int):
        return Connection(os.dup(wanted.fileno()), readable=False), None
    ours, theirs = multiprocessing.Pipe(duplex=False)
    with ours:
        return theirs, os.fdopen(os.dup(ours.fileno()), "rb")


def _forked(
    command: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    given: Connection,
    output: Connection,
    *,
    errors_too: bool,
) -> None:
    """In the child."""
    os.setsid()  # the guardian ends groups
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    os.dup2(given.fileno(), 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - multiprocessing has put another in its place
    for standard in (1, 2) if errors_too else (1,):
        os.dup2(output.fileno(), standard)
    given.close()
    output.close()
    run_command(command)
