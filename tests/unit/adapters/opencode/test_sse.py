"""Bytes in, events out."""

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nubabel_workers.adapters.opencode import (
    Disposed,
    EventDecoder,
    Heartbeat,
    MessageUpdated,
    PermissionAsked,
    QuestionAsked,
    ServerConnected,
    ServerEvent,
    SessionError,
    SessionIdle,
    SessionStatus,
    TextDelta,
    ToolUpdate,
)
from nubabel_workers.domain.verdict import BUSY, Role, SessionActivity, SessionState

SESSION = "ses_e04562134ffe0oSJVu2NAsQvXL"
MESSAGE = "msg_1fba9def3001VafBB73dDVvUvA"
PART = "prt_1fba9df1b001rgNy3AZDh2LSsf"
DIRECTORY = "/data/t1"


def frame(kind: str, properties: dict[str, Any], *, directory: str | None = DIRECTORY) -> bytes:
    payload = {"id": "evt_1fba9df1c001fFH0Xw2Hoi4F2X", "type": kind, "properties": properties}
    envelope = {"directory": directory, "project": "global", "payload": payload} if directory else {"payload": payload}
    return b"data: " + json.dumps(envelope, separators=(",", ":")).encode() + b"\n\n"


def sync(kind: str, data: dict[str, Any]) -> bytes:
    event = {"id": "evt_1", "type": f"{kind}.1", "seq": 4, "aggregateID": SESSION, "data": data}
    envelope = {"directory": DIRECTORY, "project": "global", "payload": {"type": "sync", "syncEvent": event}}
    return b"data: " + json.dumps(envelope, separators=(",", ":")).encode() + b"\n\n"


def delta(text: str, *, part: str = PART, session: str = SESSION) -> bytes:
    return frame(
        "message.part.delta",
        {"sessionID": session, "messageID": MESSAGE, "partID": part, "field": "text", "delta": text},
    )


def part(kind: str, **fields: Any) -> dict[str, Any]:
    shown = {"id": PART, "messageID": MESSAGE, "sessionID": SESSION, "type": kind, **fields}
    return {"sessionID": SESSION, "part": shown, "time": 1795223576345}


def tool(status: str, **state: Any) -> bytes:
    shown = {"status": status, "input": {"command": "ls", "description": "list"}, **state}
    return frame("message.part.updated", part("tool", tool="bash", callID="call_1", state=shown))


IDLE = frame("session.idle", {"sessionID": SESSION})


def decoded(*frames: bytes, watched: frozenset[str] = frozenset()) -> list[ServerEvent]:
    return EventDecoder(watched=watched).feed(b"".join(frames))


@pytest.mark.parametrize(
    ("told", "event"),
    [
        (frame("server.connected", {}, directory=None), ServerConnected()),
        (frame("server.heartbeat", {}, directory=None), Heartbeat()),
        (frame("server.instance.disposed", {"directory": "/data/t2"}), Disposed("/data/t2")),
        (frame("global.disposed", {}), Disposed(None)),
        (IDLE, SessionIdle(SESSION)),
        (frame("session.status", {"sessionID": SESSION, "status": {"type": "busy"}}), SessionStatus(SESSION, BUSY)),
        (
            frame(
                "session.status",
                {"sessionID": SESSION, "status": {"type": "retry", "attempt": 1, "message": "m", "next": 5}},
            ),
            SessionStatus(SESSION, SessionState(SessionActivity.RETRY, 1, "m", 5)),
        ),
        (
            frame("session.error", {"sessionID": SESSION, "error": {"name": "APIError", "data": {"message": "a\nb"}}}),
            SessionError(SESSION, "APIError", "a"),
        ),
        (frame("session.error", {"error": {"name": "UnknownError"}}), SessionError(None, "UnknownError", "")),
        (
            frame("permission.asked", {"id": "per_1", "sessionID": SESSION, "permission": "bash", "patterns": ["ls"]}),
            PermissionAsked("per_1", SESSION, "bash", ("ls",), DIRECTORY),
        ),
        (
            frame("question.asked", {"id": "que_1", "sessionID": SESSION, "questions": [{"question": "?"}]}),
            QuestionAsked("que_1", SESSION, ({"question": "?"},), DIRECTORY),
        ),
        (tool("running"), ToolUpdate(SESSION, MESSAGE, "call_1", "bash", "running", "list")),
        (
            tool("completed", title="ls", output="x" * 5000),
            ToolUpdate(SESSION, MESSAGE, "call_1", "bash", "completed", "ls"),
        ),
    ],
)
def test_wanted_frame_becomes_an_event(told: bytes, event: ServerEvent) -> None:
    assert decoded(told) == [event]


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(delta("word "), id="text delta"),
        pytest.param(frame("message.updated", {"sessionID": SESSION, "info": {"role": "assistant"}}), id="message"),
        pytest.param(frame("message.part.updated", part("text", text='"type":"tool" session.idle')), id="text part"),
        pytest.param(frame("session.updated", {"sessionID": SESSION, "info": {}}), id="session"),
        pytest.param(frame("session.diff", {"sessionID": SESSION, "diff": []}), id="diff"),
        pytest.param(sync("message.part.updated", part("tool", tool="bash")), id="sync of a tool"),
        pytest.param(sync("session.idle", {"sessionID": SESSION}), id="sync"),
        pytest.param(frame("file.edited", {"type": "session.idle", "sessionID": SESSION}), id="type further inside"),
    ],
)
def test_other_frames_are_dropped(told: bytes) -> None:
    decoder = EventDecoder()

    assert decoder.feed(told) == []
    assert (decoder.frames, decoder.rejected) == (1, 0)


