"""What an OpenCode server's plugin tells of its sessions: hints and progress, as the listener hears them too."""

from collections.abc import Sequence
from dataclasses import dataclass

from nubabel_workers.domain.administration import AuditAction, AuditEntry, server_actor
from nubabel_workers.domain.ports import ExecutionStore, HintPublisher, ProgressStream
from nubabel_workers.domain.progress import ProgressItem, ProgressSource
from nubabel_workers.services.find_callback_session import CallbackSession
from nubabel_workers.services.report_foreign_ids import ReportForeignIds
from nubabel_workers.services.wake_runs import wake_runs


@dataclass(frozen=True)
class RefusedCall:
    """An agent asked for what is not its session's to have; the plugin let it reach nothing."""

    opencode_session_id: str
    call_id: str
    tool: str
    reason: str


class HearCallbacks:
    """Proves nothing: what became of a run is read from OpenCode."""

    def __init__(
        self,
        executions: ExecutionStore,
        progress: ProgressStream,
        hints: HintPublisher,
        foreign_ids: ReportForeignIds,
    ) -> None:
        self._executions = executions
        self._progress = progress
        self._hints = hints
        self._foreign_ids = foreign_ids

    def refused(self, session: CallbackSession, calls: Sequence[RefusedCall]) -> None:
        """In the audit log of the organization whose agent it was: what it says is of its own session alone."""
        for call in calls:
            detail = {
                "tool": call.tool,
                "reason": call.reason,
                "opencode_session": call.opencode_session_id,
                "call": call.call_id,
            }
            self._foreign_ids.refused(
                AuditEntry(
                    server_actor(session.instance_id),
                    AuditAction.TOOL_CALL_REFUSED,
                    session.organization_id,
                    session.session_id,
                    detail,
                )
            )

    async def ended(self, session: CallbackSession, opencode_session_id: str) -> int:
        """How many executions are looked at now. The end of a sub-agent's session is not the end of a run."""
        if opencode_session_id not in {session.opencode_session_id, session.session_id}:
            return 0
        return len(await wake_runs(self._executions, self._hints, session.instance_id, [session.opencode_session_id]))

    async def progress(self, session: CallbackSession, items: Sequence[ProgressItem]) -> int:
        """How many items were news to those who follow what runs in the session."""
        running = await self._executions.running_by_opencode_session(session.instance_id, session.opencode_session_id)
        if running is None or not items:
            return 0
        return await self._progress.tell(running.organization_id, running.id, items, ProgressSource.PLUGIN)
