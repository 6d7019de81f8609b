"""Dead letters as operators see and settle them, across organizations. The statements: `dead_letter_statements`."""

from collections.abc import Mapping, Sequence
from typing import Any

from nubabel_workers.adapters.storage import dead_letter_statements as sql
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.execution_statements import TIMELINE
from nubabel_workers.domain.administration import AttemptSummary, AuditAction, DeadLetterGroup, DeadLetterHistory
from nubabel_workers.domain.dead_letters import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterReason,
    DeadLetterStatus,
    ReplayCandidate,
    SubjectKind,
)
from nubabel_workers.domain.executions import EventKind, TimelineEvent
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.ids import DeadLetterId
from nubabel_workers.domain.ports.administration import Woken
from nubabel_workers.domain.wording import HANGUL, Language, say

_WAKES = {
    SubjectKind.EXECUTION: HintTask.DISPATCH,
    SubjectKind.NOTIFICATION: HintTask.DELIVER,
    SubjectKind.INBOUND_EVENT: HintTask.PROCESS_SLACK_EVENTS,
}


class PostgresDeadLetterRegistry:
    """Implements ports.administration.DeadLetterRegistry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def groups(self, *, organization_id: str | None, status: DeadLetterStatus) -> list[DeadLetterGroup]:
        rows = await self._database.system().all(
            sql.GROUPS, {"organization_id": organization_id, "status": status.value}
        )
        return [
            DeadLetterGroup(
                **{
                    **row,
                    "reason": DeadLetterReason(row["reason"]),
                    "organization_ids": tuple(row["organization_ids"] or ()),
                }
            )
            for row in rows
        ]

    async def list(
        self, chosen: DeadLetterFilter, *, status: DeadLetterStatus | None, limit: int, after: str | None
    ) -> list[DeadLetter]:
        params = _filter_params(chosen) | {"status": status, "limit": limit, "after": after}
        return [_dead_letter(row) for row in await self._database.system().all(sql.LIST, params)]

    async def find(self, dead_letter_id: str) -> DeadLetter | None:
        row = await self._database.system().one(sql.FIND, {"id": dead_letter_id})
        return _dead_letter(row) if row else None

    async def history(self, letter: DeadLetter) -> DeadLetterHistory:
        if letter.subject_kind is SubjectKind.MESSAGE:
            return DeadLetterHistory(letter)
        system = self._database.system()
        subject = await system.one(sql.SUBJECT[letter.subject_kind], {"id": letter.subject_id}) or {}
        execution_id = subject.get("execution_id")
        timeline = await system.all(TIMELINE, {"id": execution_id}) if execution_id else []
        attempts = await system.all(sql.ATTEMPTS, {"id": execution_id}) if execution_id else []
        others = await system.all(sql.OTHERS, {"id": letter.id, "subject_id": letter.subject_id})
        return DeadLetterHistory(
            letter,
            subject_status=subject.get("status"),
            subject=subject.get("content"),
            execution_id=execution_id,
            timeline=tuple(TimelineEvent(row["at"], EventKind(row["kind"]), row["detail"]) for row in timeline),
            attempts=tuple(AttemptSummary(**row) for row in attempts),
            others=tuple(_dead_letter(row) for row in others),
        )

    async def candidates(self, chosen: DeadLetterFilter, *, limit: int) -> Sequence[ReplayCandidate]:
        rows = await self._database.system().all(sql.CANDIDATES, _filter_params(chosen) | {"limit": limit})
        return [_candidate(row) for row in rows]

    async def candidate(self, dead_letter_id: str) -> ReplayCandidate | None:
        row = await self._database.system().one(sql.CANDIDATE, {"id": dead_letter_id})
        return _candidate(row) if row else None

    async def count_open(self, chosen: DeadLetterFilter, *, raw_only: bool) -> int:
        row = await self._database.system().one(sql.COUNT, _filter_params(chosen) | {"raw_only": raw_only})
        return int(row["n"]) if row else 0

    async def replay(
        self, dead_letter_ids: Sequence[str], *, actor: str, first_after_s: float, every_s: float, answer_by_s: float
    ) -> Sequence[Woken]:
        rows = await self._database.system().all(
            sql.REPLAY,
            {
                "ids": list(dead_letter_ids),
                "actor": actor,
                "action": AuditAction.DEAD_LETTER_REPLAYED.value,
                "first_after_s": first_after_s,
                "every_s": every_s,
                "answer_by_s": answer_by_s,
                "hangul": HANGUL,
                "korean": say("replayed", Language.KOREAN),
                "english": say("replayed", Language.ENGLISH),
            },
        )
        return [_woken(row) for row in rows]

    async def discard(self, dead_letter_ids: Sequence[str], *, note: str, actor: str) -> int:
        params = {"ids": list(dead_letter_ids), "note": note}
        return await self._discard(sql.DISCARD, params, actor=actor)

    async def discard_matching(self, chosen: DeadLetterFilter, *, note: str, actor: str, limit: int) -> int:
        params = _filter_params(chosen) | {"note": note, "limit": limit}
        return await self._discard(sql.DISCARD_MATCHING, params, actor=actor)

    async def _discard(self, statement: str, params: Mapping[str, Any], *, actor: str) -> int:
        names = {"actor": actor, "action": AuditAction.DEAD_LETTER_DISCARDED.value}
        row = await self._database.system().one(statement, {**params, **names})
        return int(row["n"]) if row else 0


def _filter_params(chosen: DeadLetterFilter) -> dict[str, Any]:
    return {
        "organization_id": chosen.organization_id,
        "reason": chosen.reason,
        "cause": chosen.cause,
        "queue": chosen.queue,
        "task": chosen.task,
        "created_from": chosen.created_from,
        "created_before": chosen.created_before,
    }


def _candidate(row: Mapping[str, Any]) -> ReplayCandidate:
    return ReplayCandidate(row["id"], SubjectKind(row["subject_kind"]), row["subject_status"])


def _woken(row: Mapping[str, Any]) -> Woken:
    task = _WAKES[SubjectKind(row["subject_kind"])]
    hint = Hint(task, row["subject_id"], row["organization_id"]) if row["woken"] else None
    return Woken(row["id"], hint, row["notice_id"])


def _dead_letter(row: Mapping[str, Any]) -> DeadLetter:
    return DeadLetter(
        id=DeadLetterId(row["id"]),
        organization_id=row["organization_id"],
        queue=row["queue"],
        task=row["task"],
        reason=DeadLetterReason(row["reason"]),
        error=row["error"],
        status=DeadLetterStatus(row["status"]),
        created_at=row["created_at"],
        subject_kind=SubjectKind(row["subject_kind"]),
        subject_id=row["subject_id"],
        payload=row["payload"],
        headers=row["headers"],
        attempts=row["attempts"],
        resolved_at=row["resolved_at"],
        resolved_by=row["resolved_by"],
        note=row["note"],
    )
