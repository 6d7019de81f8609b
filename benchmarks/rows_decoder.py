"""Row of the decoder of OpenCode's events: frames of the kinds that nobody needs, dropped on one core."""

import json
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.figures import Report
from benchmarks.sizes import Sizes
from nubabel_workers.adapters.opencode.sse import EventDecoder

DROPPED = "Dropped frames, thousands a second, by kind"
_AIM_FRAMES_PER_S = 100_000.0
_CHUNK_BYTES = 65_536  # as the listener reads them
_CHUNKS_PER_KIND = 8
_SESSION = "ses_e04562134ffe0oSJVu2NAsQvXL"
_MESSAGE = "msg_1fba9def3001VafBB73dDVvUvA"
_PART = "prt_1fba9df1b001rgNy3AZDh2LSsf"
_WORDS = "word " * 200
_INFO = {
    "id": _MESSAGE,
    "sessionID": _SESSION,
    "role": "assistant",
    "parentID": _MESSAGE,
    "time": {"created": 1795216264415},
    "agent": "build",
    "modelID": "echo",
    "providerID": "stub",
    "path": {"cwd": "/srv/opencode", "root": "/"},
    "cost": 0,
    "tokens": {"input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}},
}


def measure_decoder(sizes: Sizes, report: Report) -> None:
    """Each kind by itself, and an answer of 200 words as it comes. Nobody watches, so text is dropped too."""
    kinds = {kind: _frame(kind_type, properties) for kind, (kind_type, properties) in _kinds().items()}
    kinds["sync of a message"] = _sync("message.updated.1", {"sessionID": _SESSION, "info": _INFO})
    kinds["sync of a text"] = _sync("message.part.updated.1", _part("text", text=_WORDS))
    speeds = {kind: _frames_per_s(_chunks(frame), sizes.decoder_rounds) for kind, frame in kinds.items()}
    report.add_column(DROPPED, "frames", {kind: speed / 1000 for kind, speed in speeds.items()})
    slowest = min(speeds, key=lambda kind: speeds[kind])
    report.add(
        "decoder",
        f"dropped frames, the slowest of {len(speeds)} kinds ({slowest})",
        speeds[slowest],
        "frames/s",
        aim=_AIM_FRAMES_PER_S,
        at_least=True,
    )
    answer = kinds["text delta"] * 200 + b"".join(frame for frame in kinds.values() for _ in range(4))
    mixed = _frames_per_s([answer] * _CHUNKS_PER_KIND, sizes.decoder_rounds)
    report.add(
        "decoder",
        "dropped frames, as in an answer of 200 words",
        mixed,
        "frames/s",
        aim=_AIM_FRAMES_PER_S,
        at_least=True,
    )


def _kinds() -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    delta = {"sessionID": _SESSION, "messageID": _MESSAGE, "partID": _PART, "field": "text", "delta": "word17 "}
    session = {"id": _SESSION, "title": "A title", "directory": "/srv/opencode", "time": {"created": 1795216264415}}
    todo = {"content": "look", "status": "pending", "priority": "high", "id": "1"}
    return {
        "text delta": ("message.part.delta", delta),
        "begin of a text": ("message.part.updated", _part("text", text="")),
        "whole text": ("message.part.updated", _part("text", text=_WORDS)),
        "step": ("message.part.updated", _part("step-finish", reason="stop", tokens=_INFO["tokens"], cost=0)),
        "message": ("message.updated", {"sessionID": _SESSION, "info": _INFO}),
        "session": ("session.updated", {"sessionID": _SESSION, "info": session}),
        "diff": ("session.diff", {"sessionID": _SESSION, "diff": []}),
        "file": ("file.edited", {"file": "/srv/opencode/notes.md"}),
        "todo list": ("todo.updated", {"sessionID": _SESSION, "todos": [todo]}),
    }


def _part(kind: str, **fields: Any) -> Mapping[str, Any]:
    part = {"id": _PART, "messageID": _MESSAGE, "sessionID": _SESSION, "type": kind, **fields}
    return {"sessionID": _SESSION, "part": part, "time": 1795223576345}


def _frame(kind: str, properties: Mapping[str, Any]) -> bytes:
    return _enclosed({"id": "evt_1fba9df1c001fFH0Xw2Hoi4F2X", "type": kind, "properties": properties})


def _sync(kind: str, data: Mapping[str, Any]) -> bytes:
    event = {"id": "evt_1fba9df1c001fFH0Xw2Hoi4F2X", "type": kind, "seq": 4, "aggregateID": _SESSION, "data": data}
    return _enclosed({"type": "sync", "syncEvent": event})


def _enclosed(payload: Mapping[str, Any]) -> bytes:
    envelope = {"directory": "/srv/opencode", "project": "global", "payload": payload}
    return b"data: " + json.dumps(envelope, separators=(",", ":")).encode() + b"\n\n"


def _chunks(frame: bytes) -> list[bytes]:
    """A stream of that frame, cut where reads cut it."""
    stream = frame * (_CHUNKS_PER_KIND * _CHUNK_BYTES // len(frame))
    return [stream[start : start + _CHUNK_BYTES] for start in range(0, len(stream), _CHUNK_BYTES)]


def _frames_per_s(chunks: list[bytes], rounds: int) -> float:
    decoder = EventDecoder()
    started = time.process_time()
    for _ in range(rounds):
        for chunk in chunks:
            decoder.feed(chunk)
    spent = time.process_time() - started
    return decoder.frames / spent
