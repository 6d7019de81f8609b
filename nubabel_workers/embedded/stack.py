"""The whole system on this machine without Docker: real Valkey, real PostgreSQL, every process of the Procfile.

Slack is the local one; OpenCode is a simulator, or the real server from npm with a stub model. For `nubabel up`,
`nubabel demo`, the end-to-end tests and the benchmarks.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Literal, Self

import httpx
import structlog

from config.settings import Settings
from nubabel_workers.adapters.storage import schema
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.embedded.postgres import EmbeddedPostgres
from nubabel_workers.embedded.processes import ProcessFailedError, ProcessSpec, Supervisor
from nubabel_workers.embedded.procfile import PROCFILE, read_procfile
from nubabel_workers.embedded.stack_environment import (
    HOST,
    StackAddresses,
    StackSecrets,
    base_environment,
    free_port,
    settings_environment,
)
from nubabel_workers.embedded.stack_logs import OnLine, StackLogs
from nubabel_workers.embedded.stack_opencode import OpenCodeAccess, OpenCodeKind, StackOpenCode
from nubabel_workers.embedded.stack_tenants import Tenant, create_tenant, register_server
from nubabel_workers.embedded.valkey import EmbeddedValkey
from nubabel_workers.services.manage_instances import NewInstance
from nubabel_workers.services.process_slack_events import message_key
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.slack import SlackSimulator, SlackSimulatorOptions
from nubabel_workers.simulators.slack.limits import RateLimits
from nubabel_workers.simulators.slack.model import Message

_START_TIMEOUT_S = 60.0
_STOP_GRACE_S = 10.0
_PROBE_EVERY_S = 0.05
_DATABASE = "nubabel"
_EVENTS_PATH = "/slack/events"
# What a process writes when it can do its work; the others are asked over HTTP.
_READY_LINES = {
    "worker": r"\S@\S+ ready\.",
    "slack": r"slack\.socket_(connected|mode_not_used)",
    "listener": r"opencode\.connected",
}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StackOptions:
    """organizations: name -> how many Slack workspaces it has.

    copies: Procfile name -> how many of that process; 0 leaves it out. settings: lower-case setting -> value.
    servers_elsewhere: OpenCode servers that somebody else started and stops; registered beside ours.
    durable: PostgreSQL syncs to disk, as in production.
    """

    opencode: OpenCodeKind = "simulator"
    opencode_servers: int = 1
    servers_elsewhere: Sequence[OpenCodeAccess] = ()
    simulator: SimulatorConfig = field(default_factory=SimulatorConfig)
    capacity_runs: int = 50
    submits_per_second: int = 20
    slack: Literal["socket", "events"] = "socket"
    slack_limits: RateLimits = field(default_factory=RateLimits)
    organizations: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({"Acme": 1, "Hanbit": 1}))
    copies: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    durable: bool = True


class Stack:
    """One running system; use as an async context manager. Stops what it started, and nothing else.

    on_line(process, line) receives what the processes write, from other threads.
    """

    def __init__(self, options: StackOptions | None = None, *, on_line: OnLine | None = None) -> None:
        self.options = options or StackOptions()
        self.secrets = StackSecrets()
        self.directory = Path(tempfile.mkdtemp(prefix="nubabel-"))
        self.directory.chmod(0o711)  # PostgreSQL may run as another user below it
        self.logs = StackLogs(self.directory, on_line)
        self.postgres = EmbeddedPostgres(self.directory / "pg", durable=self.options.durable)
        self.valkey = EmbeddedValkey(self.directory / "valkey", port=free_port())
        self.http_port, self.flower_port = free_port(), free_port()
        self.slack = SlackSimulator(self._slack_options())
        self.opencode = StackOpenCode(
            self.options.opencode,
            self.options.opencode_servers,
            self.directory,
            config=self.options.simulator,
        )
        self.tenants: list[Tenant] = []
        self._supervisor = Supervisor(
            self.directory, on_line=self.logs.take, on_exit=self._tell_of_exit, base_env=base_environment()
        )
        self._specs: dict[str, ProcessSpec] = {}
        self._parts = AsyncExitStack()
        self._services: Services | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deaths: dict[str, asyncio.Event] = {}

    # --- what users of the stack need -----------------------------------------------------------------------------

    @property
    def api_url(self) -> str:
        return f"http://{HOST}:{self.http_port}"

    @property
    def flower_url(self) -> str:
        return f"http://{HOST}:{self.flower_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The settings of every process, as environment variables."""
        return settings_environment(
            self._addresses(),
            self.secrets,
            slack_mode=self.options.slack,
            overrides={**self.opencode.settings, **self.options.settings},
        )

    @property
    def settings(self) -> Settings:
        values = {name.removeprefix("NUBABEL_").lower(): value for name, value in self.environment.items()}
        return Settings.model_validate(values)

    @property
    def services(self) -> Services:
        """The wired services in this process, on the stack's stores: to look into its rows, or to change them."""
        if self._services is None:
            raise RuntimeError("the stack is not running")
        return self._services

    def client(self, tenant: Tenant) -> httpx.AsyncClient:
        """An HTTP client of the gateway with the tenant's token."""
        headers = {"authorization": f"Bearer {tenant.token.get_secret_value()}"}
        return httpx.AsyncClient(base_url=self.api_url, headers=headers, timeout=10, trust_env=False)

    async def execution_of(self, tenant: Tenant, channel: str, message: Message) -> str:
        """The execution that a Slack message of the tenant's first workspace became; waits until there is one."""
        key = message_key(tenant.workspaces[0].id, channel, message.ts)
        while (execution_id := await self.services.executions.by_key(tenant.id, key)) is None:
            await asyncio.sleep(_PROBE_EVERY_S)  # another process makes the row
        return execution_id

    def process_names(self) -> list[str]:
        """Names of the running processes; further copies of one are called `name.2`, `name.3`…"""
        return self._supervisor.names()

    def pid(self, name: str) -> int:
        return self._supervisor.process(name).pid

    async def kill(self, name: str) -> None:
        """SIGKILL, as a crash; the process is started again at once. `wait_ready` waits for that."""
        await asyncio.to_thread(self._supervisor.process(name).kill)

    async def stop(self, name: str) -> None:
        """SIGTERM, and no new start; `start` brings it back."""
        await asyncio.to_thread(self._supervisor.stop, name)

    async def start(self, name: str) -> None:
        """Start a stopped process and wait until it is ready."""
        ready = self._readiness(name)
        self._supervisor.start(self._specs[name])
        await self._until_ready(name, ready)

    async def restart(self, name: str) -> None:
        await self.stop(name)
        await self.start(name)

    # --- life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            await self._start_all()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Processes first, all at once; then what they work with. Every step has its own time limit."""
        await asyncio.to_thread(self._supervisor.stop_all)
        await self._parts.aclose()
        self.logs.close()
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)

    async def _start_all(self) -> None:
        self._parts.push_async_callback(asyncio.to_thread, self.postgres.destroy)
        self._parts.push_async_callback(asyncio.to_thread, self.valkey.stop)
        self._parts.push_async_callback(self.slack.close)
        self._parts.push_async_callback(self.opencode.stop)
        await _all(
            asyncio.to_thread(self._start_database),
            asyncio.to_thread(self.valkey.start),
            self.slack.start(),
            self.opencode.start(),
        )
        ready = self._start_processes()
        self._services = await self._parts.enter_async_context(
            open_services(self.settings, application_name="nubabel-stack")
        )
        await self._seed(self._services)
        await _all(*(self._until_ready(name, is_ready) for name, is_ready in ready.items()))

    def _start_database(self) -> None:
        self.postgres.start()
        schema.upgrade(self.postgres.ensure_database(_DATABASE))

    async def _seed(self, services: Services) -> None:
        for server in (*self.opencode.servers, *self.options.servers_elsewhere):
            new = NewInstance(
                server.url,
                server.username,
                server.password,
                self.options.capacity_runs,
                self.options.submits_per_second,
            )
            await register_server(services, new)
        for number, (name, workspaces) in enumerate(self.options.organizations.items(), start=1):
            installed = [
                self.slack.world.add_workspace(f"T{number:03d}{copy:03d}", name=f"{name} {copy}" if copy > 1 else name)
                for copy in range(1, workspaces + 1)
            ]
            self.tenants.append(await create_tenant(services, name, installed))

    # --- processes ------------------------------------------------------------------------------------------------

    def _start_processes(self) -> dict[str, Awaitable[object]]:
        """Start every process; returns what to await until each is ready."""
        self._loop = asyncio.get_running_loop()
        commands, environment = read_procfile(), self.environment
        for name, command in commands.items():
            for copy in range(1, self.options.copies.get(name, 1) + 1):
                own = f"{name}.{copy}" if copy > 1 else name
                env = {**environment, "NUBABEL_METRICS_PORT": str(free_port()), "COPY": str(copy)}
                argv = ("/bin/sh", "-c", f"exec {command}")
                self._specs[own] = ProcessSpec(own, argv, env, cwd=PROCFILE.parent, grace_s=_STOP_GRACE_S)
        ready = {name: self._readiness(name) for name in self._specs}
        for spec in self._specs.values():
            self._supervisor.start(spec)
        return ready

    def _readiness(self, name: str) -> Awaitable[object]:
        """What is done when the process, started after this call, can do its work."""
        self._deaths[name] = asyncio.Event()
        kind = name.partition(".")[0]
        if kind == "web":
            return _answers(f"{self.api_url}/ready", only=HTTPStatus.OK)
        if kind == "flower":
            return _answers(self.flower_url)
        if (line := _READY_LINES.get(kind.partition("-")[0])) is not None:
            return self.logs.next_line(name, line)
        return _answers(f"http://{HOST}:{self._specs[name].env['NUBABEL_METRICS_PORT']}/metrics")

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
            raise ProcessFailedError(f"{name} {outcome}; its last words:\n{self.logs.tail(name)}")

    def _tell_of_exit(self, name: str, returncode: int, wait_s: float) -> None:
        """Called by the supervisor, from another thread."""
        log.warning("stack.process_ended", name=name, returncode=returncode, again_in_s=wait_s)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._deaths[name].set)

    def _addresses(self) -> StackAddresses:
        return StackAddresses(
            database_url=self.postgres.url(_DATABASE),
            broker_url=self.valkey.broker_url,
            cache_url=self.valkey.cache_url,
            slack_url=self.slack.base_url,
            http_port=self.http_port,
            flower_port=self.flower_port,
        )

    def _slack_options(self) -> SlackSimulatorOptions:
        return SlackSimulatorOptions(
            events_url=f"{self.api_url}{_EVENTS_PATH}" if self.options.slack == "events" else None,
            signing_secret=self.secrets.signing_secret,
            app_token=self.secrets.app_token,
            teams=(),
            limits=self.options.slack_limits,
        )


async def _all(*steps: Awaitable[object]) -> None:
    """Wait for every step, also when one fails, so that nothing is half started when the clean-up begins."""
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _answers(url: str, *, only: HTTPStatus | None = None) -> None:
    """Return once the URL answers (with that status)."""
    async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
        while True:
            with suppress(httpx.TransportError):
                response = await http.get(url)
                if only is None or response.status_code == only:
                    return
            await asyncio.sleep(_PROBE_EVERY_S)
