"""Look-ups of organizations and their credentials, as every request makes them; changes of them are made elsewhere.

Answers are remembered for a moment in this process, because ingress asks for the same few rows again and again.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from typing import Any

from pydantic import SecretStr

from nubabel_workers.adapters.storage.audit import audit_params, audited
from nubabel_workers.adapters.storage.brief_cache import BriefCache
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.encryption import SecretPurpose, TokenCipher
from nubabel_workers.domain.administration import AuditAction, AuditEntry, installation_key
from nubabel_workers.domain.errors import SecretUnreadableError
from nubabel_workers.domain.ids import OrganizationId, ServiceTokenId, WorkspaceId
from nubabel_workers.domain.masking import MaskingPolicy
from nubabel_workers.domain.tenants import (
    BusyPolicy,
    NearCap,
    Organization,
    RepeatedQuestions,
    ServersPolicy,
    ServiceToken,
    SubmitKey,
    Workspace,
)

_KEEP_S = 2.0
_KEEP_WORKSPACES_S = 5.0  # asked for at every message and every post
_MAX_ENTRIES = 4096

_WORKSPACE = """
    SELECT w.id, w.organization_id, w.team_id, w.enterprise_id, w.team_name, w.bot_user_id, w.bot_id, w.bot_token,
           w.status = 'active' AS installed, w.installed_at, o.busy_policy, o.disabled_at IS NULL AS enabled
    FROM workspaces w JOIN organizations o ON o.id = w.organization_id
"""
# The token is forgotten with the installation; Slack has revoked it, or will. installed_at: no later installation ends.
END_WORKSPACE = """
    UPDATE workspaces SET status = 'revoked', revoked_at = now(), bot_token = ''
    WHERE id = %(workspace_id)s AND status = 'active'
      AND (%(installed_at)s::timestamptz IS NULL OR installed_at = %(installed_at)s)
    RETURNING id
