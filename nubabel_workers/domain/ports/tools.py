"""What tool calls need to know of an organization's connections to MCP servers, and what keeping them needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from pydantic import SecretStr

from nubabel_workers.domain.oauth import (
    AuthorizationServer,
    Discovered,
    Grant,
    OAuthClient,
    PendingAuthorization,
    TokenKind,
    Tokens,
)
from nubabel_workers.domain.tool_connections import Authentication, ConnectionDetails
from nubabel_workers.domain.tools import ToolConnection, ToolCredentials


class RefreshLease(StrEnum):
    TAKEN = "taken"
    TAKEN_IN_DOUBT = "taken_in_doubt"  # whoever held it before did not end it: the refresh token may be used up
    HELD = "held"  # by another process, or there is nothing to refresh any more: read again


class ToolConnections(Protocol):
    async def serving(self, organization_id: str) -> Sequence[ToolConnection]:
        """All of the organization's connections, whatever their status, in the order of their provider names."""
        ...

    async def access(
        self,
        organization_id: str,
        connection_id: str,
        *,
        refused_revision: int | None = None,
        execution_id: str | None = None,
    ) -> ToolCredentials:
        """Credentials that are good for a call now; refreshed first when they end soon, by one process at a time.

        refused_revision: credentials of this revision were refused (HTTP 401) although they had not run out; a newer
        one is returned, or got by a refresh. execution_id: whose timeline tells when the connection is refused.
        Raises NotFoundError, CredentialsError (`connection_<status>` when it is not active; it is marked refused when
        the refresh was), UnavailableError while the authorization server is away or another process refreshes.
        """
        ...

    async def mark_refused(
        self, organization_id: str, connection_id: str, *, revision: int, reason: str, execution_id: str | None = None
    ) -> bool:
        """The server refuses these credentials and no refresh helps. reason: for people; no secrets.

        False, and nothing is changed, when the connection has newer credentials by now or is not active.
        """
        ...


@dataclass(frozen=True)
class StoredCredentials:
    """What a connection has, as it stands in its row. Never shown."""

    connection: ToolConnection
    authentication: Authentication
    revision: int
    secrets: Mapping[str, SecretStr] = field(
        default_factory=dict, repr=False
    )  # tokens of OAuth: "access", "refresh"; otherwise as they were given
    grant: Grant | None = None
    expires_in_s: float | None = None  # by the database's clock; None: unknown, or never
    token_header: str | None = None  # where a given token goes; None: Authorization, as Bearer


@dataclass(frozen=True)
class RegisteredClient:
    """issuer, redirect_uri: what it was registered for; None for one that was configured and not yet used."""

    client: OAuthClient
    issuer: str | None
    redirect_uri: str | None


class ConnectionStore(Protocol):
    """Connections of organizations. Every change carries its audit entry; None or False: there was no such row."""

    async def add(
        self,
        connection: ToolConnection,
        *,
        authentication: Authentication,
        secrets: Mapping[str, SecretStr],
        client: OAuthClient | None,
        scope: str | None,
        token_header: str | None,
        limit: int,
        actor: str,
    ) -> ConnectionDetails | None:
        """None when the organization has one of that name already, or `limit` of them."""
        ...

    async def list(self, organization_id: str | None) -> list[ConnectionDetails]:
        """By provider name; of one organization, or of all of them."""
        ...

    async def find(self, organization_id: str, id_or_provider: str) -> ConnectionDetails | None: ...

    async def set_allowed_tools(
        self, organization_id: str, connection_id: str, tools: frozenset[str] | None, *, actor: str
    ) -> bool: ...

    async def set_repeatable_tools(
        self, organization_id: str, connection_id: str, tools: frozenset[str] | None, *, actor: str
    ) -> bool: ...

    async def set_default(self, organization_id: str, connection_id: str, *, default: bool, actor: str) -> bool:
        """The one that was the default before is it no more."""
        ...

    async def set_secrets(
        self, organization_id: str, connection_id: str, secrets: Mapping[str, SecretStr], *, actor: str
    ) -> bool:
        """New credentials of its own, which make it active again unless it is disabled."""
        ...

    async def set_disabled(self, organization_id: str, connection_id: str, *, disabled: bool, actor: str) -> bool:
        """Enabled again, it is active, or has to be authorized where it has no credentials."""
        ...

    async def remove(self, organization_id: str, connection_id: str, *, actor: str) -> bool: ...

    async def report_health(self, organization_id: str, connection_id: str, *, healthy: bool, detail: str) -> None: ...


class CredentialStore(Protocol):
    """Credentials of connections, and who refreshes them."""

    async def read(self, organization_id: str, connection_id: str) -> StoredCredentials | None:
        """Raises CredentialsError when they cannot be decrypted."""
        ...

    async def client(self, organization_id: str, connection_id: str) -> RegisteredClient | None:
        """The OAuth client to begin an authorization with, where there is one."""
        ...

    async def begin_authorization(self, pending: PendingAuthorization, *, digest: bytes, valid_s: float) -> bool:
        """Write down that somebody is asked, and the client. False when the connection is gone."""
        ...

    async def pending(self, digest: bytes) -> PendingAuthorization | None:
        """Without using it up."""
        ...

    async def take_authorization(self, digest: bytes) -> PendingAuthorization | None:
        """Use it up: a second time, or too late, it is None."""
        ...

    async def authorized(self, pending: PendingAuthorization, tokens: Tokens, *, actor: str) -> bool:
        """Store what was granted and make the connection active. False when it is gone or disabled."""
        ...

    async def begin_refresh(
        self, organization_id: str, connection_id: str, *, revision: int, owner: str, lease_s: float
    ) -> RefreshLease:
        """Take the lease, unless another holds it or the credentials are newer by now."""
        ...

    async def finish_refresh(self, stored: StoredCredentials, tokens: Tokens) -> bool:
        """Store them as the next revision of what was read, and make it active if it was refused meanwhile.

        False when it is newer by now. Without a new refresh token the old one stays.
        """
        ...

    async def give_up_refresh(self, organization_id: str, connection_id: str, *, owner: str, in_doubt: bool) -> None:
        """Let the next one try. in_doubt: the server may have seen ours, so that its refresh token may be used up."""
        ...

    async def refuse(
        self,
        organization_id: str,
        connection_id: str,
        *,
        revision: int,
        reason: str,
        execution_id: str | None,
        actor: str,
    ) -> bool:
        """Mark it refused: status, audit entry and, for an execution of the organization, its timeline, in one."""
        ...


class AuthorizationServers(Protocol):
    """OAuth servers of providers, through the egress guard.

    Raises UnavailableError when nothing was sent or nothing can have taken effect, UncertainError when the answer is
    missing, CredentialsError when client, code or refresh token are refused, InvalidInputError for what does not fit.
    """

    async def discover(self, url: str) -> Discovered: ...

    async def register(self, server: AuthorizationServer, *, redirect_uri: str, scope: str | None) -> OAuthClient: ...

    async def exchange(self, grant: Grant, *, code: str, code_verifier: SecretStr) -> Tokens: ...

    async def refresh(self, grant: Grant, refresh_token: SecretStr) -> Tokens: ...

    async def revoke(self, grant: Grant, token: SecretStr, kind: TokenKind) -> None: ...


class ToolServers(Protocol):
    async def tools(self, connection: ToolConnection, credentials: ToolCredentials) -> list[str]:
        """Connect and ask for its tools. Raises CredentialsError (HTTP 401), UnavailableError, PermanentError."""
        ...
