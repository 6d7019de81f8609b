"""Executions that are answered by a call, in PostgreSQL."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage import call_statements as sql
from nubabel_workers.adapters.storage.budget_rows import hold_params
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.execution_rows import json_list, usage_as_dict
from nubabel_workers.adapters.storage.executions import UNSEEN_MODEL, attempt_begun, held
from nubabel_workers.adapters.storage.waiting import BATCH
from nubabel_workers.domain.executions import Execution, Usage
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.masking import Cleaning
from nubabel_workers.domain.placement import ORCHESTRATOR_AWAY
from nubabel_workers.domain.ports.budgets import Hold
from nubabel_workers.domain.ports.orchestrators import LastCall, QueuedChoice
from nubabel_workers.domain.rollout import Orchestrator

_UNTOLD = usage_as_dict(Usage(lower_bound=True))  # nobody heard what the call that was given up has used


class PostgresCalls:
    """Implements ports.orchestrators.CallStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
        row = await self._database.tenant(execution.organization_id, locked=hold is not None).one(
            sql.BEGIN.for_run_of(execution, hold),
            {
                **({} if hold is None else hold_params(execution, hold)),
                "id": execution.id,
                "lease": lease.token,
                "orchestrator": orchestrator.value,
                "analysis": Jsonb(dict(analysis)),
                "context": Jsonb(dict(context)) if context is not None else None,
                "notes": Jsonb(list(notes)),
                "masked": Jsonb(cleaning.as_dict()) if cleaning else None,
                "run_deadline_s": run_deadline_s,
                "detail": Jsonb({"orchestrator": orchestrator.value, "category": analysis.get("category")}),
            },
        )
        attempt_begun(held(row))

    async def remember_session(self, execution: Execution, remote_session_id: str) -> None:
        await self._database.tenant(execution.organization_id).execute(
            sql.REMEMBER_SESSION, {"id": execution.id, "remote_session_id": remote_session_id}
        )

    async def last_call(self, execution: Execution) -> LastCall | None:
        row = await self._database.tenant(execution.organization_id).one(sql.LAST_CALL, {"id": execution.id})
        return LastCall(Orchestrator(row["orchestrator"]), row["remote_session_id"]) if row else None

    async def asked_to_stop(self, execution_ids: Collection[str]) -> set[str]:
        rows = await self._database.system().all(sql.ASKED_TO_STOP, {"ids": list(execution_ids)})
        return {row["id"] for row in rows}

    async def queued_choices(
        self, *, after_position: int, limit: int, settled: Orchestrator | None
    ) -> list[QueuedChoice]:
        params = {"after": after_position, "limit": limit, "settled": settled.value if settled else None}
        rows = await self._database.system().all(sql.QUEUED_CHOICES, params)
        return [
            QueuedChoice(
                row["position"],
                row["id"],
                row["organization_id"],
                row["session_key"],
                Orchestrator(row["orchestrator"]),
            )
            for row in rows
        ]

    async def choose(self, orchestrator: Orchestrator, execution_ids: Collection[str]) -> int:
        row = await self._database.system().one(
            sql.CHOOSE,
            {
                "orchestrator": orchestrator.value,
                "ids": list(execution_ids),
                "attempt_usage": Jsonb(_UNTOLD),
                "usage_rows": json_list([{"model": UNSEEN_MODEL, **_UNTOLD}]),
                "detail": Jsonb({"orchestrator": orchestrator.value}),
            },
        )
        return int(row["n"]) if row else 0

    async def put_off(self, orchestrator: Orchestrator, *, wait_s: float) -> int:
        params = {"orchestrator": orchestrator.value, "reason": ORCHESTRATOR_AWAY, "wait_s": wait_s, "limit": BATCH}
        row = await self._database.system(walks=True).one(sql.PUT_OFF, params)
        return int(row["n"]) if row else 0

    async def wake(self, orchestrator: Orchestrator) -> list[str]:
        params = {"orchestrator": orchestrator.value, "reason": ORCHESTRATOR_AWAY, "limit": BATCH}
        return [row["id"] for row in await self._database.system(walks=True).all(sql.WAKE, params)]
