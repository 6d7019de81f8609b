"""Cancel executions that an operator names, or everything that an organization has queued; audited one by one."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from nubabel_workers.domain.errors import NotFoundError, NubabelError
from nubabel_workers.domain.executions import FINAL, Status
from nubabel_workers.domain.ports.administration import ExecutionReports
from nubabel_workers.services.cancel_execution import CancelExecution, Cancellation

_QUEUED = frozenset({Status.QUEUED})


@dataclass(frozen=True)
class CancelReport:
    """Ids by what became of them. stopping: OpenCode was told. more: others are queued beyond the limit.

    in_doubt: an error broke it off there: it may be cancelled or not. not_tried: those behind it.
    """

    cancelled: Sequence[str] = ()
    stopping: Sequence[str] = ()
    over: Sequence[str] = ()
    unknown: Sequence[str] = ()
    in_doubt: Sequence[str] = ()
    not_tried: Sequence[str] = ()
    more: bool = False
    dry_run: bool = False


class BrokenOffError(NubabelError):
    """An error in the middle of many. The report says what was done until then."""

    def __init__(self, error: Exception, report: CancelReport) -> None:
        super().__init__("cancelling was broken off")
        self.error = error
        self.report = report


@dataclass
class _Sorted:
    """What became of those that were tried so far."""

    cancelled: list[str] = field(default_factory=list)
    stopping: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def add(self, cancellation: Cancellation) -> None:
        self._of(cancellation).append(cancellation.execution.id)

    def _of(self, cancellation: Cancellation) -> list[str]:
        status = cancellation.execution.status
        if status not in FINAL:
            return self.stopping
        return self.cancelled if status is Status.CANCELLED and not cancellation.was_over else self.over

    def report(self, *, in_doubt: Sequence[str] = (), not_tried: Sequence[str] = ()) -> CancelReport:
        return CancelReport(self.cancelled, self.stopping, self.over, self.unknown, in_doubt, not_tried)


class CancelByOperator:
    def __init__(self, cancel: CancelExecution, reports: ExecutionReports) -> None:
        self._cancel = cancel
        self._reports = reports

    async def one(self, execution_id: str, *, reason: str, actor: str) -> Cancellation:
        """What is over stays as it is, and is not audited. Raises NotFoundError."""
        owner = await self._reports.organization_of(execution_id)
        if owner is None:
            raise NotFoundError(f"there is no execution {execution_id!r}; `nubabel executions list` shows them")
        return await self._cancel.cancel(owner, execution_id, reason=reason, operator=actor)

    async def several(self, execution_ids: Sequence[str], *, reason: str, actor: str) -> CancelReport:
        """Each that there is. The newest first (ids sort by time): else the next of a session would start in between.

        Raises BrokenOffError. It may be run again then: what it has cancelled is over.
        """
        tried = _Sorted()
        ids = sorted(set(execution_ids), reverse=True)
        for place, execution_id in enumerate(ids):
            try:
                tried.add(await self.one(execution_id, reason=reason, actor=actor))
            except NotFoundError:
                tried.unknown.append(execution_id)
            except Exception as error:  # whatever it is: what was done until then has to be told
                report = tried.report(in_doubt=[execution_id], not_tried=ids[place + 1 :])
                raise BrokenOffError(error, report) from error
        return tried.report()

    async def queued_of(
        self, organization_id: str, *, limit: int, dry_run: bool, reason: str, actor: str
    ) -> CancelReport:
        """What waits in the queue, the newest first. One that begins in that moment is stopped.

        Raises BrokenOffError.
        """
        found = await self._reports.list(organization_id=organization_id, statuses=_QUEUED, limit=limit + 1)
        ids = [one.id for one in found[:limit]]
        more = len(found) > limit
        if dry_run:
            return CancelReport(ids, more=more, dry_run=True)
        done = await self.several(ids, reason=reason, actor=actor)
        return replace(done, more=more)
