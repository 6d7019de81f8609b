"""Follow one OpenCode server's events: wake completions, tell progress, refuse what nobody can answer. Hints only."""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import structlog

from nubabel_workers.domain.circuit_breaker import CallKind, CallOutcome
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.hints import SIGN_WAIT_S, Hint, HintTask
from nubabel_workers.domain.opencode_compatibility import incompatibility
from nubabel_workers.domain.opencode_events import (
    Disposed,
    EventLag,
    PermissionAsked,
    QuestionAsked,
    ServerConnected,
    ServerEvent,
    SessionError,
    SessionIdle,
    TextDelta,
    ToolUpdate,
)
from nubabel_workers.domain.ports import (
    CircuitBreakers,
    ExecutionStore,
    HintPublisher,
    InstanceStore,
    NotificationStore,
    OpenCodeEvents,
    OpenCodeServers,
    ProgressStream,
)
from nubabel_workers.domain.progress import ProgressItem, ProgressSource, TextProgress, ToolProgress
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.domain.wording import Language, language_of, say
from nubabel_workers.services.keep_budgets import KeepBudgets
from nubabel_workers.services.reconcile_instance import ReconcileInstance
from nubabel_workers.services.refuse_asks import RefuseAsks
from nubabel_workers.services.report_servers import ReportServers
from nubabel_workers.services.wake_runs import wake_runs
from nubabel_workers.services.watch_servers import WatchServers

log = structlog.get_logger(__name__)

_SHOWN_TOOLS = 5
_MAX_RUNS = 20_000
# Measured on opencode 1.18.33: what happens within 20 to 50 ms after server.connected is not told on the new stream.
_DEAF_S = 0.25
_ENDED = frozenset({"completed", "error"})
_SIGNS = {"pending": "…", "running": "…", "completed": "✓", "error": "✗"}


@dataclass
class _Run:
    """What the listener keeps per run that it was asked about; forgotten when the session goes idle."""

    organization_id: str
    execution_id: str
    language: Language
    capped: bool  # each step that ends is a reason to look at what it has cost
    tools: OrderedDict[tuple[str, str, str], str] = field(default_factory=OrderedDict)  # call -> line
    step_ended: bool = False

    def text(self) -> str:
        lines = list(self.tools.values())[-_SHOWN_TOOLS:]
        return "\n".join([say("working", self.language), *lines])


