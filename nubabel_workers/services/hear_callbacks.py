"""What an OpenCode server's plugin tells of its sessions: hints and progress, as the listener hears them too."""

from collections.abc import Sequence

from nubabel_workers.domain.ports import ExecutionStore, HintPublisher, ProgressStream
from nubabel_workers.domain.progress import ProgressItem, ProgressSource
from nubabel_workers.services.find_callback_session import CallbackSession
from nubabel_workers.services.wake_runs import wake_runs


class HearCallbacks:
    """Proves nothing: what became of a run is read from OpenCode."""

    def __init__(self, executions: ExecutionStore, progress: ProgressStream, hints: HintPublisher) -> None:
        self._executions = executions
        self._progress = progress
        self._hints = hints

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
