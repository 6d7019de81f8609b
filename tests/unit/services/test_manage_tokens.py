"""Service tokens and submit keys: shown once, stored as little as possible."""

from dataclasses import replace

import pytest

from nubabel_workers.domain.credentials import hash_token, looks_like_service_token
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.manage_tokens import ManageSubmitKeys, ManageTokens
from tests.fakes.administration import NOW, FakeAccess
from tests.fakes.clock import FakeChance

ACME = Organization(OrganizationId("org_a"), "Acme")


@pytest.fixture
def access() -> FakeAccess:
    return FakeAccess()


@pytest.fixture
def tokens(access: FakeAccess) -> ManageTokens:
    return ManageTokens(access, FakeChance(), lambda count: bytes(range(count)))


@pytest.fixture
def keys(access: FakeAccess) -> ManageSubmitKeys:
    return ManageSubmitKeys(access, FakeChance(), lambda count: bytes(range(count)))


async def test_a_tokens_hash_is_stored_and_its_text_given_once(tokens: ManageTokens, access: FakeAccess) -> None:
    issued = await tokens.create("ci", organization=ACME, expires_in_s=3600, actor="cli:anna")

    text = issued.text.get_secret_value()
    assert looks_like_service_token(text)
    assert text.startswith(f"nbt_{issued.token.id.removeprefix('tok_')}_")
    assert access.hashes == {issued.token.id: hash_token(text)}
    assert access.lifetimes == {issued.token.id: 3600}
    assert text not in repr(issued)


@pytest.mark.parametrize("expires_in_s", [0, -5])
async def test_a_token_that_is_over_before_it_begins_is_refused(expires_in_s: float, tokens: ManageTokens) -> None:
    with pytest.raises(InvalidInputError, match="longer than zero"):
        await tokens.create("ci", organization=ACME, expires_in_s=expires_in_s, actor="cli:anna")


async def test_a_disabled_organization_gets_neither_token_nor_key(
    tokens: ManageTokens, keys: ManageSubmitKeys, access: FakeAccess
) -> None:
    disabled = replace(ACME, disabled_at=NOW)

    with pytest.raises(InvalidInputError, match="disabled"):
        await tokens.create("ci", organization=disabled, expires_in_s=None, actor="cli:anna")
    with pytest.raises(InvalidInputError, match="disabled"):
        await keys.create("etl", organization=disabled, actor="cli:anna")

    assert access.actors == []


async def test_a_submit_key_is_stored_and_its_text_given_once(keys: ManageSubmitKeys, access: FakeAccess) -> None:
    issued = await keys.create("etl", organization=ACME, actor="cli:anna")

    assert access.key_secrets == {issued.key.id: issued.text}
    assert issued.text.get_secret_value().startswith("nbk_")
    assert issued.text.get_secret_value() not in repr(issued)


async def test_what_does_not_exist_cannot_be_revoked(tokens: ManageTokens, keys: ManageSubmitKeys) -> None:
    with pytest.raises(NotFoundError, match="nubabel tokens list"):
        await tokens.revoke("tok_none", actor="cli:anna")
    with pytest.raises(NotFoundError, match="nubabel submit-keys list"):
        await keys.revoke("key_none", actor="cli:anna")


async def test_lists_can_be_of_one_organization(tokens: ManageTokens, keys: ManageSubmitKeys) -> None:
    token = await tokens.create("ci", organization=ACME, expires_in_s=None, actor="cli:anna")
    key = await keys.create("etl", organization=ACME, actor="cli:anna")
    beta = Organization(OrganizationId("org_b"), "Beta")

    assert await tokens.list(ACME) == [token.token]
    assert await keys.list(None) == [key.key]
    assert (await tokens.list(beta), await keys.list(beta)) == ([], [])


@pytest.mark.parametrize(
    "text",
    ["", "nbt_", "nbt_short_x", "Bearer x", "nbt_" + "A" * 26 + "_" + "x" * 43, "nbt_" + "a" * 26 + "_" + "x" * 44],
)
def test_garbage_does_not_look_like_a_token(text: str) -> None:
    assert not looks_like_service_token(text)
