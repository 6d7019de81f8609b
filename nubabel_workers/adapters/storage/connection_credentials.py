"""Credentials of connections: authorizations under way, tokens, and the lease of whoever refreshes them.

Tokens are numbered: each change compares the revision that it was made from, so that nobody overwrites newer ones or
shows a refresh token that was used up.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from psycopg.types.json import Jsonb
from pydantic import SecretStr

from nubabel_workers.adapters.storage.audit import audit_params, audited
from nubabel_workers.adapters.storage.connection_secrets import ConnectionSecrets
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.encryption import SecretPurpose, TokenCipher
from nubabel_workers.adapters.storage.tool_connections import CONNECTION_COLUMNS, client_columns, connection_of
from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.executions import EventKind
from nubabel_workers.domain.oauth import Grant, OAuthClient, PendingAuthorization, Tokens
from nubabel_workers.domain.ports.tools import RefreshLease, RegisteredClient, StoredCredentials
from nubabel_workers.domain.tool_connections import Authentication

_CLIENT_SECRET = "client_secret"  # noqa: S105 - a name among the sealed secrets
_VERIFIER = "code_verifier"

_PENDING = "id, organization_id, connection_id, terms, secrets, actor"
_STORE_TOKENS = """credentials = %(credentials)s, revision = revision + 1, status_detail = '', refresh_owner = NULL,
                   refresh_until = NULL, expires_at = now() + make_interval(secs => %(expires_in_s)s)"""
_BEGIN_REFRESH = """
WITH held AS (SELECT refresh_owner FROM mcp_connections WHERE id = %(id)s)
UPDATE mcp_connections SET refresh_owner = %(owner)s, refresh_until = now() + make_interval(secs => %(lease_s)s)
FROM held
WHERE id = %(id)s AND organization_id = %(organization_id)s AND status = 'active' AND revision = %(revision)s
  AND (refresh_until IS NULL OR refresh_until <= now())