def test_directory_with_quotes_hides_no_type() -> None:
    assert decoded(frame("session.idle", {"sessionID": SESSION}, directory='/d/"type":"sync"')) == [
        SessionIdle(SESSION)
    ]


def test_very_long_directory_hides_no_type() -> None:
    assert decoded(frame("session.idle", {"sessionID": SESSION}, directory="/d" * 2000)) == [SessionIdle(SESSION)]


def test_text_is_told_for_watched_sessions_only() -> None:
    others = delta("no", session="ses_other")

    events = decoded(delta("yes "), others, delta("indeed"), watched=frozenset({SESSION}))

    assert events == [TextDelta(SESSION, MESSAGE, PART, "yes "), TextDelta(SESSION, MESSAGE, PART, "indeed")]


def test_watching_can_begin_and_end_at_any_time() -> None:
    watched: set[str] = set()
    decoder = EventDecoder(watched=watched)

    before = decoder.feed(delta("a"))
    watched.add(SESSION)
    during = decoder.feed(delta("b"))
    watched.clear()
    after = decoder.feed(delta("c"))

    assert (before, during, after) == ([], [TextDelta(SESSION, MESSAGE, PART, "b")], [])


def test_thoughts_are_no_answer() -> None:
    thought = "prt_1fba9df1b001thoughtthought1"
    begun = frame("message.part.updated", {"sessionID": SESSION, "part": {"id": thought, "type": "reasoning"}})

    events = decoded(begun, delta("hm", part=thought), delta("yes"), watched=frozenset({SESSION}))

    assert events == [TextDelta(SESSION, MESSAGE, PART, "yes")]


def test_repeated_state_of_a_tool_is_told_once() -> None:
    outputs = [tool("running", metadata={"output": "x" * n}) for n in range(5)]

    events = decoded(tool("pending"), *outputs, tool("completed", title="ls"))

    assert [event.status for event in events if isinstance(event, ToolUpdate)] == ["pending", "running", "completed"]


def test_a_call_of_a_later_message_under_the_same_id_is_told() -> None:
    first, second = tool("running"), tool("running").replace(MESSAGE.encode(), b"msg_later")

    events = decoded(first, second, first)

    assert [event.message_id for event in events if isinstance(event, ToolUpdate)] == [MESSAGE, "msg_later"]


@pytest.mark.parametrize(
    "garbage",
    [
        b"\n\n",
        b"data: \n\n",
        b": a comment\n\n",
        b"nonsense\n\n",
        b'data: {"type":"session.idle"\n\n',
        b'data: {"type":"session.idle"}\n\n',
        b'data: {"payload":{"type":"session.idle","properties":{"sessionID":5}}}\n\n',
        b'data: {"payload":{"type":"session.status","properties":{"sessionID":"s","status":"busy"}}}\n\n',
        b'data: {"payload":{"type":"permission.asked","properties":{}}}\n\n',
        b'data: [{"type":"session.error"}]\n\n',
        b"\xff\xfe\x00\n\n",
    ],
)
def test_garbage_is_survived(garbage: bytes) -> None:
    decoder = EventDecoder()

    assert decoder.feed(garbage + IDLE) == [SessionIdle(SESSION)]


def test_comment_before_the_data_is_ignored() -> None:
    assert decoded(b": keep-alive\n" + IDLE) == [SessionIdle(SESSION)]


def test_oversized_frame_is_skipped_in_bounded_memory() -> None:
    decoder = EventDecoder(max_frame_bytes=1000)
    huge = b'data: {"payload":{"type":"session.idle","x":"' + b"y" * 5000

    first = [event for at in range(0, len(huge), 100) for event in decoder.feed(huge[at : at + 100])]
    rest = decoder.feed(b'"}}\n\n' + IDLE)

    assert first == []
    assert rest == [SessionIdle(SESSION)]
    assert decoder.rejected == 1


def test_end_of_an_oversized_frame_may_be_cut_in_two() -> None:
    decoder = EventDecoder(max_frame_bytes=10)

    events = [*decoder.feed(b"x" * 50), *decoder.feed(b"y\n"), *decoder.feed(b"\n" + IDLE)]

    assert events == [SessionIdle(SESSION)]


STREAM = b"".join(
    [tool("pending"), delta("안녕 "), IDLE, frame("server.heartbeat", {}, directory=None), tool("running"), IDLE]
)


@given(st.lists(st.integers(min_value=0, max_value=len(STREAM)), max_size=12))
def test_chunks_may_be_cut_anywhere(cuts: list[int]) -> None:
    watched = frozenset({SESSION})
    decoder = EventDecoder(watched=watched)
    edges = [0, *sorted(cuts), len(STREAM)]

    events = [e for start, end in itertools.pairwise(edges) for e in decoder.feed(STREAM[start:end])]

    assert events == decoded(STREAM, watched=watched)


def test_messages_are_told_to_those_who_ask_for_them() -> None:
    info = {"id": MESSAGE, "role": "assistant", "parentID": "msg_1", "time": {"created": 7, "completed": 9}}
    told = frame("message.updated", {"sessionID": SESSION, "info": info | {"summary": True}})

    assert EventDecoder(messages=True).feed(told) == [
        MessageUpdated(SESSION, MESSAGE, Role.ASSISTANT, "msg_1", 7, completed=True, summary=True)
    ]
    assert EventDecoder().feed(told) == []


@pytest.mark.parametrize("info", [None, {}, {"id": MESSAGE}, {"id": MESSAGE, "role": "owner"}])
def test_message_of_another_shape_is_counted_and_left_out(info: object) -> None:
    decoder = EventDecoder(messages=True)

    assert decoder.feed(frame("message.updated", {"sessionID": SESSION, "info": info})) == []
    assert decoder.rejected == 1
