"""The whole system on this machine without Docker: real Valkey, real PostgreSQL, every process of the Procfile.

Slack is the local one; OpenCode is a simulator, or the real server from npm with a stub model. For `nubabel up`,
`nubabel demo`, the end-to-end tests and the benchmarks.
"""

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Awaitable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Literal, Self

import httpx

from config.settings import Settings, settings_of
from nubabel_workers.adapters.storage import schema
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.postgres import EmbeddedPostgres
from nubabel_workers.embedded.processes import StartProcess
from nubabel_workers.embedded.server_memory import HasMemory, tell_memory
from nubabel_workers.embedded.stack_environment import (
    FLOWER_USER,
    HOST,
    StackAddresses,
    StackSecrets,
    settings_environment,
    write_env_file,
)
from nubabel_workers.embedded.stack_logs import OnLine, StackLogs
from nubabel_workers.embedded.stack_opencode import OpenCodeAccess, OpenCodeKind, StackOpenCode
from nubabel_workers.embedded.stack_processes import StackProcesses
from nubabel_workers.embedded.stack_tenants import Tenant, create_tenant, register_server
from nubabel_workers.embedded.valkey import EmbeddedValkey
from nubabel_workers.services.manage_instances import NewInstance
from nubabel_workers.services.process_slack_events import message_key
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.slack import SlackSimulator, SlackSimulatorOptions
from nubabel_workers.simulators.slack.limits import RateLimits
from nubabel_workers.simulators.slack.model import Message

_PROBE_EVERY_S = 0.05
_SET_UP_S = 60
STACK_DATABASE = "nubabel"
_EVENTS_PATH = "/slack/events"


@dataclass(frozen=True, slots=True)
class StackOptions:
    """organizations: name -> how many Slack workspaces it has.

    socket_teams: with slack="events", workspaces whose events come through Socket Mode all the same.
    copies: Procfile name -> how many of that process; 0 leaves it out. settings: lower-case setting -> value.
    environment_of: Procfile name -> environment variables of that process only.
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
    socket_teams: Collection[str] = ()
    slack_limits: RateLimits = field(default_factory=RateLimits)
    slack_time_scale: float = 1.0  # of Slack's waits (0.5, 60, 300 s) between deliveries of an event
    organizations: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({"Acme": 1, "Hanbit": 1}))
    copies: Mapping[str, int] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    environment_of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    durable: bool = True


class Stack:
    """One running system; use as an async context manager. Stops what it started, and nothing else.

    on_line(process, line) receives what the processes write, from other threads. start_process: another way to start
    those of the Procfile.
    """

    def __init__(
        self,
        options: StackOptions | None = None,
        *,
        on_line: OnLine | None = None,
        start_process: StartProcess = subprocess.Popen,
    ) -> None:
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
        self.processes = StackProcesses(
            self.directory,
            self.logs,
            flower_url=self.flower_url,
            environment_of=self.options.environment_of,
            start=start_process,
        )
        self._parts = AsyncExitStack()
        self._background: set[asyncio.Task[None]] = set()
        self._watched: dict[str, HasMemory] = {}  # by instance id
        self._services: Services | None = None

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
    def env_file(self) -> Path:
        """The same as a file: `NUBABEL_ENV_FILE=… nubabel doctor` looks at this stack."""
        return self.directory / "env"

    @property
    def settings(self) -> Settings:
        """Raises SettingsError: what was given for it does not fit."""
        return settings_of(self.environment)

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
        while True:
            with suppress(TransientError):  # the database may be away for a moment, too
                execution_id = await self.services.executions.by_key(tenant.id, key)
                if execution_id is not None:
                    return execution_id
            await asyncio.sleep(_PROBE_EVERY_S)

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
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.processes.close()
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
        settings = self.settings  # what does not fit is said before a process ends of it
        write_env_file(self.env_file, self.environment)
        servers = len(self.opencode.servers) + len(self.options.servers_elsewhere)
        ready = self.processes.start_all(self.environment, self.options.copies, servers=servers)
        self._background.add(ready)
        self._services = await self._parts.enter_async_context(
            open_services(_patient(settings), application_name="nubabel-stack")
        )
        await self._seed(self._services)
        watched = tell_memory(self._watched, self._services.watch_servers)
        self._background.add(asyncio.create_task(watched))
        await ready
        if "flower" in self.processes.names():
            self._background.add(asyncio.create_task(self._introduce_workers_to_flower()))

    async def _introduce_workers_to_flower(self) -> None:
        """Flower looks for workers and their queues only when it starts, and some of ours came later."""
        login = (FLOWER_USER, self.secrets.flower_password)
        async with httpx.AsyncClient(base_url=self.flower_url, auth=login, trust_env=False, timeout=30) as flower:
            with suppress(httpx.TransportError):
                await flower.get("/api/workers", params={"refresh": "true"})

    def _start_database(self) -> None:
        self.postgres.start()
        schema.upgrade(self.postgres.ensure_database(STACK_DATABASE))

    async def _seed(self, services: Services) -> None:
        for started in self.opencode.servers:
            self._watched[await self._register(services, started)] = started
        for server in self.options.servers_elsewhere:
            await self._register(services, server)
        for number, (name, workspaces) in enumerate(self.options.organizations.items(), start=1):
            installed = [
                self.slack.world.add_workspace(f"T{number:03d}{copy:03d}", name=f"{name} {copy}" if copy > 1 else name)
                for copy in range(1, workspaces + 1)
            ]
            self.tenants.append(await create_tenant(services, name, installed))

    async def _register(self, services: Services, server: OpenCodeAccess) -> InstanceId:
        new = NewInstance(
            server.url,
            server.username,
            server.password,
            self.options.capacity_runs,
            self.options.submits_per_second,
        )
        return (await register_server(services, new)).id

    def _addresses(self) -> StackAddresses:
        return StackAddresses(
            database_url=self.postgres.url(STACK_DATABASE),
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
            time_scale=self.options.slack_time_scale,
            socket_teams=self.options.socket_teams,
        )


def _patient(settings: Settings) -> Settings:
    """For what sets the system up, while a dozen processes start beside it: nobody waits for a single answer of it."""
    return settings.model_copy(
        update={"database_connect_timeout_s": _SET_UP_S, "database_acquire_timeout_s": float(_SET_UP_S)}
    )


async def _all(*steps: Awaitable[object]) -> None:
    """Wait for every step, also when one fails, so that nothing is half started when the clean-up begins."""
    outcomes = await asyncio.gather(*steps, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
