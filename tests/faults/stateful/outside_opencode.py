"""An OpenCode server at the port, as measured on opencode 1.18.33; runs end when the test says so, and how."""

import asyncio
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from nubabel_workers.domain.errors import NotFoundError, UnavailableError
from nubabel_workers.domain.executions import Usage
from nubabel_workers.domain.opencode_events import PermissionAsked, QuestionAsked
from nubabel_workers.domain.ports import PromptPart
from nubabel_workers.domain.verdict import (
    BUSY,
    PartKind,
    Role,
    RunError,
    RunMessage,
    RunPart,
    SessionActivity,
    SessionState,
)

TOKEN = re.compile(r"\bq[ab]\d+\b")  # what every prompt of the test is known by; the letter is its organization
LATE_S = 0.1
TOKENS = 10  # that each completed message says it took
_USED = Usage(input_tokens=TOKENS, output_tokens=5, cost=0.25)
_numbers = itertools.count(1)


class End(StrEnum):
    """How a run ends."""

    ANSWERED = "answered"
    LONG = "long"  # more than one message in Slack
    CUT = "cut"
    LATE = "late"  # idle a moment before its last message is stored
    EMPTY = "empty"
    SILENT = "silent"  # idle without any message
    BUSY_MODEL = "busy_model"  # an error that passes
    BAD_REQUEST = "bad_request"  # one that does not
    REJECTED = "rejected"  # a refused ask was its last step
    ABORTED = "aborted"  # by somebody else
    CRASHED = "crashed"


@dataclass
class FakeSession:
    id: str
    metadata: Mapping[str, str]
    messages: list[RunMessage] = field(default_factory=list)
    running: str | None = None  # the user message that it works for
    retries: int = 0

    @property
    def state(self) -> SessionState:
        return SessionState(SessionActivity.RETRY, self.retries) if self.retries else BUSY


