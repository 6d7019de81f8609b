"""What an organization may use now: its own limits, else its plan's. A change is seen within seconds."""

from collections.abc import Sequence

from nubabel_workers.domain.limits import Limits, Plans
from nubabel_workers.domain.ports import TenantStore
from nubabel_workers.domain.tenants import NearCap, Organization


class ReadLimits:
    def __init__(self, tenants: TenantStore, plans: Plans) -> None:
        self._tenants = tenants
        self._plans = plans

    def of(self, organization: Organization) -> Limits:
        return self._plans.of(organization.plan, organization.limits)

    async def near_cap(self, organization_id: str) -> NearCap:
        """What its policy says for when most of its budget is used."""
        organization = await self._tenants.organization(organization_id)
        return NearCap.KEEP if organization is None else organization.near_cap

    async def budget_approvers(self, organization_id: str) -> Sequence[str]:
        """Who in Slack may let what waits for its budget cost more."""
        organization = await self._tenants.organization(organization_id)
        return () if organization is None else organization.budget_approvers

    async def by_id(self, organization_id: str) -> Limits | None:
        """None: there is no such organization."""
        organization = await self._tenants.organization(organization_id)
        return None if organization is None else self.of(organization)