class FollowInstance:
    """`follow` runs until the stream breaks; the listener process connects again."""

    def __init__(
        self,
        events: OpenCodeEvents,
        servers: OpenCodeServers,
        instances: InstanceStore,
        executions: ExecutionStore,
        notifications: NotificationStore,
        progress: ProgressStream,
        reconcile: ReconcileInstance,
        asks: RefuseAsks,
        breakers: CircuitBreakers,
        report: ReportServers,
        budgets: KeepBudgets,
        watch: WatchServers,
        hints: HintPublisher,
        *,
        main_agent: str,
        progress_pace_s: float,
    ) -> None:
        """main_agent: how the name of the agent begins that a server must have to get work."""
        self._events = events
        self._servers = servers
        self._instances = instances
        self._executions = executions
        self._notifications = notifications
        self._progress = progress
        self._reconcile = reconcile
        self._asks = asks
        self._breakers = breakers
        self._report = report
        self._budgets = budgets
        self._watch = watch
        self._hints = hints
        self._main_agent = main_agent
        self._progress_pace_s = progress_pace_s
        self._connected: set[str] = set()  # servers whose stream is open and that were asked how they are
        # What is said of a server is said in order: a correction of a moment ago must not cover the end of its stream.
        self._saying: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def follow(self, instance: Instance, watched: set[str]) -> None:
        """watched: OpenCode sessions whose text is wanted; the caller changes it at any time.

        Raises UnavailableError or CredentialsError when the stream ends.
        """
        runs: OrderedDict[str, _Run | None] = OrderedDict()
        heard = False
        try:
            async with asyncio.TaskGroup() as aside, aclosing(self._events.stream(instance, watched)) as stream:
                async for burst in stream:
                    heard = True
                    await self._take(instance, burst, runs, aside)
        except* UnavailableError:
            if not heard:  # a stream that breaks is nothing special; one that cannot be opened is
                self._breakers.saw(instance.id, CallKind.LOOK, CallOutcome.AWAY)
            raise
        finally:
            self._connected.discard(instance.id)

    async def _take(
        self,
        instance: Instance,
        burst: Sequence[ServerEvent],
        runs: "OrderedDict[str, _Run | None]",
        aside: asyncio.TaskGroup,
    ) -> None:
        ended: list[str] = []
        shown: dict[str, _Run] = {}
        for event in burst:
            match event:
                case ServerConnected() | EventLag() | Disposed():
                    await self._hear_of_server(instance, event, aside)
                case SessionIdle(session_id=session_id) | SessionError(session_id=str(session_id)):
                    ended.append(session_id)
                case ToolUpdate() | TextDelta():
                    await self._tell(instance, event, runs, shown)
                case PermissionAsked() | QuestionAsked():
                    aside.create_task(self._asks.refuse(instance, event))
        for run in shown.values():
            await self._show_in_thread(run)
        if costly := [session_id for session_id, run in shown.items() if run.capped and run.step_ended]:
            await self._look_at_cost(instance, costly, shown)
        if ended:
            await self._wake(instance, ended, runs)

    async def _hear_of_server(
        self, instance: Instance, event: ServerConnected | EventLag | Disposed, aside: asyncio.TaskGroup
    ) -> None:
        match event:
            case ServerConnected():
                await self._report_health(instance)
                self._connected.add(instance.id)
                await self._watch.connected(instance.id)
                aside.create_task(self._reconcile_once_heard(instance))
            case EventLag(seconds=lag_s):
                await self._watch.events(instance.id, lag_s)
            case Disposed():
                await self._reconcile.run(instance.id)

    async def _reconcile_once_heard(self, instance: Instance) -> None:
        await asyncio.sleep(_DEAF_S)
        await self._reconcile.run(instance.id)

    async def _wake(self, instance: Instance, ended: list[str], runs: "OrderedDict[str, _Run | None]") -> None:
        for session_id in ended:
            runs.pop(session_id, None)
        await wake_runs(self._executions, self._hints, instance.id, ended)

    async def _look_at_cost(self, instance: Instance, session_ids: list[str], runs: dict[str, _Run]) -> None:
        for session_id in session_ids:
            runs[session_id].step_ended = False
        await wake_runs(self._executions, self._hints, instance.id, session_ids)

    async def _run_of(self, instance: Instance, session_id: str, runs: "OrderedDict[str, _Run | None]") -> _Run | None:
        """The execution that a session works on; None for sessions that are not ours, such as sub-agents'."""
        if session_id not in runs:
            execution = await self._executions.running_by_opencode_session(instance.id, session_id)
            runs[session_id] = await self._run(execution) if execution is not None else None
            if len(runs) > _MAX_RUNS:
                runs.popitem(last=False)
        return runs[session_id]

    async def _run(self, execution: Execution) -> _Run:
        capped = await self._budgets.caps(execution.organization_id) is not None
        return _Run(execution.organization_id, execution.id, language_of(execution.prompt), capped)

    async def _tell(
        self,
        instance: Instance,
        event: ToolUpdate | TextDelta,
        runs: "OrderedDict[str, _Run | None]",
        shown: dict[str, _Run],
    ) -> None:
        run = await self._run_of(instance, event.session_id, runs)
        if run is None:
            return
        item: ProgressItem
        if isinstance(event, TextDelta):
            item = TextProgress(event.part_id, event.text)
        else:
            item = ToolProgress(
                event.session_id, event.call_id, event.tool, event.status, event.title, event.message_id
            )
            run.tools[item.name] = _line(event)
            run.step_ended = run.step_ended or event.status in _ENDED
            shown[event.session_id] = run
        await self._progress.tell(run.organization_id, run.execution_id, [item], ProgressSource.LISTENER)

    async def _show_in_thread(self, run: _Run) -> None:
        due = await self._notifications.show_progress(
            run.organization_id, run.execution_id, run.text(), pace_s=self._progress_pace_s
        )
        if due is not None:
            self._hints.publish(Hint(HintTask.DELIVER, due, run.organization_id, may_wait_s=SIGN_WAIT_S))

    async def _report_health(self, instance: Instance, *, if_connected: bool = False) -> None:
        server = self._servers.server(instance)
        version, agents, directories_path = await asyncio.gather(
            server.version(), server.agents(instance.directory), server.directories_path()
        )
        problem = incompatibility(version, agents, main_agent=self._main_agent)
        async with self._saying[instance.id]:
            if if_connected and instance.id not in self._connected:
                return
            await self._instances.report_health(
                instance.id,
                healthy=problem is None,
                detail=problem.reason if problem else "",
                version=version,
                agents=agents,
                directories_path=directories_path,
            )
        await self._report.run()
        if problem is None:
            log.info("opencode.connected", instance_id=instance.id, version=version, agents=len(agents))
        elif problem.reason != instance.health_detail:  # it is asked again and again
            log.error("opencode.refused", instance_id=instance.id, reason=problem.reason, advice=problem.advice)

    async def look_again(self, instance: Instance) -> None:
        """Whoever wrote meanwhile that it is not well saw less than we, to whom its stream is open; and one that was
        refused may have got by now what it lacked.
        """
        if not instance.healthy and instance.id in self._connected:
            await self._report_health(instance, if_connected=True)

    async def report_down(self, instance: Instance, reason: str) -> None:
        """New sessions go elsewhere until the listener is connected again."""
        async with self._saying[instance.id]:
            await self._instances.report_health(instance.id, healthy=False, detail=reason, version="", agents=())
        await self._report.run()


def _line(event: ToolUpdate) -> str:
    title = f" {event.title}" if event.title else ""
    return f"• `{event.tool}`{title} {_SIGNS.get(event.status, '')}".rstrip()
