"""One whole system in processes of its own, on stores of its own, with a Slack and an OpenCode beside it.

Lanes share nothing but the servers under them, so several cases run at the same time.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.types.json import Jsonb

from config.settings import Settings
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.client import AsyncNubabelClient, RetryLimits
from nubabel_workers.domain.tenants import BusyPolicy
from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.stack_environment import (
    StackAddresses,
    StackSecrets,
    base_environment,
    settings_environment,
)
from nubabel_workers.embedded.stack_tenants import Tenant, create_tenant, register_server
from nubabel_workers.services.manage_instances import NewInstance
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import RunningSimulator, simulator
from nubabel_workers.simulators.slack.model import Message
from nubabel_workers.simulators.slack.server import SlackSimulator, SlackSimulatorOptions
from tests.faults.kill_points.points import Moment
from tests.faults.kill_points.processes import BLIND, CLI, POISON, SERVING, WORKER, SystemProcess
from tests.integration.pipeline.webhook_receiver import Receiver, webhook_receiver
from tests.loopback import NO_CERTIFICATES
from tests.waiting import eventually, eventually_true

_STUCK_AFTER_S = 30.0
_READY_WITHIN_S = 20.0
# Time is what these cases would cost most: everything that waits for a dead process waits briefly.
_SHORT_WAITS = {
    "lease_s": "4",
    "listener_lease_s": "1",
    "scheduler_tick_s": "0.5",  # each round is ten statements: at 0.2 they took a fifth of the CPU time
    "scheduler_hint_after_s": "0.3",
    "scheduler_reconcile_s": "0.5",
    "scheduler_retention_interval_s": "1",
    "opencode_connect_timeout_s": "1",
    "opencode_read_timeout_s": "3",
    "opencode_default_model": "stub/echo",  # where a run ends in silence the server is asked whether it has it
    "opencode_restart_command": "true",
    "opencode_restart_after_s": "0.2",
    "breaker_failures": "2",
    "breaker_first_wait_s": "0.3",
    "breaker_max_wait_s": "0.5",
    "late_notice_s": "600",
    "retry_slack_events_first_wait_s": "0.05",
    "retry_slack_events_max_wait_s": "0.1",
    "retry_orchestration_first_wait_s": "0.05",
    "retry_orchestration_max_wait_s": "0.1",
    "retry_notifications_first_wait_s": "0.05",
    "retry_notifications_max_wait_s": "0.1",
    "slack_progress_interval_s": "0.05",
    "slack_read_quota_per_minute": "100000",
    "database_lock_timeout_s": "0.5",
    "database_pool_min": "0",
    "worker_concurrency": "8",
    "worker_send_events": "false",
    "log_level": "info",
}
_LIMITS = Jsonb({"queued": 400})
_COMPLAINTS = {1, 2}  # what the command line ends with when it could not, or would not
_OPEN_ROWS = """
SELECT
  (SELECT count(*) FROM inbound_events WHERE status = 'ready')
  + (SELECT count(*) FROM executions WHERE status NOT IN ('completed', 'failed', 'cancelled', 'rejected'))
  + (SELECT count(*) FROM notifications WHERE status IN ('ready', 'sending')) AS n
