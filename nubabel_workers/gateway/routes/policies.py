"""Policies of organizations over HTTP, for operators: what `nubabel orgs set-policy` does, by the same service."""

from fastapi import APIRouter

from nubabel_workers.gateway.dependencies import Parts
from nubabel_workers.gateway.openapi import problems
from nubabel_workers.gateway.operators import Operator
from nubabel_workers.gateway.policy_models import PoliciesView, PolicyChangeBody
from nubabel_workers.gateway.routes.limits import CHANGE_PROBLEMS, OrganizationId

router = APIRouter(prefix="/v1/operator/organizations/{organization_id}/policies", tags=["policies"])


@router.get("", summary="Read an organization's policies", responses=problems(401, 404, 422, 503))
async def read_policies(organization_id: OrganizationId, _operator: Operator, parts: Parts) -> PoliciesView:
    return PoliciesView.of(await parts.manage_organizations.by_id(organization_id), await parts.servers())


@router.patch("", summary="Change an organization's policies", responses=problems(*CHANGE_PROBLEMS))
async def change_policies(
    organization_id: OrganizationId, operator: Operator, parts: Parts, body: PolicyChangeBody
) -> PoliciesView:
    """Every process obeys within seconds; the audit log gets the new values. What runs ends where it is."""
    organization = await parts.manage_organizations.by_id(organization_id)
    changed = await parts.manage_organizations.set_policy(organization, body.change(), actor=operator)
    return PoliciesView.of(changed, await parts.servers())
