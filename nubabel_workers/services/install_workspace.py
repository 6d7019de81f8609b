"""Install the Slack app into an organization's workspace through a browser (OAuth v2).

The organization comes from a link that an operator made; from there on from the signed state that travels with the
browser. Nothing that a browser says by itself decides whose workspace it becomes.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import structlog

from nubabel_workers.domain.administration import Installation, WorkspaceSummary
from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.ports import Chance, Clock, TenantStore
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.manage_workspaces import ManageWorkspaces

_LINK = "link"  # stands where a state has the browser's nonce

log = structlog.get_logger(__name__)


class SignedOrganization(Protocol):
    """An organization's id, signed and expiring, bound to a nonce."""

    def issue(self, organization_id: str, *, nonce: str, now: datetime) -> str: ...

    def verify(self, state: str, *, nonce: str, now: datetime) -> str:
        """Return the organization; raises InvalidInputError."""
        ...


class SlackOAuth(Protocol):
    def authorize_url(self, state: str) -> str:
        """Where a browser is sent to be asked by Slack."""
        ...

    async def exchange(self, code: str) -> Installation:
        """Raises InvalidInputError for a code that Slack refuses."""
        ...


@dataclass(frozen=True)
class StartedInstallation:
    """Where the browser goes next, and the nonce that it keeps (a cookie)."""

    authorize_url: str
    nonce: str


class InstallWorkspace:
    def __init__(
        self,
        links: SignedOrganization,
        states: SignedOrganization,
        oauth: SlackOAuth,
        tenants: TenantStore,
        workspaces: ManageWorkspaces,
        clock: Clock,
        chance: Chance,
    ) -> None:
        """Links and states differ in how long they hold: hours for somebody to click, minutes to agree."""
        self._links = links
        self._states = states
        self._oauth = oauth
        self._tenants = tenants
        self._workspaces = workspaces
        self._clock = clock
        self._chance = chance

    def link(self, organization: Organization) -> str:
        """The token of an installation link, `<public URL>/slack/install?link=<token>`."""
        return self._links.issue(organization.id, nonce=_LINK, now=self._clock.now())

    async def start(self, link: str) -> StartedInstallation:
        """Raises InvalidInputError for a link that is not ours, or too old."""
        organization_id = self._links.verify(link, nonce=_LINK, now=self._clock.now())
        await self._organization(organization_id)
        nonce = self._chance.new_id("nce")
        state = self._states.issue(organization_id, nonce=nonce, now=self._clock.now())
        return StartedInstallation(self._oauth.authorize_url(state), nonce)

    async def complete(self, *, state: str, nonce: str, code: str) -> WorkspaceSummary:
        """The browser is back with Slack's code. Raises InvalidInputError when it is not the browser that left."""
        organization_id = self._states.verify(state, nonce=nonce, now=self._clock.now())
        organization = await self._organization(organization_id)
        installation = await self._oauth.exchange(code)
        workspace = await self._workspaces.install(organization, installation, actor="slack-oauth")
        log.info("workspace.installed", organization_id=organization_id, workspace_id=workspace.id)
        return workspace

    async def _organization(self, organization_id: str) -> Organization:
        organization = await self._tenants.organization(organization_id)
        if organization is None or organization.disabled_at is not None:
            raise NotFoundError("this organization is not served any more", code="organization_not_found")
        return organization
