"""The system's own processes, forked: each runs the very command of the Procfile (workers: one for all queues), only
the seam is put in before.
"""

import asyncio
import functools
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from nubabel_workers.adapters.guardian import guardian
from nubabel_workers.adapters.opencode.servers import HttpOpenCodeServer
from nubabel_workers.adapters.slack.messenger import SlackMessenger
from nubabel_workers.domain.ports import PromptPart
from nubabel_workers.embedded.procfile import read_procfile
from tests.faults.kill_points.points import KillPoint
from tests.faults.kill_points.seam import ORDER_BYTES, Seam, SharedOrder, order_text
from tests.forking import forking_context, run_command

WORKER, LISTENER, SCHEDULER, WEB, CLI = "worker", "listener", "scheduler", "web", "cli"
BLIND = "KILL_POINTS_BLIND"  # environment variable: earlier posts are never found
POISON = "KILL_POINTS_POISON"  # environment variable: who submits a prompt with this word dies, each time
SERVING = (WORKER, LISTENER, SCHEDULER, WEB)  # run all the time; the command line only now and then


def forking() -> ForkServerContext:
    return forking_context("tests.faults.kill_points.seam")


def new_order(context: ForkServerContext) -> SharedOrder:
    order: SharedOrder = context.Array("c", ORDER_BYTES, lock=False)
    return order


def command_of(process: str) -> list[str]:
    """As the Procfile has it; one worker serves the queues of all its worker lines."""
    commands = read_procfile()
    if process != WORKER:
        return commands[process].split()
    lines = [command.split() for name, command in commands.items() if name.startswith("worker-")]
    queues = ",".join(line[line.index("-Q") + 1] for line in lines)
    line = lines[0]
    line[line.index("-Q") + 1] = queues
    line[line.index("-n") + 1] = "all@%h"
    return line


class SystemProcess:
    """One process of a lane, as often as it is started."""

    def __init__(
        self, context: ForkServerContext, name: str, environment: Mapping[str, str], *, trace: Path, log: Path
    ) -> None:
        self.name = name
        self.order = new_order(context)
        self.kills = 0
        self._context = context
        self.environment = dict(environment)
        self._trace = trace
        self._log = log
        self._process: ForkServerProcess | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self, command: Sequence[str] | None = None, *, on_end: Callable[[int], None]) -> None:
        """command: another than the Procfile's. on_end: told the exit code in the running event loop."""
        process = self._context.Process(
            target=_run,
            args=(self.name, list(command or command_of(self.name)), self.environment, self._trace, self._log),
            kwargs={"order": self.order},
        )
        process.start()
        if process.pid is not None:
            guardian.watch(process.pid)
        self._process = process
        asyncio.get_running_loop().add_reader(process.sentinel, self._ended, process, on_end)

    def kill_at(self, point: KillPoint, *, only_if_found: bool) -> None:
        self.order.value = order_text(point.call, point.moment, only_if_found=only_if_found)

    def spare(self) -> None:
        self.order.value = b""

    def stop(self) -> None:
        """At the end of the test."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ValueError):
            asyncio.get_running_loop().remove_reader(process.sentinel)
        process.kill()
        process.join()
        if process.pid is not None:
            guardian.forget(process.pid)

    def _ended(self, process: ForkServerProcess, on_end: Callable[[int], None]) -> None:
        asyncio.get_running_loop().remove_reader(process.sentinel)
        process.join()
        if process.pid is not None:
            guardian.forget(process.pid)
        self._process = None
        exit_code = process.exitcode if process.exitcode is not None else -1
        process.close()
        self.kills += exit_code == -signal.SIGKILL
        on_end(exit_code)


def _run(
    name: str, command: Sequence[str], environment: Mapping[str, str], trace: Path, log: Path, *, order: SharedOrder
) -> None:
    """In the child: what the Procfile's command does, with the seam in place."""
    os.setsid()  # the guardian ends groups
    os.environ.clear()
    os.environ.update(environment)
    _write_to(log)
    if BLIND in environment:
        SlackMessenger.find_by_delivery_id = _finds_nothing  # type: ignore[method-assign]  # one guard switched off
    if word := environment.get(POISON):
        HttpOpenCodeServer.submit = _dying_of(word, HttpOpenCodeServer.submit)  # type: ignore[method-assign, assignment]
    Seam(name, os.open(trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT), order).install()
    run_command(command)


async def _finds_nothing(*_args: Any, **_kwargs: Any) -> None:
    return None


def _dying_of(word: str, real: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(real)
    async def submit(*args: Any, parts: Sequence[PromptPart], **kwargs: Any) -> None:
        if any(word in (part.text or "") for part in parts):
            os.kill(os.getpid(), signal.SIGKILL)
        await real(*args, parts=parts, **kwargs)

    return submit


def _write_to(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
