"""An execution: one request on its way to one visible outcome. Its states, its legal moves, its values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from nubabel_workers.domain.errors import IllegalTransitionError
from nubabel_workers.domain.foreign_words import for_callers
from nubabel_workers.domain.ids import ExecutionId, InstanceId, OrganizationId, SessionId
from nubabel_workers.domain.rollout import Orchestrator


class Status(StrEnum):
    """Where an execution stands."""

    QUEUED = "queued"  # accepted, waits for its session, its turn, or its next attempt
    DISPATCHING = "dispatching"  # a worker holds its lease and submits it to OpenCode
    RUNNING = "running"  # OpenCode works on it; no worker waits
    WAITING_INPUT = "waiting_input"  # a person has to answer or allow something
    WAITING_BUDGET = "waiting_budget"  # the tenant's budget is used up
    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.REJECTED, Status.CANCELLED})
# In these an execution occupies its session; a unique index of the database allows one per session.
OCCUPYING = frozenset({Status.DISPATCHING, Status.RUNNING, Status.WAITING_INPUT, Status.WAITING_BUDGET})

_TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.DISPATCHING, Status.REJECTED, Status.CANCELLED, Status.FAILED}),
    Status.DISPATCHING: frozenset(
        {
            Status.RUNNING,
            Status.QUEUED,
            Status.COMPLETED,  # only with an answer that was given before
            Status.FAILED,
            Status.CANCELLED,
            Status.REJECTED,
        }
    ),
    Status.RUNNING: frozenset(
        {
            Status.COMPLETED,
            Status.FAILED,
            Status.CANCELLED,
            Status.QUEUED,
            Status.WAITING_INPUT,
            Status.WAITING_BUDGET,
        }
    ),
    Status.WAITING_INPUT: frozenset({Status.RUNNING, Status.CANCELLED, Status.FAILED}),
    # By way of the queue: its next run waits for its turn, a server and room in the budget like any other.
    Status.WAITING_BUDGET: frozenset({Status.QUEUED, Status.CANCELLED, Status.FAILED}),
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset({Status.QUEUED}),  # only by the replay of its dead letter
    Status.REJECTED: frozenset(),
    Status.CANCELLED: frozenset(),
}


def can_move(source: Status, target: Status) -> bool:
    return target in _TRANSITIONS[source]


def check_move(source: Status, target: Status) -> None:
    """Raise IllegalTransitionError unless source -> target is a legal move."""
    if not can_move(source, target):
        raise IllegalTransitionError(f"an execution cannot go from {source} to {target}")


def sources_of(target: Status, *, among: frozenset[Status] | None = None) -> list[str]:
    """States from which target may be reached, as the values that a conditional UPDATE compares with."""
    return sorted(s.value for s in Status if can_move(s, target) and (among is None or s in among))


class EventKind(StrEnum):
    """Milestones of the timeline: they must answer "why did this one take so long" in plain words."""

    ACCEPTED = "accepted"
    WAITING = "waiting"  # detail.reason says for what
    DISPATCHING = "dispatching"
    ANALYSED = "analysed"
    CONTEXT = "context"
    MASKED = "masked"  # detail.kinds: values that did not leave; .unread: files nobody could look through; .held_back
    SUBMITTED = "submitted"
    DELEGATED = "delegated"  # what the main agent handed on to a sub-agent, told when the run has ended
    TOOL = "tool"
    TOOL_CALL_STARTED = "tool_call_started"  # one that we make, with the organization's credentials
    TOOL_CALL_ENDED = "tool_call_ended"
    ASK_REJECTED = "ask_rejected"
    BUDGET_REACHED = "budget_reached"  # the run was stopped, its work is kept
    RESUMED = "resumed"
    RETRY = "retry"
    RESUBMIT = "resubmit"
    SESSION_REPLACED = "session_replaced"  # detail.reason: a SessionLeft
    CANCEL_REQUESTED = "cancel_requested"
    ABORTED = "aborted"
    STRAY_RUN_STOPPED = "stray_run_stopped"
    LEASE_TAKEN_OVER = "lease_taken_over"
    FINISHED = "finished"
    DELIVERED = "delivered"
    DELIVERY_RETRY = "delivery_retry"
    DELIVERY_FAILED = "delivery_failed"
    MOVED = "moved"  # the rollout was changed: another orchestrator answers it
    REPLAYED = "replayed"
    CONNECTION_REFUSED = "connection_refused"


class SessionLeft(StrEnum):
    """Why a conversation does not go on in the OpenCode session that it had: detail.reason of SESSION_REPLACED."""

    POLICY = "policy"  # its organization is to run on other servers now
    REMOVED = "removed"  # its server was taken out of use
    GIVEN_UP = "given_up"  # its server stayed away
    LOST = "lost"  # its server does not know it any more
    FOREIGN = "foreign"  # its server spoke of another's session
    UNSTOPPED = "unstopped"  # what ran in it did not stop


@dataclass(frozen=True)
class TimelineEvent:
    at: datetime
    kind: EventKind
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class Overrides:
    """What the caller decided; everything left out is decided by the request analysis."""

    category: str | None = None
    skills: Sequence[str] | None = None
    agent: str | None = None
    model: str | None = None  # "provider/model"


@dataclass(frozen=True)
class Attachment:
    """A file that came with the request; its bytes are fetched at dispatch and never stored by us."""

    name: str
    mime_type: str
    size_bytes: int
    url: str = field(repr=False)


@dataclass(frozen=True)
class NewExecution:
    """A request as accepted at the door, before anything is decided about it."""

    organization_id: OrganizationId
    source: str  # "slack", "api", "broker"
    prompt: str
    session_key: str  # names the conversation within the organization, e.g. "slack:wsp_1:C1:1795216300.000200"
    idempotency_key: str
    request_hash: str  # tells the same request apart from another one under the same key
    reply: Mapping[str, Any]  # see domain.notifications.ReplyTarget
    user_id: str | None = None
    workspace_id: str | None = None
    overrides: Overrides = field(default_factory=Overrides)
    attachments: Sequence[Attachment] = ()
    wants_thread_context: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    correlation_id: str = ""
    traceparent: str = ""
    deadline_s: int | None = None
    batch: bool = False  # may wait behind interactive requests


@dataclass(frozen=True)
class Usage:
    """Tokens and cost (US dollars) summed over every assistant message of a run, or of all runs of an execution.

    lower_bound: it was more, by an amount that nobody told (a step that broke off, a run that could not be looked at).
    cost_computed: some of the cost is not OpenCode's own number but tokens times a price of ours (`prices`).
    """

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost: float = 0.0
    lower_bound: bool = False
    cost_computed: bool = False

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            cost=self.cost + other.cost,
            lower_bound=self.lower_bound or other.lower_bound,
            cost_computed=self.cost_computed or other.cost_computed,
        )

    @property
    def total_tokens(self) -> int:
        return (
            self.input_tokens
            + self.output_tokens
            + self.reasoning_tokens
            + self.cache_read_tokens
            + self.cache_write_tokens
        )


@dataclass(frozen=True)
class ExecutionError:
    """Why an execution failed: a stable code, words for the user, words for the operator."""

    code: str
    message: str  # safe to show in the thread
    detail: str = ""  # for operators; never shown to users

    def told(self) -> dict[str, str | None]:
        """For whoever called us: an engineer, whose program reads the code and whose log keeps the reason."""
        return {"code": self.code, "message": self.message, "detail": self.reason}

    @property
    def reason(self) -> str | None:
        """The operators' words as far as a caller may read them; None where there are none."""
        return for_callers(self.detail) or None


