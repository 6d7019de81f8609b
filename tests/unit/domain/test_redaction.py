"""What is kept of values from outside."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nubabel_workers.domain.redaction import CUT, MASK, kept, masked, without


@pytest.mark.parametrize(
    "secret",
    [
        "xoxb-123456789012-abcdef",
        "ghp_0123456789abcdefghijABCDEFGHIJ012345",
        "sk-proj-0123456789abcdefghij",
        "ntn_0123456789abcdefghijklmn",
        "AKIAIOSFODNN7EXAMPLE",
        "nbt_01m8geqq5z5mh14s23ndbfjdbx_0123456789abcdefghijABCDEFGHIJ0123456789abc",
        *(f"nb{kind}_0123456789abcdefghijABCDEFGHIJ0123456789abc" for kind in "ko"),
        "nck_0123456789abcdefghijABCDEFGHIJ0123456789abc",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "Bearer abcdefgh12345678",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_a_text_is_kept_without_what_looks_like_a_secret(secret: str) -> None:
    assert masked(f"before {secret} after") == f"before {MASK} after"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("https://host/path?token=abc123&x=1", "abc123"),
        ("postgres://user:hunter22@host/db", "hunter22"),
        ('{"q":"x", "api_key=zzz999"}', "zzz999"),
    ],
)
def test_a_secret_inside_of_an_address_is_masked(text: str, secret: str) -> None:
    assert secret not in masked(text)


def test_ordinary_text_stays_as_it_is() -> None:
    text = "The token count is 512, see https://example.com/a?b=c; task-1234567890123456"

    assert masked(text) == text


def test_values_are_masked_by_the_names_of_their_keys() -> None:
    value = {"password": "a", "nested": [{"apiKey": "b", "client_secret": ["c"]}], "max_tokens": 5, "title": "d"}

    assert kept(value, max_chars=1000).value == {
        "password": MASK,
        "nested": [{"apiKey": MASK, "client_secret": MASK}],
        "max_tokens": 5,
        "title": "d",
    }


def test_a_known_secret_goes_even_from_the_middle_of_a_word() -> None:
    assert without("x-opensesame-y", {"opensesame"}) == f"x-{MASK}-y"


def test_a_known_value_too_short_to_be_a_secret_leaves_the_text_alone() -> None:
    assert without("a b c", {"a"}) == "a b c"


def test_what_is_too_long_is_cut_and_said_to_be() -> None:
    short = kept({"text": "a" * 10_000, "id": 7}, max_chars=1000)

    assert short.changed
    assert short.value["id"] == 7
    assert short.value["text"].endswith(CUT)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=60,
)


@given(JSON_VALUES, st.integers(200, 2000))
def test_whatever_comes_is_kept_within_its_bound(value: Any, max_chars: int) -> None:
    assert len(json.dumps(kept(value, max_chars=max_chars).value, ensure_ascii=False)) <= 2 * max_chars + 20
