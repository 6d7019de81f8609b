"""Policies of an organization as the API shows and takes them."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nubabel_workers.domain.masking import MaskingPolicy
from nubabel_workers.domain.tenants import BusyPolicy, Organization, ServersPolicy

_BUSY = "What a follow-up does while its session still works: wait, replace what runs, or be refused."
_MASKING = "What becomes of keys, card numbers, mail addresses and national ids in prompts."
_SERVERS = "Where it runs: on the OpenCode servers for everybody, or only on its own."


class PolicyChangeBody(BaseModel):
    """What is not named, or null, stays as it is; at least one must be given."""

    model_config = ConfigDict(extra="forbid")

    busy_policy: BusyPolicy | None = Field(None, description=_BUSY)
    masking: MaskingPolicy | None = Field(None, description=_MASKING)
    servers: ServersPolicy | None = Field(None, description=_SERVERS)

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.busy_policy is None and self.masking is None and self.servers is None:
            raise ValueError("nothing to change: name a busy_policy, masking or servers")
        return self


class PoliciesView(BaseModel):
    organization_id: str
    busy_policy: BusyPolicy = Field(description=_BUSY)
    masking: MaskingPolicy = Field(description=_MASKING)
    servers: ServersPolicy = Field(description=_SERVERS)

    @classmethod
    def of(cls, organization: Organization) -> "PoliciesView":
        return cls(
            organization_id=organization.id,
            busy_policy=organization.busy_policy,
            masking=organization.masking,
            servers=organization.servers,
        )
