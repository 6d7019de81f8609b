"""Service tokens and submit keys, as operators issue and revoke them. Every change carries its audit entry."""

from datetime import datetime
from typing import Any

from pydantic import SecretStr

from nubabel_workers.adapters.storage.audit import audit_params, audited
from nubabel_workers.adapters.storage.database import Database, Scope
from nubabel_workers.adapters.storage.encryption import SecretPurpose, TokenCipher
from nubabel_workers.adapters.storage.tenants import service_token_of
from nubabel_workers.domain.administration import AuditAction, AuditEntry, SubmitKeySummary
from nubabel_workers.domain.tenants import ServiceToken

_TOKEN = "id, organization_id, name, created_at, expires_at, revoked_at"  # noqa: S105 - column names
_SUBMIT_KEY = "id, organization_id, name, created_at, revoked_at"


class PostgresAccess:
    """AccessRegistry."""

    def __init__(self, database: Database, cipher: TokenCipher) -> None:
        self._database = database
        self._cipher = cipher

    async def add_token(
        self,
        token_id: str,
        token_hash: bytes,
        *,
        organization_id: str,
        name: str,
        expires_in_s: float | None,
        actor: str,
    ) -> ServiceToken:
        entry = AuditEntry(actor, AuditAction.TOKEN_CREATED, organization_id, token_id, {"name": name})
        row = await self._scope(organization_id).one(
            audited(
                f"""
                INSERT INTO service_tokens (id, organization_id, name, token_hash, expires_at)
                VALUES (%(id)s, %(organization_id)s, %(name)s, %(token_hash)s,
                        now() + make_interval(secs => %(expires_in_s)s::float8))
                RETURNING {_TOKEN}
                """
            ),
            {
                "id": token_id,
                "organization_id": organization_id,
                "name": name,
                "token_hash": token_hash,
                "expires_in_s": expires_in_s,
                **audit_params(entry),
            },
        )
        return service_token_of(_present(row))

    async def tokens(self, organization_id: str | None) -> list[ServiceToken]:
        """Of one organization, or every one."""
        rows = await self._scope(organization_id).all(
            f"""
            SELECT {_TOKEN} FROM service_tokens
            WHERE %(organization_id)s::text IS NULL OR organization_id = %(organization_id)s
            ORDER BY organization_id, created_at, id
            """,
            {"organization_id": organization_id},
        )
        return [service_token_of(row) for row in rows]

    async def revoke_token(self, token_id: str, *, actor: str) -> datetime | None:
        """When it was revoked (at first); None when there is no such token."""
        return await self._revoke("service_tokens", token_id, AuditAction.TOKEN_REVOKED, actor)

    async def add_submit_key(
        self, key_id: str, secret: SecretStr, *, organization_id: str, name: str, actor: str
    ) -> SubmitKeySummary:
        entry = AuditEntry(actor, AuditAction.SUBMIT_KEY_CREATED, organization_id, key_id, {"name": name})
        row = await self._scope(organization_id).one(
            audited(
                f"""
                INSERT INTO submit_keys (id, organization_id, name, secret)
                VALUES (%(id)s, %(organization_id)s, %(name)s, %(secret)s)
                RETURNING {_SUBMIT_KEY}
                """
            ),
            {
                "id": key_id,
                "organization_id": organization_id,
                "name": name,
                "secret": self._cipher.encrypt(secret, SecretPurpose.SUBMIT_KEY, organization_id, key_id),
                **audit_params(entry),
            },
        )
        return SubmitKeySummary(**_present(row))

    async def submit_keys(self, organization_id: str | None) -> list[SubmitKeySummary]:
        rows = await self._scope(organization_id).all(
            f"""
            SELECT {_SUBMIT_KEY} FROM submit_keys
            WHERE %(organization_id)s::text IS NULL OR organization_id = %(organization_id)s
            ORDER BY organization_id, created_at, id
            """,
            {"organization_id": organization_id},
        )
        return [SubmitKeySummary(**row) for row in rows]

    async def revoke_submit_key(self, key_id: str, *, actor: str) -> datetime | None:
        return await self._revoke("submit_keys", key_id, AuditAction.SUBMIT_KEY_REVOKED, actor)

    async def _revoke(self, table: str, row_id: str, action: AuditAction, actor: str) -> datetime | None:
        # The operator names it by its id alone, so the audit entry's organization comes from the row.
        row = await self._database.system().one(
            f"""
            WITH changed AS (
                UPDATE {table} SET revoked_at = now() WHERE id = %(id)s AND revoked_at IS NULL
                RETURNING id, organization_id, revoked_at),
            entered AS (
                INSERT INTO audit_log (organization_id, actor, action, subject)
                SELECT organization_id, %(actor)s, %(action)s, id FROM changed)
            SELECT revoked_at FROM changed
            UNION ALL
            SELECT revoked_at FROM {table} WHERE id = %(id)s AND revoked_at IS NOT NULL
            """,
            {"id": row_id, "actor": actor, "action": action.value},
        )
        return row["revoked_at"] if row else None

    def _scope(self, organization_id: str | None) -> Scope:
        return self._database.tenant(organization_id) if organization_id else self._database.system()


def _present(row: dict[str, Any] | None) -> dict[str, Any]:
    if row is None:
        raise AssertionError("INSERT ... RETURNING gave no row")
    return row
