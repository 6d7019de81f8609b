"""The scheduler's work: publish again what waits, take over from the dead, keep deadlines, reconcile, expire.

Every step is correct with any number of schedulers at once: each statement takes different rows.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from nubabel_workers.domain import outcomes
from nubabel_workers.domain.dead_letters import DeadLetterReason
from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.executions import Execution, Status
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.masking import WAITS_FOR_MASKING
from nubabel_workers.domain.ports import (
    CircuitBreakers,
    ExecutionStore,
    Finish,
    HintPublisher,
    Incident,
    Incidents,
    MaintenanceStore,
)
from nubabel_workers.domain.wording import language_of, say, say_in_both
from nubabel_workers.services.end_execution import EndExecution
from nubabel_workers.services.read_waiting import ReadWaiting
from nubabel_workers.services.reconcile_instance import ReconcileInstance

log = structlog.get_logger(__name__)

_EXPIRY_BATCH = 500
_EXPIRY_ROUNDS = 20
_OVERDUE = timedelta(seconds=60)  # whoever waits for time is tried again every 45 s at least


@dataclass(frozen=True)
class MaintenancePace:
    """Seconds. hint_after_s: age at which a ready row is hinted again. late_notice_s: when a thread is told to wait."""

    hint_after_s: float = 2.0
    reconcile_s: float = 15.0
    late_notice_s: float = 90.0
    keep_idempotency_keys_s: float = 86_400.0
    retention_s: Mapping[str, float] = field(default_factory=dict)


class Maintain:
    def __init__(
        self,
        maintenance: MaintenanceStore,
        executions: ExecutionStore,
        end: EndExecution,
        reconcile: ReconcileInstance,
        waiting: ReadWaiting,
        breakers: CircuitBreakers,
        hints: HintPublisher,
        incidents: Incidents,
        *,
        pace: MaintenancePace,
    ) -> None:
        self._maintenance = maintenance
        self._executions = executions
        self._end = end
        self._reconcile = reconcile
        self._waiting = waiting
        self._breakers = breakers
        self._hints = hints
        self._incidents = incidents
        self._pace = pace

    async def publish_overdue(self) -> int:
        """Wake the tasks for rows that are ready and that nobody took: lost hints, due retries, a wiped broker."""
        released = await self._maintenance.release_expired_leases()
        if released:
            log.warning("scheduler.leases_taken_over", rows=released)
            self._incidents.count(Incident.LEASE_TAKEOVER, times=released)
        hints = await self._maintenance.overdue_hints(older_than_s=0 if released else self._pace.hint_after_s)
        for hint in hints:
            self._hints.publish(hint)
        return len(hints)

    async def keep_deadlines(self) -> int:
        """Make runs past their deadline due for a look; end what could not start in time; tell threads that wait."""
        for execution_id in await self._maintenance.running_past_deadline():
            self._hints.publish(Hint(HintTask.COMPLETE, execution_id))
        overdue = await self._maintenance.queued_to_end()
        for organization_id, execution_id in overdue:
            try:
                await self._end_queued(organization_id, execution_id)
            except NubabelError:
                raise
            except Exception:
                # One bad row, not everybody's deadline.
                log.exception("execution.not_ended", organization_id=organization_id, execution_id=execution_id)
        await self._tell_late()
        return len(overdue)

    async def _tell_late(self) -> None:
        """Each thread that waits for long is told once: for what, its place, and when it is expected to start."""
        away = [instance_id for instance_id, gate in (await self._breakers.gates()).items() if not gate.looks]
        for organization_id, execution_id in await self._maintenance.late(after_s=self._pace.late_notice_s, away=away):
            try:
                text = await self._late_words(organization_id, execution_id)
            except NubabelError:
                raise
            except Exception:
                log.exception("execution.not_read", organization_id=organization_id, execution_id=execution_id)
                text = say_in_both("late")  # one bad row, not everybody's notice; told so, it comes up no more
            told = await self._maintenance.tell_late(organization_id, execution_id, text=text)
            if told is not None:
                self._hints.publish(Hint(HintTask.DELIVER, told, organization_id))

    async def _late_words(self, organization_id: str, execution_id: str) -> str:
        execution = await self._executions.find(organization_id, execution_id)
        if execution is None:
            return say_in_both("late")
        language = language_of(execution.prompt)
        waiting = await self._waiting.of(execution)
        why = say("late_why", language, why=waiting.words_in(language)) if waiting is not None else ""
        return " ".join(filter(None, (say("late", language), why)))

    async def _end_queued(self, organization_id: str, execution_id: str) -> None:
        execution = await self._executions.find(organization_id, execution_id)
        if execution is None:
            return
        await self._end.queued(execution, _end_of(execution))

    async def reconcile(self) -> int:
        """Compare with every OpenCode server that is due; schedulers share them."""
        due = await self._maintenance.instances_to_reconcile(every_s=self._pace.reconcile_s)
        return sum(await asyncio.gather(*(self._reconcile.run(instance_id) for instance_id in due)))

    async def expire(self) -> Mapping[str, int]:
        """Delete what is older than its retention, batch by batch, so that no lock is held for long."""
        forgotten = await self._maintenance.forget_idempotency_keys(
            after_s=self._pace.keep_idempotency_keys_s, batch=_EXPIRY_BATCH
        )
        deleted: dict[str, int] = {}
        for _ in range(_EXPIRY_ROUNDS):
            round_of = await self._maintenance.expire(retention_s=self._pace.retention_s, batch=_EXPIRY_BATCH)
            for table, rows in round_of.items():
                deleted[table] = deleted.get(table, 0) + rows
            if not any(rows >= _EXPIRY_BATCH for rows in round_of.values()):
                break
        log.info("scheduler.expired", idempotency_keys=forgotten, **deleted)
        return deleted


def _end_of(execution: Execution) -> Finish:
    """How an execution ends that is still queued or paused: as somebody wished, else with an apology for being late."""
    if execution.cancel_reason is not None:
        return outcomes.cancelled(execution, reason=execution.cancel_reason)
    if execution.status is Status.WAITING_BUDGET:
        return outcomes.failed(
            execution,
            code="not_resumed_in_time",
            detail="nobody raised the cap that it was paused for",
            reason=DeadLetterReason.ATTEMPTS_EXHAUSTED,
        )
    if _waited_for_masking_to_the_end(execution):
        return outcomes.failed(
            execution,
            code=outcomes.NOT_LOOKED_THROUGH,
            detail="until answer_by there was no time to look through it for sensitive data",
            reason=DeadLetterReason.ATTEMPTS_EXHAUSTED,
        )
    return outcomes.failed(
        execution,
        code="not_started_in_time",
        detail="it waited longer than answer_by allows",
        reason=DeadLetterReason.ATTEMPTS_EXHAUSTED,
    )


def _waited_for_masking_to_the_end(execution: Execution) -> bool:
    """Not so where its next try was long due: then it waited for something else, of which it says nothing."""
    if execution.waiting_for != WAITS_FOR_MASKING or execution.not_before is None or execution.answer_by is None:
        return False
    return execution.answer_by - execution.not_before < _OVERDUE
