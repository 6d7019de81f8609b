"""Bytes of `/global/event` in, events out. Pure, and the hottest code of the listener.

An answer of 200 words is about 240 frames, of which a dozen matter. A frame is one line,

    data: {"directory":"…","project":"…","payload":{"id":"evt_…","type":"session.idle","properties":{…}}}

so its type is what follows the first `"type":"`: nothing before it can contain these bytes, because quotes inside of
JSON strings are escaped. Only frames of a wanted type are parsed. Changes are sent a second time as type `sync`; they
are dropped with everything else that nobody needs. Measured on opencode 1.18.33.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any

import orjson

from nubabel_workers.adapters.opencode.decoding import message_of, run_error, status_of
from nubabel_workers.domain.opencode_events import (
    Disposed,
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

_FRAME_END = b"\n\n"
_DATA = b"data:"
_TYPE = b'"type":"'
_QUOTE = b'"'
_SESSION = b'"sessionID":"'
_PART_ID = b'"id":"prt_'
_TEXT_DELTA = b"message.part.delta"
_PART_UPDATED = b"message.part.updated"
_MESSAGE_UPDATED = b"message.updated"
_TOOL_PART = b'"type":"tool"'
_REASONING_PART = b'"type":"reasoning"'
# A part's own type stands within this many bytes of the frame's type: ids, nothing longer, come before it.
_PART_HEAD = 512
_MAX_FRAME_BYTES = 16 * 1024 * 1024
_MAX_REMEMBERED = 4096
_MAX_TITLE = 200


class EventDecoder:
    """Feed it the chunks of one connection, in order; make a new one for each connection.

    watched: ids of sessions whose text deltas are wanted. The set is looked at for every delta, so the caller may
    change it at any time. messages: whether MessageUpdated is wanted, of all sessions.
    """

    def __init__(
        self,
        *,
        watched: AbstractSet[str] = frozenset(),
        messages: bool = False,
        max_frame_bytes: int = _MAX_FRAME_BYTES,
    ) -> None:
        self.frames = 0
        self.rejected = 0  # undecodable or oversized frames
        self._watched = watched
        self._messages = messages
        self._max_frame_bytes = max_frame_bytes
        self._tail = b""
        self._skipping = False  # inside of a frame that is too long to keep
        self._tools: dict[tuple[str, str, str], tuple[str, str | None]] = {}  # call -> what was last told of it
        self._reasoning: dict[bytes, None] = {}  # parts whose deltas are the model's thoughts, not its answer

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """The events of every frame that this chunk completes."""
        frames = (self._tail + chunk if self._tail else chunk).split(_FRAME_END)
        self._tail = frames.pop()
        if self._skipping and frames:
            self._skipping = False
            del frames[0]
        if len(self._tail) > self._max_frame_bytes or self._skipping:
            self.rejected += not self._skipping
            self._skipping = True
            self._tail = self._tail[-1:]  # half of a frame's end may be in it
        events: list[ServerEvent] = []
        watched = self._watched
        for frame in frames:
            start = frame.find(_TYPE) + len(_TYPE)
            kind = frame[start : frame.find(_QUOTE, start)]
            if kind == _TEXT_DELTA:
                if watched:
                    self._add(events, frame, self._text_delta(frame, start))
            elif kind == _PART_UPDATED:
                self._part_updated(events, frame, start)
            elif kind == _MESSAGE_UPDATED:
                self._add(events, frame, _message_updated if self._messages else None)
            elif (read := _READERS.get(kind)) is not None:
                self._add(events, frame, read)
        self.frames += len(frames)
        return events

    def _add(self, events: list[ServerEvent], frame: bytes, read: "_Reader | None") -> None:
        if read is None:
            return
        try:
            envelope = orjson.loads(_json_of(frame))
            event = read(envelope["payload"]["properties"], envelope.get("directory"))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError):
            self.rejected += 1
            return
        if event is not None and (not isinstance(event, ToolUpdate) or self._is_news(event)):
            events.append(event)

    def _text_delta(self, frame: bytes, start: int) -> "_Reader | None":
        at = frame.find(_SESSION, start) + len(_SESSION)
        session_id = frame[at : frame.find(_QUOTE, at)].decode("utf-8", "replace")
        if session_id not in self._watched:
            return None
        return self._read_delta

    def _read_delta(self, properties: dict[str, Any], _directory: str | None) -> TextDelta | None:
        if properties["field"] != "text" or properties["partID"].encode() in self._reasoning:
            return None
        return TextDelta(
            _text(properties["sessionID"]),
            _text(properties["messageID"]),
            _text(properties["partID"]),
            _text(properties["delta"]),
        )

    def _part_updated(self, events: list[ServerEvent], frame: bytes, start: int) -> None:
        end = start + _PART_HEAD
        if frame.find(_TOOL_PART, start, end) >= 0:
            self._add(events, frame, _tool_update)
        elif frame.find(_REASONING_PART, start, end) >= 0 and (at := frame.find(_PART_ID, start, end)) >= 0:
            at += len(b'"id":"')
            _remember(self._reasoning, frame[at : frame.find(_QUOTE, at)], None)

    def _is_news(self, update: ToolUpdate) -> bool:
        """A running shell command repeats its part with every piece of output."""
        call = (update.session_id, update.message_id, update.call_id)
        told = (update.status, update.title)
        if self._tools.get(call) == told:
            return False
        _remember(self._tools, call, told)
        return True


_Reader = Callable[[dict[str, Any], str | None], ServerEvent | None]


def _remember(memory: dict[Any, Any], key: object, value: object) -> None:
    """Bounded: the oldest entry goes first."""
    memory[key] = value
    if len(memory) > _MAX_REMEMBERED:
        del memory[next(iter(memory))]


def _json_of(frame: bytes) -> bytes:
    if frame.startswith(_DATA) and b"\n" not in frame:
        return frame[len(_DATA) :]
    # Comments or fields that OpenCode does not send, but a proxy may add.
    return b"\n".join(line[len(_DATA) :] for line in frame.splitlines() if line.startswith(_DATA))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def _tool_update(properties: dict[str, Any], _directory: str | None) -> ToolUpdate:
    part = properties["part"]
    state = part["state"]
    title = state.get("title") or state.get("input", {}).get("description")
    return ToolUpdate(
        session_id=_text(properties["sessionID"]),
        message_id=_text(part["messageID"]),
        call_id=_text(part["callID"]),
        tool=_text(part["tool"]),
        status=_text(state["status"]),
        title=title[:_MAX_TITLE] if isinstance(title, str) and title else None,
    )


def _message_updated(properties: dict[str, Any], _directory: str | None) -> MessageUpdated:
    message = message_of({"info": properties["info"]})
    return MessageUpdated(
        session_id=_text(properties["sessionID"]),
        message_id=message.id,
        role=message.role,
        parent_id=message.parent_id,
        created_ms=message.created_ms,
        completed=message.completed,
        summary=message.summary,
    )


def _session_error(properties: dict[str, Any], _directory: str | None) -> SessionError:
    session_id = properties.get("sessionID")
    told = properties.get("error")
    told = told if isinstance(told, dict) else {}
    data = told.get("data")
    error = run_error(str(told.get("name") or "UnknownError"), data if isinstance(data, dict) else {})
    return SessionError(_text(session_id) if session_id is not None else None, error.name, error.message)


def _permission_asked(properties: dict[str, Any], directory: str | None) -> PermissionAsked:
    return PermissionAsked(
        id=_text(properties["id"]),
        session_id=_text(properties["sessionID"]),
        permission=str(properties.get("permission", "")),
        patterns=tuple(str(pattern) for pattern in properties.get("patterns") or ()),
        directory=directory,
    )


def _question_asked(properties: dict[str, Any], directory: str | None) -> QuestionAsked:
    questions = properties.get("questions")
    return QuestionAsked(
        id=_text(properties["id"]),
        session_id=_text(properties["sessionID"]),
        questions=tuple(q for q in questions if isinstance(q, dict)) if isinstance(questions, list) else (),
        directory=directory,
    )


_READERS: dict[bytes, _Reader] = {
    b"server.connected": lambda _properties, _directory: ServerConnected(),
    b"server.heartbeat": lambda _properties, _directory: Heartbeat(),
    b"server.instance.disposed": lambda properties, directory: Disposed(properties.get("directory") or directory),
    b"global.disposed": lambda _properties, _directory: Disposed(None),
    b"session.idle": lambda properties, _directory: SessionIdle(_text(properties["sessionID"])),
    b"session.status": lambda properties, _directory: SessionStatus(
        _text(properties["sessionID"]), status_of(properties["status"])
    ),
    b"session.error": _session_error,
    b"permission.asked": _permission_asked,
    b"question.asked": _question_asked,
}
