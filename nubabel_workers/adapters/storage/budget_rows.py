"""Holds and shortages as parameters and from rows."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from nubabel_workers.domain.budgets import Cap, Shortage
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.ports.budgets import Hold


def hold_params(execution: Execution, hold: Hold, *, extends: bool = False) -> dict[str, Any]:
    """extends: of a run that goes on, beside what it used in earlier attempts."""
    return {
        "organization_id": execution.organization_id,
        "id": execution.id,
        **{name.value: asdict(hold.caps)[name] for name in Cap},
        "cost": hold.amount.cost,
        "tokens": hold.amount.tokens,
        "extends": extends,
    }


def shortage_from(row: Mapping[str, Any]) -> Shortage | None:
    """None where a row names no cap."""
    if row["name"] is None:
        return None
    return Shortage(Cap(row["name"]), row["spent_out"], row["frees_at"], float(row["step_cost"]))