"""


@dataclass(frozen=True)
class Stores:
    database_url: str
    broker_url: str
    cache_url: str


class Lane:
    """The system, what surrounds it, and what a person or an upstream service does with it."""

    def __init__(
        self,
        settings: Settings,
        services: Services,
        slack: SlackSimulator,
        opencode: RunningSimulator,
        tenant: Tenant,
        hooks: Receiver,
        processes: Sequence[SystemProcess],
        *,
        trace: Path,
        patience_s: float,
    ) -> None:
        self.settings = settings
        self.services = services
        self.slack = slack
        self.opencode = opencode
        self.tenant = tenant
        self.hooks = hooks
        self.processes = {process.name: process for process in processes}
        self._trace = trace
        self._patience_s = patience_s
        self._cases = 0
        self._failures: list[str] = []  # processes that ended although nobody killed them
        self._restarts: set[asyncio.Task[None]] = set()

    # --- the world around it ---

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.http_port}"

    def client(self) -> AsyncNubabelClient:
        """An upstream service that keeps trying, as the published client does."""
        return AsyncNubabelClient(self.url, self.tenant.token, retries=RetryLimits(attempts=40, max_wait_s=0.3))

    def http(self, headers: Mapping[str, str] | None = None, *, timeout_s: float = 30.0) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(verify=NO_CERTIFICATES)
        return httpx.AsyncClient(transport=transport, headers=headers, timeout=timeout_s, trust_env=False)

    def authorization(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tenant.token.get_secret_value()}"}

    def number(self) -> int:
        """Of a case: its channel and its words are nobody else's."""
        self._cases += 1
        return self._cases

    def say(
        self,
        text: str,
        *,
        channel: str,
        thread: Message | None = None,
        team: str = "",
        files: Sequence[dict[str, str]] = (),
    ) -> Message:
        return self.slack.say(
            text,
            team=team or self.tenant.team,
            channel=channel,
            thread_ts=thread.root_ts if thread else None,
            files=files,
        )

    def mention(self, text: str, *, channel: str, thread: Message | None = None, team: str = "") -> Message:
        return self.say(f"@nubabel {text}", channel=channel, thread=thread, team=team)

    def told(self, question: Message, channel: str, team: str = "") -> list[str]:
        """What the bot says in the thread of that message now, in order."""
        found = self.slack.workspace(team or self.tenant.team).channels[channel]
        return [one.body for one in found.thread(question.root_ts) if one.bot_id is not None]

    def model_runs(self, words: str) -> list[int]:
        """How often the model ran for each prompt that contains these words."""
        store = self.opencode.simulator.store
        return [
            store.model_runs.get(message.id, 0)
            for session in store.sessions.values()
            for message in session.messages.values()
            if message.is_user and words in message.text
        ]

    async def set_policy(self, policy: BusyPolicy) -> None:
        await self.database("UPDATE organizations SET busy_policy = %(policy)s", policy=policy.value)

    async def database(self, statement: str, **params: object) -> None:
        """What only time, or an operator, would do to the rows."""
        await self.services.database.system().execute(statement, params)

    async def ids(self, where: str, **params: object) -> list[str]:
        """where: `table WHERE condition`. Oldest first."""
        rows = await self.services.database.system().all(f"SELECT id FROM {where} ORDER BY id", params)
        return [row["id"] for row in rows]

    async def replay_newest_dead_letter(self) -> None:
        *_, letter = await self.ids("dead_letters WHERE status = 'open'")
        await self.type_until_it_ends(f"dead-letters replay {letter}")

    async def count(self, where: str, **params: object) -> int:
        row = await self.services.database.system().one(f"SELECT count(*) AS n FROM {where}", params)
        return int(row["n"]) if row else 0

    @asynccontextmanager
    async def no_new_sessions(self) -> AsyncIterator[None]:
        """While this lasts the database refuses them, and so new executions: somebody holds a lock."""
        url = self.settings.database_url.get_secret_value()
        async with await psycopg.AsyncConnection.connect(url) as connection, connection.transaction():
            await connection.execute("LOCK TABLE sessions IN SHARE ROW EXCLUSIVE MODE")
            yield

    # --- waiting ---

    async def until(self, condition: Callable[[], object], what: str | Callable[[], str]) -> None:
        """what: is waited for; said when it does not come."""
        try:
            await eventually(lambda: condition() or self._failures, timeout_s=self._patience_s)
        except AssertionError:
            raise AssertionError(f"never came: {what() if callable(what) else what}") from None
        self._check()

    async def until_true(self, condition: Callable[[], Awaitable[object]], what: str) -> None:
        await eventually_true(condition, timeout_s=self._patience_s, what=what)
        self._check()

    async def until_quiet(self) -> None:
        """Nothing in the database waits for anybody, and nothing runs on OpenCode."""
        deadline = asyncio.get_running_loop().time() + self._patience_s
        while (left := await self.open_rows()) or self.opencode.simulator.engine.active:
            self._check()
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{left} rows are still open: {await self._what_is_open()}")
            await asyncio.sleep(0.05)

    async def directories_are_unloaded(self) -> None:
        """As those that were idle for long: whatever is submitted next has its organization's made ready first."""
        await self.services.database.system().execute(
            "UPDATE instance_directories SET state = 'disposed' WHERE state = 'ready'"
        )

    async def open_rows(self) -> int:
        row = await self.services.database.system().one(_OPEN_ROWS)
        return int(row["n"]) if row else 0

    async def _what_is_open(self) -> str:
        system = self.services.database.system()
        found = []
        for table in ("inbound_events", "executions", "notifications"):
            rows = await system.all(f"SELECT * FROM {table}")
            ended = {"done", "completed", "failed", "cancelled", "rejected", "sent", "dropped"}
            found += [f"{table} {row}" for row in rows if row["status"] not in ended]
        return "\n".join(found)

    def _check(self) -> None:
        if self._failures:
            raise AssertionError("; ".join(self._failures))

    # --- what is traced ---

    def made(self, process: str, call: str, since: int) -> bool:
        """Whether a process came back from that call since the mark."""
        return any(traced[:3] == (process, call, Moment.AFTER) for traced in self.traced(since))

    def kills(self) -> int:
        return sum(process.kills for process in self.processes.values())

    async def until_killed(self, before: int, *, timeout_s: float) -> None:
        """Another kill than those before, or the time is over. Everybody is there again then."""
        with suppress(AssertionError):
            await eventually(lambda: self.kills() > before, timeout_s=timeout_s)
        await asyncio.gather(*self._restarts)

    def mark(self) -> int:
        """The trace's end now."""
        return self._trace.stat().st_size if self._trace.exists() else 0

    def traced(self, since: int) -> list[tuple[str, str, str, str]]:
        """(process, call, moment, how it ended) of each call since the mark."""
        with self._trace.open("rb") as trace:
            trace.seek(since)
            lines = trace.read().decode().splitlines()
        return [_fields(line) for line in lines]

    # --- what a supervisor does ---

    def start_again(self, name: str) -> Callable[[int], None]:
        """Who was killed comes back. Its leases ended minutes ago: their time is all that is not waited for."""

        def ended(exit_code: int) -> None:
            if exit_code != -signal.SIGKILL:
                self._failures.append(f"{name} ended with {exit_code}")
                return
            restart = asyncio.create_task(self._replace(name), name=f"restart {name}")
            self._restarts.add(restart)
            restart.add_done_callback(self._restarts.discard)

        return ended

    async def _replace(self, name: str) -> None:
        if name == WORKER:
            for table in ("executions", "inbound_events", "notifications"):
                await self.database(
                    f"UPDATE {table} SET lease_until = now() - interval '2 min' WHERE lease_owner IS NOT NULL"
                )
        self.processes[name].start(on_end=self.start_again(name))

    # --- the operator ---

    async def type_until_it_ends(self, command: str, *, may_complain: bool = False) -> None:
        """A command of `nubabel`. Who sees it die types it again; then it may say that it has happened already."""
        exit_code = await self._run_command(command)
        if exit_code == -signal.SIGKILL:
            exit_code, may_complain = await self._run_command(command), True
        assert exit_code == 0 or (may_complain and exit_code in _COMPLAINTS), f"nubabel {command} ended: {exit_code}"

    async def _run_command(self, command: str) -> int:
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.processes[CLI].start(["nubabel", *command.split()], on_end=ended.set_result)
        return await ended


