"""Bytes of a server-sent event stream in, events out. Pure.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

import codecs
from dataclasses import dataclass

_MAX_EVENT_CHARS = 8 * 1024 * 1024
_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    event: str
    data: str
    id: str | None  # the last id that the stream gave, also by an earlier event


class EventDecoder:
    """For one connection; feed it the chunks in order. Comments (heartbeats) come out as nothing."""

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._at_start = True
        self._event = ""
        self._data: list[str] = []
        self._id: str | None = None

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events that this chunk completes. Raises ValueError for an endless one."""
        self._pending += self._text.decode(chunk)
        if self._at_start and self._pending:
            self._pending = self._pending.removeprefix(_BOM)
            self._at_start = False
        if len(self._pending) + sum(map(len, self._data)) > _MAX_EVENT_CHARS:
            raise ValueError("an event of the stream is too large")
        events = []
        for line in self._lines():
            event = self._take(line)
            if event is not None:
                events.append(event)
        return events

    def _lines(self) -> list[str]:
        """Whole lines; a CR at the end of the chunk may be half of a CRLF and stays for the next one."""
        held_back = "\r" if self._pending.endswith("\r") else ""
        text = self._pending.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n")
        *lines, rest = text.split("\n")
        self._pending = rest + held_back
        return lines

    def _take(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\x00" not in value:
            self._id = value
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        event, data = self._event, self._data
        self._event, self._data = "", []
        return ServerSentEvent(event or "message", "\n".join(data), self._id) if data else None
