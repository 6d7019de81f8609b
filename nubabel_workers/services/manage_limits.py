"""What organizations may use: read it, change it at run time. Every process obeys within seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.limits import DEFAULT_PLAN, LimitChange, Limits, Plans
from nubabel_workers.domain.ports.administration import OrganizationRegistry
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.keep_budgets import KeepBudgets


@dataclass(frozen=True)
class LimitsReport:
    """An organization's limits. own: those that it has in place of its plan's. plan_known: else `default` serves it."""

    organization_id: str
    plan: str
    plan_known: bool
    limits: Limits
    own: Mapping[str, Any]


class ManageLimits:
    def __init__(self, organizations: OrganizationRegistry, plans: Plans, budgets: KeepBudgets) -> None:
        self._organizations = organizations
        self._plans = plans
        self._budgets = budgets

    def of(self, organization: Organization) -> LimitsReport:
        return LimitsReport(
            organization.id,
            organization.plan,
            self._plans.knows(organization.plan),
            self._plans.of(organization.plan, organization.limits),
            organization.limits,
        )

    async def show(self, organization_id: str) -> LimitsReport:
        """Raises NotFoundError."""
        found = [one for one in await self._organizations.named(organization_id) if one.id == organization_id]
        if not found:
            raise NotFoundError("there is no such organization", code="organization_not_found")
        return self.of(found[0])

    async def change(self, organization_id: str, change: LimitChange, *, actor: str) -> LimitsReport:
        """Raises NotFoundError. The audit log gets the old and the new values."""
        changed = await self._organizations.set_limits(organization_id, change, actor=actor)
        if changed is None:
            raise NotFoundError("there is no such organization", code="organization_not_found")
        await self._budgets.limits_changed(organization_id)
        return self.of(changed)

    async def unknown_plans(self) -> Mapping[str, int]:
        """Plans that organizations have and nobody described, with how many have each."""
        counts: dict[str, int] = {}
        for one in await self._organizations.list():
            if one.disabled_at is None and not self._plans.knows(one.plan):
                counts[one.plan] = counts.get(one.plan, 0) + 1
        return counts


def words_for_unknown(plans: Mapping[str, int]) -> str:
    named = ", ".join(f"{plan!r} ({count})" for plan, count in sorted(plans.items()))
    return f"organizations have plans that nobody described and are served by {DEFAULT_PLAN!r}: {named}"
