"""The processes of a stack: the Procfile's lines, several copies where wanted, and when each can do its work."""

import asyncio
import signal
import subprocess
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import httpx
import structlog

from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.processes import ChildProcess, ProcessFailedError, ProcessSpec, StartProcess, Supervisor
from nubabel_workers.embedded.procfile import PROCFILE, read_procfile
from nubabel_workers.embedded.stack_environment import HOST, base_environment
from nubabel_workers.embedded.stack_logs import StackLogs

_START_TIMEOUT_S = 60.0
_STOP_GRACE_S = 10.0
_PROBE_EVERY_S = 0.05
_METRICS_PORT = "NUBABEL_METRICS_PORT"
_HTTP_PORT = "NUBABEL_HTTP_PORT"
# What a process writes when it can do its work; the others are asked over HTTP.
_READY_LINES = {"worker": r"\S@\S+ ready\.", "slack": r"slack\.socket_(connected|mode_not_used)"}
_FOLLOWING_LINE = r"opencode\.connected"

log = structlog.get_logger(__name__)


class StackProcesses:
    """Processes by name; further copies of one are called `name.2`, `name.3` and so on. A dead one is started again."""

    def __init__(
        self,
        directory: Path,
        logs: StackLogs,
        *,
        flower_url: str,
        environment_of: Mapping[str, Mapping[str, str]] | None = None,
        start: StartProcess = subprocess.Popen,
    ) -> None:
        """environment_of: Procfile name -> what all copies of that process get beside the common environment."""
        self._logs = logs
        self._environment_of = environment_of or {}
        self._flower_url = flower_url
        self._supervisor = Supervisor(
            directory, on_line=logs.take, on_exit=self._tell_of_exit, base_env=base_environment(), start=start
        )
        self._specs: dict[str, ProcessSpec] = {}
        self._deaths: dict[str, asyncio.Event] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def names(self) -> list[str]:
        return self._supervisor.names()

    def process(self, name: str) -> ChildProcess:
        """The current process of that name; it is another one after a restart."""
        return self._supervisor.process(name)

    def pid(self, name: str) -> int:
        return self._supervisor.process(name).pid

    @property
    def http_ports(self) -> Sequence[int]:
        """Where the copies of `web` listen: the first on the stack's own port."""
        return [int(spec.env[_HTTP_PORT]) for name, spec in self._specs.items() if _kind(name) == "web"]

    @property
    def metrics_urls(self) -> Mapping[str, str]:
        """By process, where metrics have an address of their own: `web` has them beside its API, Flower none."""
        return {
            name: f"http://{HOST}:{spec.env[_METRICS_PORT]}/metrics"
            for name, spec in self._specs.items()
            if _kind(name) not in {"web", "flower"}
        }

    def start_all(
        self, environment: Mapping[str, str], copies: Mapping[str, int], *, servers: int
    ) -> "asyncio.Task[None]":
        """Start every process of the Procfile, as often as copies says (once, where it says nothing).

        Returns what to wait for: each is ready, and the listeners follow that many OpenCode servers.
        """
        self._loop = asyncio.get_running_loop()
        for kind, command in read_procfile().items():
            for copy in range(1, copies.get(kind, 1) + 1):
                self._add(kind, command, copy, environment)
        listeners = [name for name in self._specs if _kind(name) == "listener"]
        following = self._logs.next_lines(listeners, _FOLLOWING_LINE, times=servers if listeners else 0)
        ready = {name: self._readiness(name) for name in self._specs}
        for spec in self._specs.values():
            self._supervisor.start(spec)
        return asyncio.create_task(self._all_ready(ready, following))

    async def start(self, name: str) -> None:
        """Start a stopped process and wait until it is ready."""
        ready = self._readiness(name)
        self._supervisor.start(self._specs[name])
        await self._until_ready(name, ready)

    async def stop(self, name: str) -> None:
        """SIGTERM, and no new start; `start` brings it back."""
        await asyncio.to_thread(self._supervisor.stop, name)

    async def kill(self, name: str) -> None:
        """SIGKILL, as a crash; it is started again at once, or after a while when it has died often."""
        await asyncio.to_thread(self._supervisor.process(name).kill)

    def send_signal(self, name: str, number: signal.Signals) -> None:
        """To the current process of that name: SIGSTOP and SIGCONT."""
        self._supervisor.process(name).send_signal(number)

    async def close(self) -> None:
        """Stop all of them at the same time."""
        await asyncio.to_thread(self._supervisor.stop_all)

    def _add(self, kind: str, command: str, copy: int, environment: Mapping[str, str]) -> None:
        name = f"{kind}.{copy}" if copy > 1 else kind
        env = {**environment, **self._environment_of.get(kind, {}), _METRICS_PORT: str(free_port()), "COPY": str(copy)}
        if kind == "web" and copy > 1:
            env[_HTTP_PORT] = str(free_port())
        argv = ("/bin/sh", "-c", f"exec {command}")
        self._specs[name] = ProcessSpec(name, argv, env, cwd=PROCFILE.parent, grace_s=_STOP_GRACE_S)

    def _readiness(self, name: str) -> Awaitable[object]:
        """What is done when the process, started after this call, can do its work."""
        self._deaths[name] = asyncio.Event()
        kind = _kind(name)
        if kind == "web":
            return _answers(f"http://{HOST}:{self._specs[name].env[_HTTP_PORT]}/ready", only=HTTPStatus.OK)
        if kind == "flower":
            return _answers(self._flower_url)
        if (line := _READY_LINES.get(kind.partition("-")[0])) is not None:
            return self._logs.next_lines([name], line)
        return _answers(f"http://{HOST}:{self._specs[name].env[_METRICS_PORT]}/metrics")

    async def _all_ready(self, ready: Mapping[str, Awaitable[object]], following: Awaitable[object]) -> None:
        """Wait for every process, also when one fails, so that nothing is half started when the clean-up begins."""
        waits = (self._until_ready(name, is_ready) for name, is_ready in ready.items())
        for outcome in await asyncio.gather(*waits, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        try:
            await asyncio.wait_for(following, _START_TIMEOUT_S)
        except TimeoutError:
            raise ProcessFailedError("no listener has connected to every OpenCode server") from None

    async def _until_ready(self, name: str, ready: Awaitable[object]) -> None:
        """Raises ProcessFailedError when the process ends instead, or takes too long."""
        getting_ready = asyncio.ensure_future(ready)
        died = asyncio.ensure_future(self._deaths[name].wait())
        done, pending = await asyncio.wait(
            {getting_ready, died}, timeout=_START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        for task in pending:
            task.cancel()
        if getting_ready not in done:
            outcome = "ended" if died in done else f"was not ready within {_START_TIMEOUT_S:g} s"
            raise ProcessFailedError(f"{name} {outcome}; its last words:\n{self._logs.tail(name)}")

    def _tell_of_exit(self, name: str, returncode: int, wait_s: float) -> None:
        """Called by the supervisor, from another thread."""
        log.warning("stack.process_ended", name=name, returncode=returncode, again_in_s=wait_s)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._deaths[name].set)


def _kind(name: str) -> str:
    return name.partition(".")[0]


async def _answers(url: str, *, only: HTTPStatus | None = None) -> None:
    """Return once the URL answers (with that status)."""
    async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
        while True:
            with suppress(httpx.TransportError):
                response = await http.get(url)
                if only is None or response.status_code == only:
                    return
            await asyncio.sleep(_PROBE_EVERY_S)
