"""What client calls return. Fields that a newer gateway adds are ignored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from nubabel_workers.domain.executions import FINAL, Status


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Submitted(_Result):
    """Accepted: the request is stored and will get its one outcome. repeated: it had been accepted before."""

    id: str
    session_id: str
    status: Status
    idempotency_key: str
    repeated: bool = False


class Usage(_Result):
    """Of all runs. lower_bound: it was more; a run that broke off did not tell all it used.

    cost_computed: some of the cost is tokens times the gateway's price of the model.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    total_tokens: int = 0
    cost_usd: float = 0.0
    lower_bound: bool = False
    cost_computed: bool = False


class Failure(_Result):
    code: str
    message: str
    detail: str | None = None  # the reason in one line, for engineers; its words may change


class WaitingFor(_Result):
    """What a queued execution waits for. position: in its organization's queue, 1 is next.

    starts_in_s: None where nobody can know.
    """

    reason: str
    words: str
    position: int
    starts_in_s: float | None = None


class Execution(_Result):
    """final: nothing will change any more. output: Markdown."""

    id: str
    session_id: str
    status: Status
    final: bool
    cancel_requested: bool = False
    waiting_for: WaitingFor | None = None
    source: str = ""
    user_id: str | None = None
    output: str | None = None
    output_cut: bool = False
    notes: tuple[str, ...] = ()
    error: Failure | None = None
    usage: Usage | None = None
    analysis: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    attempt: int = 0
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    answer_by: datetime | None = None
    deadline_at: datetime | None = None
    correlation_id: str = ""

    @property
    def succeeded(self) -> bool:
        return self.status is Status.COMPLETED


class Delegated(_Result):
    """A task that has ended. result: the answer, in Markdown; with errors what there was of it."""

    session_id: str
    execution_id: str
    status: Status
    result: str = ""
    usage: Usage | None = None
    errors: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, execution: Execution) -> Self:
        return cls(
            session_id=execution.session_id,
            execution_id=execution.id,
            status=execution.status,
            result=execution.output or "",
            usage=execution.usage,
            errors=() if execution.error is None else (execution.error,),
            notes=execution.notes,
        )

    @property
    def succeeded(self) -> bool:
        return self.status is Status.COMPLETED


class DelegationPending(_Result):
    """The gateway's wait was over first; the task goes on."""

    session_id: str
    execution_id: str
    status: Status


class BatchItem(_Result):
    """One request of a batch. output: Markdown."""

    id: str
    session_id: str
    status: Status
    cancel_requested: bool = False
    output: str | None = None
    output_cut: bool = False
    notes: tuple[str, ...] = ()
    error: Failure | None = None
    usage: Usage | None = None
    metadata: dict[str, Any] = {}

    @property
    def succeeded(self) -> bool:
        return self.status is Status.COMPLETED


class Batch(_Result):
    """Requests that were accepted together. executions: in the order in which they were asked.

    state: running, completed, completed_with_failures or cancelled. final: it will not change any more.
    """

    id: str
    state: str
    final: bool
    cancel_requested: bool = False
    on_failure: str = "report"
    executions: tuple[BatchItem, ...] = ()
    created_at: datetime
    finished_at: datetime | None = None

    @property
    def open_ids(self) -> tuple[str, ...]:
        """Of the executions that have not ended."""
        return tuple(one.id for one in self.executions if one.status not in FINAL)


class SubmittedBatch(Batch):
    """Accepted: all of it is stored. repeated: it had been accepted before."""

    idempotency_key: str
    repeated: bool = False


class ExecutionList(_Result):
    data: tuple[Execution, ...]


@dataclass(frozen=True)
class ProgressEvent:
    """One event of a stream. execution is there with `done`, the last one. id: hand it to events(after=...)."""

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None
    execution: Execution | None = None
