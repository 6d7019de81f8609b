"""Connections in memory, an authorization server and tool servers that say what a test wants."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from pydantic import SecretStr

from nubabel_workers.adapters.egress.guard import EgressGuard, EgressPolicy
from nubabel_workers.domain.errors import CredentialsError, UnavailableError
from nubabel_workers.domain.oauth import (
    AuthorizationServer,
    Discovered,
    Grant,
    OAuthClient,
    PendingAuthorization,
    TokenKind,
    Tokens,
)
from nubabel_workers.domain.ports.tools import RefreshLease, RegisteredClient, StoredCredentials
from nubabel_workers.domain.tool_connections import Authentication, ConnectionDetails
from nubabel_workers.domain.tools import CommandServer, ConnectionStatus, ToolConnection, ToolCredentials
from nubabel_workers.services.authorize_connection import AuthorizeConnection
from nubabel_workers.services.connections import Connections
from nubabel_workers.services.grant_tool_access import GrantToolAccess, RefreshLimits
from nubabel_workers.services.manage_connections import ManageConnections
from nubabel_workers.services.revoke_access import RevokeAccess
from tests.fakes.clock import FakeChance, FakeClock

CREATED = datetime(2026, 11, 21, tzinfo=UTC)
CATALOGUE: Mapping[str, CommandServer] = {
    "files": CommandServer("files", "/usr/bin/files-mcp", credential_names=frozenset({"FILES_TOKEN"}))
}


@dataclass
class FakeConnectionStore:
    """ConnectionStore and CredentialStore."""

    rows: dict[str, ConnectionDetails] = field(default_factory=dict)
    secrets: dict[str, Mapping[str, SecretStr]] = field(default_factory=dict)
    clients: dict[str, RegisteredClient] = field(default_factory=dict)
    grants: dict[str, Grant] = field(default_factory=dict)
    expires_in_s: dict[str, float | None] = field(default_factory=dict)
    states: dict[bytes, PendingAuthorization] = field(default_factory=dict)
    leases: dict[str, str] = field(default_factory=dict)
    in_doubt: set[str] = field(default_factory=set)
    refusals: list[tuple[str, str, str | None]] = field(default_factory=list)  # connection, reason, execution
    actors: list[str] = field(default_factory=list)

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
        mine = await self.list(connection.organization_id)
        if len(mine) >= limit or any(one.connection.provider == connection.provider for one in mine):
            return None
        self.actors.append(actor)
        self.rows[connection.id] = ConnectionDetails(
            connection,
            authentication,
            CREATED,
            asked_scope=scope,
            client_id=client.id if client else None,
            revision=1,
            token_header=token_header,
        )
        self.secrets[connection.id] = secrets
        if client is not None:
            self.clients[connection.id] = RegisteredClient(client, None, None)
        return self.rows[connection.id]

    async def list(self, organization_id: str | None) -> list[ConnectionDetails]:
        found = [one for one in self.rows.values() if organization_id in {None, one.connection.organization_id}]
        return sorted(found, key=lambda one: one.connection.provider)

    async def find(self, organization_id: str, id_or_provider: str) -> ConnectionDetails | None:
        mine = await self.list(organization_id)
        return next((one for one in mine if id_or_provider in {one.connection.id, one.connection.provider}), None)

    async def set_allowed_tools(
        self, organization_id: str, connection_id: str, tools: frozenset[str] | None, *, actor: str
    ) -> bool:
        return self._change(organization_id, connection_id, actor, allowed_tools=tools)

    async def set_repeatable_tools(
        self, organization_id: str, connection_id: str, tools: frozenset[str] | None, *, actor: str
    ) -> bool:
        return self._change(organization_id, connection_id, actor, repeatable_tools=tools)

    async def set_default(self, organization_id: str, connection_id: str, *, default: bool, actor: str) -> bool:
        for other in await self.list(organization_id):
            self._change(organization_id, other.connection.id, actor, is_default=False)
        return self._change(organization_id, connection_id, actor, is_default=default)

    async def set_secrets(
        self, organization_id: str, connection_id: str, secrets: Mapping[str, SecretStr], *, actor: str
    ) -> bool:
        self.secrets[connection_id] = secrets
        return self._change(organization_id, connection_id, actor, status=ConnectionStatus.ACTIVE)

    async def set_disabled(self, organization_id: str, connection_id: str, *, disabled: bool, actor: str) -> bool:
        status = ConnectionStatus.DISABLED if disabled else ConnectionStatus.ACTIVE
        return self._change(organization_id, connection_id, actor, status=status)

    async def remove(self, organization_id: str, connection_id: str, *, actor: str) -> bool:
        self.actors.append(actor)
        return self.rows.pop(connection_id, None) is not None

    async def report_health(self, organization_id: str, connection_id: str, *, healthy: bool, detail: str) -> None:
        self.rows[connection_id] = replace(
            self.rows[connection_id], healthy=healthy, health_detail=detail, checked_at=CREATED
        )

    async def read(self, organization_id: str, connection_id: str) -> StoredCredentials | None:
        details = await self.find(organization_id, connection_id)
        if details is None:
            return None
        return StoredCredentials(
            details.connection,
            details.authentication,
            details.revision,
            self.secrets[connection_id],
            self.grants.get(connection_id),
            self.expires_in_s.get(connection_id),
            details.token_header,
        )

    async def client(self, organization_id: str, connection_id: str) -> RegisteredClient | None:
        return self.clients.get(connection_id)

    async def begin_authorization(self, pending: PendingAuthorization, *, digest: bytes, valid_s: float) -> bool:
        grant = pending.grant
        self.states[digest] = pending
        self.clients[pending.connection_id] = RegisteredClient(grant.client, grant.issuer, grant.redirect_uri)
        return True

    async def pending(self, digest: bytes) -> PendingAuthorization | None:
        return self.states.get(digest)

    async def take_authorization(self, digest: bytes) -> PendingAuthorization | None:
        return self.states.pop(digest, None)

    async def authorized(self, pending: PendingAuthorization, tokens: Tokens, *, actor: str) -> bool:
        self.grants[pending.connection_id] = pending.grant
        self._store(pending.connection_id, tokens)
        return self._change(pending.organization_id, pending.connection_id, actor, status=ConnectionStatus.ACTIVE)

    async def begin_refresh(
        self, organization_id: str, connection_id: str, *, revision: int, owner: str, lease_s: float
    ) -> RefreshLease:
        if connection_id in self.leases or self.rows[connection_id].revision != revision:
            return RefreshLease.HELD
        self.leases[connection_id] = owner
        return RefreshLease.TAKEN_IN_DOUBT if connection_id in self.in_doubt else RefreshLease.TAKEN

    async def finish_refresh(self, stored: StoredCredentials, tokens: Tokens) -> bool:
        self._store(stored.connection.id, tokens)
        return True

    async def give_up_refresh(self, organization_id: str, connection_id: str, *, owner: str, in_doubt: bool) -> None:
        self.leases.pop(connection_id, None)
        (self.in_doubt.add if in_doubt else self.in_doubt.discard)(connection_id)

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
        if self.rows[connection_id].revision != revision:
            return False
        self.refusals.append((connection_id, reason, execution_id))
        return self._change(organization_id, connection_id, actor, status=ConnectionStatus.REFUSED)

    def _store(self, connection_id: str, tokens: Tokens) -> None:
        row = self.rows[connection_id]
        self.rows[connection_id] = replace(row, revision=row.revision + 1)
        self.secrets[connection_id] = {"access": tokens.access} | (
            {"refresh": tokens.refresh} if tokens.refresh else {}
        )
        self.expires_in_s[connection_id] = tokens.expires_in_s
        self.leases.pop(connection_id, None)

    def _change(self, organization_id: str, connection_id: str, actor: str, **changes: object) -> bool:
        row = self.rows.get(connection_id)
        if row is None or row.connection.organization_id != organization_id:
            return False
        self.actors.append(actor)
        self.rows[connection_id] = replace(row, connection=replace(row.connection, **changes))  # type: ignore[arg-type]
        return True


@dataclass
class FakeAuthorizationServers:
    """`answers` are what the next calls for tokens get, in their order; then each gets new tokens."""

    server: AuthorizationServer = field(
        default_factory=lambda: AuthorizationServer(
            "https://auth.example",
            "https://auth.example/authorize",
            "https://auth.example/token",
            "https://auth.example/register",
            "https://auth.example/revoke",
        )
    )
    answers: list[Tokens | Exception] = field(default_factory=list)
    refreshed: list[str] = field(default_factory=list)  # the refresh tokens that were shown
    revoked: list[tuple[str, str]] = field(default_factory=list)  # kind and token
    refuses_revocation: bool = False
    hold: asyncio.Event | None = None
    away: str = ""  # why it cannot be reached

    async def discover(self, url: str) -> Discovered:
        if self.away:
            raise UnavailableError(self.away)
        return Discovered(self.server, url, "read")

    async def register(self, server: AuthorizationServer, *, redirect_uri: str, scope: str | None) -> OAuthClient:
        return OAuthClient("client-1", SecretStr("client-secret"), "client_secret_basic")

    async def exchange(self, grant: Grant, *, code: str, code_verifier: SecretStr) -> Tokens:
        return self._answer()

    async def refresh(self, grant: Grant, refresh_token: SecretStr) -> Tokens:
        self.refreshed.append(refresh_token.get_secret_value())
        if self.hold is not None:
            await self.hold.wait()
        return self._answer()

    async def revoke(self, grant: Grant, token: SecretStr, kind: TokenKind) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.refuses_revocation:
            raise CredentialsError("the authorization server refused", code="oauth_refused")
        self.revoked.append((kind, token.get_secret_value()))

    def _answer(self) -> Tokens:
        answer = self.answers.pop(0) if self.answers else Tokens(SecretStr("access-1"), SecretStr("refresh-1"), 3600)
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass
class FakeToolServers:
    answers: list[list[str] | Exception] = field(default_factory=list)
    asked: list[tuple[str, ToolCredentials]] = field(default_factory=list)

    async def tools(self, connection: ToolConnection, credentials: ToolCredentials) -> list[str]:
        self.asked.append((connection.provider, credentials))
        answer = self.answers.pop(0) if self.answers else ["search", "fetch"]
        if isinstance(answer, Exception):
            raise answer
        return answer


def connections_over(
    store: FakeConnectionStore,
    servers: FakeAuthorizationServers,
    tools: FakeToolServers,
    *,
    public_url: str | None = "https://nubabel.example",
) -> Connections:
    chance = FakeChance()
    access = GrantToolAccess(store, store, servers, FakeClock(), chance, limits=RefreshLimits())
    manage = ManageConnections(
        store,
        access,
        tools,
        EgressGuard(EgressPolicy()).check_url,
        RevokeAccess(store, servers, within_s=0.05),
        chance,
        catalogue=CATALOGUE,
        check_s=5,
    )
    numbers = iter(range(1, 256))
    authorize = AuthorizeConnection(
        store, store, servers, chance, lambda count: bytes([next(numbers)]) * count, public_url=public_url
    )
    return Connections(manage, authorize, access, CATALOGUE)
