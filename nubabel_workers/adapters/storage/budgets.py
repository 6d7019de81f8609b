"""Budgets in PostgreSQL: what is used is read from `usage`, what is held from `budget_holds`."""

import time
from collections.abc import Callable
from typing import Any

from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage import budget_statements as sql
from nubabel_workers.adapters.storage.audit import audit_params, audited
from nubabel_workers.adapters.storage.brief_cache import BriefCache
from nubabel_workers.adapters.storage.budget_rows import hold_params, shortage_from
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.execution_rows import json_list
from nubabel_workers.adapters.storage.executions import usage_params
from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.budget_button import BudgetButton
from nubabel_workers.domain.budgets import WAITS_FOR_BUDGET, Amount, Books, Shortage
from nubabel_workers.domain.errors import LeaseLostError
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.notifications import NewNotification
from nubabel_workers.domain.ports.budgets import Due, Hold, Pause

_KEEP_ESTIMATES_S = 30.0
_MAX_ESTIMATES = 4096
_SHARE = 0.9  # of the last runs; what costs more has its hold extended while it runs
_FEWEST_RUNS, _MOST_RUNS, _LOOK_BACK = 5, 100, 1000
_FIRST_LOOK_S = 5.0
_KNOWN_AFTER_S = 3.0  # by then every process knows new limits: it remembers an organization for two seconds


