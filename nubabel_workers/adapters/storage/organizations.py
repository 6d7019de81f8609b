"""Organizations, as operators create and change them. Every change carries its audit entry."""

from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb
from pydantic import SecretStr

from nubabel_workers.adapters.storage.audit import audit_params, audited
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.encryption import SecretPurpose, TokenCipher
from nubabel_workers.adapters.storage.tenants import ORGANIZATION_COLUMNS, organization_of
from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.limits import LimitChange
from nubabel_workers.domain.tenants import Organization, PolicyChange

_COLUMNS = ", ".join(ORGANIZATION_COLUMNS)
_SET_LIMITS = audited(
    f"""
    UPDATE organizations SET limits = (old.limits || %(set)s) - %(unset)s::text[]
    FROM (SELECT id AS old_id, limits FROM organizations WHERE id = %(organization_id)s FOR UPDATE) AS old
    WHERE id = old.old_id
    RETURNING {", ".join(f"organizations.{name}" for name in _COLUMNS.split(", "))}, (
      SELECT jsonb_object_agg(name, jsonb_build_object(
        'old', COALESCE(old.limits->name, '"plan"'), 'new', COALESCE(organizations.limits->name, '"plan"')))
      FROM unnest(%(names)s::text[]) AS name) AS changes
    """,
    detail="changes",
)


_TWO_SIGN = "COALESCE(previous_webhook_secret IS NOT NULL AND previous_webhook_secret_until > now(), false)"


class PostgresOrganizations:
    """OrganizationRegistry."""

    def __init__(self, database: Database, cipher: TokenCipher) -> None:
        self._database = database
        self._cipher = cipher

    async def create(self, organization: Organization, *, actor: str) -> Organization | None:
        """None when another organization has that name already (ignoring case)."""
        row = await self._database.system().one(
            audited(
                f"""
                INSERT INTO organizations (id, name, plan, busy_policy, limits)
                SELECT %(id)s, %(name)s, %(plan)s, %(busy_policy)s, %(limits)s
                WHERE NOT EXISTS (SELECT 1 FROM organizations WHERE lower(name) = lower(%(name)s))
                RETURNING {_COLUMNS}
                """
            ),
            {
                "id": organization.id,
                "name": organization.name,
                "plan": organization.plan,
                "busy_policy": organization.busy_policy.value,
                "limits": Jsonb(dict(organization.limits)),
                **audit_params(
                    AuditEntry(
                        actor,
                        AuditAction.ORGANIZATION_CREATED,
                        organization.id,
                        organization.id,
                        {"name": organization.name},
                    )
                ),
            },
        )
        return organization_of(row) if row else None

    async def named(self, id_or_name: str) -> list[Organization]:
        """The one with that id, or all with that name (ignoring case)."""
        rows = await self._database.system().all(
            f"SELECT {_COLUMNS} FROM organizations WHERE id = %(text)s OR lower(name) = lower(%(text)s) ORDER BY id",
            {"text": id_or_name},
        )
        return [organization_of(row) for row in rows]

    async def set_policy(
        self,
        organization_id: str,
        change: PolicyChange,
        *,
        actor: str,
    ) -> Organization | None:
        """Change what is given, leave the rest; None when there is no such organization."""
        changes = change.changes()
        return await self._change(
            ", ".join(f"{name} = %({name})s" for name in changes),
            changes,
            AuditEntry(actor, AuditAction.ORGANIZATION_POLICY_SET, organization_id, organization_id, changes),
        )

    async def set_limits(self, organization_id: str, change: LimitChange, *, actor: str) -> Organization | None:
        """The audit entry holds the old and the new value of each, `"plan"` where the plan decides."""
        entry = AuditEntry(actor, AuditAction.ORGANIZATION_LIMITS_SET, organization_id, organization_id)
        row = await self._database.tenant(organization_id).one(
            _SET_LIMITS,
            {
                "organization_id": organization_id,
                "set": Jsonb(dict(change.set)),
                "unset": list(change.unset),
                "names": list(change.names),
                **audit_params(entry),
            },
        )
        if row is None:
            return None
        del row["changes"]
        return organization_of(row)

    async def set_disabled(self, organization_id: str, *, disabled: bool, actor: str) -> Organization | None:
        action = AuditAction.ORGANIZATION_DISABLED if disabled else AuditAction.ORGANIZATION_ENABLED
        return await self._change(
            "disabled_at = CASE WHEN %(disabled)s OR erasing_at IS NOT NULL THEN coalesce(disabled_at, now()) END",
            {"disabled": disabled},
            AuditEntry(actor, action, organization_id, organization_id),
        )

    async def set_webhook_secret(
        self, organization_id: str, secret: SecretStr, *, overlap_s: float, actor: str
    ) -> Organization | None:
        sealed = self._cipher.encrypt(secret, SecretPurpose.WEBHOOK_SECRET, organization_id)
        return await self._change(
            """
            webhook_secret = %(webhook_secret)s,
            previous_webhook_secret = CASE WHEN %(overlap_s)s > 0 THEN webhook_secret END,
            previous_webhook_secret_until =
                CASE WHEN %(overlap_s)s > 0 AND webhook_secret IS NOT NULL
                     THEN now() + make_interval(secs => %(overlap_s)s) END
            """,
            {"webhook_secret": sealed, "overlap_s": overlap_s},
            AuditEntry(actor, AuditAction.WEBHOOK_SECRET_SET, organization_id, organization_id),
            condition=f"(%(overlap_s)s = 0 OR NOT {_TWO_SIGN})",
        )

    async def replace_newest_webhook_secret(
        self, organization_id: str, secret: SecretStr, *, actor: str
    ) -> Organization | None:
        sealed = self._cipher.encrypt(secret, SecretPurpose.WEBHOOK_SECRET, organization_id)
        return await self._change(
            "webhook_secret = %(webhook_secret)s",
            {"webhook_secret": sealed},
            AuditEntry(
                actor, AuditAction.WEBHOOK_SECRET_SET, organization_id, organization_id, {"old": "signs as before"}
            ),
            condition=_TWO_SIGN,
        )

    async def old_webhook_secret_until(self, organization_id: str) -> datetime | None:
        row = await self._database.tenant(organization_id).one(
            f"""
            SELECT previous_webhook_secret_until AS until FROM organizations
            WHERE id = %(organization_id)s AND {_TWO_SIGN}
            """,
            {"organization_id": organization_id},
        )
        return row["until"] if row else None

    async def end_previous_webhook_secret(self, organization_id: str, *, actor: str) -> bool:
        changed = await self._change(
            "previous_webhook_secret = NULL, previous_webhook_secret_until = NULL",
            {},
            AuditEntry(actor, AuditAction.WEBHOOK_SECRET_ENDED, organization_id, organization_id),
            condition="previous_webhook_secret IS NOT NULL",  # also one whose day is over, and that no key opens
        )
        return changed is not None

    async def list(self) -> list[Organization]:
        rows = await self._database.system().all(f"SELECT {_COLUMNS} FROM organizations ORDER BY created_at, id")
        return [organization_of(row) for row in rows]

    async def _change(
        self, assignments: str, params: dict[str, Any], entry: AuditEntry, *, condition: str = "true"
    ) -> Organization | None:
        organization_id = entry.subject
        row = await self._database.tenant(organization_id).one(
            audited(
                f"UPDATE organizations SET {assignments} WHERE id = %(organization_id)s AND {condition}"
                f" RETURNING {_COLUMNS}"
            ),
            {"organization_id": organization_id, **params, **audit_params(entry)},
        )
        return organization_of(row) if row else None
