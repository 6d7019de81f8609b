"""Limits of organizations over HTTP, for operators: what `nubabel limits` does, by the same service."""

from typing import Annotated

from fastapi import APIRouter, Path

from nubabel_workers.domain.limits import checked_change
from nubabel_workers.gateway.dependencies import Parts
from nubabel_workers.gateway.limit_models import LimitChangeBody, LimitsView
from nubabel_workers.gateway.openapi import problems
from nubabel_workers.gateway.operators import Operator

router = APIRouter(prefix="/v1/operator/organizations/{organization_id}/limits", tags=["limits"])

OrganizationId = Annotated[str, Path(min_length=1, max_length=200, examples=["org_01kahmz7p1h0v5v6m6bqz0x3ja"])]
CHANGE_PROBLEMS = (401, 404, 400, 408, 413, 422, 503)


@router.get("", summary="Read an organization's limits", responses=problems(401, 404, 422, 503))
async def read_limits(organization_id: OrganizationId, _operator: Operator, parts: Parts) -> LimitsView:
    return LimitsView.of(await parts.manage_limits.show(organization_id))


@router.patch("", summary="Change an organization's limits", responses=problems(*CHANGE_PROBLEMS))
async def change_limits(
    organization_id: OrganizationId, operator: Operator, parts: Parts, body: LimitChangeBody
) -> LimitsView:
    """Every process obeys within seconds; the audit log gets the old and the new values."""
    change = checked_change(body.set.model_dump(exclude_unset=True), tuple(body.unset))
    return LimitsView.of(await parts.manage_limits.change(organization_id, change, actor=operator))
