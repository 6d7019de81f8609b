"""Connections to MCP servers, as organizations and operators keep them. Every change carries its audit entry."""

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from nubabel_workers.adapters.storage.audit import audit_params, audited
from nubabel_workers.adapters.storage.connection_secrets import ConnectionSecrets
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.encryption import TokenCipher
from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.ids import OrganizationId, ToolConnectionId
from nubabel_workers.domain.oauth import OAuthClient
from nubabel_workers.domain.tool_connections import Authentication, ConnectionDetails
from nubabel_workers.domain.tools import ConnectionKind, ConnectionStatus, ToolConnection

CONNECTION_COLUMNS = """id, organization_id, provider, kind, url, command_name, authentication, status, allowed_tools,
                        repeatable_tools, is_default, revision"""
_DETAILS = f"""{CONNECTION_COLUMNS}, token_header, status_detail, scope, client, terms, expires_at, healthy,
               health_detail, checked_at, created_at"""


class PostgresToolConnections:
    """ConnectionStore."""

    def __init__(self, database: Database, cipher: TokenCipher) -> None:
        self._database = database
        self._secrets = ConnectionSecrets(cipher)

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
        organization_id = connection.organization_id
        entry = AuditEntry(
            actor,
            AuditAction.CONNECTION_ADDED,
            organization_id,
            connection.id,
            {
                "provider": connection.provider,
                "target": connection.url or connection.command_name,
                "authentication": authentication.value,
            },
        )
        row = await self._database.tenant(organization_id).one(
            audited(
                f"""
                INSERT INTO mcp_connections (id, organization_id, provider, kind, url, command_name, authentication,
                                             status, allowed_tools, token_header, scope, client, client_secret,
                                             credentials, revision)
                SELECT %(id)s, %(organization_id)s, %(provider)s, %(kind)s, %(url)s, %(command_name)s,
                       %(authentication)s, %(status)s, %(allowed_tools)s, %(token_header)s, %(scope)s, %(client)s,
                       %(client_secret)s, %(credentials)s, 1
                WHERE (SELECT count(*) FROM mcp_connections WHERE organization_id = %(organization_id)s) < %(limit)s
                ON CONFLICT (organization_id, provider) DO NOTHING
                RETURNING {_DETAILS}
                """
            ),
            {
                "id": connection.id,
                "organization_id": organization_id,
                "provider": connection.provider,
                "kind": connection.kind.value,
                "url": connection.url,
                "command_name": connection.command_name,
                "authentication": authentication.value,
                "status": connection.status.value,
                "allowed_tools": _tools(connection.allowed_tools),
                "token_header": token_header,
                "scope": scope,
                "client": Jsonb(client_columns(client)) if client else None,
                "client_secret": self._secrets.seal_client(client, organization_id, connection.id),
                "credentials": self._secrets.seal(secrets, organization_id, connection.id) if secrets else None,
                "limit": limit,
                **audit_params(entry),
            },
        )
        return _details_of(row) if row else None

    async def list(self, organization_id: str | None) -> list[ConnectionDetails]:
        scope = self._database.tenant(organization_id) if organization_id else self._database.system()
        rows = await scope.all(
            f"""
            SELECT {_DETAILS} FROM mcp_connections
            WHERE %(organization_id)s::text IS NULL OR organization_id = %(organization_id)s
            ORDER BY organization_id, provider
            """,
            {"organization_id": organization_id},
        )
        return [_details_of(row) for row in rows]

    async def find(self, organization_id: str, id_or_provider: str) -> ConnectionDetails | None:
        row = await self._database.tenant(organization_id).one(
            f"""
            SELECT {_DETAILS} FROM mcp_connections
            WHERE organization_id = %(organization_id)s AND (id = %(named)s OR provider = %(named)s)
            ORDER BY id = %(named)s DESC LIMIT 1
            """,
            {"organization_id": organization_id, "named": id_or_provider},
        )
        return _details_of(row) if row else None

    async def set_allowed_tools(
        self, organization_id: str, connection_id: str, tools: frozenset[str] | None, *, actor: str
    ) -> bool:
        detail = {"tools": sorted(tools) if tools is not None else "all"}
        return await self._change(
            "UPDATE mcp_connections SET allowed_tools = %(tools)s WHERE id = %(id)s RETURNING id",
            {"tools": _tools(tools)},
            AuditEntry(actor, AuditAction.CONNECTION_TOOLS_ALLOWED, organization_id, connection_id, detail),
        )

    async def set_repeatable_tools(
        self, organization_id: str, connection_id: str, tools: frozenset[str] | None, *, actor: str
    ) -> bool:
        detail = {"tools": sorted(tools) if tools is not None else "as its server says"}
        return await self._change(
            "UPDATE mcp_connections SET repeatable_tools = %(tools)s WHERE id = %(id)s RETURNING id",
            {"tools": _tools(tools)},
            AuditEntry(actor, AuditAction.CONNECTION_REPEATABLE_TOOLS_SET, organization_id, connection_id, detail),
        )

    async def set_default(self, organization_id: str, connection_id: str, *, default: bool, actor: str) -> bool:
        others = """
            others AS (
              UPDATE mcp_connections SET is_default = false
              WHERE organization_id = %(organization_id)s AND is_default AND id <> %(id)s AND %(default)s
                AND EXISTS (SELECT 1 FROM mcp_connections WHERE id = %(id)s)
              RETURNING id)
        """
        # The look at `others` makes them give it up before this row takes it: the index allows one at any moment.
        change = """
            UPDATE mcp_connections SET is_default = %(default)s
            WHERE id = %(id)s AND (SELECT count(*) FROM others) >= 0 RETURNING id
        """
        entry = AuditEntry(
            actor, AuditAction.CONNECTION_DEFAULT_SET, organization_id, connection_id, {"default": default}
        )
        try:
            return await self._change(change, {"default": default}, entry, before=others)
        except psycopg.errors.UniqueViolation as error:
            raise TransientError("another connection was made the default at this moment") from error

    async def set_secrets(
        self, organization_id: str, connection_id: str, secrets: Mapping[str, SecretStr], *, actor: str
    ) -> bool:
        return await self._change(
            """
            UPDATE mcp_connections
            SET credentials = %(credentials)s, revision = revision + 1, status_detail = '',
                status = CASE WHEN status = 'disabled' THEN status ELSE 'active' END
            WHERE id = %(id)s RETURNING id
            """,
            {"credentials": self._secrets.seal(secrets, organization_id, connection_id)},
            AuditEntry(actor, AuditAction.CONNECTION_CREDENTIALS_SET, organization_id, connection_id),
        )

    async def set_disabled(self, organization_id: str, connection_id: str, *, disabled: bool, actor: str) -> bool:
        action = AuditAction.CONNECTION_DISABLED if disabled else AuditAction.CONNECTION_ENABLED
        return await self._change(
            """
            UPDATE mcp_connections
            SET status_detail = '',
                status = CASE WHEN %(disabled)s THEN 'disabled'
                              WHEN status <> 'disabled' THEN status
                              WHEN authentication = 'oauth' AND credentials IS NULL THEN 'pending_authorization'
                              ELSE 'active' END
            WHERE id = %(id)s RETURNING id
            """,
            {"disabled": disabled},
            AuditEntry(actor, action, organization_id, connection_id),
        )

    async def remove(self, organization_id: str, connection_id: str, *, actor: str) -> bool:
        """With its credentials; the audit log remembers that it was there."""
        return await self._change(
            "DELETE FROM mcp_connections WHERE id = %(id)s RETURNING id",
            {},
            AuditEntry(actor, AuditAction.CONNECTION_REMOVED, organization_id, connection_id),
        )

    async def report_health(self, organization_id: str, connection_id: str, *, healthy: bool, detail: str) -> None:
        await self._database.tenant(organization_id).execute(
            """
            UPDATE mcp_connections SET healthy = %(healthy)s, health_detail = %(detail)s, checked_at = now()
            WHERE id = %(id)s AND organization_id = %(organization_id)s
            """,
            {"organization_id": organization_id, "id": connection_id, "healthy": healthy, "detail": detail},
        )

    async def _change(self, change: str, params: dict[str, Any], entry: AuditEntry, *, before: str = "") -> bool:
        """change: names the row as %(id)s; row-level security keeps it within the organization."""
        row = await self._database.tenant(str(entry.organization_id)).one(
            audited(change, before=before),
            {"organization_id": entry.organization_id, "id": entry.subject, **params, **audit_params(entry)},
        )
        return row is not None


