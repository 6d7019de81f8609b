"""What an OpenCode server's event stream says, reduced to what somebody here acts on. Hints, never proof."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nubabel_workers.domain.verdict import Role, SessionState


@dataclass(frozen=True, slots=True)
class ServerConnected:
    """First event of a stream. There is no replay: what happened before must be read over HTTP."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent every 10 s: the stream lives."""


@dataclass(frozen=True, slots=True)
class EventLag:
    """How long the latest event of a check was on its way, seconds: what the reader itself held up is left out, and so
    is how far the two clocks are apart. The server does not send it; whoever reads the stream measures it.
    """

    seconds: float


@dataclass(frozen=True, slots=True)
class Disposed:
    """A directory was unloaded; what ran in it was aborted. None: the whole server."""

    directory: str | None


@dataclass(frozen=True, slots=True)
class SessionIdle:
    """Nothing runs in the session any more; may come twice, before the final message, or without any answer."""

    session_id: str


@dataclass(frozen=True, slots=True)
class SessionStatus:
    session_id: str
    state: SessionState


@dataclass(frozen=True, slots=True)
class SessionError:
    """Something failed; the run may go on all the same (after an overflow). session_id may be missing.

    The only news of a prompt with an unknown agent. message: one bounded line for operators, never for users.
    """

    session_id: str | None
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class ToolUpdate:
    """A tool call began, ended or changed its title. status: pending, running, completed or error."""

    session_id: str
    message_id: str
    call_id: str
    tool: str
    status: str
    title: str | None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text while it is written; only of watched sessions."""

    session_id: str
    message_id: str
    part_id: str
    text: str


@dataclass(frozen=True, slots=True)
class MessageUpdated:
    """A message began, changed or was completed; only for readers that ask for messages.

    parent_id: of an answer, the user's message. summary: written by a compaction, not for the user.
    """

    session_id: str
    message_id: str
    role: Role
    parent_id: str | None
    created_ms: int
    completed: bool
    summary: bool


@dataclass(frozen=True, slots=True)
class PermissionAsked:
    """A tool call waits for a permission. directory: needed to reply."""

    id: str
    session_id: str
    permission: str
    patterns: tuple[str, ...]
    directory: str | None


@dataclass(frozen=True, slots=True)
class QuestionAsked:
    """The model waits for an answer. directory: needed to reply."""

    id: str
    session_id: str
    questions: Sequence[Mapping[str, Any]]
    directory: str | None


ServerEvent = (
    ServerConnected
    | Heartbeat
    | EventLag
    | Disposed
    | SessionIdle
    | SessionStatus
    | SessionError
    | ToolUpdate
    | TextDelta
    | MessageUpdated
    | PermissionAsked
    | QuestionAsked
)
