"""Refuse OpenCode's questions and permission asks: configuration denies them, and nobody here could answer one.

One that appears all the same would hold its session for ever. It is heard of from the event stream, and found again by
every comparison with the server, so that a lost event delays the refusal and nothing else.
"""

import structlog

from nubabel_workers.domain.errors import NotFoundError, NubabelError
from nubabel_workers.domain.executions import EventKind
from nubabel_workers.domain.opencode_events import PermissionAsked, QuestionAsked
from nubabel_workers.domain.ports import ExecutionStore, OpenCodeServer, OpenCodeServers
from nubabel_workers.domain.tenants import Instance

log = structlog.get_logger(__name__)

# A refusal with words lets the run go on (measured on opencode 1.18.33); questions cannot be refused with words.
_WORDS = "Nobody can answer this here. Go on without it, or say in your answer what you would need."


class RefuseAsks:
    """Refusing twice does no harm: the second time the ask is gone."""

    def __init__(self, executions: ExecutionStore, servers: OpenCodeServers) -> None:
        self._executions = executions
        self._servers = servers

    async def refuse(self, instance: Instance, asked: PermissionAsked | QuestionAsked) -> None:
        """Note it in the timeline, then refuse: a crash in between leaves a note about an ask that still stands."""
        try:
            execution = await self._executions.running_by_opencode_session(instance.id, asked.session_id)
            if execution is not None:
                await self._executions.note_event(execution, EventKind.ASK_REJECTED, _described(asked))
            await _reject(self._servers.server(instance), asked)
        except NotFoundError:
            log.info("opencode.ask_gone", instance_id=instance.id)
        except NubabelError as error:
            log.warning("opencode.ask_not_rejected", instance_id=instance.id, error=str(error))
        else:
            log.warning("opencode.ask_rejected", instance_id=instance.id, opencode_session_id=asked.session_id)

    async def refuse_pending(self, instance: Instance, directory: str | None, working_sessions: set[str]) -> int:
        """Refuse what stands on the server. working_sessions: an idle session's ask is a leftover of an abort."""
        pending = await self._servers.server(instance).pending_asks(directory)
        standing = [asked for asked in pending if asked.session_id in working_sessions]
        for asked in standing:
            await self.refuse(instance, asked)
        return len(standing)


async def _reject(server: OpenCodeServer, asked: PermissionAsked | QuestionAsked) -> None:
    if isinstance(asked, PermissionAsked):
        await server.reject_permission(asked.id, directory=asked.directory, message=_WORDS)
    else:
        await server.reject_question(asked.id, directory=asked.directory)


def _described(asked: PermissionAsked | QuestionAsked) -> dict[str, str]:
    if isinstance(asked, PermissionAsked):
        return {"permission": asked.permission, "patterns": ", ".join(asked.patterns)[:200]}
    return {"question": str(asked.questions[0].get("question", ""))[:200] if asked.questions else ""}
