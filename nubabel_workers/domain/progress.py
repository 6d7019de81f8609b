"""What a run is doing, as the listener and the plugin of its OpenCode server both tell it; each thing is shown once.

A tool call is named by its session, message and call id (some models number the calls of each message anew), and only
goes forward: a state that was told, or one before it, is no news, unless it brings a title that was not told. Text is
named by its part: the listener tells it piece by piece while somebody watches, the plugin tells it whole when it is
complete, and whoever was first tells that part alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from nubabel_workers.domain.executions import Status


class ProgressSource(StrEnum):
    LISTENER = "listener"
    PLUGIN = "plugin"


TOOL_STATES: Final[Mapping[str, int]] = {"pending": 0, "running": 1, "completed": 2, "error": 2}
MAX_TEXT_CHARS: Final = 16_384  # of one event; the answer itself is the row's


@dataclass(frozen=True, slots=True)
class ToolProgress:
    session_id: str  # OpenCode's; a sub-agent's too
    call_id: str
    tool: str
    status: str  # one of TOOL_STATES
    title: str | None = None
    message_id: str = ""  # OpenCode's, that the call is part of; empty: an earlier release of the plugin did not tell

    @property
    def name(self) -> tuple[str, str, str]:
        """The same for all that is told of one call."""
        return (self.session_id, self.message_id, self.call_id)

    def event(self) -> dict[str, Any]:
        told = {"type": "tool", "tool": self.tool, "status": self.status, "call_id": self.call_id}
        return (
            told
            | ({"message_id": self.message_id} if self.message_id else {})
            | ({"title": self.title} if self.title else {})
        )


@dataclass(frozen=True, slots=True)
class TextProgress:
    """text: a piece of the part from the listener, all of it from the plugin."""

    part_id: str
    text: str = field(repr=False)

    def event(self) -> dict[str, Any]:
        return {"type": "text", "text": self.text[:MAX_TEXT_CHARS]}


ProgressItem = ToolProgress | TextProgress


def state_event(status: Status) -> dict[str, Any]:
    """Where an execution stands: a reason to look at its row, which has the last word."""
    return {"type": "state", "status": status.value}


def news_of(item: ProgressItem, source: ProgressSource, known: str | None) -> str | None:
    """What is to be remembered of it; None when it is no news. known: what is remembered of the same call or part.

    The shared stream decides the same in `adapters.cache.progress`, where the decision is one step with the telling.
    """
    if isinstance(item, TextProgress):
        goes_on = source is ProgressSource.LISTENER and known == ProgressSource.LISTENER
        return source.value if known is None or goes_on else None
    state, title = TOOL_STATES.get(item.status, 0), item.title or ""
    if known is None:
        return f"{state}{title}"
    known_state, known_title = int(known[0]), known[1:]
    if state < known_state or (state == known_state and title in {"", known_title}):
        return None
    return f"{state}{title or known_title}"
