"""Orchestrators that answer while one waits, in one exchange."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nubabel_workers.domain.executions import Execution, Usage
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.masking import Cleaning
from nubabel_workers.domain.ports.budgets import Hold
from nubabel_workers.domain.rollout import Orchestrator


@dataclass(frozen=True)
class Call:
    """What an orchestrator is asked. texts: context first, the question last; all of it is outside text, masked.

    key: the same for every try of one request, so that who knows it does nothing twice. remote_session_id: as an
    earlier answer of this orchestrator named the conversation; None: it does not know it.
    """

    key: str
    texts: Sequence[str] = field(repr=False)
    category: str | None = None
    skills: Sequence[str] = ()
    remote_session_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CallAnswer:
    """text: Markdown. cut: it reached the orchestrator's limit. error: for operators, why there is no whole answer.

    model: "provider/model" as reports name it; None where nothing was used. canned: nobody worked on the question.
    """

    text: str
    cut: bool = False
    error: str | None = None
    usage: Usage | None = None
    model: str | None = None
    remote_session_id: str | None = None
    canned: bool = False


class CallableOrchestrator(Protocol):
    async def check(self) -> str:
        """What is there, in words, without asking for an answer. Raises the errors of `answer`."""
        ...

    async def answer(self, call: Call, *, timeout_s: float) -> CallAnswer:
        """Raises TransientError, PermanentError; NotFoundError when it does not know the session (any more);
        UncertainError when it may be working on it: asking again under the same key does no harm.
        """
        ...


@dataclass(frozen=True)
class LastCall:
    """How the session's turn before this one was answered."""

    orchestrator: Orchestrator
    remote_session_id: str | None


@dataclass(frozen=True)
class QueuedChoice:
    """A queued execution and whom it waits for."""

    position: int
    execution_id: str
    organization_id: str
    session_key: str
    orchestrator: Orchestrator


class CallStore(Protocol):
    """Executions that are answered by a call. Each method is one statement, hence one transaction.

    While the call lasts its row is running and held under the caller's lease; when that ends the row is queued again.
    """

    async def begin(
        self,
        execution: Execution,
        lease: Lease,
        *,
        orchestrator: Orchestrator,
        analysis: Mapping[str, Any],
        context: Mapping[str, Any] | None,
        notes: Sequence[str],
        cleaning: Cleaning,
        run_deadline_s: float,
        hold: Hold | None,
    ) -> None:
        """Written down before the call goes out: it runs from now on. Raises LeaseLostError, BudgetReachedError.

        An attempt that is still open (its outcome is unknown) is continued, not counted again.
        """
        ...

    async def remember_session(self, execution: Execution, remote_session_id: str) -> None:
        """How the orchestrator calls this conversation."""
        ...

    async def last_call(self, execution: Execution) -> LastCall | None:
        """None: it is the first of its session that ran, or nobody knows any more."""
        ...

    async def asked_to_stop(self, execution_ids: Collection[str]) -> set[str]:
        """Which of these somebody has cancelled, or erased."""
        ...

    async def queued_choices(
        self, *, after_position: int, limit: int, settled: Orchestrator | None
    ) -> list[QueuedChoice]:
        """Queued ones, in the order of their positions, that have not begun anything that binds them to OpenCode.

        settled: those that wait for this one are left out, since they are as they should be.
        """
        ...

    async def choose(self, orchestrator: Orchestrator, execution_ids: Collection[str]) -> int:
        """These wait for another orchestrator now; how many. A call of theirs that is in doubt counts as given up."""
        ...

    async def put_off(self, orchestrator: Orchestrator, *, wait_s: float) -> int:
        """Those whose turn it is wait because it is away; how many. The first of them wait_s seconds, so that it can be
        the probe, the others up to twice as long, each its own moment. Nothing is counted against them.
        """
        ...

    async def wake(self, orchestrator: Orchestrator) -> list[str]:
        """The first of those that wait because it was away wait no longer; their ids."""
        ...
