"""Server-sent events from bytes, however they are cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nubabel_workers.client.event_decoder import EventDecoder, ServerSentEvent

STREAM = (
    '\ufeff: heartbeat\n\nid: 1-0\nevent: tool\ndata: {"a":1}\n\ndata: first\ndata:second\r\n\r\n'
    "event: empty\n\nid: 2-0\revent: 끝\rdata: 둘\r\rdata: cut off"
).encode()
EVENTS = [
    ServerSentEvent("tool", '{"a":1}', "1-0"),
    ServerSentEvent("message", "first\nsecond", "1-0"),
    ServerSentEvent("끝", "둘", "2-0"),
]


def test_a_stream_is_its_events() -> None:
    assert EventDecoder().feed(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_where_the_chunks_are_cut_makes_no_difference(cuts: list[int]) -> None:
    decoder = EventDecoder()
    edges = [0, *sorted(cuts), len(STREAM)]

    found = [event for start, end in itertools.pairwise(edges) for event in decoder.feed(STREAM[start:end])]

    assert found == EVENTS


def test_an_id_with_nul_is_ignored() -> None:
    assert EventDecoder().feed(b"id: 1\n\nid: 2\x00\ndata: x\n\n") == [ServerSentEvent("message", "x", "1")]


def test_an_event_without_end_is_refused() -> None:
    decoder = EventDecoder()

    for _ in range(83):
        decoder.feed(b"data: " + b"x" * 100_000 + b"\n")
    with pytest.raises(ValueError, match="too large"):
        decoder.feed(b"data: " + b"x" * 100_000 + b"\n")
