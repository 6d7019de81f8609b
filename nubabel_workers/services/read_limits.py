"""What an organization may use now: its own limits, else its plan's. A change is seen within seconds."""

from nubabel_workers.domain.limits import Limits, Plans
from nubabel_workers.domain.ports import TenantStore
from nubabel_workers.domain.tenants import Organization


class ReadLimits:
    def __init__(self, tenants: TenantStore, plans: Plans) -> None:
        self._tenants = tenants
        self._plans = plans

    def of(self, organization: Organization) -> Limits:
        return self._plans.of(organization.plan, organization.limits)

    async def by_id(self, organization_id: str) -> Limits | None:
        """None: there is no such organization."""
        organization = await self._tenants.organization(organization_id)
        return None if organization is None else self.of(organization)