def _fields(line: str) -> tuple[str, str, str, str]:
    process, call, moment, *ended = line.split()
    return process, call, moment, ended[0] if ended else ""


@asynccontextmanager
async def lane(
    context: ForkServerContext,
    stores: Stores,
    directory: Path,
    *,
    patience_s: float = _STUCK_AFTER_S,
    blind: bool = False,
    poison: str = "",
) -> AsyncIterator[Lane]:
    """directory: for its trace and its processes' logs. patience_s: what takes longer is stuck.

    blind: its processes never find an earlier post of theirs. poison: the word of a prompt that kills who submits it.
    """
    made, port = StackSecrets(), free_port()
    async with AsyncExitStack() as stack:
        slack = await stack.enter_async_context(
            SlackSimulator(
                SlackSimulatorOptions(
                    events_url=f"http://127.0.0.1:{port}/slack/events",
                    signing_secret=made.signing_secret,
                    teams=("T0LANE",),
                    time_scale=0.02,
                )
            )
        )
        opencode = await stack.enter_async_context(simulator(SimulatorConfig(retry_wait_s=0.05)))
        environment = base_environment() | _environment(stores, made, slack, port)
        environment |= ({BLIND: "yes"} if blind else {}) | ({POISON: poison} if poison else {})
        settings = _settings(environment)
        services = await stack.enter_async_context(open_services(settings, application_name="kill-points"))
        tenant = await create_tenant(services, "Lane", [slack.workspace("T0LANE")])
        # So near a limit that it is counted all the time, not once a minute.
        await services.database.system().execute("UPDATE organizations SET limits = %(limits)s", {"limits": _LIMITS})
        await register_server(services, NewInstance(opencode.url, "opencode", None, 50, 1000))
        hooks = await stack.enter_async_context(webhook_receiver(tenant.webhook_secret.get_secret_value()))
        trace = directory / "trace"
        processes = [
            SystemProcess(context, name, environment, trace=trace, log=directory / f"{name}.log")
            for name in (*SERVING, CLI)
        ]
        for process in processes:
            stack.callback(process.stop)
        running = Lane(
            settings, services, slack, opencode, tenant, hooks, processes, trace=trace, patience_s=patience_s
        )
        for name in SERVING:
            running.processes[name].start(on_end=running.start_again(name))
        await _until_ready(running)
        yield running


async def _until_ready(running: Lane) -> None:
    async with running.http() as http, asyncio.timeout(_READY_WITHIN_S):
        while True:
            try:
                if (await http.get(f"{running.url}/health")).is_success and running.opencode.simulator.streams.readers:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.05)


def _environment(stores: Stores, made: StackSecrets, slack: SlackSimulator, port: int) -> dict[str, str]:
    addresses = StackAddresses(
        database_url=stores.database_url,
        broker_url=stores.broker_url,
        cache_url=stores.cache_url,
        slack_url=slack.base_url,
        http_port=port,
        flower_port=free_port(),
    )
    overrides = _SHORT_WAITS | {"egress_allow": "127.0.0.1"}
    return settings_environment(addresses, made, slack_mode="events", overrides=overrides)


def _settings(environment: dict[str, str]) -> Settings:
    """The same as the processes read from their environment."""
    values: dict[str, Any] = {
        name.removeprefix("NUBABEL_").lower(): value
        for name, value in environment.items()
        if name.startswith("NUBABEL_") and name != "NUBABEL_ENV_FILE"
    }
    return Settings(_env_file=None, **values)
