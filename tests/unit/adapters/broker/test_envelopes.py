import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nubabel_workers.adapters.broker.envelopes import (
    MAX_PAYLOAD_BYTES,
    BadEnvelopeError,
    check_envelope,
    storable_headers,
    storable_payload,
)
from nubabel_workers.adapters.broker.messages import compose_message

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


def test_a_message_of_ours_is_an_envelope() -> None:
    check_envelope(compose_message("dead-letter", "dead_letters.park", {"a": 1}, task_id="1", delivery_tag="2"))


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"\xff", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no properties"),
        (b'{"properties": {"delivery_tag": ""}}', "no delivery_tag"),
        (b'{"properties": {"delivery_tag": "1", "delivery_info": {"exchange": ""}}}', "routing_key"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"__type__": "nobody", "__value__": 1}', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        ("{}".encode("utf-16"), "not JSON"),
    ],
)
def test_what_is_wrong_is_said(raw: bytes, problem: str) -> None:
    with pytest.raises(BadEnvelopeError, match=problem):
        check_envelope(raw)


@settings(max_examples=40, deadline=None)
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_is_either_an_envelope_or_refused(raw: bytes) -> None:
    try:
        check_envelope(raw)
    except BadEnvelopeError:
        return


@settings(max_examples=40, deadline=None)
@given(st.binary() | st.text() | JSON)
def test_any_payload_becomes_text_that_postgresql_takes(raw: object) -> None:
    text = storable_payload(raw)

    assert "\x00" not in text
    assert len(text.encode()) <= MAX_PAYLOAD_BYTES


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text() | st.integers(), JSON) | JSON)
def test_any_headers_become_a_small_flat_object(headers: object) -> None:
    stored = storable_headers(headers)

    assert len(json.dumps(stored).encode()) < 1_000_000
    assert not any("\x00" in text for text in (*stored, *stored.values()) if isinstance(text, str))


def test_a_payload_is_cut_between_characters() -> None:
    text = storable_payload("한" * 30_000)

    assert set(text) == {"한"}
    assert len(text.encode()) == MAX_PAYLOAD_BYTES - MAX_PAYLOAD_BYTES % 3
