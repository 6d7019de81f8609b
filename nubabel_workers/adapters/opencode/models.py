"""What an OpenCode server tells, as typed values. Only fields that somebody here needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nubabel_workers.domain.verdict import RunMessage


@dataclass(frozen=True, slots=True)
class Health:
    healthy: bool
    version: str


@dataclass(frozen=True, slots=True)
class Session:
    """An OpenCode session. directory: where its tools work; parent_id: set for sessions of sub-agents."""

    id: str
    title: str
    directory: str
    parent_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_ms: int = 0
    updated_ms: int = 0


@dataclass(frozen=True, slots=True)
class SessionPage:
    """Sessions, the last changed first. next_cursor: pass it as `cursor` for the page of older ones; None: no more."""

    sessions: list[Session]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Agent:
    """name: exactly what a prompt's agent field wants. mode: primary, subagent or all."""

    name: str
    mode: str
    hidden: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Provider:
    """A model provider of the server, with the ids of its models. Keys and URLs are not read."""

    id: str
    models: tuple[str, ...]
    name: str = ""
    default_model: str | None = None


@dataclass(frozen=True, slots=True)
class AuthMethod:
    """A way to give a provider its credentials. kind: api (a key) or oauth."""

    kind: str
    label: str


@dataclass(frozen=True, slots=True)
class Skill:
    """location: a file on the server, or `<built-in>`. Its text is not read."""

    name: str
    description: str
    location: str


@dataclass(frozen=True, slots=True)
class McpServer:
    """An MCP server that OpenCode itself connects to. status: connected, disabled, failed, needs_auth or later ones.

    error: one bounded line, where it has failed.
    """

    name: str
    status: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call of an answer with what went in and came out: text from outside, as long as the tool made it.

    status: pending, running, completed or error.
    """

    call_id: str
    tool: str
    status: str
    title: str | None = None
    input: Mapping[str, Any] = field(default_factory=dict, repr=False)
    output: str | None = field(default=None, repr=False)
    error: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The harmless part of a server's configuration: the answer itself contains providers' keys."""

    model: str | None
    permission: Mapping[str, Any] | str | None
    plugins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """A file or folder on the server's disk. path: absolute."""

    name: str
    path: str
    is_folder: bool


@dataclass(frozen=True, slots=True)
class PermissionRule:
    """One rule of a session. The last match decides; such rules do not bind sub-agents."""

    permission: str
    action: Literal["allow", "ask", "deny"]
    pattern: str = "*"


@dataclass(frozen=True, slots=True)
class PermissionRequest:
    """A tool call that waits for a permission and holds its session busy meanwhile."""

    id: str
    session_id: str
    permission: str
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuestionRequest:
    """A question of the model that waits for an answer. questions: as OpenCode sent them."""

    id: str
    session_id: str
    questions: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Messages, oldest first. next_cursor: pass it as `before` for the page of older ones; None: there are none."""

    messages: list[RunMessage]
    next_cursor: str | None
