"""Stop runs on OpenCode that belong to nobody: given up while their server was away, or begun by a late prompt.

Their answers are never told; what they cost is all the harm they do.
"""

from collections.abc import Collection

import structlog

from nubabel_workers.domain.executions import EventKind
from nubabel_workers.domain.ports import ExecutionStore, Incident, Incidents, OpenCodeServers
from nubabel_workers.domain.tenants import Instance

log = structlog.get_logger(__name__)


class StopStrayRuns:
    """Stopping a run twice, or one that has just ended, does no harm."""

    def __init__(self, executions: ExecutionStore, servers: OpenCodeServers, incidents: Incidents) -> None:
        self._executions = executions
        self._servers = servers
        self._incidents = incidents

    async def stop(self, instance: Instance, working_sessions: Collection[str]) -> int:
        """working_sessions: OpenCode sessions that the server says are busy; those that aren't ours are left alone.

        Returns how many runs were stopped. Raises the errors of the OpenCode port.
        """
        if not working_sessions:
            return 0
        strays = await self._executions.stray_runs(instance.id, working_sessions)
        for opencode_session_id, execution in strays.items():
            await self._servers.server(instance).abort(opencode_session_id)
            self._incidents.count(Incident.STRAY_RUN)
            log.warning(
                "opencode.stray_run_stopped",
                instance_id=instance.id,
                opencode_session_id=opencode_session_id,
                organization_id=execution.organization_id,
                execution_id=execution.id,
            )
            await self._executions.note_event(execution, EventKind.STRAY_RUN_STOPPED, {})
        return len(strays)