RETURNING held.refresh_owner IS NOT NULL AS in_doubt
"""
_GIVE_UP_REFRESH = """
UPDATE mcp_connections
SET refresh_until = now(), refresh_owner = CASE WHEN %(in_doubt)s THEN refresh_owner END
WHERE id = %(id)s AND organization_id = %(organization_id)s AND refresh_owner = %(owner)s
"""


class PostgresConnectionCredentials:
    """CredentialStore."""

    def __init__(self, database: Database, cipher: TokenCipher) -> None:
        self._database = database
        self._secrets = ConnectionSecrets(cipher)

    async def read(self, organization_id: str, connection_id: str) -> StoredCredentials | None:
        row = await self._database.tenant(organization_id).one(
            f"""
            SELECT {CONNECTION_COLUMNS}, token_header, credentials, terms,
                   extract(epoch FROM expires_at - now())::float8 AS expires_in_s
            FROM mcp_connections WHERE id = %(id)s AND organization_id = %(organization_id)s
            """,
            {"id": connection_id, "organization_id": organization_id},
        )
        if row is None:
            return None
        secrets = self._secrets.open(row["credentials"], organization_id, connection_id)
        client_secret = secrets.pop(_CLIENT_SECRET, None)
        return StoredCredentials(
            connection=connection_of(row),
            authentication=Authentication(row["authentication"]),
            revision=row["revision"],
            secrets=secrets,
            grant=_grant_of(row["terms"], client_secret) if row["terms"] else None,
            expires_in_s=row["expires_in_s"],
            token_header=row["token_header"],
        )

    async def client(self, organization_id: str, connection_id: str) -> RegisteredClient | None:
        row = await self._database.tenant(organization_id).one(
            """
            SELECT client, client_secret FROM mcp_connections
            WHERE id = %(id)s AND organization_id = %(organization_id)s AND client IS NOT NULL
            """,
            {"id": connection_id, "organization_id": organization_id},
        )
        if row is None:
            return None
        known = row["client"]
        secret = self._secrets.open_client(row["client_secret"], organization_id, connection_id)
        client = OAuthClient(known["id"], secret, known["auth_method"], configured=known["configured"])
        return RegisteredClient(client, known.get("issuer"), known.get("redirect_uri"))

    async def begin_authorization(self, pending: PendingAuthorization, *, digest: bytes, valid_s: float) -> bool:
        grant, owner = pending.grant, (pending.organization_id, pending.connection_id)
        client = {**client_columns(grant.client), "issuer": grant.issuer, "redirect_uri": grant.redirect_uri}
        entry = AuditEntry(
            pending.actor,
            AuditAction.CONNECTION_AUTHORIZATION_BEGUN,
            pending.organization_id,
            pending.connection_id,
            {"issuer": grant.issuer},
        )
        row = await self._database.tenant(pending.organization_id).one(
            audited(
                """
                UPDATE mcp_connections SET client = %(client)s, client_secret = %(client_secret)s
                WHERE id = %(connection_id)s AND authentication = 'oauth' AND status <> 'disabled' RETURNING id
                """,
                after="""begun AS (
                  INSERT INTO mcp_authorizations (id, organization_id, connection_id, state_hash, terms, secrets, actor,
                                                  expires_at)
                  SELECT %(id)s, %(organization_id)s, changed.id, %(state_hash)s, %(terms)s, %(secrets)s, %(actor)s,
                         now() + make_interval(secs => %(valid_s)s)
                  FROM changed)""",
            ),
            {
                "id": pending.id,
                "organization_id": pending.organization_id,
                "connection_id": pending.connection_id,
                "state_hash": digest,
                "terms": Jsonb(_terms(grant)),
                "secrets": self._secrets.seal(
                    _with_client(grant, {_VERIFIER: pending.code_verifier}),
                    pending.organization_id,
                    pending.id,
                    purpose=SecretPurpose.AUTHORIZATION,
                ),
                "client": Jsonb(client),
                "client_secret": self._secrets.seal_client(grant.client, *owner),
                "actor": pending.actor,
                "valid_s": valid_s,
                **audit_params(entry),
            },
        )
        return row is not None

    async def pending(self, digest: bytes) -> PendingAuthorization | None:
        """The browser that brings a state belongs to nobody yet: looked up across organizations."""
        row = await self._database.system().one(
            f"SELECT {_PENDING} FROM mcp_authorizations WHERE state_hash = %(digest)s AND expires_at > now()",
            {"digest": digest},
        )
        return self._pending_of(row) if row else None

    async def take_authorization(self, digest: bytes) -> PendingAuthorization | None:
        row = await self._database.system().one(
            f"""
            DELETE FROM mcp_authorizations WHERE state_hash = %(digest)s AND expires_at > now() RETURNING {_PENDING}
            """,
            {"digest": digest},
        )
        return self._pending_of(row) if row else None

    async def authorized(self, pending: PendingAuthorization, tokens: Tokens, *, actor: str) -> bool:
        organization_id, connection_id = pending.organization_id, pending.connection_id
        grant = pending.grant if tokens.scope is None else replace(pending.grant, scope=tokens.scope)
        entry = AuditEntry(
            actor, AuditAction.CONNECTION_AUTHORIZED, organization_id, connection_id, {"issuer": grant.issuer}
        )
        row = await self._database.tenant(organization_id).one(
            audited(
                f"""
                UPDATE mcp_connections SET {_STORE_TOKENS}, terms = %(terms)s, status = 'active'
                WHERE id = %(id)s AND status <> 'disabled' RETURNING id
                """
            ),
            {
                "id": connection_id,
                "terms": Jsonb(_terms(grant)),
                **self._token_params(organization_id, connection_id, grant, tokens),
                **audit_params(entry),
            },
        )
        return row is not None

    async def begin_refresh(
        self, organization_id: str, connection_id: str, *, revision: int, owner: str, lease_s: float
    ) -> RefreshLease:
        row = await self._database.tenant(organization_id).one(
            _BEGIN_REFRESH,
            {
                "organization_id": organization_id,
                "id": connection_id,
                "revision": revision,
                "owner": owner,
                "lease_s": lease_s,
            },
        )
        if row is None:
            return RefreshLease.HELD
        return RefreshLease.TAKEN_IN_DOUBT if row["in_doubt"] else RefreshLease.TAKEN

    async def finish_refresh(self, stored: StoredCredentials, tokens: Tokens) -> bool:
        if stored.grant is None:
            raise ValueError("only what was granted can be refreshed")
        connection = stored.connection
        kept = replace(tokens, refresh=tokens.refresh or stored.secrets.get("refresh"))
        count = await self._database.tenant(connection.organization_id).execute(
            f"""
            UPDATE mcp_connections
            SET {_STORE_TOKENS}, status = CASE WHEN status = 'refused' THEN 'active' ELSE status END
            WHERE id = %(id)s AND organization_id = %(organization_id)s AND revision = %(revision)s
            """,
            {
                "organization_id": connection.organization_id,
                "id": connection.id,
                "revision": stored.revision,
                **self._token_params(connection.organization_id, connection.id, stored.grant, kept),
            },
        )
        return count == 1

    async def give_up_refresh(self, organization_id: str, connection_id: str, *, owner: str, in_doubt: bool) -> None:
        await self._database.tenant(organization_id).execute(
            _GIVE_UP_REFRESH,
            {"organization_id": organization_id, "id": connection_id, "owner": owner, "in_doubt": in_doubt},
        )

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
        entry = AuditEntry(
            actor,
            AuditAction.CONNECTION_REFUSED,
            organization_id,
            connection_id,
            {"reason": reason, "execution_id": execution_id},
        )
        row = await self._database.tenant(organization_id).one(
            audited(
                """
                UPDATE mcp_connections
                SET status = 'refused', status_detail = %(reason)s, refresh_owner = NULL, refresh_until = NULL
                WHERE id = %(id)s AND organization_id = %(organization_id)s AND status = 'active'
                  AND revision = %(revision)s
                RETURNING id, organization_id, provider
                """,
                after="""told AS (
                  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
                  SELECT e.organization_id, e.id, %(kind)s,
                         jsonb_build_object('provider', changed.provider, 'reason', %(reason)s::text)
                  FROM changed JOIN executions e
                    ON e.id = %(execution_id)s AND e.organization_id = changed.organization_id)""",
            ),
            {
                "organization_id": organization_id,
                "id": connection_id,
                "revision": revision,
                "reason": reason,
                "execution_id": execution_id,
                "kind": EventKind.CONNECTION_REFUSED.value,
                **audit_params(entry),
            },
        )
        return row is not None

    def _token_params(self, organization_id: str, connection_id: str, grant: Grant, tokens: Tokens) -> dict[str, Any]:
        secrets = {"access": tokens.access} | ({"refresh": tokens.refresh} if tokens.refresh else {})
        return {
            "credentials": self._secrets.seal(_with_client(grant, secrets), organization_id, connection_id),
            "expires_in_s": tokens.expires_in_s,  # null makes expires_at null
        }

    def _pending_of(self, row: Mapping[str, Any]) -> PendingAuthorization:
        secrets = self._secrets.open(
            bytes(row["secrets"]), row["organization_id"], row["id"], purpose=SecretPurpose.AUTHORIZATION
        )
        return PendingAuthorization(
            id=row["id"],
            organization_id=row["organization_id"],
            connection_id=row["connection_id"],
            grant=_grant_of(row["terms"], secrets.get(_CLIENT_SECRET)),
            code_verifier=secrets[_VERIFIER],
            actor=row["actor"],
        )


def _with_client(grant: Grant, secrets: Mapping[str, SecretStr]) -> dict[str, SecretStr]:
    """The client's secret goes with what it was granted: another client may begin an authorization meanwhile."""
    return {**secrets, **({_CLIENT_SECRET: grant.client.secret} if grant.client.secret else {})}


def _terms(grant: Grant) -> dict[str, Any]:
    return {
        "issuer": grant.issuer,
        "authorization_endpoint": grant.authorization_endpoint,
        "token_endpoint": grant.token_endpoint,
        "resource": grant.resource,
        "redirect_uri": grant.redirect_uri,
        "scope": grant.scope,
        "says_issuer": grant.says_issuer,
        "revocation_endpoint": grant.revocation_endpoint,
        "client_id": grant.client.id,
        "auth_method": grant.client.auth_method,
        "configured": grant.client.configured,
    }


def _grant_of(terms: Mapping[str, Any], client_secret: SecretStr | None) -> Grant:
    return Grant(
        issuer=terms["issuer"],
        authorization_endpoint=terms["authorization_endpoint"],
        token_endpoint=terms["token_endpoint"],
        resource=terms["resource"],
        redirect_uri=terms["redirect_uri"],
        client=OAuthClient(terms["client_id"], client_secret, terms["auth_method"], configured=terms["configured"]),
        scope=terms["scope"],
        says_issuer=terms["says_issuer"],
        revocation_endpoint=terms.get("revocation_endpoint"),  # earlier releases asked for none
    )
