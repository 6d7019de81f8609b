"""Install Slack workspaces for organizations, and end them."""

from dataclasses import dataclass

from pydantic import SecretStr

from nubabel_workers.domain.administration import Installation, WorkspaceSummary
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.ports import Chance
from nubabel_workers.domain.ports.administration import SlackIdentity, WorkspaceCanceller, WorkspaceRegistry
from nubabel_workers.domain.tenants import Organization, Workspace

_BOT_TOKEN_PREFIX = "xoxb-"  # noqa: S105 - what every bot token begins with
_APP_TOKEN_PREFIX = "xapp-"  # noqa: S105 - what every app-level token begins with


@dataclass(frozen=True)
class EndedWorkspace:
    """cancelled: ids of the executions that were waiting or running for it."""

    workspace: WorkspaceSummary
    cancelled: tuple[str, ...]


class ManageWorkspaces:
    def __init__(
        self,
        workspaces: WorkspaceRegistry,
        slack: SlackIdentity,
        canceller: WorkspaceCanceller,
        chance: Chance,
    ) -> None:
        self._workspaces = workspaces
        self._slack = slack
        self._canceller = canceller
        self._chance = chance

    async def add(self, organization: Organization, token: SecretStr, *, actor: str) -> WorkspaceSummary:
        """Install the workspace that a bot token belongs to; Slack is asked which one that is."""
        return await self.install(organization, await self.identify(token), actor=actor)

    async def identify(self, token: SecretStr) -> Installation:
        """What Slack says about a bot token. Raises CredentialsError when it is refused."""
        _check_shape(token)
        bot = await self._slack.auth_test(token)
        if not bot.team_id or not bot.bot_user_id:
            raise InvalidInputError("Slack did not say which workspace and bot this token belongs to: is it a bot's?")
        return Installation(
            team_id=bot.team_id,
            enterprise_id=bot.enterprise_id,
            team_name=bot.team_name,
            bot_user_id=bot.bot_user_id,
            bot_id=bot.bot_id or None,
            bot_token=token,
        )

    async def install(self, organization: Organization, installation: Installation, *, actor: str) -> WorkspaceSummary:
        """Install, or install again with a new token. Raises InvalidInputError for another organization's workspace."""
        if organization.disabled_at is not None:
            raise InvalidInputError(f"the organization {organization.name!r} is disabled: enable it first")
        if not installation.team_id and not installation.enterprise_id:
            raise InvalidInputError("an installation belongs to a Slack workspace or to an enterprise")
        before = await self._workspaces.installed(installation.key)
        if before is not None and before.organization_id != organization.id:
            raise InvalidInputError(
                f"the Slack workspace {installation.team_name!r} belongs to another organization: its data stays "
                "there, so it cannot be moved"
            )
        workspace_id = before.id if before is not None else self._chance.new_id("wsp")
        saved = await self._workspaces.save(organization.id, workspace_id, installation, actor=actor)
        if saved is None:
            raise InvalidInputError("somebody else has just installed this Slack workspace: look at it and try again")
        return saved

    async def list(self, organization: Organization | None) -> list[WorkspaceSummary]:
        return await self._workspaces.list(organization.id if organization else None)

    async def remove(self, workspace_id: str, *, actor: str, reason: str) -> EndedWorkspace:
        """End it: events are refused, the token is forgotten, its executions are cancelled. Repeating is harmless."""
        workspace = await self._workspaces.find(workspace_id)
        if workspace is None:
            raise NotFoundError(f"there is no workspace {workspace_id!r}; `nubabel workspaces list` shows them")
        await self._workspaces.end(workspace.organization_id, workspace.id, actor=actor, reason=reason)
        cancelled = await self._canceller.cancel_workspace(workspace.organization_id, workspace.id, reason=reason)
        return EndedWorkspace(workspace, tuple(cancelled))

    async def end_revoked(self, refused: Workspace, *, actor: str, reason: str) -> tuple[str, ...] | None:
        """End the installation whose token Slack took back, and no later one: ids of the executions that are cancelled.

        None, and nothing changes, when the app was installed again since that token was read. Repeating is harmless.
        """
        owner, workspace_id = refused.organization_id, refused.id
        ended = await self._workspaces.end(
            owner, workspace_id, actor=actor, reason=reason, installed_at=refused.installed_at
        )
        if not ended:
            now = await self._workspaces.find(workspace_id)
            if now is not None and now.active:
                return None
        return tuple(await self._canceller.cancel_workspace(owner, workspace_id, reason=reason))


def _check_shape(token: SecretStr) -> None:
    text = token.get_secret_value()
    if text.startswith(_APP_TOKEN_PREFIX):
        raise InvalidInputError("this is an app-level token (xapp-...); the bot token begins with xoxb-")
    if not text.startswith(_BOT_TOKEN_PREFIX):
        raise InvalidInputError("a Slack bot token begins with xoxb-")
