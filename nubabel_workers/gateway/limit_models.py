"""Limits as the API shows and takes them."""

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nubabel_workers.domain.limits import LIMIT_NAMES
from nubabel_workers.services.manage_limits import LimitsReport

_MOST = 10**15

Count = Annotated[int, Field(ge=0, le=_MOST)]
Amount = Annotated[float, Field(ge=0, le=_MOST, allow_inf_nan=False)]
LimitName = StrEnum("LimitName", {name.upper(): name for name in LIMIT_NAMES})  # type: ignore[misc]


class LimitValues(BaseModel):
    """null: no limit. Money in US dollars; days and months in UTC."""

    model_config = ConfigDict(extra="forbid", strict=True)

    requests_per_minute: Annotated[int, Field(ge=1, le=_MOST)] | None = None
    in_flight: Count | None = Field(None, description="Executions that run at the same time; more wait.")
    queued: Count | None = Field(None, description="Executions that wait; more are refused.")
    sessions: Count | None = Field(None, description="Conversations with an execution that is not over.")
    tokens_per_day: Count | None = None
    tokens_per_month: Count | None = None
    cost_per_execution: Amount | None = None
    cost_per_user_day: Amount | None = None
    cost_per_day: Amount | None = None
    cost_per_month: Amount | None = None
    longest_run_s: Annotated[float, Field(ge=1, le=_MOST, allow_inf_nan=False)] | None = None
    weight: float = Field(
        1.0, ge=0.01, le=100, allow_inf_nan=False, description="Share of the capacity, compared to others' weights."
    )


class LimitChangeBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    set: LimitValues = Field(
        default_factory=LimitValues, description="New limits of its own; what is not named stays as it is."
    )
    unset: list[LimitName] = Field(
        default_factory=list, max_length=len(LIMIT_NAMES), description="Limits that its plan decides again."
    )

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.set.model_fields_set and not self.unset:
            raise ValueError('nothing to change: name a limit in "set", e.g. {"set": {"in_flight": 20}}, or in "unset"')
        return self


class LimitsView(BaseModel):
    organization_id: str
    plan: str
    plan_known: bool = Field(description="False: nobody described this plan, and `default` serves the organization.")
    limits: LimitValues = Field(description="What counts.")
    own: list[str] = Field(description="Names of the limits that do not come from the plan.")

    @classmethod
    def of(cls, report: LimitsReport) -> "LimitsView":
        return cls(
            organization_id=report.organization_id,
            plan=report.plan,
            plan_known=report.plan_known,
            limits=LimitValues(**asdict(report.limits)),
            own=sorted(name for name in report.own if name in LIMIT_NAMES),
        )
