"""Policies of an organization as the API shows and takes them."""

from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nubabel_workers.domain.budget_button import MAX_APPROVERS
from nubabel_workers.domain.masking import MaskingPolicy
from nubabel_workers.domain.tenants import (
    BusyPolicy,
    Instance,
    NearCap,
    Organization,
    PolicyChange,
    RepeatedQuestions,
    ServersPolicy,
)
from nubabel_workers.domain.unserved import unserved

_BUSY = "What a follow-up does while its session still works: wait, replace what runs, or be refused."
_MASKING = "What becomes of keys, card numbers, mail addresses and national ids in prompts."
_SERVERS = "Where it runs: on the OpenCode servers for everybody, or only on its own."
_NEAR_CAP = "When most of the budget of a day or month is used: go on, or a cheaper category and shorter runs."
_REPEATED = "A question that was answered lately, word for word: run it, or give the same answer, marked."

_APPROVERS = (
    "Slack user ids of those who may let a request cost more that waits for its budget, by a button in its thread. "
    "Empty: there is no button."
)


class PolicyChangeBody(BaseModel):
    """What is not named, or null, stays as it is; at least one must be given."""

    model_config = ConfigDict(extra="forbid")

    busy_policy: BusyPolicy | None = Field(None, description=_BUSY)
    masking: MaskingPolicy | None = Field(None, description=_MASKING)
    servers: ServersPolicy | None = Field(None, description=_SERVERS)
    near_cap: NearCap | None = Field(None, description=_NEAR_CAP)
    repeated_questions: RepeatedQuestions | None = Field(None, description=_REPEATED)
    budget_approvers: list[str] | None = Field(
        None, max_length=MAX_APPROVERS, description=_APPROVERS, examples=[["U024BE7LH"]]
    )

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.change().changes():
            raise ValueError(f"nothing to change: name one of {', '.join(type(self).model_fields)}")
        return self

    def change(self) -> PolicyChange:
        return PolicyChange(**dict(self))


class PoliciesView(BaseModel):
    organization_id: str
    busy_policy: BusyPolicy = Field(description=_BUSY)
    masking: MaskingPolicy = Field(description=_MASKING)
    servers: ServersPolicy = Field(description=_SERVERS)
    near_cap: NearCap = Field(description=_NEAR_CAP)
    repeated_questions: RepeatedQuestions = Field(description=_REPEATED)
    budget_approvers: list[str] = Field(description=_APPROVERS)
    unserved: str | None = Field(description="Why nothing it asks can begin: no server that may serve it takes work.")

    @classmethod
    def of(cls, organization: Organization, servers: Sequence[Instance]) -> "PoliciesView":
        found = unserved([organization], servers)
        return cls(
            organization_id=organization.id,
            busy_policy=organization.busy_policy,
            masking=organization.masking,
            servers=organization.servers,
            near_cap=organization.near_cap,
            repeated_questions=organization.repeated_questions,
            budget_approvers=list(organization.budget_approvers),
            unserved=found[0].words if found else None,
        )
