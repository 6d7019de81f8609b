"""Bytes of OpenCode's event stream that are not as they should be: what is good among them is told, none raises."""

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nubabel_workers.adapters.opencode import EventDecoder, SessionIdle, events, new_stream_session
from nubabel_workers.domain.errors import NubabelError
from tasks.runtime import LoopThread
from tests.faults.raw_input.amount import cases
from tests.faults.raw_input.raw_server import RawServer, answers, raw_server
from tests.faults.raw_input.values import RAW, as_json, each_spoiled, spoiled

_IDS = {"sessionID": "ses_1", "messageID": "msg_1", "partID": "prt_1"}
_TOOL = {"type": "tool", "callID": "c", "tool": "bash", "messageID": "msg_1"}
_STATE = {"status": "running", "title": "t", "input": {"description": "d"}}
_PROPERTIES: dict[str, dict[str, Any]] = {
    "server.connected": {},
    "server.heartbeat": {},
    "server.instance.disposed": {"directory": "/x"},
    "global.disposed": {},
    "session.idle": {"sessionID": "ses_1"},
    "session.status": {"sessionID": "ses_1", "status": {"type": "retry", "attempt": 1, "message": "m", "next": 5}},
    "session.error": {"sessionID": "ses_1", "error": {"name": "APIError", "data": {"message": "m", "statusCode": 500}}},
    "permission.asked": {"id": "per_1", "sessionID": "ses_1", "permission": "bash", "patterns": ["*"]},
    "question.asked": {"id": "que_1", "sessionID": "ses_1", "questions": [{"question": "q"}]},
    "message.part.updated": {**_IDS, "part": {**_TOOL, "state": _STATE}},
    "message.part.delta": {**_IDS, "field": "text", "delta": "hello"},
}
_GOOD = b'data: {"payload":{"type":"session.idle","properties":{"sessionID":"ses_good"}}}\n\n'


def frame(event: object) -> bytes:
    """As OpenCode writes it: without spaces."""
    return b"data: " + as_json(event).replace(b'": ', b'":').replace(b', "', b',"') + b"\n\n"


def event(kind: str) -> dict[str, Any]:
    return {"directory": "/x", "project": "p", "payload": {"id": "evt", "type": kind, "properties": _PROPERTIES[kind]}}


def decoder() -> EventDecoder:
    return EventDecoder(watched={"ses_1"}, max_frame_bytes=100_000)


frames = st.one_of(
    st.sampled_from(sorted(_PROPERTIES)).map(event).flatmap(spoiled).map(frame),
    RAW.map(lambda raw: b"data: " + raw + b"\n\n"),
    RAW,
    st.sampled_from(
        [b": comment\n\n", b"\n", b"\r\n\r\n", b"event: x\nid: 1\nretry: x\n\n", b"data:\n\n", b"\xef\xbb\xbf"]
    ),
)
streams = st.lists(frames, max_size=6).map(b"".join)


@pytest.mark.parametrize("kind", _PROPERTIES)
def test_an_event_with_any_part_wrong_does_no_harm(kind: str) -> None:
    for spoiled_event in each_spoiled(event(kind)):
        fed = decoder()

        told = fed.feed(frame(spoiled_event) + _GOOD)

        assert told[-1] == SessionIdle("ses_good")


@given(stream=streams, cuts=st.lists(st.integers(0, 2_000), max_size=5))
@cases(500)
def test_garbage_hides_nothing_that_follows_however_the_bytes_arrive(stream: bytes, cuts: list[int]) -> None:
    whole = stream + b"\n\n" + _GOOD
    edges = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    in_pieces = decoder()

    told = [one for start, end in pairwise(edges) for one in in_pieces.feed(whole[start:end])]

    assert told[-1] == SessionIdle("ses_good")
    assert told == decoder().feed(whole)


@pytest.fixture(scope="module")
def server(loop: LoopThread) -> Iterator[RawServer]:
    with raw_server(loop) as running:
        yield running


@given(answer=answers(streams, b"text/event-stream"))
@cases(150)
def test_any_stream_ends_with_an_error_of_ours(loop: LoopThread, server: RawServer, answer: bytes) -> None:
    server.answer = answer

    async def follow() -> None:
        async with (
            new_stream_session() as session,
            aclosing(events(session, server.url, rest_s=0, silence_s=3)) as bursts,
        ):
            async for _burst in bursts:
                await asyncio.sleep(0)

    with suppress(NubabelError):
        loop.run(follow(), timeout_s=10)
        raise AssertionError("a stream never ends by itself")
