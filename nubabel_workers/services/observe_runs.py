"""Look at a run on OpenCode, decide what became of it, and stop it. Writes nothing but the timeline."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog

from nubabel_workers.domain.circuit_breaker import CLOSED, Gate
from nubabel_workers.domain.errors import NotFoundError, UnavailableError
from nubabel_workers.domain.executions import EventKind, Execution, SessionLeft
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.ports import (
    CircuitBreakers,
    ClaimedCheck,
    ExecutionStore,
    Incident,
    Incidents,
    InstanceStore,
    OpenCodeServer,
    OpenCodeServers,
)
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.domain.verdict import IDLE, SessionState, Verdict, VerdictKind, decide
from nubabel_workers.services.count_usage import CountUsage
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.report_servers import ReportServers
from nubabel_workers.services.submit_prompt import ids_of

log = structlog.get_logger(__name__)

_SETTLE_LOOKS_S = (0.15, 0.35)  # measured on opencode 1.18.33: the last message may be stored 300 ms after session.idle
_ABORT_S = 1.0  # measured: an abort is answered in 10-20 ms
_ABORT_LOOKS_S = (0.05, 0.1, 0.2, 0.4)
_LOOKED_AT_AGAIN = frozenset({VerdictKind.RUNNING, VerdictKind.UNSETTLED, VerdictKind.NOT_SUBMITTED})


class ObserveRuns:
    """Raises the errors of the OpenCode port; NotFoundError: the session, or its server, is gone."""

    def __init__(
        self,
        executions: ExecutionStore,
        instances: InstanceStore,
        servers: OpenCodeServers,
        leases: LeaseHolder,
        incidents: Incidents,
        breakers: CircuitBreakers,
        report: ReportServers,
        count_usage: CountUsage,
    ) -> None:
        self._executions = executions
        self._instances = instances
        self._servers = servers
        self._leases = leases
        self._incidents = incidents
        self._breakers = breakers
        self._report = report
        self._count_usage = count_usage

    @asynccontextmanager
    async def batch(self) -> "AsyncIterator[Batch]":
        """Looks that belong together; at the end what they saw of their servers is shared."""
        yield Batch(self._instances, self._servers, self._breakers)
        await self._report.run()

    async def look(self, claimed: ClaimedCheck, batch: "Batch", lease: Lease) -> tuple[OpenCodeServer, Verdict]:
        execution = claimed.execution
        instance = await batch.instance(execution)
        await batch.admit(instance)
        server = self._servers.server(instance)
        state = await batch.state(instance, execution)
        verdict = await self._decide(server, execution, state, settled=False)
        if claimed.cancel_requested or claimed.past_deadline:
            verdict = await self._aborted(server, execution, verdict, lease)
        elif verdict.kind is VerdictKind.UNSETTLED:
            verdict = await self._settled(server, execution, verdict)
        if verdict.stray_run:
            await self._stop_stray(server, execution, lease)
        ends = claimed.cancel_requested or claimed.past_deadline or verdict.kind not in _LOOKED_AT_AGAIN
        # One that goes on as well, where sub-agents work for it: they are what comes further, or stands still.
        counted = ends or verdict.delegated
        return server, await self._count_usage.run(server, execution, verdict) if counted else verdict

    async def _settled(self, server: OpenCodeServer, execution: Execution, verdict: Verdict) -> Verdict:
        for look, wait_s in enumerate(_SETTLE_LOOKS_S, start=1):
            await asyncio.sleep(wait_s)
            verdict = await self._look_again(server, execution, settled=look == len(_SETTLE_LOOKS_S))
            if verdict.kind is not VerdictKind.UNSETTLED:
                break
        return verdict

    async def _look_again(self, server: OpenCodeServer, execution: Execution, *, settled: bool) -> Verdict:
        busy = await server.busy_sessions(execution.opencode_directory)
        return await self._decide(server, execution, busy.get(session_of(execution), IDLE), settled=settled)

    async def _stop(self, server: OpenCodeServer, execution: Execution, lease: Lease) -> None:
        # Abort what this execution runs, never what the session's next one does: the lease says which it is.
        self._leases.time_to_act_s(lease, _ABORT_S)
        await server.abort(session_of(execution))

    async def _stop_stray(self, server: OpenCodeServer, execution: Execution, lease: Lease) -> None:
        """A prompt that came late, from a process whose lease was over, keeps this execution's session busy."""
        await self._stop(server, execution, lease)
        self._incidents.count(Incident.STRAY_RUN)
        log.warning("opencode.stray_run_stopped", opencode_session_id=execution.opencode_session_id)
        await self._executions.note_event(execution, EventKind.STRAY_RUN_STOPPED, {})

    async def abort(self, server: OpenCodeServer, execution: Execution, verdict: Verdict, lease: Lease) -> Verdict:
        """Abort what still runs and read what there is; the server ends a run within a second.

        RESUBMIT: it has ended, or was dead before, and the server has not said how.
        """
        verdict = await self._aborted(server, execution, verdict, lease)
        return await self._count_usage.run(server, execution, verdict)

    async def _aborted(self, server: OpenCodeServer, execution: Execution, verdict: Verdict, lease: Lease) -> Verdict:
        if verdict.kind not in {VerdictKind.RUNNING, VerdictKind.UNSETTLED, VerdictKind.RESUBMIT}:
            return verdict
        await self._stop(server, execution, lease)
        await self._executions.note_event(execution, EventKind.ABORTED, {})
        for wait_s in _ABORT_LOOKS_S:
            await asyncio.sleep(wait_s)
            verdict = await self._look_again(server, execution, settled=True)
            if verdict.kind not in {VerdictKind.RUNNING, VerdictKind.RESUBMIT}:
                break
        return verdict

    async def _decide(
        self, server: OpenCodeServer, execution: Execution, state: SessionState, *, settled: bool
    ) -> Verdict:
        session_id = session_of(execution)
        message_id = ids_of(execution, session_id).message_id
        return decide(
            await server.run_messages(session_id, since=message_id),
            my_message_id=message_id,
            state=state,
            settled=settled,
            known_assistant_ids=frozenset(execution.known_assistant_ids),
        )


