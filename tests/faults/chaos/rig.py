"""One chaos run: the whole system, who uses it, what befalls it, and the wait for quiet at the end."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import structlog
from psycopg.types.json import Jsonb

from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.stack import Stack, StackOptions
from nubabel_workers.embedded.stack_environment import HOST
from nubabel_workers.embedded.stack_tenants import Tenant
from tests.faults.chaos.balancer import Balancer
from tests.faults.chaos.book import Book, RunObserver, SlackObserver
from tests.faults.chaos.closing import requests_let_through
from tests.faults.chaos.counted import miscounted
from tests.faults.chaos.farewells import Farewells
from tests.faults.chaos.faults import Injector
from tests.faults.chaos.fleet import PACE, Fleet, ProcessManager
from tests.faults.chaos.ledger import Fate, Way, fates_of, order_violations, unexplained_reruns
from tests.faults.chaos.limit_changes import LimitChanges, OperatorAccess
from tests.faults.chaos.load import Load, LoadOptions
from tests.faults.chaos.owners import Takeovers
from tests.faults.chaos.plan import FaultKind, PlannedFault, PlanOptions, make_plan
from tests.faults.chaos.purse import Purse
from tests.faults.chaos.recount import off_by_something, pauses
from tests.faults.chaos.report import Result
from tests.faults.chaos.upstream import Upstream

ORGANIZATIONS: Mapping[str, int] = {"Acme": 1, "Hanbit": 1, "Borealis": 1, "Namsan": 1, "Leaving": 1}
SOCKET_TEAMS = ("T002001", "T004001")
_KINDS = ("web", "slack", "worker-events", "worker-orchestration", "worker-notifications", "listener", "scheduler")
_OPENCODE_SERVERS = 2
_FEW_AT_ONCE: Mapping[str, float] = {"in_flight": 8}
_LOOK_EVERY_S = 0.5
_EVENTS_PATH = "/slack/events"
_CONTROL = Path(__file__).with_name("control")
_ROOT = Path(__file__).parents[3]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RigOptions:
    """fault_every_s: 0 for none. settle_s: nothing may change for so long at the end. quiet_s: how long to wait for it.

    control: what notification workers look up before they repeat a post is switched off; the run has to show doubles.
    slack_time_scale: of Slack's waits (0.5, 60, 300 s) between deliveries of an event.
    """

    load: LoadOptions
    fault_every_s: float = 3.0
    stop_s: tuple[float, float] = (12.0, 18.0)
    fleet_s: tuple[float, float] = (6.0, 12.0)
    limit_s: tuple[float, float] = (4.0, 10.0)
    given_up_s: tuple[float, float] = (25.0, 35.0)
    kinds: Collection[FaultKind] = tuple(FaultKind)
    settle_s: float = 15.0
    quiet_s: float = 300.0
    control: bool = False
    slack_time_scale: float = 0.2
    copies: int = 2
    settings: Mapping[str, str] = field(default_factory=dict)


class Rig:
    """Use as an async context manager; `run` once."""

    def __init__(self, options: RigOptions) -> None:
        self.options = options
        self.book = Book()
        callback_port = free_port()
        self.server_processes = ProcessManager(port=free_port())
        self.operator = OperatorAccess()
        self.stack = Stack(_stack_options(options, callback_port, self.server_processes, self.operator))
        self.observer = SlackObserver(self.book, self.stack.slack.world)
        self.upstream = Upstream(self.book, port=callback_port, seed=options.load.seed)
        self.load = Load(self.stack, self.book, self.observer, self.upstream, options.load)
        self._parts = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._parts.aclose()
            raise
        return self

    async def _start(self) -> None:
        await self._parts.enter_async_context(self.server_processes)
        await self._parts.enter_async_context(self.stack)
        self.fleet = await self._parts.enter_async_context(Fleet(self.stack, self.book, self.server_processes))
        await self._parts.enter_async_context(self.upstream)
        balancer = await self._parts.enter_async_context(Balancer(self.stack.processes.http_ports))
        self.upstream.api_url = balancer.url
        self.stack.slack.send_events_to(f"{balancer.url}{_EVENTS_PATH}")
        await self._limit()
        for server in self.stack.opencode.simulators:
            RunObserver(self.book, server.insides.engine)

    async def _limit(self) -> None:
        """One organization may run few at once, another has little money."""
        await self.stack.services.database.system().execute(
            "UPDATE organizations SET limits = %(limits)s WHERE id = %(id)s",
            {"id": self.staying[0].id, "limits": Jsonb(dict(_FEW_AT_ONCE))},
        )
        await Purse(self.stack, self.spender).open()

    async def __aexit__(self, *_exc: object) -> None:
        await self._parts.aclose()

    @property
    def staying(self) -> Sequence[Tenant]:
        """The organizations that keep their workspace."""
        return self.stack.tenants[:-1]

    @property
    def spender(self) -> Tenant:
        """The organization that comes to the cap of its budget, again and again."""
        return self.stack.tenants[1]

    def plan(self) -> list[PlannedFault]:
        """The faults that follow from the seed."""
        options = self.options
        if options.fault_every_s <= 0:
            return []
        processes = [name for name in self.stack.processes.names() if name.partition(".")[0] in _KINDS]
        teams = [tenant.team for tenant in self.staying]
        return make_plan(
            options.load.seed,
            PlanOptions(
                options.load.duration_s,
                options.fault_every_s,
                processes,
                teams,
                _OPENCODE_SERVERS,
                stop_s=options.stop_s,
                fleet_s=options.fleet_s,
                limit_s=options.limit_s,
                given_up_s=options.given_up_s,
                spender=self.spender.team,
                kinds=options.kinds,
            ),
        )

    async def run(self, plan: Sequence[PlannedFault]) -> Result:
        takeovers = Takeovers(self.stack, self.book)
        limits = LimitChanges(
            self.stack, self.operator, api_url=self.upstream.api_url, own={self.staying[0].id: _FEW_AT_ONCE}
        )
        injector = Injector(self.stack, self.book, takeovers, self.fleet, limits)
        staying, leaving = self.stack.tenants[0], self.stack.tenants[-1]
        farewells = Farewells(self.stack, self.book, self.load, staying=staying, leaving=leaving)
        raising = asyncio.create_task(Purse(self.stack, self.spender).run())
        began = time.monotonic()
        async with asyncio.TaskGroup() as all_of_it:
            all_of_it.create_task(self.load.run(self.staying, spender=self.spender))
            all_of_it.create_task(farewells.run())
            all_of_it.create_task(injector.run(plan))
        load_s = time.monotonic() - began
        log.info("chaos.waiting_for_quiet", load_s=round(load_s, 1))
        quiet_after_s = await self.until_quiet()
        raising.cancel()
        with suppress(asyncio.CancelledError):
            await raising
        await takeovers.close()
        result = await self.result()
        return Result(
            fates=result.fates,
            out_of_order=result.out_of_order,
            runs=result.runs,
            rerun=result.rerun,
            suffered=injector.suffered,
            takeovers=takeovers.measured,
            load_s=load_s,
            quiet_after_s=quiet_after_s,
            books=[*self.fleet.unmended, *(await self._recount(limits) if quiet_after_s is not None else ())],
            pauses=await pauses(self.stack.services.database),
        )

    async def _recount(self, limits: LimitChanges) -> Sequence[str]:
        services = self.stack.services
        found = await off_by_something(services.database)
        organizations = [tenant.id for tenant in self.stack.tenants]
        found += await miscounted(services, organizations, self.fleet.loaded())
        return found + await requests_let_through(self.stack, limits)

    async def until_quiet(self) -> float | None:
        """Seconds until every request had its outcome and nothing changed any more; None: the deadline came first."""
        began = time.monotonic()
        while (now := time.monotonic()) < began + self.options.quiet_s:
            if now - self.book.changed_at >= self.options.settle_s and not self._open():
                return now - began
            await asyncio.sleep(_LOOK_EVERY_S)
        return None

    async def result(self) -> Result:
        """What became of everything, by the book."""
        for job in self.book.jobs.values():
            if job.way in {Way.WEBHOOK, Way.POLLING, Way.BATCH} and job.accepted_at is not None:
                if not self.book.has_outcome[job.number].is_set():
                    await self.upstream.look_at(job)
            else:
                job.working = self.observer.is_worked_on(job)
        fates = fates_of(self.book.jobs.values(), self.book.told)
        return Result(
            fates=fates,
            out_of_order=order_violations(fates, self.book.runs),
            runs=self.book.runs,
            rerun=unexplained_reruns(self.book.runs, self.book.wipes),
        )

    def _open(self) -> bool:
        fates = fates_of(self.book.jobs.values(), self.book.told)
        return any(one.fate in {Fate.LOST, Fate.STUCK} for one in fates)


def _stack_options(
    options: RigOptions, callback_port: int, servers: ProcessManager, operator: OperatorAccess
) -> StackOptions:
    copies = dict.fromkeys((*_KINDS, "worker-dead-letters"), options.copies)
    guards_off = {"PYTHONPATH": f"{_CONTROL}:{_ROOT}"} if options.control else {}
    return StackOptions(
        opencode_servers=_OPENCODE_SERVERS,
        slack="events",
        socket_teams=SOCKET_TEAMS,
        slack_time_scale=options.slack_time_scale,
        organizations=ORGANIZATIONS,
        copies={**copies, "flower": 0},
        settings={
            "egress_allow": f"{HOST}:{callback_port}",
            "opencode_restart_command": servers.command,
            "operator_tokens": operator.setting,
            **PACE,
            **options.settings,
        },
        environment_of={"slack": {"NUBABEL_SLACK_MODE": "socket"}, "worker-notifications": guards_off},
    )
