"""What a simulated server remembers: sessions, messages, asks. Dictionaries in OpenCode's wire form."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

from nubabel_workers.simulators.opencode.identifiers import now_ms

Json = dict[str, Any]

CONTINUING_FINISHES = frozenset({"tool-calls", "unknown"})


@dataclass(slots=True)
class Message:
    info: Json
    parts: list[Json] = field(default_factory=list)

    @property
    def id(self) -> str:
        message_id: str = self.info["id"]
        return message_id

    @property
    def is_user(self) -> bool:
        return bool(self.info["role"] == "user")

    @property
    def is_final(self) -> bool:
        finish = self.info.get("finish")
        return finish is not None and finish not in CONTINUING_FINISHES

    @property
    def text(self) -> str:
        return " ".join(part["text"] for part in self.parts if part["type"] == "text")

    @property
    def tool_calls(self) -> int:
        return sum(1 for part in self.parts if part["type"] == "tool")

    @property
    def tool_result(self) -> str:
        """What its tools said, or why they failed."""
        states = [part["state"] for part in self.parts if part["type"] == "tool"]
        return "\n".join(state.get("output") or state.get("error") or "" for state in states)

    @property
    def wire(self) -> Json:
        return {"info": self.info, "parts": self.parts}


@dataclass(slots=True, eq=False)
class Ask:
    """A permission or a question that waits. answer: (granted, message)."""

    id: str
    session: "SimulatedSession"
    request: Json
    answer: "asyncio.Future[tuple[bool, str | None]]"


@dataclass(slots=True, eq=False)
class Run:
    """The run loop of a busy session. streamed: pieces of the text part that is being written."""

    task: "asyncio.Task[None] | None" = None
    aborted: bool = False
    message: Message | None = None
    streamed: list[str] = field(default_factory=list)
    counted: set[str] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class SimulatedSession:
    """info: the session in wire form. messages: in the order of first creation, which is the server's order."""

    info: Json
    messages: dict[str, Message] = field(default_factory=dict)
    status: Json | None = None  # None: idle
    run: Run | None = None
    sequence: int = 0
    prompts_seen: dict[str, int] = field(default_factory=dict)  # text -> model calls for it

    @property
    def id(self) -> str:
        session_id: str = self.info["id"]
        return session_id

    @property
    def directory(self) -> str:
        directory: str = self.info["directory"]
        return directory

    def add(self, message: Message) -> Message:
        self.messages[message.id] = message
        return message

    def newest_user(self) -> Message | None:
        """The message the run loop works for: by time, which a repeated post renews."""
        users = (m for m in reversed(self.messages.values()) if m.is_user)
        return max(users, key=lambda m: m.info["time"]["created"], default=None)

    def last_assistant(self) -> Message | None:
        return next((m for m in reversed(self.messages.values()) if not m.is_user), None)

    def action(self, permission: str, pattern: str) -> str:
        """allow, ask or deny: the last rule that matches; questions are denied by the server's configuration."""
        action = "deny" if permission in {"question", "doom_loop", "external_directory"} else "allow"
        for rule in self.info.get("permission", ()):
            if fnmatchcase(permission, rule["permission"]) and fnmatchcase(pattern, rule["pattern"]):
                action = rule["action"]
        return action

    def offers(self, tool: str) -> bool:
        """Whether the model sees the tool: a rule that denies it altogether removes it."""
        return self.action(tool, "*") != "deny"

    def context(self) -> list[Message]:
        """What the model sees: everything since the last completed compaction, without failed steps."""
        messages = list(self.messages.values())
        for at in range(len(messages) - 1, -1, -1):
            if messages[at].info.get("summary") is True and messages[at].is_final:
                messages = messages[at - 1 :]
                break
        return [m for m in messages if m.is_user or _counts(m)]

    def context_size(self) -> int:
        """Messages in the request to the model: the system prompt, and one more for each tool result."""
        return 1 + sum(1 + (0 if m.is_user else m.tool_calls) for m in self.context())


def _counts(message: Message) -> bool:
    error = message.info.get("error")
    if error is not None and error["name"] != "MessageAbortedError":
        return False
    return any(part["type"] == "tool" or (part["type"] == "text" and part["text"]) for part in message.parts)


class Store:
    """All sessions of a simulated server, with a bound on how many are kept."""

    def __init__(self, *, keep_sessions: int | None) -> None:
        self.sessions: dict[str, SimulatedSession] = {}
        self.owners: dict[str, SimulatedSession] = {}  # user message -> session: ids are keys of the whole server
        self.asks: dict[str, Ask] = {}
        self.busy: dict[str, dict[str, Json]] = {}  # directory -> session -> status
        self.model_runs: dict[str, int] = {}  # user message -> runs that called the model for it
        self._children: dict[str, dict[str, SimulatedSession]] = {}  # session -> those begun by its tools
        self._keep = keep_sessions

    def add(self, session: SimulatedSession) -> SimulatedSession:
        self.sessions[session.id] = session
        if (parent := session.info.get("parentID")) is not None:
            self._children.setdefault(parent, {})[session.id] = session
        if self._keep is not None and len(self.sessions) > self._keep:
            self._forget_idle(len(self.sessions) - self._keep)
        return session

    def remove(self, session: SimulatedSession) -> None:
        del self.sessions[session.id]
        self._forget_child(session)
        self.busy.get(session.directory, {}).pop(session.id, None)
        for message_id in session.messages:
            self.owners.pop(message_id, None)
            self.model_runs.pop(message_id, None)

    def set_status(self, session: SimulatedSession, status: Json | None) -> None:
        session.status = status
        busy = self.busy.setdefault(session.directory, {})
        if status is None:
            busy.pop(session.id, None)
        else:
            busy[session.id] = status

    def children(self, session_id: str) -> Iterator[SimulatedSession]:
        return iter(tuple(self._children.get(session_id, {}).values()))

    def touch(self, session: SimulatedSession) -> None:
        session.info["time"]["updated"] = now_ms()

    def _forget_idle(self, count: int) -> None:
        """The oldest ones, as many as there are too many: a burst that was all busy at once has left more than one."""
        idle = (session for session in self.sessions.values() if session.run is None and session.messages)
        for session in tuple(islice(idle, count)):
            self.remove(session)

    def _forget_child(self, session: SimulatedSession) -> None:
        parent = session.info.get("parentID")
        if parent is None or (siblings := self._children.get(parent)) is None:
            return
        siblings.pop(session.id, None)
        if not siblings:
            del self._children[parent]
