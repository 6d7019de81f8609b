"""Groups of executions, "batches" for callers: accepted together, told in one reply. Pure.

Not to be mixed up with the priority `batch` (`submission.BATCH`), nor with what a worker claims at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from nubabel_workers.domain.executions import FINAL, ExecutionError, Status, Usage
from nubabel_workers.domain.ids import OrganizationId

STOPPED_WITH_THE_REST = "another request of its batch failed"
_FAILED = frozenset({Status.FAILED, Status.REJECTED})


class GroupState(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    COMPLETED_WITH_FAILURES = "completed_with_failures"
    CANCELLED = "cancelled"


class OnFailure(StrEnum):
    """What becomes of the others when one failed."""

    REPORT = "report"
    CANCEL_REST = "cancel_rest"


@dataclass(frozen=True)
class NewGroup:
    """A group as accepted at the door; its executions come beside it."""

    id: str
    organization_id: OrganizationId
    on_failure: OnFailure
    reply: Mapping[str, Any]  # see domain.notifications.ReplyTarget
    idempotency_key: str
    request_hash: str
    correlation_id: str
    traceparent: str


@dataclass(frozen=True)
class GroupItem:
    """One execution of a group, as far as its reply tells of it."""

    execution_id: str
    session_id: str
    status: Status
    output: str | None = None
    output_cut: bool = False
    error: ExecutionError | None = None
    usage: Usage | None = None
    metadata: Mapping[str, Any] | None = None
    cancel_requested: bool = False


@dataclass(frozen=True)
class ExecutionGroup:
    """items: in the order in which they were asked."""

    id: str
    organization_id: OrganizationId
    state: GroupState
    on_failure: OnFailure
    created_at: datetime
    finished_at: datetime | None
    cancel_reason: str | None  # a caller's wish; None when nobody cancelled it
    items: Sequence[GroupItem]

    @property
    def is_over(self) -> bool:
        """Whether nothing of it can change any more, told or not."""
        return all(item.status in FINAL for item in self.items)


@dataclass(frozen=True)
class GroupSummary:
    """For lists. ended: how many of its executions are final; failed: how many of those failed or were refused."""

    id: str
    organization_id: str
    state: GroupState
    executions: int
    ended: int
    failed: int
    created_at: datetime
    finished_at: datetime | None


def reason_to_stop(group: ExecutionGroup) -> str | None:
    """Why executions that are still open have to stop; None when they may go on, or have been told already."""
    if all(item.status in FINAL or item.cancel_requested for item in group.items):
        return None
    if group.cancel_reason is not None:
        return group.cancel_reason
    if group.on_failure is OnFailure.CANCEL_REST and any(item.status in _FAILED for item in group.items):
        return STOPPED_WITH_THE_REST
    return None


def state_at_the_end(group: ExecutionGroup) -> GroupState:
    """Cancelled is one whose caller wished so in time to stop something."""
    ends = {item.status for item in group.items}
    if ends <= {Status.COMPLETED}:
        return GroupState.COMPLETED
    if group.cancel_reason is not None and Status.CANCELLED in ends:
        return GroupState.CANCELLED
    return GroupState.COMPLETED_WITH_FAILURES


def combined_reply(group: ExecutionGroup, state: GroupState) -> dict[str, Any]:
    """The one notification: what became of each request, in the order in which they were asked."""
    outcomes = [
        {
            "execution_id": item.execution_id,
            "session_id": item.session_id,
            "status": item.status.value,
            "output": item.output,
            "error": {"code": item.error.code, "message": item.error.message} if item.error else None,
            "metadata": dict(item.metadata or {}),
        }
        for item in group.items
    ]
    return {"type": f"batch.{state.value}", "data": {"batch_id": group.id, "state": state.value, "outcomes": outcomes}}
