"""Compare what we believe runs on an OpenCode server with what the server says. Makes lost events harmless."""

import asyncio
from collections import defaultdict

import structlog

from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.ports import ExecutionStore, HintPublisher, InstanceStore, OpenCodeServers
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.services.keep_directories import KeepDirectories
from nubabel_workers.services.refuse_asks import RefuseAsks
from nubabel_workers.services.report_servers import ReportServers
from nubabel_workers.services.stop_stray_runs import StopStrayRuns
from nubabel_workers.services.wake_runs import wake_runs

log = structlog.get_logger(__name__)


class ReconcileInstance:
    """Wakes the completion of every run whose session the server does not list as working, refuses open asks, and stops
    runs that belong to nobody.
    """

    def __init__(
        self,
        executions: ExecutionStore,
        instances: InstanceStore,
        servers: OpenCodeServers,
        asks: RefuseAsks,
        strays: StopStrayRuns,
        directories: KeepDirectories,
        report: ReportServers,
        hints: HintPublisher,
    ) -> None:
        self._executions = executions
        self._instances = instances
        self._servers = servers
        self._asks = asks
        self._strays = strays
        self._directories = directories
        self._report = report
        self._hints = hints

    async def run(self, instance_id: str) -> int:
        """Return how many executions were woken; a server that can't be asked wakes none."""
        instance = await self._instances.find(instance_id)
        running = await self._executions.running_on(instance_id)
        if instance is None or not (running or instance.healthy):
            return 0
        everywhere = [instance.directory, *await self._directories.loaded_on(instance)]
        sessions: defaultdict[str | None, list[str]] = defaultdict(list, {directory: [] for directory in everywhere})
        for _, opencode_session_id, directory in running:
            sessions[directory].append(opencode_session_id)
        quiet = await asyncio.gather(
            *(self._quiet_ones(instance, directory, ids) for directory, ids in sessions.items())
        )
        await self._report.run()
        woken = await wake_runs(self._executions, self._hints, instance_id, [one for ids in quiet for one in ids])
        if woken:
            log.info("opencode.reconciled", instance_id=instance_id, running=len(running), woken=len(woken))
        return len(woken)

    async def _quiet_ones(self, instance: Instance, directory: str | None, session_ids: list[str]) -> list[str]:
        try:
            busy = await self._servers.server(instance).busy_sessions(directory)
        except NubabelError as error:
            log.warning("opencode.not_reconciled", instance_id=instance.id, error=str(error))
            return []
        await self._tidy(instance, directory, set(busy), set(session_ids))
        return [session_id for session_id in session_ids if session_id not in busy]

    async def _tidy(self, instance: Instance, directory: str | None, busy: set[str], ours: set[str]) -> None:
        """What cannot be tidied up now keeps no run from being woken."""
        try:
            await self._asks.refuse_pending(instance, directory, busy)
            await self._strays.stop(instance, busy - ours)
        except NubabelError as error:
            log.warning("opencode.not_tidied", instance_id=instance.id, error=str(error))
