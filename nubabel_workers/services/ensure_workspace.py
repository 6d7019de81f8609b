"""The one Slack workspace that may stand in the settings, instead of an installation by OAuth or by command."""

import structlog
from pydantic import SecretStr

from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.ports import TenantStore
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.manage_workspaces import ManageWorkspaces

_ACTOR = "settings"

log = structlog.get_logger(__name__)


class EnsureWorkspace:
    def __init__(self, tenants: TenantStore, workspaces: ManageWorkspaces) -> None:
        self._tenants = tenants
        self._workspaces = workspaces

    async def ensure(self, organization_id: str, team_id: str, token: SecretStr) -> None:
        """Install the workspace unless it is installed with this very token. For a process's start: repeating is free.

        Raises NotFoundError for an unknown organization, InvalidInputError when the token is another workspace's.
        """
        organization = await self._tenants.organization(organization_id)
        if organization is None:
            raise NotFoundError(
                f"the settings' Slack organization {organization_id} does not exist; `nubabel orgs create` makes one"
            )
        if await self._is_installed(organization, None, team_id, token):
            return
        installation = await self._workspaces.identify(token)
        if installation.team_id != team_id:
            raise InvalidInputError(
                f"the settings' Slack token belongs to {installation.team_id}, not to the settings' team {team_id}"
            )
        if await self._is_installed(organization, installation.enterprise_id, team_id, token):
            return
        installed = await self._workspaces.install(organization, installation, actor=_ACTOR)
        log.info("workspace.installed", organization_id=organization.id, workspace_id=installed.id)

    async def _is_installed(
        self, organization: Organization, enterprise_id: str | None, team_id: str, token: SecretStr
    ) -> bool:
        known = await self._tenants.workspace_by_installation(enterprise_id, team_id)
        return known is not None and known.organization_id == organization.id and known.bot_token == token
