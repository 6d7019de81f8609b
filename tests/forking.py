"""Our own processes, forked from one that has everything imported, which costs a tenth of starting them.

Each runs the very command of the Procfile.
"""

import multiprocessing
import os
import runpy
import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from subprocess import TimeoutExpired
from typing import IO, Any

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
        from nubabel_workers.cli.main import app

        sys.argv = list(command)
        app()


class ForkedProcess:
    """In the place of `subprocess.Popen` for a command of the Procfile, `/bin/sh -c "exec ..."`."""

    def __init__(self, args: Sequence[str], *, cwd: Path, env: Mapping[str, str], **_: Any) -> None:
        *_shell, line = args
        command = shlex.split(line.removeprefix("exec ").replace("${COPY:-1}", env["COPY"]))
        ours, theirs = multiprocessing.Pipe(duplex=False)
        self._process = forking_context().Process(target=_forked, args=(command, cwd, dict(env), theirs))
        self._process.start()
        theirs.close()
        self._reading = threading.Lock()
        with ours:
            self.stdout: IO[bytes] | None = os.fdopen(os.dup(ours.fileno()), "rb")

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


def _forked(command: Sequence[str], cwd: Path, environment: Mapping[str, str], output: Connection) -> None:
    """In the child."""
    os.setsid()  # the guardian ends groups
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for standard in (1, 2):
        os.dup2(output.fileno(), standard)
    output.close()
    run_command(command)
