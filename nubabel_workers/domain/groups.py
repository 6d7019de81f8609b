"""Groups of executions, "batches" for callers: accepted together, told in one reply. Pure.

Not to be mixed up with the priority `batch` (`submission.BATCH`), nor with what a worker claims at once.
"""

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from nubabel_workers.domain.executions import FINAL, ExecutionError, Status, Usage
from nubabel_workers.domain.ids import OrganizationId

# What a usual web server takes: nginx refuses larger bodies unless it is told otherwise.
# Source: https://nginx.org/en/docs/http/ngx_http_core_module.html#client_max_body_size
MAX_REPLY_BYTES = 1_048_576

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
    notes: Sequence[str] = ()
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
    """The one notification: what became of each request, in the order in which they were asked.

    At most MAX_REPLY_BYTES of JSON, as long as everything beside the outputs fits: the longest outputs are cut to one
    length for that, and marked `truncated`.
    """
    outcomes = [_outcome(item) for item in group.items]
    reply = {"type": f"batch.{state.value}", "data": {"batch_id": group.id, "state": state.value, "outcomes": outcomes}}
    if _json_bytes(reply) > MAX_REPLY_BYTES:
        _cut_longest_outputs(outcomes, room=MAX_REPLY_BYTES - _json_bytes(_without_outputs(reply, outcomes)))
    return reply


def _outcome(item: GroupItem) -> dict[str, Any]:
    return {
        "execution_id": item.execution_id,
        "session_id": item.session_id,
        "status": item.status.value,
        "output": item.output,
        "truncated": False,
        "notes": list(item.notes),
        "error": item.error.told() if item.error else None,
        "metadata": dict(item.metadata or {}),
    }


def _without_outputs(reply: Mapping[str, Any], outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    emptied = [{**outcome, "output": ""} for outcome in outcomes]
    return {**reply, "data": {**reply["data"], "outcomes": emptied}}


def _cut_longest_outputs(outcomes: Sequence[dict[str, Any]], *, room: int) -> None:
    """room: bytes of JSON for all outputs together."""
    longest = _longest_allowed([_text_bytes(outcome["output"] or "") for outcome in outcomes], max(room, 0))
    for outcome in outcomes:
        text = outcome["output"] or ""
        if _text_bytes(text) > longest:
            outcome.update(output=_beginning(text, longest), truncated=True)


def _longest_allowed(sizes: Sequence[int], room: int) -> int:
    """The size above which all are cut to it, so that short ones stay whole and all of them fit."""
    left = room
    for place, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - place)
        if size > share:
            return share
        left -= size
    return room


def _beginning(text: str, max_bytes: int) -> str:
    """As much of a text as fits into max_bytes of JSON."""
    lengths = range(min(len(text), max_bytes) + 1)
    return text[: bisect_right(lengths, max_bytes, key=lambda length: _text_bytes(text[:length])) - 1]


def _text_bytes(text: str) -> int:
    """Within a JSON document, without its quotes."""
    return _json_bytes(text) - 2


def _json_bytes(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
