"""Connect organizations to MCP servers, decide which tools they may use, look whether the servers answer."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from pydantic import SecretStr

from nubabel_workers.domain.errors import CredentialsError, InvalidInputError, NotFoundError, NubabelError
from nubabel_workers.domain.foreign_ids import Sought
from nubabel_workers.domain.ids import OrganizationId, ToolConnectionId
from nubabel_workers.domain.oauth import OAuthClient
from nubabel_workers.domain.ports import Chance
from nubabel_workers.domain.ports.tools import ConnectionStore, ToolConnections, ToolServers
from nubabel_workers.domain.tool_connections import (
    Authentication,
    ConnectionCheck,
    ConnectionDetails,
    NewConnection,
    Removal,
    Target,
    checked_repeatable_tools,
    checked_secrets,
    checked_token_header,
    checked_tools,
    first_status,
    target_of,
)
from nubabel_workers.domain.tools import CommandServer, ToolConnection
from nubabel_workers.services.revoke_access import RevokeAccess

MAX_CONNECTIONS = 50  # of one organization

_MAX_DETAIL_CHARS = 300


class ManageConnections:
    def __init__(
        self,
        connections: ConnectionStore,
        access: ToolConnections,
        servers: ToolServers,
        check_url: Callable[[str], object],
        revoke: RevokeAccess,
        chance: Chance,
        *,
        catalogue: Mapping[str, CommandServer],
        check_s: float,
    ) -> None:
        """check_url: the egress guard's, raises InvalidInputError. check_s: what one check may take."""
        self._connections = connections
        self._access = access
        self._servers = servers
        self._check_url = check_url
        self._revoke = revoke
        self._chance = chance
        self._catalogue = catalogue
        self._check_s = check_s

    async def add(self, organization_id: str, new: NewConnection, *, actor: str) -> ConnectionDetails:
        target = target_of(new, self._catalogue)
        if target.url is not None:
            self._check_url(target.url)
        connection = ToolConnection(
            id=ToolConnectionId(self._chance.new_id("mcp")),
            organization_id=OrganizationId(organization_id),
            provider=target.provider,
            kind=target.kind,
            status=first_status(target),
            url=target.url,
            command_name=target.command_name,
            allowed_tools=checked_tools(new.allowed_tools),
        )
        added = await self._connections.add(
            connection,
            authentication=target.authentication,
            secrets=checked_secrets(target, new.secrets),
            client=_client(new, target),
            scope=new.scope,
            token_header=checked_token_header(target, new.token_header),
            limit=MAX_CONNECTIONS,
            actor=actor,
        )
        if added is None:
            await self._explain_refusal(organization_id, target.provider)
        assert added is not None  # noqa: S101 - explained above
        return added

    async def list(self, organization_id: str | None) -> list[ConnectionDetails]:
        return await self._connections.list(organization_id)

    async def find(self, organization_id: str, id_or_provider: str) -> ConnectionDetails:
        details = await self._connections.find(organization_id, id_or_provider)
        if details is None:
            sought = Sought(organization_id, id_or_provider)
            raise NotFoundError(f"this organization has no connection {id_or_provider!r}", sought=sought)
        return details

    async def allow(
        self, organization_id: str, id_or_provider: str, tools: Collection[str] | None, *, actor: str
    ) -> ConnectionDetails:
        """None allows every tool that the server has, also those that it gets later."""
        found = await self.find(organization_id, id_or_provider)
        allowed = checked_tools(tools)
        await self._connections.set_allowed_tools(organization_id, found.connection.id, allowed, actor=actor)
        return await self.find(organization_id, found.connection.id)

    async def set_repeatable(
        self, organization_id: str, id_or_provider: str, tools: Collection[str] | None, *, actor: str
    ) -> ConnectionDetails:
        """Whose calls may be made again when their outcome is unknown: these, or (None) as its server says."""
        found = await self.find(organization_id, id_or_provider)
        repeatable = checked_repeatable_tools(tools)
        await self._connections.set_repeatable_tools(organization_id, found.connection.id, repeatable, actor=actor)
        return await self.find(organization_id, found.connection.id)

    async def set_default(
        self, organization_id: str, id_or_provider: str, *, default: bool, actor: str
    ) -> ConnectionDetails:
        found = await self.find(organization_id, id_or_provider)
        await self._connections.set_default(organization_id, found.connection.id, default=default, actor=actor)
        return await self.find(organization_id, found.connection.id)

    async def replace_secrets(
        self, organization_id: str, id_or_provider: str, secrets: Mapping[str, SecretStr], *, actor: str
    ) -> ConnectionDetails:
        found = await self.find(organization_id, id_or_provider)
        connection = found.connection
        if found.authentication not in {Authentication.TOKEN, Authentication.ENVIRONMENT} or not secrets:
            raise InvalidInputError(
                f"{connection.provider!r} authenticates by {found.authentication}: it takes no secret"
            )
        target = Target(
            connection.provider, connection.kind, found.authentication, connection.url, connection.command_name
        )
        if connection.command_name is not None:
            target_of(NewConnection(command_name=connection.command_name, secrets=secrets), self._catalogue)
        checked = checked_secrets(target, secrets)
        await self._connections.set_secrets(organization_id, connection.id, checked, actor=actor)
        return await self.find(organization_id, connection.id)

    async def disable(self, organization_id: str, id_or_provider: str, *, actor: str) -> ConnectionDetails:
        return await self._set_disabled(organization_id, id_or_provider, disabled=True, actor=actor)

    async def enable(self, organization_id: str, id_or_provider: str, *, actor: str) -> ConnectionDetails:
        return await self._set_disabled(organization_id, id_or_provider, disabled=False, actor=actor)

    async def remove(self, organization_id: str, id_or_provider: str, *, actor: str) -> Removal:
        """With its credentials, whatever the provider says to it: it is told afterwards, where it can be."""
        found = await self.find(organization_id, id_or_provider)
        revocable = await self._revoke.of(organization_id, found.connection.id)
        removed = await self._connections.remove(organization_id, found.connection.id, actor=actor)
        told = revocable is not None and await self._revoke.run(revocable)
        return Removal(found, provider_told=told, by_another=not removed)

    async def check(self, organization_id: str, id_or_provider: str) -> ConnectionCheck:
        """Ask the server for its tools, and write down what came of it."""
        found = await self.find(organization_id, id_or_provider)
        connection = found.connection
        tools: tuple[str, ...] = ()
        problem = None
        try:
            async with asyncio.timeout(self._check_s):
                tools = tuple(sorted(await self._ask(connection)))
        except TimeoutError:
            problem = f"it gave no answer in {self._check_s:g} s"
        except NubabelError as error:
            problem = str(error)[:_MAX_DETAIL_CHARS]
        missing = sorted((connection.allowed_tools or frozenset()) - set(tools)) if problem is None else []
        detail = problem or f"{len(tools)} tools" + (
            f"; allowed but not there: {', '.join(missing)}" if missing else ""
        )
        await self._connections.report_health(
            organization_id, connection.id, healthy=problem is None, detail=detail[:_MAX_DETAIL_CHARS]
        )
        return ConnectionCheck(await self.find(organization_id, connection.id), tools, problem)

    async def _ask(self, connection: ToolConnection) -> Sequence[str]:
        owner = (connection.organization_id, connection.id)
        credentials = await self._access.access(*owner)
        try:
            return await self._servers.tools(connection, credentials)
        except CredentialsError:
            newer = await self._access.access(*owner, refused_revision=credentials.revision)
        try:
            return await self._servers.tools(connection, newer)
        except CredentialsError as error:
            await self._access.mark_refused(*owner, revision=newer.revision, reason=str(error))
            raise

    async def _set_disabled(
        self, organization_id: str, id_or_provider: str, *, disabled: bool, actor: str
    ) -> ConnectionDetails:
        found = await self.find(organization_id, id_or_provider)
        await self._connections.set_disabled(organization_id, found.connection.id, disabled=disabled, actor=actor)
        return await self.find(organization_id, found.connection.id)

    async def _explain_refusal(self, organization_id: str, provider: str) -> None:
        if await self._connections.find(organization_id, provider) is not None:
            raise InvalidInputError(
                f"this organization has a connection {provider!r} already: give this one another name",
                code="connection_exists",
            )
        raise InvalidInputError(
            f"an organization has at most {MAX_CONNECTIONS} connections", code="too_many_connections"
        )


def _client(new: NewConnection, target: Target) -> OAuthClient | None:
    """One that the provider knows already; how it shows its secret is decided when its server has been asked."""
    if new.client_id is None:
        if new.client_secret is not None:
            raise InvalidInputError("a client secret needs its client id")
        return None
    if target.authentication is not Authentication.OAUTH:
        raise InvalidInputError("a client id is for connections by oauth")
    return OAuthClient(new.client_id, new.client_secret, auth_method="", configured=True)
