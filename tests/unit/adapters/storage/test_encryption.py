"""Secrets at rest: readable by their owner's row alone, and through a change of keys."""

import pytest
from pydantic import SecretStr

from nubabel_workers.adapters.storage.encryption import SecretPurpose, TokenCipher, generate_key
from nubabel_workers.domain.errors import CredentialsError, InvalidInputError

_SECRET = SecretStr("xoxb-한글-1")


def test_what_was_encrypted_is_read_back_for_the_same_row() -> None:
    cipher = TokenCipher([generate_key()])

    sealed = cipher.encrypt(_SECRET, SecretPurpose.BOT_TOKEN, "org_a", "wsp_1")

    assert _SECRET.get_secret_value().encode() not in sealed
    assert cipher.decrypt(sealed, SecretPurpose.BOT_TOKEN, "org_a", "wsp_1") == _SECRET


@pytest.mark.parametrize(
    ("purpose", "owner"),
    [
        pytest.param(SecretPurpose.BOT_TOKEN, ("org_b", "wsp_1"), id="another organization"),
        pytest.param(SecretPurpose.BOT_TOKEN, ("org_a", "wsp_2"), id="another row"),
        pytest.param(SecretPurpose.SUBMIT_KEY, ("org_a", "wsp_1"), id="another purpose"),
        pytest.param(SecretPurpose.BOT_TOKEN, ("org_a",), id="a shorter owner"),
    ],
)
def test_a_secret_copied_elsewhere_is_refused(purpose: SecretPurpose, owner: tuple[str, ...]) -> None:
    cipher = TokenCipher([generate_key()])
    sealed = cipher.encrypt(_SECRET, SecretPurpose.BOT_TOKEN, "org_a", "wsp_1")

    with pytest.raises(CredentialsError) as refused:
        cipher.decrypt(sealed, purpose, *owner)

    assert refused.value.code == "secret_misplaced"
    assert _SECRET.get_secret_value() not in str(refused.value)


def test_older_secrets_stay_readable_behind_a_new_first_key() -> None:
    old, new = generate_key(), generate_key()
    sealed = TokenCipher([old]).encrypt(_SECRET, SecretPurpose.WEBHOOK_SECRET, "org_a")

    both = TokenCipher([new, old])

    assert both.decrypt(sealed, SecretPurpose.WEBHOOK_SECRET, "org_a") == _SECRET
    assert not both.is_current(sealed)


def test_a_rotated_secret_needs_the_old_key_no_more_and_keeps_its_binding() -> None:
    old, new = generate_key(), generate_key()
    sealed = TokenCipher([old]).encrypt(_SECRET, SecretPurpose.WEBHOOK_SECRET, "org_a")

    rotated = TokenCipher([new, old]).rotate(sealed)

    assert rotated is not None
    only_new = TokenCipher([new])
    assert only_new.is_current(rotated)
    assert only_new.decrypt(rotated, SecretPurpose.WEBHOOK_SECRET, "org_a") == _SECRET
    with pytest.raises(CredentialsError):
        only_new.decrypt(rotated, SecretPurpose.WEBHOOK_SECRET, "org_b")


def test_a_secret_of_a_forgotten_key_is_told_apart_from_a_damaged_row() -> None:
    sealed = TokenCipher([generate_key()]).encrypt(_SECRET, SecretPurpose.BOT_TOKEN, "org_a", "wsp_1")
    stranger = TokenCipher([generate_key()])

    with pytest.raises(CredentialsError) as refused:
        stranger.decrypt(sealed, SecretPurpose.BOT_TOKEN, "org_a", "wsp_1")

    assert refused.value.code == "secret_unreadable"
    assert stranger.rotate(sealed) is None


@pytest.mark.parametrize("key", ["", "short", "x" * 44, "not base64 !"])
def test_a_bad_key_is_named_by_its_position_and_not_shown(key: str) -> None:
    with pytest.raises(InvalidInputError, match="key number 2") as refused:
        TokenCipher([generate_key(), SecretStr(key)])

    assert not key or key not in str(refused.value)


def test_no_key_at_all_says_how_to_make_one() -> None:
    with pytest.raises(InvalidInputError, match="nubabel keys generate"):
        TokenCipher([])
