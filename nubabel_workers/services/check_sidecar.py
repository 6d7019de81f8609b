"""Whether there is the organization that callers of the private address without tokens act for."""

from nubabel_workers.domain.errors import PermanentError
from nubabel_workers.domain.ports import TenantStore

_UNSERVED = "every caller of NUBABEL_SIDECAR_LISTEN is refused"


async def sidecar_organization(tenants: TenantStore, organization_id: str) -> str:
    """Words about it; PermanentError where its callers get nothing but refusals."""
    organization = await tenants.organization(organization_id)
    if organization is None:
        words = f"NUBABEL_SIDECAR_ORGANIZATION names {organization_id}, which does not exist: {_UNSERVED}"
        raise PermanentError(words, code="unknown_organization")
    if organization.disabled_at is not None:
        words = f"NUBABEL_SIDECAR_ORGANIZATION names {organization.name}, which is disabled: {_UNSERVED}"
        raise PermanentError(words, code="organization_disabled")
    return f"callers without a token act for {organization.name} ({organization.id})"
