"""Submissions as values: what fits, and what a signature covers."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from nubabel_workers.domain.errors import CredentialsError, InvalidInputError
from nubabel_workers.domain.submission import (
    MAX_METADATA_BYTES,
    SubmitRequest,
    canonical_json,
    check_signature,
    read_submission,
    sign,
)

SECRET = SecretStr("nbk_secret")
NOW = 1_795_224_041

_interoperable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text("ab가", max_size=3), children, max_size=3)
    ),
    max_leaves=10,
)


def signed(request: dict[str, Any]) -> dict[str, Any]:
    return sign(request, key_id="key_1", secret=SECRET, issued_at=NOW, nonce="n" * 16)


@given(_interoperable)
def test_a_signature_survives_the_way_as_json(value: Any) -> None:
    on_the_wire = json.loads(json.dumps(signed({"prompt": "x", "metadata": {"value": value}})))

    check_signature(on_the_wire, SECRET, now_s=NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"request": {"prompt": "y"}},
        {"key_id": "key_2"},
        {"issued_at": NOW + 1},
        {"nonce": "m" * 16},
        {"version": 2},
        {"more": 1},
    ],
    ids=str,
)
def test_a_signature_covers_everything(change: dict[str, Any]) -> None:
    with pytest.raises(CredentialsError):
        check_signature(signed({"prompt": "x"}) | change, SECRET, now_s=NOW)


@pytest.mark.parametrize("signature", [None, "", "가", 5, "0" * 64])
def test_what_is_no_signature_is_refused(signature: object) -> None:
    with pytest.raises(CredentialsError):
        check_signature(signed({"prompt": "x"}) | {"signature": signature}, SECRET, now_s=NOW)


@pytest.mark.parametrize(("now_s", "fits"), [(NOW, True), (NOW + 300, True), (NOW + 301, False), (NOW - 301, False)])
def test_a_signature_ends(now_s: float, fits: bool) -> None:
    if fits:
        check_signature(signed({"prompt": "x"}), SECRET, now_s=now_s)
        return
    with pytest.raises(CredentialsError) as refused:
        check_signature(signed({"prompt": "x"}), SECRET, now_s=now_s)
    assert refused.value.code == "signature_too_old"


def test_the_signed_form_is_what_other_languages_compute() -> None:
    """Sorted names, no spaces, UTF-8, numbers as ECMAScript writes them: RFC 8785."""
    value = {"b": [1.0, 1e21, 0.000001, -0.0], "a": '가"\n\x7f', "A": None, "é": True}

    assert canonical_json(value).decode() == '{"A":null,"a":"가\\"\\n\x7f","b":[1,1e+21,0.000001,0],"é":true}'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**53, "\ud800", {"\ud800": 1}, {1: 1}, {1}], ids=repr)
def test_what_is_no_interoperable_json_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError):
        canonical_json(value)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"metadata": {"a": "x" * MAX_METADATA_BYTES}}, "larger than"),
        ({"metadata": {"a": {"b": "\x00"}}}, "U+0000"),
        ({"metadata": {"\x00": 1}}, "U+0000"),
        ({"metadata": {"a": [1e21]}}, "2^53"),
        ({"metadata": {"a": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}}, "nested"),
        ({"session_id": "ses_" + "0" * 26, "session_key": "k"}, "not both"),
        ({"session_key": "with space"}, "session_key"),
        ({"model": "no-provider"}, "model"),
        ({"callback_url": "javascript:alert(1)"}, "callback_url"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": True}, "deadline_s"),
        ({"prompt": " \n"}, "prompt"),
    ],
)
def test_what_does_not_fit_is_named_without_its_value(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(word)) as refused:
        read_submission({"version": 1, "request": {"prompt": "Hello", **fields}})
    assert "x" * 20 not in str(refused.value)


def test_leaving_out_and_saying_null_ask_for_the_same() -> None:
    assert SubmitRequest(prompt="x").content_hash() == SubmitRequest(prompt="x", skills=None).content_hash()
    assert SubmitRequest(prompt="x").content_hash() != SubmitRequest(prompt="x", skills=[]).content_hash()