class ServerLeftError(NotFoundError):
    """Nobody asks the server of the session any more. away_since: it could not be reached before that either."""

    def __init__(self, message: str, because: SessionLeft, instance: Instance | None) -> None:
        super().__init__(message)
        self.because = because
        self.away_since = instance.unhealthy_since if instance is not None else None


class Batch:
    """What the executions of one batch ask their servers for together: one status call per server and directory.

    Shielded: a row that runs out of time must not take along what others wait for as well.
    """

    def __init__(self, instances: InstanceStore, servers: OpenCodeServers, breakers: CircuitBreakers) -> None:
        self._instances = instances
        self._servers = servers
        self._breakers = breakers
        self._gates: asyncio.Future[Mapping[str, Gate]] | None = None
        self._probed: set[str] = set()
        self._found: dict[str, asyncio.Future[Instance | None]] = {}
        self._busy: dict[tuple[str, str | None], asyncio.Future[Mapping[str, SessionState]]] = {}

    async def instance(self, execution: Execution) -> Instance:
        instance_id = execution.instance_id or ""
        if instance_id not in self._found:
            self._found[instance_id] = asyncio.ensure_future(self._instances.lately(instance_id))
        instance = await asyncio.shield(self._found[instance_id])
        if instance is None or instance.status == "removed":
            raise ServerLeftError("the OpenCode server of this session was removed", SessionLeft.REMOVED, instance)
        if instance.given_up:
            words = "the OpenCode server of this session is away for too long"
            raise ServerLeftError(words, SessionLeft.GIVEN_UP, instance)
        return instance

    async def admit(self, instance: Instance) -> None:
        """Raises UnavailableError while the server's circuit breaker holds looks back, but for the one that probes."""
        if self._gates is None:
            self._gates = asyncio.ensure_future(self._breakers.gates())
        gate = (await asyncio.shield(self._gates)).get(instance.id, CLOSED)
        if gate.looks:
            return
        if gate.lets_probe and instance.id not in self._probed:
            self._probed.add(instance.id)
            if await self._breakers.take_probe(instance.id):
                return
        raise UnavailableError("its server is away, and gets no calls for a moment")

    async def state(self, instance: Instance, execution: Execution) -> SessionState:
        key = (instance.id, execution.opencode_directory)
        if key not in self._busy:
            server = self._servers.server(instance)
            self._busy[key] = asyncio.ensure_future(server.busy_sessions(execution.opencode_directory))
        return (await asyncio.shield(self._busy[key])).get(session_of(execution), IDLE)


def session_of(execution: Execution) -> str:
    if execution.opencode_session_id is None:
        raise NotFoundError("the execution has no OpenCode session")
    return execution.opencode_session_id
