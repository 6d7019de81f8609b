"""What the API shows. Values of the domain are translated here, so that rows may change without the API changing."""

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from nubabel_workers.domain.executions import FINAL, EventKind, Execution, ExecutionError, Status, TimelineEvent, Usage
from nubabel_workers.domain.groups import ExecutionGroup, GroupItem, GroupState, OnFailure
from nubabel_workers.domain.waiting import Waiting
from nubabel_workers.services.submit_execution import Submitted
from nubabel_workers.services.submit_group import SubmittedGroup

# What the operator's rules tell the agent is not the caller's affair.
_SHOWN_OF_ANALYSIS = ("category", "skills", "agent", "model", "reasons")
_EXECUTION_ID = "exe_01kahmz7p1h0v5v6m6bqz0x3ja"
_SESSION_ID = "ses_01kahmz7p1v8w3r9d1c5n2k4ye"

EXECUTION_EXAMPLE: dict[str, Any] = {
    "id": _EXECUTION_ID,
    "session_id": _SESSION_ID,
    "status": "completed",
    "final": True,
    "cancel_requested": False,
    "waiting_for": None,
    "source": "api",
    "user_id": "anna",
    "output": "Three tests were missing; they are in place and pass.",
    "output_cut": False,
    "notes": [],
    "error": None,
    "usage": {
        "input_tokens": 5120,
        "output_tokens": 410,
        "reasoning_tokens": 96,
        "cache_read_tokens": 4096,
        "cache_write_tokens": 0,
        "total_tokens": 9722,
        "cost_usd": 0.031,
        "lower_bound": False,
        "cost_computed": False,
    },
    "analysis": {"category": "quick", "skills": [], "agent": "Sisyphus"},
    "metadata": {"order": "4711"},
    "attempt": 1,
    "created_at": "2026-11-21T01:20:00.120000Z",
    "started_at": "2026-11-21T01:20:00.163000Z",
    "finished_at": "2026-11-21T01:20:41.907000Z",
    "answer_by": "2026-11-21T02:20:00.120000Z",
    "deadline_at": "2026-11-21T01:50:00.163000Z",
    "correlation_id": "req_01kahmz7p1h0v5v6m6bqz0x3jb",
}


