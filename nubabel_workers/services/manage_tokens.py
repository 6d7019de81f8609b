"""Issue and revoke what callers prove themselves with: service tokens (HTTP) and submit keys (broker)."""

from collections.abc import Callable
from datetime import datetime

from nubabel_workers.domain.administration import IssuedSubmitKey, IssuedToken, SubmitKeySummary
from nubabel_workers.domain.credentials import (
    ENTROPY_BYTES,
    hash_token,
    service_token_text,
    submit_key_text,
)
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.names import checked_name
from nubabel_workers.domain.ports import Chance
from nubabel_workers.domain.ports.administration import AccessRegistry
from nubabel_workers.domain.tenants import Organization, ServiceToken


class ManageTokens:
    """random_bytes: a cryptographic source, e.g. `secrets.token_bytes`."""

    def __init__(self, access: AccessRegistry, chance: Chance, random_bytes: Callable[[int], bytes]) -> None:
        self._access = access
        self._chance = chance
        self._random_bytes = random_bytes

    async def create(
        self,
        name: str,
        *,
        organization: Organization,
        expires_in_s: float | None,
        actor: str,
    ) -> IssuedToken:
        _check_enabled(organization)
        if expires_in_s is not None and expires_in_s <= 0:
            raise InvalidInputError("a token's life must be longer than zero")
        token_id = self._chance.new_id("tok")
        text = service_token_text(token_id, self._random_bytes(ENTROPY_BYTES))
        token = await self._access.add_token(
            token_id,
            hash_token(text.get_secret_value()),
            organization_id=organization.id,
            name=checked_name(name, "a token's name"),
            expires_in_s=expires_in_s,
            actor=actor,
        )
        return IssuedToken(token, text)

    async def list(self, organization: Organization | None) -> list[ServiceToken]:
        return await self._access.tokens(organization.id if organization else None)

    async def revoke(self, token_id: str, *, actor: str) -> datetime:
        """When it was revoked; a second time changes nothing. It is refused everywhere within seconds."""
        revoked_at = await self._access.revoke_token(token_id, actor=actor)
        if revoked_at is None:
            raise NotFoundError(f"there is no token {token_id!r}; `nubabel tokens list` shows them")
        return revoked_at


class ManageSubmitKeys:
    """random_bytes: a cryptographic source, e.g. `secrets.token_bytes`."""

    def __init__(self, access: AccessRegistry, chance: Chance, random_bytes: Callable[[int], bytes]) -> None:
        self._access = access
        self._chance = chance
        self._random_bytes = random_bytes

    async def create(self, name: str, *, organization: Organization, actor: str) -> IssuedSubmitKey:
        _check_enabled(organization)
        text = submit_key_text(self._random_bytes(ENTROPY_BYTES))
        key = await self._access.add_submit_key(
            self._chance.new_id("key"),
            text,
            organization_id=organization.id,
            name=checked_name(name, "a submit key's name"),
            actor=actor,
        )
        return IssuedSubmitKey(key, text)

    async def list(self, organization: Organization | None) -> list[SubmitKeySummary]:
        return await self._access.submit_keys(organization.id if organization else None)

    async def revoke(self, key_id: str, *, actor: str) -> datetime:
        revoked_at = await self._access.revoke_submit_key(key_id, actor=actor)
        if revoked_at is None:
            raise NotFoundError(f"there is no submit key {key_id!r}; `nubabel submit-keys list` shows them")
        return revoked_at


def _check_enabled(organization: Organization) -> None:
    if organization.disabled_at is not None:
        raise InvalidInputError(f"the organization {organization.name!r} is disabled: enable it first")
