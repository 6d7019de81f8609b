"""Signatures of an OpenCode server's plugin: what is accepted, and every way of being refused."""

import hashlib
import hmac
from dataclasses import replace

import pytest
from pydantic import SecretStr

from nubabel_workers.domain.callback_signature import (
    WINDOW_S,
    Proof,
    SignedCall,
    check_proof,
    read_proof,
    signature_of,
)
from nubabel_workers.domain.errors import CredentialsError

KEY = SecretStr("nck_" + "k" * 43)
OTHER_KEY = SecretStr("nck_" + "o" * 43)
NOW_S = 1_795_000_000
CALL = SignedCall("POST", b"/api/sidecar/sessions/ses_1/update?x=1", b'{"type":"session.idle"}')
NONCE = "n" * 16


def signed(call: SignedCall = CALL, *, key: SecretStr = KEY, at_s: int = NOW_S) -> Proof:
    timestamp = str(at_s)
    return Proof("ins_1", timestamp, NONCE, signature_of(call, key, timestamp=timestamp, nonce=NONCE))


def headers(**changes: str) -> dict[str, str]:
    good = {"instance": "ins_1", "timestamp": str(NOW_S), "nonce": NONCE, "signature": "v1=" + "0" * 64}
    return {f"x-nubabel-{name}": value for name, value in (good | changes).items()}


def test_the_signature_is_over_time_nonce_method_target_and_body() -> None:
    text = f"v1:{NOW_S}:{NONCE}:POST:/api/sidecar/sessions/ses_1/update?x=1:".encode() + CALL.body

    expected = hmac.new(KEY.get_secret_value().encode(), text, hashlib.sha256).hexdigest()

    assert signed().signature == f"v1={expected}"


@pytest.mark.parametrize("keys", [(KEY,), (KEY, OTHER_KEY), (OTHER_KEY, KEY)], ids=["one", "newest", "before"])
def test_either_of_two_keys_is_good(keys: tuple[SecretStr, ...]) -> None:
    check_proof(signed(), CALL, keys, now_s=NOW_S)


def test_an_empty_body_is_signed_too() -> None:
    empty = replace(CALL, body=b"")

    check_proof(signed(empty), empty, (KEY,), now_s=NOW_S)


@pytest.mark.parametrize("off_s", [-WINDOW_S, 0, WINDOW_S])
def test_within_the_window_it_is_accepted(off_s: int) -> None:
    check_proof(signed(at_s=NOW_S + off_s), CALL, (KEY,), now_s=NOW_S)


@pytest.mark.parametrize("off_s", [-WINDOW_S - 1, WINDOW_S + 1])
def test_outside_of_the_window_it_is_refused(off_s: int) -> None:
    with pytest.raises(CredentialsError) as refused:
        check_proof(signed(at_s=NOW_S + off_s), CALL, (KEY,), now_s=NOW_S)

    assert refused.value.code == "signature_too_old"


@pytest.mark.parametrize(
    "sent",
    [
        replace(CALL, method="PUT"),
        replace(CALL, target=b"/api/sidecar/sessions/ses_2/update?x=1"),
        replace(CALL, target=b"/api/sidecar/sessions/ses_1/update"),
        replace(CALL, body=b'{"type":"session.error"}'),
        replace(CALL, body=b""),
    ],
    ids=["method", "path", "query", "body", "no body"],
)
def test_what_is_changed_on_the_way_is_refused(sent: SignedCall) -> None:
    with pytest.raises(CredentialsError) as refused:
        check_proof(signed(), sent, (KEY,), now_s=NOW_S)

    assert refused.value.code == "bad_signature"


@pytest.mark.parametrize("changes", [{"timestamp": str(NOW_S + 1)}, {"nonce": "m" * 16}], ids=["time", "nonce"])
def test_time_and_nonce_cannot_be_changed(changes: dict[str, str]) -> None:
    with pytest.raises(CredentialsError, match="fits no callback key"):
        check_proof(replace(signed(), **changes), CALL, (KEY,), now_s=NOW_S)


@pytest.mark.parametrize("keys", [(), (OTHER_KEY,)], ids=["no key", "another server's key"])
def test_without_the_right_key_it_is_refused(keys: tuple[SecretStr, ...]) -> None:
    with pytest.raises(CredentialsError) as refused:
        check_proof(signed(), CALL, keys, now_s=NOW_S)

    assert refused.value.code == "bad_signature"


def test_a_server_without_keys_accepts_nothing_not_even_what_is_signed_with_its_stand_in() -> None:
    with pytest.raises(CredentialsError):
        check_proof(signed(key=SecretStr("no key")), CALL, (), now_s=NOW_S)


def test_headers_are_read() -> None:
    assert read_proof(headers()) == Proof("ins_1", str(NOW_S), NONCE, "v1=" + "0" * 64)


@pytest.mark.parametrize(
    "changes",
    [
        {"instance": ""},
        {"instance": "org_1"},
        {"timestamp": "-1"},
        {"timestamp": "1e9"},
        {"timestamp": "9" * 40},
        {"timestamp": "\u0661\u0662"},
        {"nonce": "short"},
        {"nonce": "n" * 65},
        {"nonce": "n" * 15 + " "},
        {"signature": "0" * 64},
        {"signature": "v1=" + "0" * 63},
        {"signature": "v1=" + "g" * 64},
        {"signature": "v2=" + "0" * 64},
    ],
)
def test_malformed_headers_are_refused_by_name(changes: dict[str, str]) -> None:
    (name,) = changes

    with pytest.raises(CredentialsError, match=f"x-nubabel-{name}") as refused:
        read_proof(headers(**changes))

    assert refused.value.code == "unsigned"


def test_a_proof_shows_no_signature() -> None:
    assert signed().signature not in repr(signed())
