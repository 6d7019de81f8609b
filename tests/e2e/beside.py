"""Further processes beside those of a running stack: with another clock, another log, or from another release."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

import httpx

from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.processes import ChildProcess
from nubabel_workers.embedded.procfile import PROCFILE, read_procfile
from nubabel_workers.embedded.stack import Stack
from nubabel_workers.embedded.stack_environment import HOST, base_environment
from tests.e2e.conversation import until

ROOT = PROCFILE.parent
_READY_WITHIN_S = 60.0


@dataclass(frozen=True)
class Surroundings:
    """copy: tells workers' node names apart. home: the checkout whose code runs. log: where all output goes.

    clock_s: how far the clock of the processes is ahead. environment: settings of these processes alone.
    """

    copy: int
    home: Path = ROOT
    log: Path | None = None
    clock_s: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)


class Beside:
    """One process; `url` is where it answers: web its API, the others their metrics."""

    def __init__(self, stack: Stack, kind: str, around: Surroundings) -> None:
        self.kind = kind
        port = str(free_port())
        self.url = f"http://{HOST}:{port}"
        is_web = kind == "web"
        self.process = ChildProcess(
            ["/bin/sh", "-c", f"exec {_command(kind, around)}"],
            cwd=around.home,
            log_path=around.log or stack.directory / f"{kind}-beside-{around.copy}.log",
            env={
                **base_environment(),
                **stack.environment,
                "PYTHONPATH": str(around.home),
                "COPY": str(around.copy),
                "NUBABEL_METRICS_PORT": str(free_port()) if is_web else port,
                "NUBABEL_HTTP_PORT": port if is_web else str(free_port()),
                **around.environment,
            },
        )

    async def until_ready(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=5) as http:

            async def answers() -> bool:
                assert self.process.is_running, self.process.log_tail()
                try:
                    return (await http.get(self._probe)).status_code == HTTPStatus.OK
                except httpx.TransportError:
                    return False

            await until(answers, what=f"{self.kind} is ready", timeout_s=_READY_WITHIN_S)

    async def metrics(self) -> str:
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=10) as http:
            return (await http.get("/metrics")).text

    async def stop(self) -> int | None:
        """SIGTERM; the exit code, None when it did not end in time and had to be killed."""
        self.process.send_signal(signal.SIGTERM)
        ended = await asyncio.to_thread(self.process.wait, timeout_s=15.0)
        code = self.process.returncode
        self.process.stop()
        return code if ended else None

    @property
    def _probe(self) -> str:
        return "/ready" if self.kind == "web" else "/metrics"


def _command(kind: str, around: Surroundings) -> str:
    command = read_procfile(around.home / "Procfile")[kind]
    if not around.clock_s:
        return command
    return f"{sys.executable} -m tests.e2e.skewed {around.clock_s:g} {command.removeprefix('python -m ')}"


@asynccontextmanager
async def beside(stack: Stack, kinds: Iterable[str], around: Surroundings) -> AsyncIterator[dict[str, Beside]]:
    """Started together, ready, and stopped at the end."""
    started: dict[str, Beside] = {}
    try:
        for kind in kinds:
            started[kind] = Beside(stack, kind, around)
        await asyncio.gather(*(one.until_ready() for one in started.values()))
        yield started
    finally:
        await asyncio.gather(*(asyncio.to_thread(one.process.stop) for one in started.values()))


@contextmanager
def all_stopped(pids: Iterable[int]) -> Iterator[None]:
    """SIGSTOP: they do nothing and hear nothing until the end of the block."""
    stopped = list(pids)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
