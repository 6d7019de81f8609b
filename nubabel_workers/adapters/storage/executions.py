"""Executions in PostgreSQL: every state change is one conditional statement with everything that belongs to it.

A statement that finds its row changed (taken over, finished, cancelled) touches nothing, and the method raises
LeaseLostError: whoever holds the lease now decides.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

import psycopg
from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage import execution_statements as sql
from nubabel_workers.adapters.storage.audit import audit_params
from nubabel_workers.adapters.storage.budget_rows import hold_params, shortage_from
from nubabel_workers.adapters.storage.claims import UNREADABLE, each_readable
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.execution_rows import (
    execution_from,
    json_list,
    new_execution_params,
    salvaged_execution,
    usage_as_dict,
)
from nubabel_workers.adapters.storage.turns import FairTurns
from nubabel_workers.domain import outcomes
from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.budgets import BudgetReachedError
from nubabel_workers.domain.dead_letters import DeadLetterReason, NewDeadLetter
from nubabel_workers.domain.earlier_turns import EarlierTurns, Turn, characters_at_each_end, read_in_part
from nubabel_workers.domain.errors import LeaseLostError
from nubabel_workers.domain.executions import (
    EventKind,
    Execution,
    NewExecution,
    SessionLeft,
    Status,
    TimelineEvent,
    Usage,
    sources_of,
)
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.masking import Cleaning, MaskingPolicy
from nubabel_workers.domain.notifications import NewNotification
from nubabel_workers.domain.placement import Pool
from nubabel_workers.domain.ports import (
    Accepted,
    CancelWish,
    Chance,
    ClaimedCheck,
    ClaimedDispatch,
    Clock,
    Finish,
    Finished,
    SessionPlace,
    Started,
)
from nubabel_workers.domain.ports.budgets import Hold
from nubabel_workers.domain.rollout import EVERYTHING_ON_OPENCODE, Orchestrator, Rollout
from nubabel_workers.domain.tenants import ServersPolicy

T = TypeVar("T")

UNSEEN_MODEL = "unknown"

_CLAIM = "claim of executions"  # all orchestrators': limits of organizations count over them


class PostgresExecutions:
    """Implements ports.ExecutionStore."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        chance: Chance,
        turns: FairTurns,
        *,
        lease_s: float,
        lone_deliveries: int = 5,
        rollout: Rollout = EVERYTHING_ON_OPENCODE,
    ) -> None:
        self._rollout = rollout
        self._database = database
        self._clock = clock
        self._chance = chance
        self._turns = turns
        self._lease_s = lease_s
        self._lone_deliveries = lone_deliveries

    # --- acceptance ---

    async def accept(
        self,
        new: NewExecution,
        *,
        working: NewNotification | None,
        answer_by_s: float,
        inbound_event: tuple[str, Lease] | None = None,
    ) -> Accepted:
        params = new_execution_params(new, self._rollout) | {
            "id": self._chance.new_id("exe"),
            "new_session_id": self._chance.new_id("ses"),
            "message_created_ms": int(self._clock.now().timestamp() * 1000),
            "answer_by_s": answer_by_s,
            "notifications": json_list([self._notification_row(working)] if working else []),
        }
        if inbound_event is not None:
            params |= {"event_id": inbound_event[0], "lease": inbound_event[1].token}
        scope = self._database.tenant(new.organization_id)
        row = await scope.one(sql.ACCEPT_EVENT if inbound_event else sql.ACCEPT, params)
        if row is None:
            raise LeaseLostError("the inbound event was taken over by another process")
        if row["id"] is None:
            row = await scope.one(sql.FIND_BY_KEY, params)
            if row is None:  # expired between the two statements: rarer than any test, harmless to try again
                raise LeaseLostError("the earlier request with this key has just expired")
            return Accepted(row["id"], row["session_id"], False, Status(row["status"]), row["request_hash"])
        return Accepted(
            execution_id=row["id"],
            session_id=row["session_id"],
            created=True,
            status=Status.QUEUED,
            request_hash=new.request_hash,
            working_notification_id=row["notification_id"],
            busy_execution_ids=tuple(row["busy"] or ()),
            is_last_event=not row["followed"],
            line_is_long=row["line_is_long"],
        )

    def _notification_row(self, new: NewNotification) -> dict[str, Any]:
        return {
            "id": self._chance.new_id("ntf"),
            "kind": new.kind.value,
            "destination": dict(new.destination),
            "payload": dict(new.payload),
            "dedupe": new.dedupe,
        }

    # --- dispatch ---

    async def lines(self) -> list[str | None]:
        apart = await self._turns.apart()
        rows = await self._database.system(walks=True).all(sql.LINES, {"apart": list(apart)}) if apart else ()
        return [None, *(row["organization_id"] for row in rows)]

    async def claim_queued(
        self,
        *,
        pool: Pool | None,
        limit: int,
        lease: Lease,
        orchestrator: Orchestrator = Orchestrator.OPENCODE,
    ) -> list[ClaimedDispatch]:
        params = {
            "orchestrator": orchestrator.value,
            "limit": limit,
            "lease": lease.token,
            "lease_s": self._lease_s,
            **await self._turns.params(orchestrator.value, pool),
        }
        try:
            rows = await self._database.system(alone=_CLAIM).all(sql.CLAIM_QUEUED, params)
        except psycopg.errors.UniqueViolation:
            return []  # two processes picked two of one session; the index let one pass, the other comes again
        self._turns.claimed(row["organization_id"] for row in rows)
        return await self._readable(rows, _claimed_dispatch, lease)

    async def begin_attempt(
        self,
        execution: Execution,
        lease: Lease,
        *,
        instance_id: str,
        opencode_session_id: str,
        opencode_directory: str | None,
        message_id: str,
        known_assistant_ids: Sequence[str],
        analysis: Mapping[str, Any],
        context: Mapping[str, Any] | None,
        notes: Sequence[str],
        cleaning: Cleaning,
        run_deadline_s: float,
        hold: Hold | None = None,
    ) -> int:
        row = await self._database.tenant(execution.organization_id, locked=hold is not None).one(
            sql.BEGIN_ATTEMPT.for_run_of(execution, hold),
            {
                **({} if hold is None else hold_params(execution, hold)),
                "id": execution.id,
                "lease": lease.token,
                "instance_id": instance_id,
                "opencode_session_id": opencode_session_id,
                "opencode_directory": opencode_directory,
                "message_id": message_id,
                "known_assistant_ids": Jsonb(list(known_assistant_ids)),
                "analysis": Jsonb(dict(analysis)),
                "context": Jsonb(dict(context)) if context is not None else None,
                "notes": Jsonb(list(notes)),
                "masked": Jsonb(cleaning.as_dict()) if cleaning else None,
                "run_deadline_s": run_deadline_s,
            },
        )
        return attempt_begun(held(row))

    async def mark_running(self, execution: Execution, lease: Lease, *, check_after_s: float) -> Started:
        row = await self._database.tenant(execution.organization_id).one(
            sql.MARK_RUNNING, {"id": execution.id, "lease": lease.token, "check_after_s": check_after_s}
        )
        return Started(check_now=held(row)["check_now"])

    async def requeue(
        self,
        execution: Execution,
        lease: Lease,
        *,
        wait_s: float,
        kind: EventKind,
        detail: Mapping[str, Any],
        failed: bool,
        attempt_verdict: str | None,
        usage: Usage | None = None,
        usage_by_model: Mapping[str, Usage] | None = None,
        counted_ids: Collection[str] = (),
    ) -> None:
        row = await self._database.tenant(execution.organization_id).one(
            sql.REQUEUE,
            {
                "id": execution.id,
                "lease": lease.token,
                "sources": sources_of(Status.QUEUED, among=frozenset({Status.DISPATCHING, Status.RUNNING})),
                "wait_s": wait_s,
                "kind": kind.value,
                "detail": Jsonb(dict(detail)),
                "waiting_for": detail.get("reason"),
                "failed": failed,
                "attempt_verdict": attempt_verdict,
                "counted_ids": Jsonb(sorted(counted_ids)),
                **usage_params(execution, usage, usage_by_model or {}),
            },
        )
        held(row)

    async def _readable(
        self, rows: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], T], lease: Lease
    ) -> list[T]:
        async def park(row: Mapping[str, Any]) -> None:
            execution = salvaged_execution(row)
            finish = outcomes.failed(
                execution,
                code="unreadable",
                detail=UNREADABLE,
                reason=DeadLetterReason.TOO_MANY_DELIVERIES,
                may_still_run=bool(row.get("open_attempt", True)),
            )
            await self.finish(execution, lease, finish)

        return await each_readable(rows, read, park=park, lone_deliveries=self._lone_deliveries)

    # --- completion ---

    async def claim_checks(self, *, execution_id: str | None, limit: int, lease: Lease) -> list[ClaimedCheck]:
        params = {"id": execution_id, "limit": limit, "lease": lease.token, "lease_s": self._lease_s}
        rows = await self._database.system(walks=True).all(sql.CLAIM_CHECKS, params)
        return await self._readable(rows, _claimed_check, lease)

    async def release_check(
        self, execution: Execution, lease: Lease, *, check_after_s: float, mark: str | None = None
    ) -> None:
        row = await self._database.tenant(execution.organization_id).one(
            sql.RELEASE_CHECK,
            {"id": execution.id, "lease": lease.token, "check_after_s": check_after_s, "mark": mark},
        )
        held(row)

    async def finish(self, execution: Execution, lease: Lease, finish: Finish) -> Finished:
        params = self._finish_params(execution, finish)
        params |= {"lease": lease.token, "abandon_session": finish.abandon_session}
        return _finished(held(await self._database.tenant(execution.organization_id).one(sql.FINISH, params)))

    async def cancel_queued(self, execution: Execution, finish: Finish) -> Finished | None:
        """An attempt of it that is in doubt used something, and nobody told how much."""
        scope = self._database.tenant(execution.organization_id)
        if finish.usage is None and await scope.one(sql.IN_DOUBT, {"id": execution.id}):
            finish = replace(finish, usage=Usage(lower_bound=True))
        row = await scope.one(sql.FINISH_QUEUED, self._finish_params(execution, finish))
        return _finished(row) if row else None

    def _finish_params(self, execution: Execution, finish: Finish) -> dict[str, Any]:
        error = finish.error
        return {
            "id": execution.id,
            "status": finish.status.value,
            "sources": sources_of(finish.status),
            "verdict": finish.verdict,
            "output": finish.output,
            "output_cut": finish.output_cut,
            **usage_params(execution, finish.usage, finish.usage_by_model),
            "error": Jsonb({"code": error.code, "message": error.message, "detail": error.detail}) if error else None,
            "notes": Jsonb(list(finish.notes)),
            "notifications": json_list([self._notification_row(new) for new in finish.notifications]),
            "dead_letters": json_list([self._dead_letter_row(finish.dead_letter)] if finish.dead_letter else []),
            "delegations": json_list([delegation.as_dict() for delegation in finish.delegations]),
            "detail": Jsonb({"status": finish.status.value, "verdict": finish.verdict, **finish.detail}),
        }

    def _dead_letter_row(self, new: NewDeadLetter) -> dict[str, Any]:
        return {
            "id": self._chance.new_id("dlq"),
            "queue": new.queue,
            "task": new.task,
            "reason": new.reason.value,
            "error": new.error,
            "subject_kind": new.subject_kind.value,
            "subject_id": new.subject_id,
            "attempts": new.attempts,
        }

    # --- news and wishes from outside ---

    async def wake_by_sessions(self, instance_id: str, opencode_session_ids: Sequence[str]) -> list[str]:
        rows = await self._database.system().all(
            sql.WAKE_BY_SESSIONS, {"instance_id": instance_id, "sessions": list(opencode_session_ids)}
        )
        return [row["id"] for row in rows if row["status"] == Status.RUNNING]

    async def request_cancel(
        self, organization_id: str, execution_id: str, *, reason: str, operator: str | None = None
    ) -> CancelWish | None:
        scope = self._database.tenant(organization_id)
        params: dict[str, Any] = {"id": execution_id, "reason": reason}
        if operator is None:
            wished = await scope.one(sql.REQUEST_CANCEL, params)
        else:
            entry = AuditEntry(
                operator, AuditAction.EXECUTION_CANCELLED, organization_id, execution_id, detail={"reason": reason}
            )
            wished = await scope.one(sql.REQUEST_CANCEL_AUDITED, params | audit_params(entry))
        execution = await self.find(organization_id, execution_id)
        return CancelWish(execution, is_new=wished is not None) if execution is not None else None

    async def forget_opencode_session(
        self, execution: Execution, lease: Lease, *, because: SessionLeft | None, away_since: datetime | None = None
    ) -> None:
        row = await self._database.tenant(execution.organization_id).one(
            sql.FORGET_SESSION,
            {
                "id": execution.id,
                "lease": lease.token,
                "because": because and because.value,
                "away_since": away_since,
            },
        )
        held(row)

    async def note_event(self, execution: Execution, kind: EventKind, detail: Mapping[str, Any]) -> None:
        await self._database.tenant(execution.organization_id).execute(
            sql.NOTE_EVENT,
            {
                "organization_id": execution.organization_id,
                "id": execution.id,
                "kind": kind.value,
                "detail": Jsonb(dict(detail)),
            },
        )

    # --- reading ---

    async def find(self, organization_id: str, execution_id: str) -> Execution | None:
        row = await self._database.tenant(organization_id).one(sql.FIND, {"id": execution_id})
        return execution_from(row) if row else None

    async def by_key(self, organization_id: str, idempotency_key: str) -> str | None:
        row = await self._database.tenant(organization_id).one(
            sql.FIND_BY_KEY, {"organization_id": organization_id, "idempotency_key": idempotency_key}
        )
        return row["id"] if row else None

    async def open_in_session(self, organization_id: str, session_key: str) -> list[str]:
        rows = await self._database.tenant(organization_id).all(
            sql.OPEN_IN_SESSION, {"organization_id": organization_id, "session_key": session_key}
        )
        return [row["id"] for row in rows]

    async def session_key(self, organization_id: str, session_id: str) -> str | None:
        row = await self._database.tenant(organization_id).one(sql.SESSION_KEY, {"id": session_id})
        return row["session_key"] if row else None

    async def open_of_workspace(self, organization_id: str, workspace_id: str) -> list[str]:
        rows = await self._database.tenant(organization_id).all(sql.OPEN_OF_WORKSPACE, {"workspace_id": workspace_id})
        return [row["id"] for row in rows]

    async def timeline(self, organization_id: str, execution_id: str) -> list[TimelineEvent]:
        rows = await self._database.tenant(organization_id).all(sql.TIMELINE, {"id": execution_id})
        return [TimelineEvent(row["at"], EventKind(row["kind"]), row["detail"]) for row in rows]

    async def earlier_turns(self, execution: Execution, *, limit: int, max_bytes: int) -> EarlierTurns:
        rows = await self._database.tenant(execution.organization_id).all(
            sql.EARLIER_TURNS,
            {"id": execution.id, "limit": limit, "at_each_end": characters_at_each_end(max_bytes)},
        )
        unread = rows[0]["total"] - len(rows) if rows else 0
        return EarlierTurns([Turn(_text_in(row, "prompt"), _text_in(row, "output")) for row in rows], unread)

    async def running_on(self, instance_id: str) -> list[tuple[str, str, str | None]]:
        rows = await self._database.system().all(sql.RUNNING_ON, {"instance_id": instance_id})
        return [(row["id"], row["opencode_session_id"], row["opencode_directory"]) for row in rows]

    async def stray_runs(self, instance_id: str, opencode_session_ids: Collection[str]) -> Mapping[str, Execution]:
        rows = await self._database.system().all(
            sql.STRAY_RUNS, {"instance_id": instance_id, "sessions": list(opencode_session_ids)}
        )
        return {row["stray_session_id"]: execution_from(row) for row in rows}

    async def find_session_mapping(self, organization_id: str, session_id: str) -> Mapping[str, Any] | None:
        return await self._database.tenant(organization_id).one(sql.SESSION_MAPPING, {"id": session_id})

    async def place_of(self, execution_id: str) -> tuple[str, str] | None:
        """(server, OpenCode session) of an execution that runs now; for the listener, whatever the organization."""
        row = await self._database.system().one(sql.PLACE_OF, {"id": execution_id})
        return (row["instance_id"], row["opencode_session_id"]) if row else None

    async def session_of(self, instance_id: str, opencode_session_id: str) -> tuple[str, str, str | None] | None:
        """(organization, Nubabel session, directory) of an OpenCode session."""
        row = await self._database.system().one(
            sql.SESSION_OF, {"instance_id": instance_id, "opencode_session_id": opencode_session_id}
        )
        return (row["organization_id"], row["id"], row["opencode_directory"]) if row else None

    async def session_anywhere(self, session_id: str) -> SessionPlace | None:
        row = await self._database.system().one(sql.SESSION_ANYWHERE, {"id": session_id})
        return SessionPlace(**row) if row else None

    async def owned_by_another(self, execution: Execution, instance_id: str, opencode_session_id: str) -> bool:
        params = {
            "organization_id": execution.organization_id,
            "instance_id": instance_id,
            "opencode_session_id": opencode_session_id,
        }
        row = await self._database.system().one(sql.OWNED_BY_ANOTHER, params)
        return row is not None and bool(row["owned"])

    async def has_submitted_to(self, execution: Execution, opencode_session_id: str) -> bool:
        row = await self._database.tenant(execution.organization_id).one(
            sql.HAS_SUBMITTED_TO,
            {"organization_id": execution.organization_id, "opencode_session_id": opencode_session_id},
        )
        return row is not None and bool(row["submitted"])

    async def newest_in_session(self, organization_id: str, session_id: str) -> str | None:
        row = await self._database.tenant(organization_id).one(
            sql.NEWEST_IN_SESSION, {"organization_id": organization_id, "id": session_id}
        )
        return row["id"] if row else None

    async def running_by_opencode_session(self, instance_id: str, opencode_session_id: str) -> Execution | None:
        row = await self._database.system().one(
            sql.RUNNING_BY_OPENCODE_SESSION,
            {"instance_id": instance_id, "opencode_session_id": opencode_session_id},
        )
        return execution_from(row) if row else None