class FakeOpenCode:
    """One server. `violations`: what no client of ours may do."""

    def __init__(self, name: str, violations: list[str]) -> None:
        self.name = name
        self.violations = violations
        self.sessions: dict[str, FakeSession] = {}
        self.runs: Counter[str] = Counter()  # message -> model runs for it
        self.produced: Counter[str] = Counter()  # message -> answers and parts of answers that cost something
        self.news: list[str] = []  # sessions that went idle, for the listener
        self.away = False

    # --- the port ---

    async def create_session(self, *, title: str, metadata: Mapping[str, str], directory: str | None) -> str:
        self._reached()
        session = FakeSession(f"ses_{self.name}_{next(_numbers)}", metadata)
        self.sessions[session.id] = session
        return session.id

    async def submit(
        self,
        opencode_session_id: str,
        *,
        message_id: str,
        parts: Sequence[PromptPart],
        agent: str | None,
        model: str | None,
        system: str | None,
        timeout_s: float,
    ) -> None:
        session = self._session(opencode_session_id)
        asked = TOKEN.findall(" ".join(part.text or "" for part in parts))
        self._check_prompt(session, message_id, asked)
        if all(message.id != message_id for message in session.messages):
            text = RunPart(PartKind.TEXT, text=asked[-1])
            session.messages.append(RunMessage(message_id, Role.USER, parts=(text,)))
        if session.running is None:
            self._start(session, message_id)

    async def run_messages(self, opencode_session_id: str, *, since: str) -> list[RunMessage]:
        return list(self._session(opencode_session_id).messages)

    async def has_message(self, opencode_session_id: str, message_id: str) -> bool:
        return any(message.id == message_id for message in self._session(opencode_session_id).messages)

    async def busy_sessions(self, directory: str | None) -> Mapping[str, SessionState]:
        self._reached()
        return {session.id: session.state for session in self.sessions.values() if session.running}

    async def abort(self, opencode_session_id: str) -> None:
        session = self._session(opencode_session_id)
        if session.running:
            self.end(session, End.ABORTED)

    async def pending_asks(self, directory: str | None) -> list[PermissionAsked | QuestionAsked]:
        self._reached()
        return []

    async def reject_permission(self, request_id: str, *, directory: str | None, message: str) -> None:
        self._reached()

    async def reject_question(self, request_id: str, *, directory: str | None) -> None:
        self._reached()

    async def agents(self, directory: str | None) -> list[str]:
        self._reached()
        return ["build"]

    async def categories(self, directory: str | None) -> list[str] | None:
        self._reached()
        return None

    async def models(self, directory: str | None) -> list[str]:
        self._reached()
        return ["stub/echo"]

    async def directories_path(self) -> str | None:
        self._reached()
        return None

    async def version(self) -> str:
        self._reached()
        return "1.18.33"

    # --- what happens to it ---

    def busy(self) -> list[FakeSession]:
        return [session for session in self.sessions.values() if session.running]

    def end(self, session: FakeSession, how: End) -> None:
        """The session's run is over. A silent one leaves no message, a crashed one an unfinished message."""
        last = session.messages.pop()
        session.running, session.retries = None, 0
        self.news.append(session.id)
        if how is End.SILENT:
            return
        ended = _ended(last, how, token=self._token(session, last))
        self.produced[last.parent_id or ""] += ended.completed
        if how is End.LATE:
            asyncio.get_running_loop().call_later(LATE_S, session.messages.append, ended)
        else:
            session.messages.append(ended)

    def restart(self) -> None:
        """As after SIGKILL: runs are gone, what was stored stays."""
        for session in self.busy():
            self.end(session, End.CRASHED)
        self.news.clear()

    def lose_everything(self) -> None:
        self.sessions.clear()
        self.news.clear()

    def _token(self, session: FakeSession, answer: RunMessage) -> str:
        return next(message.text for message in session.messages if message.id == answer.parent_id)

    def _start(self, session: FakeSession, message_id: str) -> None:
        """The loop works for that message, unless its answer is there already."""
        answers = [m for m in session.messages if m.role is Role.ASSISTANT]
        if answers and answers[-1].parent_id == message_id and answers[-1].is_final:
            self.news.append(session.id)
            return
        self.runs[message_id] += 1
        session.running = message_id
        session.messages.append(
            RunMessage(f"msg_answer_{next(_numbers)}", Role.ASSISTANT, parent_id=message_id, model="stub/echo")
        )

    def _check_prompt(self, session: FakeSession, message_id: str, asked: list[str]) -> None:
        if session.running not in {None, message_id}:
            self.violations.append(f"{message_id} was posted while {session.running} runs in {session.id}")
        letter = session.metadata["organization_id"][-1]
        if any(token[1] != letter for token in asked):
            self.violations.append(f"{asked} reached a session of {session.metadata['organization_id']}")

    def _session(self, session_id: str) -> FakeSession:
        self._reached()
        if session_id not in self.sessions:
            raise NotFoundError("no such session")
        return self.sessions[session_id]

    def _reached(self) -> None:
        if self.away:
            raise UnavailableError(f"{self.name} cannot be reached")


def _ended(message: RunMessage, how: End, *, token: str) -> RunMessage:
    done = replace(message, completed=True, usage=_USED)
    errors: dict[End, RunError] = {
        End.BUSY_MODEL: RunError("APIError", "overloaded", 529, retryable=True),
        End.BAD_REQUEST: RunError("APIError", "bad request", 400),
        End.ABORTED: RunError("MessageAbortedError", "aborted"),
    }
    if how is End.CRASHED:
        return message
    if how in errors:
        return replace(done, error=errors[how])
    if how is End.REJECTED:
        refused = RunPart(PartKind.TOOL, tool="bash", tool_status="error")
        return replace(done, finish="tool-calls", parts=(refused,))
    text: Any = {End.EMPTY: "", End.LONG: f"answer to {token} " + "word " * 4000}.get(how, f"answer to {token}")
    finish = "length" if how is End.CUT else "stop"
    return replace(done, finish=finish, parts=(RunPart(PartKind.TEXT, text=text),) if text else ())