"""


class PostgresTenants:
    """TenantStore. What was revoked or disabled is refused within keep_s seconds (at once in the process that did).

    keep_workspaces_s: the same for Slack installations.
    """

    def __init__(
        self,
        database: Database,
        cipher: TokenCipher,
        *,
        keep_s: float = _KEEP_S,
        keep_workspaces_s: float = _KEEP_WORKSPACES_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        def cache(keep_s: float = keep_s) -> BriefCache[Any, Any]:
            return BriefCache(keep_s=keep_s, max_entries=_MAX_ENTRIES, monotonic=monotonic)

        self._database = database
        self._cipher = cipher
        self._organizations: BriefCache[str, Organization] = cache()
        self._workspaces: BriefCache[tuple[str, str], Workspace] = cache(keep_workspaces_s)
        self._installations: BriefCache[str, Workspace] = cache(keep_workspaces_s)
        self._tokens: BriefCache[bytes, ServiceToken] = cache()
        self._submit_keys: BriefCache[str, SubmitKey] = cache()
        self._webhook_secrets: BriefCache[str, Sequence[str]] = cache()

    async def organization(self, organization_id: str) -> Organization | None:
        found = self._organizations.get(organization_id)
        if found is None:
            row = await self._database.tenant(organization_id).one(
                f"SELECT {', '.join(ORGANIZATION_COLUMNS)} FROM organizations WHERE id = %(organization_id)s",
                {"organization_id": organization_id},
            )
            if row is None:
                return None
            found = organization_of(row)
            self._organizations.put(organization_id, found)
        return found

    async def workspace(self, organization_id: str, workspace_id: str, *, afresh: bool = False) -> Workspace | None:
        """Inactive ones too: whoever is to answer in them has to learn why that is impossible."""
        found = None if afresh else self._workspaces.get((organization_id, workspace_id))
        if found is None:
            row = await self._database.tenant(organization_id).one(
                f"{_WORKSPACE} WHERE w.organization_id = %(organization_id)s AND w.id = %(workspace_id)s",
                {"organization_id": organization_id, "workspace_id": workspace_id},
            )
            if row is None:
                return None
            found = self._workspace_of(row)
            self._workspaces.put((organization_id, workspace_id), found)
        return found

    async def workspace_by_installation(self, enterprise_id: str | None, team_id: str | None) -> Workspace | None:
        """The installation that an event names; for a team of an enterprise also the org-wide one.

        Active ones win over ended ones, the most specific one over the others.
        """
        key = installation_key(enterprise_id, team_id)
        found = self._installations.get(key)
        if found is None:
            # A team's own installation may have been stored by a token that did not name the enterprise.
            keys = [key, installation_key(None, team_id), installation_key(enterprise_id, None)]
            row = await self._database.system().one(
                f"""
                {_WORKSPACE}
                WHERE w.installation_key = ANY(%(keys)s) AND w.installation_key <> %(nobody)s
                ORDER BY w.status = 'active' AND o.disabled_at IS NULL DESC,
                  array_position(%(keys)s::text[], w.installation_key) LIMIT 1
                """,
                {"keys": keys, "nobody": installation_key(None, None)},
            )
            if row is None:
                return None
            found = self._workspace_of(row)
            self._installations.put(key, found)
        return found

    async def end_workspace(
        self, organization_id: str, workspace_id: str, *, reason: str, installed_at: datetime | None = None
    ) -> None:
        """Slack says that the installation is over. A second time changes nothing."""
        entry = AuditEntry(
            "slack", AuditAction.WORKSPACE_ENDED, organization_id, workspace_id, detail={"reason": reason}
        )
        await self._database.tenant(organization_id).execute(
            audited(END_WORKSPACE), {"workspace_id": workspace_id, "installed_at": installed_at, **audit_params(entry)}
        )
        self._workspaces.clear()
        self._installations.clear()

    async def token(self, token_hash: bytes) -> ServiceToken | None:
        """None unless it may be used now: not revoked, not expired, its organization not disabled."""
        found = self._tokens.get(token_hash)
        if found is None:
            row = await self._database.system().one(
                """
                SELECT t.id, t.organization_id, t.name, t.created_at, t.expires_at, t.revoked_at
                FROM service_tokens t LEFT JOIN organizations o ON o.id = t.organization_id
                WHERE t.token_hash = %(token_hash)s AND t.revoked_at IS NULL AND o.disabled_at IS NULL
                  AND (t.expires_at IS NULL OR t.expires_at > now())
                """,
                {"token_hash": token_hash},
            )
            if row is None:
                return None
            found = service_token_of(row)
            self._tokens.put(token_hash, found)
        return found

    async def submit_key(self, key_id: str) -> SubmitKey | None:
        """None unless it may be used now: not revoked, its organization not disabled."""
        found = self._submit_keys.get(key_id)
        if found is None:
            row = await self._database.system().one(
                """
                SELECT k.id, k.organization_id, k.secret
                FROM submit_keys k JOIN organizations o ON o.id = k.organization_id
                WHERE k.id = %(key_id)s AND k.revoked_at IS NULL AND o.disabled_at IS NULL
                """,
                {"key_id": key_id},
            )
            if row is None:
                return None
            organization_id = OrganizationId(row["organization_id"])
            secret = self._cipher.decrypt(row["secret"], SecretPurpose.SUBMIT_KEY, organization_id, key_id)
            found = SubmitKey(key_id, organization_id, secret)
            self._submit_keys.put(key_id, found)
        return found

    async def use_nonce(self, key_id: str, nonce: str) -> bool:
        inserted = await self._database.system().execute(
            "INSERT INTO submit_nonces (key_id, nonce) VALUES (%(key_id)s, %(nonce)s) ON CONFLICT DO NOTHING",
            {"key_id": key_id, "nonce": nonce},
        )
        return inserted == 1

    async def webhook_secrets(self, organization_id: str) -> Sequence[str]:
        found = self._webhook_secrets.get(organization_id)
        if found is None:
            row = await self._database.tenant(organization_id).one(
                """
                SELECT webhook_secret,
                       CASE WHEN previous_webhook_secret_until > now() THEN previous_webhook_secret END AS previous
                FROM organizations WHERE id = %(organization_id)s
                """,
                {"organization_id": organization_id},
            )
            if row is None or row["webhook_secret"] is None:
                return ()
            found = (self._webhook_secret(organization_id, row["webhook_secret"]),)
            if row["previous"] is not None:
                with suppress(SecretUnreadableError):  # the one that counts is there; the doctor tells of the other
                    found += (self._webhook_secret(organization_id, row["previous"]),)
            self._webhook_secrets.put(organization_id, found)
        return found

    def _webhook_secret(self, organization_id: str, sealed: bytes) -> str:
        return self._cipher.decrypt(sealed, SecretPurpose.WEBHOOK_SECRET, organization_id).get_secret_value()

    def _workspace_of(self, row: dict[str, Any]) -> Workspace:
        sealed = row.pop("bot_token")
        owner = (row["organization_id"], row["id"])
        return Workspace(
            **{
                **row,
                "id": WorkspaceId(row["id"]),
                "organization_id": OrganizationId(row["organization_id"]),
                "busy_policy": BusyPolicy(row["busy_policy"]),
                "bot_token": self._cipher.decrypt(sealed, SecretPurpose.BOT_TOKEN, *owner) if sealed else SecretStr(""),
            }
        )


ORGANIZATION_COLUMNS = tuple(field.name for field in fields(Organization))


def organization_of(row: dict[str, Any]) -> Organization:
    policies: dict[str, Any] = {
        "busy_policy": BusyPolicy(row["busy_policy"]),
        "masking": MaskingPolicy(row["masking"]),
        "servers": ServersPolicy(row["servers"]),
        "near_cap": NearCap(row["near_cap"]),
        "repeated_questions": RepeatedQuestions(row["repeated_questions"]),
        "budget_approvers": tuple(row["budget_approvers"]),
    }
    return Organization(**{**row, **policies})


def service_token_of(row: dict[str, Any]) -> ServiceToken:
    return ServiceToken(**{**row, "id": ServiceTokenId(row["id"])})
