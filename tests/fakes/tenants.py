"""Organizations and their credentials, in dicts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import SecretStr

from nubabel_workers.domain.credentials import hash_token, service_token_text
from nubabel_workers.domain.errors import SecretUnreadableError
from nubabel_workers.domain.ids import OrganizationId, ServiceTokenId
from nubabel_workers.domain.ports import TenantStore
from nubabel_workers.domain.tenants import Organization, ServiceToken, SubmitKey, Workspace
from tests.fakes.clock import START


@dataclass
class FakeTenants(TenantStore):
    organizations: dict[str, Organization] = field(default_factory=dict)
    workspaces: dict[str, Workspace] = field(default_factory=dict)
    tokens: dict[bytes, ServiceToken] = field(default_factory=dict)
    submit_keys: dict[str, SubmitKey] = field(default_factory=dict)
    signing: dict[str, str] = field(default_factory=dict)  # organization -> its webhook secret
    nonces: set[tuple[str, str]] = field(default_factory=set)
    unreadable_workspaces: set[str] = field(default_factory=set)

    def add_organization(self, organization: Organization) -> Organization:
        self.organizations[organization.id] = organization
        return organization

    def add_token(self, number: int, organization_id: str, **fields: object) -> str:
        """Its text."""
        token_id = f"tok_{number:026d}"
        text = service_token_text(token_id, number.to_bytes(32, "big")).get_secret_value()
        owner = OrganizationId(organization_id)
        token = ServiceToken(ServiceTokenId(token_id), owner, "test", START, **fields)  # type: ignore[arg-type]
        self.tokens[hash_token(text)] = token
        return text

    def add_submit_key(self, key_id: str, organization_id: str, secret: str) -> SubmitKey:
        self.submit_keys[key_id] = SubmitKey(key_id, OrganizationId(organization_id), SecretStr(secret))
        return self.submit_keys[key_id]

    async def organization(self, organization_id: str) -> Organization | None:
        return self.organizations.get(organization_id)

    async def workspace(self, organization_id: str, workspace_id: str, *, afresh: bool = False) -> Workspace | None:
        if workspace_id in self.unreadable_workspaces:
            raise SecretUnreadableError("a stored bot-token cannot be decrypted")
        found = self.workspaces.get(workspace_id)
        return found if found is not None and found.organization_id == organization_id else None

    async def workspace_by_installation(self, enterprise_id: str | None, team_id: str | None) -> Workspace | None:
        installation = enterprise_id, team_id
        matching = (one for one in self.workspaces.values() if (one.enterprise_id, one.team_id) == installation)
        return next(matching, None)

    async def end_workspace(
        self, organization_id: str, workspace_id: str, *, reason: str, installed_at: datetime | None = None
    ) -> None:
        self.workspaces.pop(workspace_id, None)

    async def token(self, token_hash: bytes) -> ServiceToken | None:
        return self.tokens.get(token_hash)

    async def submit_key(self, key_id: str) -> SubmitKey | None:
        return self.submit_keys.get(key_id)

    async def use_nonce(self, key_id: str, nonce: str) -> bool:
        if (key_id, nonce) in self.nonces:
            return False
        self.nonces.add((key_id, nonce))
        return True

    async def webhook_secrets(self, organization_id: str) -> Sequence[str]:
        return [self.signing[organization_id]] if organization_id in self.signing else []