class SubmittedView(BaseModel):
    """The request is stored; it will be answered, whatever happens."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": _EXECUTION_ID,
                "session_id": _SESSION_ID,
                "status": "queued",
                "idempotency_key": "order-4711",
                "repeated": False,
            }
        }
    )

    id: str
    session_id: str = Field(description="Name it in the next request to continue the conversation.")
    status: Status
    idempotency_key: str = Field(description="The one you sent, or the one that was made for this request.")
    repeated: bool = Field(description="true: the same request had been accepted before, this is that one.")

    @classmethod
    def of(cls, submitted: Submitted) -> Self:
        return cls(
            id=submitted.execution_id,
            session_id=submitted.session_id,
            status=submitted.status,
            idempotency_key=submitted.idempotency_key,
            repeated=not submitted.created,
        )


class UsageView(BaseModel):
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    total_tokens: int
    cost_usd: float
    lower_bound: bool = Field(description="true: it was more; a run that broke off did not tell all it used.")
    cost_computed: bool = Field(description="true: some of the cost is tokens times our price of the model.")


class ErrorView(BaseModel):
    code: str = Field(description="Stable machine-readable word.")
    message: str = Field(description="For people: what a user would be told.")
    detail: str | None = Field(
        default=None,
        description="For engineers: the reason in one line of at most 300 characters, without secrets and addresses, "
        "e.g. `APIError (status 400): …`. Its words may change. null: nothing more is known.",
    )


class WaitingView(BaseModel):
    """What a queued execution waits for, at the moment of the answer."""

    reason: str = Field(
        description="Stable word: session (an earlier request of its conversation), in_flight (its organization's "
        "limit), capacity (every server is busy), turn, starting, again (after a failure), budget, server away, "
        "orchestrator away (what answers instead of OpenCode), own server, pace, directories (every server works for "
        "as many organizations as it can), directory (is being prepared), masking (there was no time yet to check it "
        "for sensitive data). Others may be added."
    )
    words: str
    position: int = Field(description="In its organization's queue; 1 is next.")
    starts_in_s: float | None = Field(description="Seconds until it is expected to start; null: nobody can know.")

    @classmethod
    def of(cls, waiting: Waiting) -> Self:
        return cls(
            reason=waiting.reason, words=waiting.words, position=waiting.position, starts_in_s=waiting.starts_in_s
        )


class ExecutionView(BaseModel):
    """One request on its way to one outcome."""

    id: str
    session_id: str
    status: Status
    final: bool = Field(description="true: nothing will change any more.")
    cancel_requested: bool = Field(
        default=False, description="It was asked to stop; where a run has to be ended first, that takes a moment."
    )
    waiting_for: WaitingView | None = Field(
        default=None,
        description="Of one that is queued or waits for its budget, where it is asked for by its id; else null.",
    )
    source: str = Field(description="Where it came from: slack, api, broker or cli.")
    user_id: str | None
    output: str | None = Field(description="The answer, in Markdown; null until there is one.")
    output_cut: bool = Field(description="true: the answer reached its length limit and ends there; a note says so.")
    notes: list[str] = Field(description="What should be known beside the answer, e.g. what could not be read.")
    error: ErrorView | None
    usage: UsageView | None
    analysis: dict[str, Any] = Field(description="Category, skills and agent that were chosen; empty until dispatch.")
    metadata: dict[str, Any] = Field(description="As you sent it.")
    attempt: int = Field(description="Runs so far.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    answer_by: datetime | None = Field(description="A request that could not be started by then is given up.")
    deadline_at: datetime | None = Field(description="A run that is not done by then is ended.")
    correlation_id: str

    @classmethod
    def of(cls, execution: Execution, waiting: Waiting | None = None) -> Self:
        return cls(
            id=execution.id,
            session_id=execution.session_id,
            status=execution.status,
            final=execution.status in FINAL,
            cancel_requested=execution.cancel_reason is not None,
            waiting_for=None if waiting is None else WaitingView.of(waiting),
            source=execution.source,
            user_id=execution.user_id,
            output=execution.output,
            output_cut=execution.output_cut,
            notes=list(execution.notes),
            error=_error(execution.error),
            usage=_usage(execution.usage),
            analysis={name: execution.analysis[name] for name in _SHOWN_OF_ANALYSIS if name in execution.analysis},
            metadata=dict(execution.metadata),
            attempt=execution.attempt,
            created_at=execution.created_at,
            started_at=execution.started_at,
            finished_at=execution.finished_at,
            answer_by=execution.answer_by,
            deadline_at=execution.deadline_at,
            correlation_id=execution.correlation_id,
        )


class ExecutionList(BaseModel):
    data: list[ExecutionView]


class BatchItemView(BaseModel):
    """One request of a batch; `GET /v1/executions/{id}` tells more of it."""

    id: str
    session_id: str
    status: Status
    cancel_requested: bool = Field(default=False, description="It was asked to stop, by itself or with the batch.")
    output: str | None = Field(description="The answer, in Markdown; null until there is one.")
    output_cut: bool = Field(description="true: the answer reached its length limit and ends there; a note says so.")
    notes: list[str] = Field(description="What should be known beside the answer.")
    error: ErrorView | None
    usage: UsageView | None
    metadata: dict[str, Any] = Field(description="As you sent it.")

    @classmethod
    def of(cls, item: GroupItem) -> Self:
        return cls(
            id=item.execution_id,
            session_id=item.session_id,
            status=item.status,
            cancel_requested=item.cancel_requested,
            output=item.output,
            output_cut=item.output_cut,
            notes=list(item.notes),
            error=_error(item.error),
            usage=_usage(item.usage),
            metadata=dict(item.metadata or {}),
        )


class BatchView(BaseModel):
    """Requests that were accepted together, on their way to one reply."""

    id: str
    state: GroupState
    final: bool = Field(description="true: all have ended, and whoever is to be told is told.")
    cancel_requested: bool = Field(default=False, description="It was asked to stop; runs have to be ended first.")
    on_failure: OnFailure
    executions: list[BatchItemView] = Field(description="In the order in which you asked.")
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, group: ExecutionGroup) -> Self:
        return cls(
            id=group.id,
            state=group.state,
            final=group.state is not GroupState.RUNNING,
            cancel_requested=group.cancel_reason is not None,
            on_failure=group.on_failure,
            executions=[BatchItemView.of(item) for item in group.items],
            created_at=group.created_at,
            finished_at=group.finished_at,
        )


class SubmittedBatchView(BatchView):
    """All of its requests are stored; each will be answered, whatever happens."""

    idempotency_key: str = Field(description="The one you sent, or the one that was made for this batch.")
    repeated: bool = Field(description="true: the same batch had been accepted before, this is that one.")

    @classmethod
    def of_submitted(cls, submitted: SubmittedGroup, group: ExecutionGroup) -> Self:
        return cls(
            **vars(BatchView.of(group)),
            idempotency_key=submitted.idempotency_key,
            repeated=not submitted.created,
        )


class TimelineEntry(BaseModel):
    at: datetime
    kind: EventKind
    detail: dict[str, Any]


class Timeline(BaseModel):
    """Transitions and milestones in their order: why it took as long as it took."""

    data: list[TimelineEntry]

    @classmethod
    def of(cls, events: list[TimelineEvent]) -> Self:
        return cls(data=[TimelineEntry(at=event.at, kind=event.kind, detail=dict(event.detail)) for event in events])


class CancelBody(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str = Field("cancelled by the caller", min_length=1, max_length=200, description="Shown to who waits.")


def _error(error: ExecutionError | None) -> ErrorView | None:
    return None if error is None else ErrorView(code=error.code, message=error.message, detail=error.reason)


def _usage(usage: Usage | None) -> UsageView | None:
    if usage is None:
        return None
    return UsageView(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        total_tokens=usage.total_tokens,
        cost_usd=usage.cost,
        lower_bound=usage.lower_bound,
        cost_computed=usage.cost_computed,
    )