def connection_of(row: Mapping[str, Any]) -> ToolConnection:
    return ToolConnection(
        id=ToolConnectionId(row["id"]),
        organization_id=OrganizationId(row["organization_id"]),
        provider=row["provider"],
        kind=ConnectionKind(row["kind"]),
        status=ConnectionStatus(row["status"]),
        url=row["url"],
        command_name=row["command_name"],
        allowed_tools=_names(row["allowed_tools"]),
        is_default=row["is_default"],
        repeatable_tools=_names(row["repeatable_tools"]),
    )


def _names(stored: Sequence[str] | None) -> frozenset[str] | None:
    return None if stored is None else frozenset(stored)


def client_columns(client: OAuthClient) -> dict[str, Any]:
    return {"id": client.id, "auth_method": client.auth_method, "configured": client.configured}


def _details_of(row: Mapping[str, Any]) -> ConnectionDetails:
    client, terms = row["client"] or {}, row["terms"] or {}
    return ConnectionDetails(
        connection=connection_of(row),
        authentication=Authentication(row["authentication"]),
        created_at=row["created_at"],
        status_detail=row["status_detail"],
        issuer=terms.get("issuer"),
        client_id=terms.get("client_id") or client.get("id"),
        asked_scope=row["scope"],
        scope=terms.get("scope"),
        expires_at=row["expires_at"],
        revision=row["revision"],
        token_header=row["token_header"],
        checked_at=row["checked_at"],
        healthy=row["healthy"],
        health_detail=row["health_detail"],
    )


def _tools(tools: frozenset[str] | None) -> Jsonb | None:
    return None if tools is None else Jsonb(sorted(tools))
