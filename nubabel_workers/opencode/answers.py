"""Streaming one session's answer, as pure decisions.

`follow_answer` is a generator: it yields what is to be done (read events, make a call, pause) or a piece for the
caller, and is sent what came of it. The async and the blocking client only do the I/O, so they cannot drift apart.

Events are hints. The end is never taken from them: they say when to look, and `decide` says from the stored messages
what became of the run. Text is streamed only of messages whose beginning was seen; what a lost connection has swallowed
is told in one piece when the server has stored it.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from nubabel_workers.adapters.opencode import endpoints
from nubabel_workers.adapters.opencode.wire import Call
from nubabel_workers.domain.errors import NotFoundError, TransientError, UnavailableError, UncertainError
from nubabel_workers.domain.executions import Usage
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
    TextDelta,
    ToolUpdate,
)
from nubabel_workers.domain.verdict import IDLE, PartKind, Role, RunError, RunMessage, Verdict, VerdictKind, decide

# The server says that the stream is connected up to 50 ms before it tells what happens.
_DEAF_S = 0.1
# `session.idle` may come before the final message is stored.
_SETTLING_S = 0.2
# While a directory is loaded, an accepted prompt is stored, and its run begins, some time later.
_ARRIVAL_S = 10.0
_ABORTING_S = 5.0
_PAGE = 100
_MAX_PAGES = 50


class Outcome(StrEnum):
    """How an answer ended."""

    ANSWERED = "answered"
    NO_ANSWER = "no_answer"  # the run ended without a text: a refused permission or question, or a silent model
    FAILED = "failed"  # see `error`
    CANCELLED = "cancelled"  # aborted by somebody
    TIMED_OUT = "timed_out"  # aborted by this client: its time was over
    LOST = "lost"  # the server restarted in the middle, or never began; sending the same prompt again is safe


@dataclass(frozen=True, slots=True)
class AnswerText:
    """The next piece of a message's text. A run has a message per model step; a new message_id begins a new text."""

    message_id: str
    text: str


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """The last piece. text: the whole answer, or what there is of it; cut: the model hit its output limit."""

    outcome: Outcome
    text: str = ""
    cut: bool = False
    error: RunError | None = None
    usage: Usage = field(default_factory=Usage)


AnswerPiece = AnswerText | ToolUpdate | PermissionAsked | QuestionAsked | AnswerEnd


