"""Find the organizations that no OpenCode server serves: for the doctor, and for who is about to take one away."""

from collections.abc import Sequence

from nubabel_workers.domain.ports import InstanceStore
from nubabel_workers.domain.ports.administration import OrganizationRegistry
from nubabel_workers.domain.rollout import Rollout
from nubabel_workers.domain.tenants import Instance, Organization, ServersPolicy
from nubabel_workers.domain.unserved import Unserved, unserved


class FindUnserved:
    """None is unserved where the rollout gives OpenCode nothing."""

    def __init__(self, organizations: OrganizationRegistry, instances: InstanceStore, rollout: Rollout) -> None:
        self._organizations = organizations
        self._instances = instances
        self._rollout = rollout

    async def all(self) -> list[Unserved]:
        return await self._among(await self._organizations.list())

    async def of(self, organization: Organization) -> Unserved | None:
        """None: something serves it, or it is disabled."""
        found = await self._among([organization])
        return found[0] if found else None

    async def _among(self, organizations: Sequence[Organization]) -> list[Unserved]:
        if self._rollout.without_opencode is not None:
            return []
        return unserved(organizations, await self._instances.loads())

    async def beside(self, instance: Instance) -> Unserved | None:
        """Those whom this server is for, where nothing serves them as it stands."""
        for found in await self.all():
            owner = found.organizations[0].id if found.servers is ServersPolicy.DEDICATED else None
            if owner == instance.organization_id:
                return found
        return None
