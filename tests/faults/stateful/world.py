"""The system under test: real services over real PostgreSQL, in processes that die, with a simulated outside."""

import dataclasses
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import psycopg
from psycopg.rows import dict_row
from pydantic import SecretStr

from config.metrics import ProcessMetrics
from config.settings import Settings
from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.adapters.storage.workspaces import PostgresWorkspaces
from nubabel_workers.bootstrap.adapters import Adapters, open_adapters
from nubabel_workers.bootstrap.services import Services, wire
from nubabel_workers.domain.administration import Installation
from nubabel_workers.domain.errors import IllegalTransitionError, NubabelError
from nubabel_workers.domain.hints import HintTask
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.simulators.slack.delivery import envelope
from nubabel_workers.simulators.slack.model import SlackWorld, Workspace
from tests.faults.stateful.outside_breakers import FakeBreakers, Heeded
from tests.faults.stateful.outside_opencode import FakeOpenCode
from tests.faults.stateful.outside_shared import CyclicChance, SharedMemory
from tests.faults.stateful.outside_slack import FakeMessenger, FakeWebhooks
from tests.faults.stateful.stepping import Call, Fate, Gated, Process, SteppableLoop, Stepper
from tests.faults.stateful.stopped_clock import StoppedClock

ORGANIZATIONS = ("org_a", "org_b")
TEAMS = {"org_a": "T0A", "org_b": "T0B"}
INSTANCES = ("ins_1", "ins_2")
CHANNEL = "C0GENERAL"
PROCESSES = 3
_RENEWED_EVERY_S = 3
_SECRET = SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
_STORES = (
    "tenants",
    "executions",
    "inbound",
    "notifications",
    "dead_letters",
    "maintenance",
    "instances",
    "directories",
    "waiting",
    "admission",
)
_FORGOTTEN = ("sessions", "executions", "inbound_events", "dead_letters", "notifications", "audit_log")
_AFRESH = """
UPDATE organizations SET busy_policy = 'queue', disabled_at = NULL;
UPDATE workspaces SET status = 'active', revoked_at = NULL;
UPDATE instances SET healthy = true, status = 'active', reconcile_at = now();
"""
Work = Callable[[Services], Coroutine[Any, Any, Any]]


@dataclass(frozen=True)
class Interruption:
    """After so many gates, fate strikes; None: the call runs through."""

    gates: int | None
    fate: Fate = Fate.PAUSE

    def __repr__(self) -> str:
        return "undisturbed" if self.gates is None else f"{self.fate} at gate {self.gates}"


UNDISTURBED = Interruption(None)


@dataclass(frozen=True, eq=False)
class Event:
    """What Slack wants to deliver."""

    body: dict[str, Any]


class LivingProcess(Process):
    """A worker, web or scheduler process: one wiring of all services."""

    def __init__(self, services: Services) -> None:
        super().__init__()
        self.services = services