@dataclass(frozen=True, slots=True)
class NextBurst:
    """Read events: a burst, or None when the deadline (on the client's clock) is over."""

    deadline: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Make a call: its value, or its error raised here."""

    call: Call[Any]


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


Step = NextBurst | Ask | Pause | AnswerPiece

_OUTCOMES = {
    VerdictKind.SUCCEEDED: Outcome.ANSWERED,
    VerdictKind.ENDED_WITHOUT_ANSWER: Outcome.NO_ANSWER,
    VerdictKind.FAILED: Outcome.FAILED,
    VerdictKind.CANCELLED: Outcome.CANCELLED,
}


def follow_answer(
    submit: Call[None], session_id: str, message_id: str, *, timeout_s: float, now: Callable[[], float]
) -> Generator[Step, Any, None]:
    """Send the prompt, tell its answer piece by piece, and how it ended.

    submit: the call that sends it, under message_id. timeout_s: from now on; a run that takes longer is aborted.
    """
    deadline = now() + timeout_s
    session = yield Ask(endpoints.get_session(session_id))
    yield from _connected(deadline)
    yield from _sent(submit, session_id, message_id)
    reading = _Reading(session_id, message_id, session.directory, arrived_by=now() + _ARRIVAL_S)
    while True:
        burst = yield NextBurst(deadline)
        if burst is None:
            yield from _timed_out(reading, now)
            return
        look = not burst
        by_chance = bool(burst)
        for event in burst:
            yield from reading.pieces_of(event)
            if reading.wakes(event):
                look = True
                by_chance = by_chance and isinstance(event, Heartbeat)
        if look and (end := (yield from _look(reading, now, by_chance=by_chance))) is not None:
            yield end
            return


def _connected(deadline: float) -> Generator[Step, Any, None]:
    connected = False
    while not connected:
        burst = yield NextBurst(deadline)
        if burst is None:
            raise UnavailableError("OpenCode's event stream did not open in time; the prompt was not sent")
        connected = any(isinstance(event, ServerConnected) for event in burst)
    yield Pause(_DEAF_S)


def _sent(submit: Call[None], session_id: str, message_id: str) -> Generator[Step, Any, None]:
    """When the answer gets lost, the message is looked for; the error stands if it is not there (yet)."""
    try:
        yield Ask(submit)
    except UncertainError as error:
        try:
            yield Ask(endpoints.get_message(session_id, message_id))
        except NotFoundError:
            raise error from None


def _look(reading: "_Reading", now: Callable[[], float], *, by_chance: bool) -> Generator[Step, Any, AnswerEnd | None]:
    """What the server has stored; the end, if the run has one. A server that is away is asked again later.

    by_chance: nothing said that the run may have ended. What it did since may still be on its way to us.
    """
    if reading.reconnected:
        yield Pause(_DEAF_S)
    try:
        messages, verdict = yield from _verdict(reading, settled=False)
        if verdict.kind is VerdictKind.UNSETTLED:
            yield Pause(_SETTLING_S)
            messages, verdict = yield from _verdict(reading, settled=True)
    except TransientError:
        return None
    ended = verdict.kind is not VerdictKind.RUNNING and not reading.may_still_arrive(verdict, now())
    if ended and by_chance and reading.may_still_tell():
        return None
    yield from reading.missing_text(messages, final=ended)
    return reading.end(verdict) if ended else None


def _timed_out(reading: "_Reading", now: Callable[[], float]) -> Generator[Step, Any, None]:
    """Stop the run and tell what there is of it."""
    give_up = now() + _ABORTING_S
    try:
        yield Ask(endpoints.abort(reading.session_id))
        messages, verdict = yield from _verdict(reading, settled=False)
        while verdict.kind in {VerdictKind.RUNNING, VerdictKind.UNSETTLED} and now() < give_up:
            yield Pause(_SETTLING_S)
            messages, verdict = yield from _verdict(reading, settled=True)
    except TransientError:
        yield AnswerEnd(Outcome.TIMED_OUT, reading.text)
        return
    yield from reading.missing_text(messages, final=True)
    end = reading.end(verdict)
    answered = end.outcome is Outcome.ANSWERED  # just in time
    yield end if answered else AnswerEnd(Outcome.TIMED_OUT, end.text, end.cut, end.error, end.usage)


def _verdict(reading: "_Reading", *, settled: bool) -> Generator[Step, Any, tuple[list[RunMessage], Verdict]]:
    messages: list[RunMessage] = []
    before: str | None = None
    for _ in range(_MAX_PAGES):
        page = yield Ask(endpoints.list_messages(reading.session_id, limit=_PAGE, before=before))
        messages = page.messages + messages
        before = page.next_cursor
        if before is None or any(message.id == reading.message_id for message in page.messages):
            break
    states = yield Ask(endpoints.session_status(reading.directory))
    state = states.get(reading.session_id, IDLE)
    return messages, decide(messages, my_message_id=reading.message_id, state=state, settled=settled)


class _Reading:
    """What is known of the answer so far."""

    def __init__(self, session_id: str, message_id: str, directory: str, *, arrived_by: float) -> None:
        self.session_id = session_id
        self.message_id = message_id
        self.directory = directory
        self.reconnected = False
        self._arrived_by = arrived_by
        self._error: RunError | None = None
        self._rested = False  # something said that the session rests
        self._found_ended = False  # by a look that nothing had asked for
        self._asked_ms: int | None = None
        self._prompts = {message_id}  # mine, and what OpenCode inserts after it to keep the run going
        self._told: dict[str, str] = {}  # answer's message -> its text so far
        self._broken: set[str] = set()  # messages of which a piece may be missing: their deltas are not told

    @property
    def text(self) -> str:
        """Told so far, of all messages."""
        return "\n\n".join(told.strip() for told in self._told.values() if told.strip())

    def pieces_of(self, event: ServerEvent) -> Iterator[AnswerPiece]:
        if isinstance(event, ServerConnected):
            self._broken |= self._told.keys()
            self.reconnected = True
        elif getattr(event, "session_id", None) != self.session_id:
            return
        elif isinstance(event, MessageUpdated):
            self._note(event)
        elif isinstance(event, TextDelta):
            if event.message_id in self._told and event.message_id not in self._broken:
                self._told[event.message_id] += event.text
                yield AnswerText(event.message_id, event.text)
        elif isinstance(event, ToolUpdate | PermissionAsked | QuestionAsked):
            yield event

    def wakes(self, event: ServerEvent) -> bool:
        """Whether it is time to look. Heartbeats make that happen every few seconds, whatever got lost."""
        if isinstance(event, SessionError | SessionIdle):
            if event.session_id != self.session_id:
                return False
            self._rested = True
            if isinstance(event, SessionError):
                self._error = RunError(event.name, event.message)
        elif isinstance(event, Disposed):
            self._rested = True
        else:
            return isinstance(event, ServerConnected | Heartbeat)
        return True

    def may_still_arrive(self, verdict: Verdict, now: float) -> bool:
        """A prompt that is not there, or that nobody works on, may have been accepted just now."""
        if verdict.kind is VerdictKind.NOT_SUBMITTED:
            return self._error is None and now < self._arrived_by
        if verdict.kind is VerdictKind.RESUBMIT:
            return not (verdict.assistant_ids or self._rested) and now < self._arrived_by
        return False

    def may_still_tell(self) -> bool:
        """The stream has not come to the end that is stored: it has until the next heartbeat. True once."""
        first, self._found_ended = not self._found_ended, True
        return first and not self._rested

    def missing_text(self, messages: Sequence[RunMessage], *, final: bool) -> Iterator[AnswerText]:
        """Text of this answer that was stored and never told: of broken messages, at the end of all."""
        reconnected, self.reconnected = self.reconnected, False
        for message in self._answers(messages):
            if message.id not in self._told and (reconnected or message.completed):
                self._broken.add(message.id)
            if not final and not (message.completed and message.id in self._broken):
                continue
            text = "".join(part.text for part in message.parts if part.kind is PartKind.TEXT)
            told = self._told.get(message.id, "")
            if len(text) > len(told) and text.startswith(told):
                self._told[message.id] = text
                yield AnswerText(message.id, text[len(told) :])

    def end(self, verdict: Verdict) -> AnswerEnd:
        error = verdict.error
        outcome = _OUTCOMES.get(verdict.kind)
        if outcome is None:
            error = error or self._error
            outcome = Outcome.FAILED if error is not None else Outcome.LOST
        return AnswerEnd(outcome, verdict.text or verdict.partial_text, verdict.cut, error, verdict.usage)

    def _note(self, message: MessageUpdated) -> None:
        if message.role is Role.USER:
            if message.message_id == self.message_id:
                self._asked_ms = message.created_ms
            elif self._asked_ms is not None and message.created_ms > self._asked_ms:
                self._prompts.add(message.message_id)
        elif message.parent_id in self._prompts and not message.summary and not message.completed:
            self._told.setdefault(message.message_id, "")

    def _answers(self, messages: Sequence[RunMessage]) -> Iterator[RunMessage]:
        """The assistant messages of this run. Whatever user message follows mine is taken for an inserted one."""
        begun = False
        for message in messages:
            begun = begun or message.id == self.message_id
            if begun and message.role is Role.USER:
                self._prompts.add(message.id)
            elif begun and message.parent_id in self._prompts and not message.summary:
                yield message