@dataclass(frozen=True)
class Execution:
    """A row as the services see it."""

    id: ExecutionId
    organization_id: OrganizationId
    session_id: SessionId
    source: str
    status: Status
    prompt: str
    created_at: datetime
    group_id: str | None = None  # of the batch that it was dispatched with
    orchestrator: Orchestrator = Orchestrator.OPENCODE  # who answers it, as things stand
    user_id: str | None = None
    workspace_id: str | None = None
    reply: Mapping[str, Any] = field(default_factory=dict)
    overrides: Overrides = field(default_factory=Overrides)
    analysis: Mapping[str, Any] = field(default_factory=dict)
    attachments: Sequence[Attachment] = ()
    wants_thread_context: bool = False
    context: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0  # number of the last run on OpenCode
    failures: int = 0  # failed tries so far, runs or not
    replays: int = 0  # how often its dead letter was replayed
    pauses: int = 0  # how often its run was stopped for the budget's sake; the next one goes on from there
    waiting_for: str | None = None
    session_key: str = ""
    begins_session: bool = False  # the first of its session: nothing was said before
    not_before: datetime | None = None
    instance_id: InstanceId | None = None
    opencode_session_id: str | None = None
    opencode_directory: str | None = None
    message_created_ms: int = 0
    known_assistant_ids: Sequence[str] = ()  # of earlier attempts; the verdict ignores them
    answer_by: datetime | None = None
    deadline_at: datetime | None = None
    deadline_s: int | None = None
    cancel_reason: str | None = None
    output: str | None = None
    output_cut: bool = False
    usage: Usage | None = None
    error: ExecutionError | None = None
    correlation_id: str = ""
    traceparent: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
