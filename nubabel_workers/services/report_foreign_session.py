"""An OpenCode server gave a run what belongs to another's session: counted, for the alert, and in the audit log."""

import structlog

from nubabel_workers.domain.administration import AuditAction, AuditEntry, server_actor
from nubabel_workers.domain.errors import ForeignSessionError
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.ports import Incident, Incidents
from nubabel_workers.domain.ports.administration import AuditTrail

log = structlog.get_logger(__name__)


class ReportForeignSession:
    """Comes before the end of the run, so that none ends for this reason unseen; a repeat is told again."""

    def __init__(self, audit: AuditTrail, incidents: Incidents) -> None:
        self._audit = audit
        self._incidents = incidents

    async def run(self, execution: Execution, instance_id: str, error: ForeignSessionError) -> None:
        log.error("opencode.foreign_session", instance_id=instance_id, reason=str(error))
        self._incidents.count(Incident.FOREIGN_SESSION)
        await self._audit.add(
            AuditEntry(
                server_actor(instance_id),
                AuditAction.FOREIGN_SESSION,
                execution.organization_id,
                execution.id,
                {"reason": str(error)},
            )
        )
