"""Slack workspaces, as operators and the installation install and end them. Every change carries its audit entry."""

from datetime import datetime
from typing import Any

from nubabel_workers.adapters.storage.audit import audit_params, audited
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.encryption import SecretPurpose, TokenCipher
from nubabel_workers.adapters.storage.tenants import END_WORKSPACE
from nubabel_workers.domain.administration import AuditAction, AuditEntry, Installation, WorkspaceSummary

_SUMMARY = f"""id, organization_id, team_id, enterprise_id, team_name, bot_user_id, status = 'active' AS active,
              installed_at, revoked_at, CASE WHEN status <> 'active' THEN (
                SELECT a.detail->>'reason' FROM audit_log a
                WHERE a.organization_id = workspaces.organization_id AND a.subject = workspaces.id
                  AND a.action = '{AuditAction.WORKSPACE_ENDED}'
                ORDER BY a.id DESC LIMIT 1) END AS ended_reason"""


class PostgresWorkspaces:
    """WorkspaceRegistry."""

    def __init__(self, database: Database, cipher: TokenCipher) -> None:
        self._database = database
        self._cipher = cipher

    async def installed(self, installation_key: str) -> WorkspaceSummary | None:
        """Whoever it belongs to: looked up before the tenant is known."""
        row = await self._database.system().one(
            f"SELECT {_SUMMARY} FROM workspaces WHERE installation_key = %(installation_key)s",
            {"installation_key": installation_key},
        )
        return WorkspaceSummary(**row) if row else None

    async def save(
        self, organization_id: str, workspace_id: str, installation: Installation, *, actor: str
    ) -> WorkspaceSummary | None:
        """Install, or install again: then token, names and scopes are replaced and it is active again.

        None when the installation is not this organization's workspace of that id (somebody else was quicker).
        """
        detail = {"team_id": installation.team_id, "enterprise_id": installation.enterprise_id}
        row = await self._database.system().one(
            audited(
                f"""
                INSERT INTO workspaces (id, organization_id, installation_key, team_id, enterprise_id, team_name,
                                        bot_user_id, bot_id, app_id, scopes, bot_token)
                VALUES (%(id)s, %(organization_id)s, %(installation_key)s, %(team_id)s, %(enterprise_id)s,
                        %(team_name)s, %(bot_user_id)s, %(bot_id)s, %(app_id)s, %(scopes)s, %(bot_token)s)
                ON CONFLICT (installation_key) DO UPDATE
                SET team_name = excluded.team_name, bot_user_id = excluded.bot_user_id, bot_id = excluded.bot_id,
                    app_id = excluded.app_id, scopes = excluded.scopes, bot_token = excluded.bot_token,
                    status = 'active', installed_at = now(), revoked_at = NULL
                WHERE workspaces.organization_id = excluded.organization_id AND workspaces.id = excluded.id
                RETURNING {_SUMMARY}
                """
            ),
            {
                **self._columns(organization_id, workspace_id, installation),
                **audit_params(
                    AuditEntry(actor, AuditAction.WORKSPACE_INSTALLED, organization_id, workspace_id, detail)
                ),
            },
        )
        return WorkspaceSummary(**row) if row else None

    async def list(self, organization_id: str | None) -> list[WorkspaceSummary]:
        scope = self._database.tenant(organization_id) if organization_id else self._database.system()
        rows = await scope.all(
            f"""
            SELECT {_SUMMARY} FROM workspaces
            WHERE %(organization_id)s::text IS NULL OR organization_id = %(organization_id)s
            ORDER BY organization_id, installed_at, id
            """,
            {"organization_id": organization_id},
        )
        return [WorkspaceSummary(**row) for row in rows]

    async def find(self, workspace_id: str) -> WorkspaceSummary | None:
        """For operators, who name a workspace by its id alone."""
        row = await self._database.system().one(
            f"SELECT {_SUMMARY} FROM workspaces WHERE id = %(workspace_id)s", {"workspace_id": workspace_id}
        )
        return WorkspaceSummary(**row) if row else None

    async def end(
        self,
        organization_id: str,
        workspace_id: str,
        *,
        actor: str,
        reason: str,
        installed_at: datetime | None = None,
    ) -> bool:
        entry = AuditEntry(actor, AuditAction.WORKSPACE_ENDED, organization_id, workspace_id, {"reason": reason})
        row = await self._database.tenant(organization_id).one(
            audited(END_WORKSPACE), {"workspace_id": workspace_id, "installed_at": installed_at, **audit_params(entry)}
        )
        return row is not None

    def _columns(self, organization_id: str, workspace_id: str, installation: Installation) -> dict[str, Any]:
        return {
            "id": workspace_id,
            "organization_id": organization_id,
            "installation_key": installation.key,
            "team_id": installation.team_id or "",
            "enterprise_id": installation.enterprise_id,
            "team_name": installation.team_name,
            "bot_user_id": installation.bot_user_id,
            "bot_id": installation.bot_id,
            "app_id": installation.app_id,
            "scopes": ",".join(installation.scopes),
            "bot_token": self._cipher.encrypt(
                installation.bot_token, SecretPurpose.BOT_TOKEN, organization_id, workspace_id
            ),
        }