class World:
    """What the state machine acts on. Its methods leave everything at rest."""

    def __init__(
        self, base: Adapters, rows: psycopg.Connection[dict[str, Any]], loop: SteppableLoop, stepper: Stepper
    ) -> None:
        self.rows = rows
        self.stepper = stepper
        self.base = base
        self.clock = StoppedClock(loop, rows)
        self.reset()

    def reset(self) -> None:
        """Empty tables, an empty outside, fresh processes."""
        self.violations: list[str] = []
        self.crashes: list[str] = []
        self.journal: list[str] = []  # what happened, for who reads of a failure
        self.memory = SharedMemory()
        self.events: list[Event] = []  # told by Slack, not acknowledged
        self.slack = SlackWorld(emit=self._emit, echo_own_messages=False)
        for team in TEAMS.values():
            self.slack.add_workspace(team)
        self.clock.on_advance = self._tell_slack_the_time
        self.clock.restart()
        self.messenger = FakeMessenger(self.slack)
        self.webhooks = FakeWebhooks()
        self.servers = {name: FakeOpenCode(name, self.violations) for name in INSTANCES}
        self._event_number = 0
        for table in _FORGOTTEN:
            self.rows.execute(f"DELETE FROM {table}")
        self.rows.execute(_AFRESH)
        self.processes = [LivingProcess(self._wire()) for _ in range(PROCESSES)]

    def _wire(self) -> Services:
        def gated(name: str, real: object, timeout_s: float | None = None) -> Any:
            return Gated(self.stepper, name, real, timeout_s=timeout_s)

        settings, breakers = self.base.settings, FakeBreakers(self.memory.breakers)
        stores = {name: gated(name, getattr(self.base, name)) for name in _STORES}
        return wire(
            dataclasses.replace(
                self.base,
                **stores,
                clock=cast("Any", self.clock),
                chance=CyclicChance(),
                mappings=cast("Any", self.memory),
                progress=cast("Any", self.memory),
                throttle=cast("Any", self.memory),
                hints=cast("Any", self.memory),
                breakers=cast("Any", breakers),
                messenger=gated("slack", self.messenger, settings.slack_timeout_s),
                webhooks=gated("webhook", self.webhooks, settings.webhook_timeout_s),
                servers=cast("Any", _Servers(self, breakers)),
            )
        )

    # --- calls ---

    async def start(
        self,
        process: int,
        name: str,
        work: Work,
        interruption: Interruption = UNDISTURBED,
        then: Callable[[Any], None] | None = None,
    ) -> Call:
        """An entry into a service of that process. then: what its caller does with the result."""
        chosen = self.processes[process % PROCESSES]
        call = await self.stepper.start(
            chosen, name, work(chosen.services), gates=interruption.gates, fate=interruption.fate, then=then
        )
        if call.at:
            self.note(f"{name} in process {process}: {interruption.fate} {call.at}")
        self._bury()
        return call

    def note(self, what: str) -> None:
        self.journal.append(f"{self.clock.monotonic():8.2f} {what}")

    async def go_on(self, call: Call, interruption: Interruption) -> None:
        self.note(f"{call.name} goes on after it was {call.at}")
        call.go_on(interruption.gates, interruption.fate)
        await self.stepper.settle()
        self.note(f"{call.name}: {interruption.fate} {call.at}" if call.paused else f"{call.name} went on")
        call.strike()
        await self._at_rest()

    async def kill(self, process: LivingProcess) -> None:
        self.note(f"process {self.processes.index(process)} is killed")
        process.kill()
        await self._at_rest()

    async def _at_rest(self) -> None:
        await self.stepper.settle()
        self._bury()

    def _bury(self) -> None:
        """Look at what ended, and put new processes in the place of dead ones."""
        for call in self.stepper.collect():
            self.note(f"{call.name}: {call.result if call.error is None else repr(call.error)}")
            if call.error is not None and not _is_fault(call.error):
                self.crashes.append(f"{call.name} at {call.at}: {call.error!r}")
            if "crashed" in str(call.result):
                self.crashes.append(f"{call.name} at {call.at}: {call.result}")
        for place, process in enumerate(self.processes):
            if not process.alive:
                self.processes[place] = LivingProcess(self._wire())

    def paused(self) -> list[Call]:
        return [call for call in self.stepper.calls if call.paused]

    # --- time ---

    async def pass_time(self, seconds: int, *, renewing: bool) -> None:
        """renewing: processes keep their leases."""
        while seconds > 0:
            held = [process.services.leases for process in self.processes if process.services.leases._held]
            step = min(seconds, _RENEWED_EVERY_S) if renewing and held else seconds
            await self._skip(step)
            seconds -= step
            for leases in held if renewing else ():
                await leases._renew(dict(leases._held))

    async def _skip(self, seconds: int) -> None:
        self.clock.advance(seconds)
        await self._at_rest()

    def _tell_slack_the_time(self) -> None:
        self.slack._last_ts = max(self.slack._last_ts, int(self.clock.now().timestamp() * 1_000_000))

    # --- the outside ---

    def _emit(self, workspace: Workspace, event: dict[str, Any]) -> str:
        self._event_number += 1
        event_id = f"Ev{self._event_number:06d}"
        self.events.append(Event(envelope(workspace, event, event_id)))
        return event_id

    async def take_hint(
        self, process: int, task: HintTask, row_id: str | None, interruption: Interruption = UNDISTURBED
    ) -> Call:
        return await self.start(process, task.value, lambda services: _task(services, task, row_id), interruption)

    async def hear(self, process: int, server: FakeOpenCode, session_id: str, interruption: Interruption) -> None:
        """The listener is told that a session went idle."""

        async def listen(services: Services) -> None:
            instance = await services.instances.find(server.name)
            await services.follow_instance._wake(cast("Instance", instance), [session_id], cast("Any", {}))

        await self.start(process, "listener", listen, interruption)

    def all(self, statement: str, params: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        return self.rows.execute(statement, params).fetchall()


class _Servers:
    """Implements ports.OpenCodeServers for one process."""

    def __init__(self, world: World, breakers: FakeBreakers) -> None:
        self._world = world
        self._breakers = breakers

    def server(self, instance: Instance) -> Any:
        timeout_s = 2 * self._world.base.settings.opencode_read_timeout_s
        server = Gated(self._world.stepper, "opencode", self._world.servers[instance.id], timeout_s=timeout_s)
        return Heeded(server, instance.id, self._breakers)


async def _task(services: Services, task: HintTask, row_id: str | None) -> str:
    if task is HintTask.DISPATCH:
        return await services.dispatch_executions.run()
    entry = {
        HintTask.PROCESS_SLACK_EVENTS: services.process_slack_events.run,
        HintTask.COMPLETE: services.complete_executions.run,
        HintTask.DELIVER: services.deliver_notifications.run,
    }[task]
    return await entry(row_id)


def _is_fault(error: BaseException) -> bool:
    """Whether a call may end with it: by our taxonomy, or because somebody ended the call."""
    return not isinstance(error, Exception) or (
        isinstance(error, NubabelError) and not isinstance(error, IllegalTransitionError)
    )


@asynccontextmanager
async def open_world(settings: Settings, loop: SteppableLoop, admin_url: str) -> AsyncIterator[World]:
    """admin_url: of the migrated database, as its owner."""
    async with AsyncExitStack() as stack:
        base = await open_adapters(settings, ProcessMetrics(), "stateful", stack)
        rows = stack.enter_context(psycopg.connect(admin_url, autocommit=True, row_factory=dict_row))
        world = World(base, rows, loop, Stepper(loop))
        await _add_tenants(world)
        yield world


async def _add_tenants(world: World) -> None:
    organizations = PostgresOrganizations(world.base.database, world.base.cipher)
    workspaces = PostgresWorkspaces(world.base.database, world.base.cipher)
    for instance in INSTANCES:
        world.rows.execute(
            "INSERT INTO instances (id, url, agents, capacity_runs) VALUES (%s, %s, '[\"build\"]', 3)",
            (instance, f"http://{instance}"),
        )
    for organization in ORGANIZATIONS:
        world.rows.execute("INSERT INTO organizations (id, name) VALUES (%s, %s)", (organization, organization))
        await organizations.set_webhook_secret(organization, _SECRET, overlap_s=0, actor="tests")
        workspace = world.slack.workspace(TEAMS[organization])
        await workspaces.save(
            organization,
            f"wsp_{organization}",
            Installation(
                team_id=workspace.team_id,
                enterprise_id=None,
                team_name=organization,
                bot_user_id=workspace.bot_user_id,
                bot_token=SecretStr(workspace.bot_token),
                bot_id=workspace.bot_id,
                scopes=("chat:write",),
            ),
            actor="tests",
        )