def held(row: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a statement on a held row returned. Raises LeaseLostError: nothing."""
    if row is None:
        raise LeaseLostError("the execution is no longer held under this lease")
    return row


def usage_params(execution: Execution, usage: Usage | None, by_model: Mapping[str, Usage]) -> dict[str, Any]:
    """usage: of the attempt that ends; None where there was none. That it was more is said in the rows as well."""
    total = usage + execution.usage if usage and execution.usage else usage
    if usage is not None and usage.lower_bound and not any(used.lower_bound for used in by_model.values()):
        by_model = {**by_model, UNSEEN_MODEL: by_model.get(UNSEEN_MODEL, Usage()) + Usage(lower_bound=True)}
    return {
        "usage": Jsonb(usage_as_dict(total)) if total else None,
        "attempt_usage": Jsonb(usage_as_dict(usage)) if usage else None,
        "usage_rows": json_list([{"model": model, **usage_as_dict(used)} for model, used in by_model.items()]),
    }


def attempt_begun(row: Mapping[str, Any]) -> int:
    """The attempt's number. Raises BudgetReachedError: there was no room for it."""
    if row["attempt"] is None and (shortage := shortage_from(row)) is not None:
        raise BudgetReachedError(shortage)
    return int(row["attempt"])


def _finished(row: Mapping[str, Any]) -> Finished:
    return Finished(tuple(row["notification_ids"] or ()), row["next_execution_id"])


def _claimed_dispatch(row: Mapping[str, Any]) -> ClaimedDispatch:
    return ClaimedDispatch(
        execution=execution_from(row),
        cancel_requested=row["cancel_requested_at"] is not None,
        open_attempt=row["open_attempt"],
        masking=MaskingPolicy(row["masking"]),
        servers=ServersPolicy(row["servers"]),
        suspect=row["suspect"],
        others_wait=row["others_wait"],
        lone_deliveries=row["lone_deliveries"],
    )


def _claimed_check(row: Mapping[str, Any]) -> ClaimedCheck:
    return ClaimedCheck(
        execution=execution_from(row),
        cancel_requested=row["cancel_requested_at"] is not None,
        past_deadline=row["past_deadline"],
        running_for_s=row["running_for_s"] or 0.0,
        mark=row["progress_mark"],
        unchanged_for_s=row["unchanged_for_s"] or 0.0,
        suspect=row["suspect"],
        others_wait=row["others_wait"],
        lone_deliveries=row["lone_deliveries"],
    )


def _text_in(row: Mapping[str, Any], column: str) -> str:
    return read_in_part(row[f"{column}_beginning"], row[f"{column}_end"], length=row[f"{column}_length"])