class PostgresBudgets:
    """Implements ports.budgets.BudgetStore."""

    def __init__(self, database: Database, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._estimates: BriefCache[tuple[str, str | None], tuple[Amount | None]] = BriefCache(
            keep_s=_KEEP_ESTIMATES_S, max_entries=_MAX_ESTIMATES, monotonic=monotonic
        )

    async def estimate(self, organization_id: str, category: str | None) -> Amount | None:
        key = organization_id, category
        known = self._estimates.get(key)
        if known is None:
            row = await self._database.tenant(organization_id).one(
                sql.ESTIMATE,
                {
                    "organization_id": organization_id,
                    "category": category,
                    "share": _SHARE,
                    "look_back": _LOOK_BACK,
                    "most": _MOST_RUNS,
                },
            )
            enough = row is not None and row["runs"] >= _FEWEST_RUNS
            known = (Amount(float(row["cost"]), row["tokens"]),) if row is not None and enough else (None,)
            self._estimates.put(key, known)
        return known[0]

    async def shortage(self, execution: Execution, hold: Hold, *, extends: bool = False) -> Shortage | None:
        params = hold_params(execution, hold, extends=extends)
        row = await self._database.tenant(execution.organization_id).one(sql.SHORTAGE, params)
        return shortage_from(row) if row is not None else None

    async def extend(self, execution: Execution, lease: Lease, hold: Hold) -> Shortage | None:
        params = hold_params(execution, hold, extends=True) | {"lease": lease.token, "reason": WAITS_FOR_BUDGET}
        row = await self._database.tenant(execution.organization_id, locked=True).one(sql.EXTEND, params)
        if row is None:
            raise LeaseLostError("the execution is no longer held under this lease")
        return shortage_from(row)

    async def wait(
        self, execution: Execution, lease: Lease, shortage: Shortage, *, wait_s: float, notice: NewNotification | None
    ) -> str | None:
        row = await self._database.tenant(execution.organization_id).one(
            sql.WAIT,
            {
                "id": execution.id,
                "lease": lease.token,
                "wait_s": wait_s,
                "reason": WAITS_FOR_BUDGET,
                "spent_out": shortage.spent_out,
                "frees_at": shortage.frees_at,
                "detail": Jsonb({"reason": WAITS_FOR_BUDGET, "cap": shortage.cap.value}),
                "notifications": _rows(notice),
            },
        )
        return _notice_of(row)

    async def pause(self, execution: Execution, lease: Lease, pause: Pause, *, keep_s: float) -> str | None:
        row = await self._database.tenant(execution.organization_id).one(
            sql.PAUSE,
            {
                "id": execution.id,
                "lease": lease.token,
                "reason": WAITS_FOR_BUDGET,
                "output": pause.output,
                "short": pause.shortage is not None,
                "look_s": _FIRST_LOOK_S,
                "keep_s": keep_s,
                "after_ms": pause.after_ms,
                "step_cost": pause.step.cost,
                "step_tokens": pause.step.tokens,
                "counted_ids": Jsonb(sorted(pause.counted_ids)),
                "detail": Jsonb({"cap": pause.shortage.cap.value} if pause.shortage is not None else {}),
                "notifications": _rows(pause.notice),
                **usage_params(execution, pause.usage, pause.usage_by_model),
            },
        )
        return _notice_of(row)

    async def due(self, *, again_s: float, limit: int) -> list[Due]:
        rows = await self._database.system().all(sql.DUE, {"again_s": again_s, "limit": limit})
        return [Due(row["organization_id"], row["execution_id"], untold=row["untold"]) for row in rows]

    async def tell_paused(self, execution: Execution, notice: NewNotification) -> str | None:
        row = await self._database.tenant(execution.organization_id).one(
            sql.TELL_PAUSED, {"id": execution.id, "notifications": _rows(notice)}
        )
        return row["notification_id"] if row is not None else None

    async def resume(self, execution: Execution, hold: Hold | None, *, answer_by_s: float) -> bool:
        params: dict[str, Any] = {"id": execution.id, "answer_by_s": answer_by_s, "detail": Jsonb({})}
        if hold is None:
            row = await self._database.tenant(execution.organization_id).one(sql.RESUME, params)
        else:
            scope = self._database.tenant(execution.organization_id, locked=True)
            row = await scope.one(sql.RESUME_WITH_ROOM, params | hold_params(execution, hold))
        return row is not None

    async def step(self, organization_id: str, execution_id: str) -> Amount:
        row = await self._database.tenant(organization_id).one(
            sql.STEP, {"id": execution_id, "organization_id": organization_id}
        )
        return Amount(float(row["cost"]), row["tokens"]) if row is not None else Amount()

    async def allow(
        self,
        organization_id: str,
        execution_id: str,
        *,
        cost: float,
        answer_by_s: float,
        actor: str,
        button: BudgetButton | None = None,
    ) -> bool:
        entry = AuditEntry(actor, AuditAction.EXECUTION_RESUMED, organization_id, execution_id, {"cost_usd": cost})
        row = await self._database.system().one(
            audited(sql.ALLOW, after=sql.SAY_ALLOWED),
            {
                "organization_id": organization_id,
                "id": execution_id,
                "cost": cost,
                "replays": button.replays if button is not None else None,
                "pauses": button.pauses if button is not None else None,
                "attempt": button.attempt if button is not None else None,
                "answer_by_s": answer_by_s,
                "reason": WAITS_FOR_BUDGET,
                "detail": Jsonb({"by": actor, "cost_usd": cost} | ({"button": button.wait} if button else {})),
                **audit_params(entry),
            },
        )
        return row is not None

    async def books(self, organization_id: str) -> Books:
        row = await self._database.tenant(organization_id).one(
            sql.BOOKS, {"organization_id": organization_id, "reason": WAITS_FOR_BUDGET}
        )
        assert row is not None  # noqa: S101 - sums are always one row
        return Books(
            today=Amount(float(row["day_cost"]), int(row["day_tokens"])),
            this_month=Amount(float(row["month_cost"]), int(row["month_tokens"])),
            held=Amount(float(row["held_cost"]), int(row["held_tokens"])),
            holds=row["holds"],
            queued=row["queued"],
            paused=row["paused"],
        )

    async def wake(self, organization_id: str) -> int:
        row = await self._database.tenant(organization_id).one(
            sql.WAKE,
            {"organization_id": organization_id, "reason": WAITS_FOR_BUDGET, "known_after_s": _KNOWN_AFTER_S},
        )
        return int(row["woken"]) if row is not None else 0

    async def release_stale(self) -> int:
        return await self._database.system().execute(sql.RELEASE_STALE)


def _rows(notice: NewNotification | None) -> Jsonb:
    if notice is None:
        return json_list([])
    told = {
        "kind": notice.kind.value,
        "dedupe": notice.dedupe,
        "destination": dict(notice.destination),
        "payload": dict(notice.payload),
    }
    return json_list([told])


def _notice_of(row: dict[str, Any] | None) -> str | None:
    if row is None:
        raise LeaseLostError("the execution is no longer held under this lease")
    notification_id = row["notification_id"]
    return str(notification_id) if notification_id is not None else None
