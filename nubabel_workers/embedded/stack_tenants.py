"""Who uses a fresh stack: organizations with a Slack workspace, a service token and a submit key each."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import SecretStr

from nubabel_workers.adapters.storage.access import PostgresAccess
from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.bootstrap import Services, manage_instances, manage_workspaces
from nubabel_workers.domain.administration import Installation, IssuedSubmitKey, WorkspaceSummary
from nubabel_workers.domain.tenants import Instance, Organization
from nubabel_workers.services.manage_instances import NewInstance
from nubabel_workers.services.manage_organizations import ManageOrganizations
from nubabel_workers.services.manage_tokens import ManageSubmitKeys, ManageTokens
from nubabel_workers.simulators.slack import Workspace as SlackWorkspace

_ACTOR = "embedded"


@dataclass(frozen=True)
class Tenant:
    """An organization of the stack and what proves that one belongs to it."""

    organization: Organization
    workspaces: Sequence[WorkspaceSummary]
    token: SecretStr = field(repr=False)
    submit_key: IssuedSubmitKey
    webhook_secret: SecretStr = field(repr=False)

    @property
    def id(self) -> str:
        return self.organization.id

    @property
    def team(self) -> str:
        """Slack's id of the first workspace."""
        return self.workspaces[0].team_id


async def create_tenant(services: Services, name: str, workspaces: Sequence[SlackWorkspace]) -> Tenant:
    database, cipher, chance = services.database, services.cipher, services.chance
    access = PostgresAccess(database, cipher)
    organizations = ManageOrganizations(PostgresOrganizations(database, cipher), chance, secrets.token_bytes)
    organization = await organizations.create(name, actor=_ACTOR)
    installer = manage_workspaces(services)
    installed = [await installer.install(organization, _installation(one), actor=_ACTOR) for one in workspaces]
    token = await ManageTokens(access, chance, secrets.token_bytes).create(
        "embedded", organization=organization, expires_in_s=None, actor=_ACTOR
    )
    key = await ManageSubmitKeys(access, chance, secrets.token_bytes).create(
        "embedded", organization=organization, actor=_ACTOR
    )
    webhook_secret = await organizations.new_webhook_secret(organization, actor=_ACTOR)
    return Tenant(organization, installed, token.text, key, webhook_secret)


async def register_server(services: Services, new: NewInstance) -> Instance:
    """An OpenCode server that every organization may use, unless `new` says otherwise."""
    return (await manage_instances(services).add(new, actor=_ACTOR)).instance


def _installation(workspace: SlackWorkspace) -> Installation:
    return Installation(
        team_id=workspace.team_id,
        enterprise_id=workspace.enterprise_id,
        team_name=workspace.name,
        bot_user_id=workspace.bot_user_id,
        bot_token=SecretStr(workspace.bot_token),
        bot_id=workspace.bot_id,
        app_id=workspace.app_id,
    )
