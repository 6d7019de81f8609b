"""What became of a run on OpenCode, decided from its messages and its session's state. Pure.

Events only wake us up; the answer to "is it finished, and how" is given here, from what the server has stored.
The rules were measured on opencode 1.18.33:

- a run has one assistant message per model step; it is over when the last of them is completed and carries an error or
  a finish reason other than `tool-calls` and `unknown`, and the session is idle;
- compaction puts messages into the middle of a run: a user message that consists of a `compaction` part, an assistant
  message marked `summary`, and a synthetic "Continue ..." user message under which the run goes on;
- a killed server leaves an assistant message that is neither completed nor failed, and nothing resumes by itself;
- the list's own order is that of first creation. `created_ms` of a user message is renewed when the message is posted
  again, so order is taken from the list, never from times;
- a message that is posted again late, by a process that had been stopped, is answered after mine, under its own id.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from nubabel_workers.domain.executions import Usage

# Reasons after which OpenCode starts another step by itself: a run never ends well with one of these.
_CONTINUING_FINISHES = frozenset({"tool-calls", "unknown"})
_ABORTED_ERROR = "MessageAbortedError"
_DELEGATING_TOOL = "task"
_MARK_CHARACTERS = 16

# oh-my-opencode posts user messages of its own, some without the synthetic flag; they begin with these.
_PLUGIN_PREFIXES = ("<system-reminder>", "[SYSTEM DIRECTIVE")


class Role(StrEnum):
    """Who wrote a message."""

    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a model step failed. message is one bounded line for operators, without stack traces; users never see it."""

    name: str  # OpenCode's class of error, e.g. APIError
    message: str
    status_code: int | None = None  # of the model provider's answer, where it gave one
    retryable: bool = False


class PartKind(StrEnum):
    """The kinds of message parts that decide something; every other kind is left out when messages are read."""

    TEXT = "text"
    TOOL = "tool"
    COMPACTION = "compaction"


@dataclass(frozen=True, slots=True)
class Delegation:
    """What the main agent handed on to a sub-agent, as the server tells it."""

    session_id: str  # the sub-agent's, on OpenCode
    category: str | None = None
    agent: str | None = None
    skills: tuple[str, ...] = ()
    model: str | None = None  # provider/model

    def as_dict(self) -> dict[str, object]:
        return {
            "session_id": self.session_id,
            "category": self.category,
            "agent": self.agent,
            "skills": list(self.skills),
            "model": self.model,
        }


@dataclass(frozen=True, slots=True)
class RunPart:
    """A part of a message, reduced to what a verdict needs."""

    kind: PartKind
    text: str = ""
    synthetic: bool = False  # written by OpenCode itself, not by a client
    tool: str | None = None
    tool_status: str | None = None  # pending, running, completed, error
    delegation: Delegation | None = None  # of a call of `task` that did reach a sub-agent


@dataclass(frozen=True, slots=True)
class RunMessage:
    """A message of an OpenCode session, reduced to what a verdict needs."""

    id: str
    role: Role
    parent_id: str | None = None  # the user message an assistant message answers
    created_ms: int = 0
    completed: bool = False
    finish: str | None = None
    error: RunError | None = None
    summary: bool = False  # the answer to a compaction, not to the user
    parts: tuple[RunPart, ...] = ()
    usage: Usage = field(default_factory=Usage)
    model: str | None = None  # provider/model
    session_id: str | None = None  # whose it is, as the server says

    @property
    def text(self) -> str:
        """The text parts, in order, without the white space around them."""
        return "\n\n".join(part.text for part in self.parts if part.kind is PartKind.TEXT).strip()

    @property
    def known_usage(self) -> Usage:
        """OpenCode learns it at the end of a step; of one that broke off it tells zeros. A refusal cost nothing."""
        broke_off = not self.completed or self.finish == "unknown"
        failed = self.error is not None and self.error.status_code is None
        return replace(self.usage, lower_bound=True) if broke_off or failed else self.usage

    @property
    def has_end(self) -> bool:
        """What it used changes no more."""
        return self.completed or self.error is not None

    @property
    def is_final(self) -> bool:
        """Completed with a reason after which OpenCode starts no further step."""
        return self.completed and self.finish is not None and self.finish not in _CONTINUING_FINISHES


class SessionActivity(StrEnum):
    """What a server says a session is doing. It lists busy and retrying sessions only: absent means idle."""

    IDLE = "idle"
    BUSY = "busy"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class SessionState:
    """Activity of a session; the other fields belong to RETRY (OpenCode retries a failing model without a limit)."""

    activity: SessionActivity
    retry_attempt: int = 0
    retry_message: str = ""
    next_retry_ms: int | None = None  # unix time

    @property
    def is_idle(self) -> bool:
        return self.activity is SessionActivity.IDLE


IDLE = SessionState(SessionActivity.IDLE)
BUSY = SessionState(SessionActivity.BUSY)


class VerdictKind(StrEnum):
    """What to do with an execution now."""

    RUNNING = "running"  # leave it alone
    UNSETTLED = "unsettled"  # idle without an end: read again in 100-300 ms, then decide with settled=True
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"  # aborted: by a deadline, an operator, or a disposed directory
    FAILED = "failed"
    ENDED_WITHOUT_ANSWER = "ended_without_answer"  # a rejected ask or question, or a model that said nothing
    NOT_SUBMITTED = "not_submitted"  # the server does not know the message: never arrived, or refused before the run
    RESUBMIT = "resubmit"  # nothing runs and nothing ended: post the same message again


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision, and what the run has produced so far."""

    kind: VerdictKind
    text: str = ""  # the answer (SUCCEEDED)
    cut: bool = False  # the model hit its output limit: the answer is incomplete
    error: RunError | None = None  # FAILED and CANCELLED
    partial_text: str = ""  # the latest text of the run, also of a run that did not succeed
    retry_attempt: int = 0  # how often OpenCode has tried to reach its model (RUNNING)
    usage: Usage = field(default_factory=Usage)  # of this attempt, compaction included; sub-agents: with_sub_agents
    usage_by_model: Mapping[str, Usage] = field(default_factory=dict)  # provider/model -> usage
    assistant_ids: frozenset[str] = frozenset()  # of this attempt; pass them as known to the next one
    steps: int = 0  # those of which the server tells what they used: not those that broke off; sub-agents as for usage
    ended_ids: frozenset[str] = frozenset()  # those of them that have their end: what they used changes no more
    delegations: tuple[Delegation, ...] = ()  # of this attempt, in their order; a session that went on is there once
    delegated: bool = False  # a sub-agent was called, whether or not the server has told which session it got
    began_ms: int = 0  # when the attempt's first step began, by the server's clock
    tool_states: tuple[str, ...] = ()  # of the tool calls so far
    last_ms: int = 0  # the same of its last one
    stray_run: bool = False  # this run has its end, and the session works on somebody else's message

    @property
    def mark(self) -> str:
        """Another one whenever the run, or a sub-agent that was counted in, has come further."""
        facts = (sorted(self.assistant_ids), sorted(self.ended_ids), self.tool_states, len(self.partial_text))
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:_MARK_CHARACTERS]


# Runs that could not be looked at: what they cost is not known.
UNSEEN = Verdict(VerdictKind.RUNNING, usage=Usage(lower_bound=True))
LOST = Verdict(VerdictKind.NOT_SUBMITTED, usage=Usage(lower_bound=True))


def decide(
    messages: Sequence[RunMessage],
    *,
    my_message_id: str,
    state: SessionState,
    settled: bool,
    known_assistant_ids: frozenset[str] = frozenset(),
    own_message_ids: frozenset[str] = frozenset(),
) -> Verdict:
    """Decide what became of the run that `my_message_id` started.

    messages: oldest first, as the server lists them, reaching back at least to my message.
    state: of the session, read after the messages or together with them.
    settled: whether the session was idle already when it was looked at 100-300 ms ago. `session.idle` may come before
        the final message is stored; a run is declared dead only on the second look.
    known_assistant_ids: assistant messages that were there before this attempt (of failed or crashed ones); ignored.
    own_message_ids: ids of all user messages we sent to this session; they end a run beyond doubt.
    """
    found = _messages_of_run(messages, my_message_id, own_message_ids)
    if found is None:
        return Verdict(VerdictKind.NOT_SUBMITTED)
    run, followed = found
    prompts = {None, my_message_id, *(m.id for m in run if m.role is Role.USER)}
    shared = followed or any(m.parent_id not in prompts for m in run)
    mine = [m for m in run if m.role is Role.ASSISTANT and m.parent_id in prompts and m.id not in known_assistant_ids]
    # Steps follow one another: an open one before the last is what a crash has left.
    assistants = [m for m in mine if m.completed or m is mine[-1]]
    produced = _produced(assistants, state)
    # A busy session is busy with this run, unless this run has its end and somebody else's message is there.
    if not state.is_idle and not (shared and assistants and _has_ended(assistants[-1])):
        return produced
    verdict = _decide_at_rest(assistants, produced, settled=settled)
    return verdict if state.is_idle else replace(verdict, stray_run=True)


def calls_sub_agents(messages: Iterable[RunMessage]) -> bool:
    return any(part.tool == _DELEGATING_TOOL for message in messages for part in message.parts)


def with_sub_agents(
    run: Verdict, messages: Iterable[RunMessage], *, known_assistant_ids: frozenset[str] = frozenset()
) -> Verdict:
    """Add what sub-agents used for this attempt.

    messages: of their sessions, which go on over several runs: those that began before the attempt are left out, as
    are those that were counted before.
    """
    theirs = [
        m
        for m in messages
        if m.role is Role.ASSISTANT and m.created_ms >= run.began_ms and m.id not in known_assistant_ids
    ]
    by_model = _usage_by_model(theirs, start=run.usage_by_model)
    ids = frozenset(m.id for m in theirs)
    return replace(
        run,
        usage=sum(by_model.values(), start=Usage()),
        usage_by_model=by_model,
        assistant_ids=run.assistant_ids | ids,
        steps=run.steps + _steps_told(theirs),
        ended_ids=run.ended_ids | {m.id for m in theirs if m.has_end},
    )


def _steps_told(messages: Iterable[RunMessage]) -> int:
    """How many of them have ended, and the server tells what they used."""
    return sum(message.has_end and not message.known_usage.lower_bound for message in messages)


def _usage_by_model(messages: Iterable[RunMessage], *, start: Mapping[str, Usage]) -> dict[str, Usage]:
    by_model = dict(start)
    for message in messages:
        model = message.model or "unknown"
        by_model[model] = by_model.get(model, Usage()) + message.known_usage
    return by_model


def _decide_at_rest(assistants: list[RunMessage], produced: Verdict, *, settled: bool) -> Verdict:
    dead = replace(produced, kind=VerdictKind.RESUBMIT if settled else VerdictKind.UNSETTLED)
    if not assistants:  # an unknown model, or a crash before the first step
        return dead
    last = assistants[-1]
    if last.error is not None:
        kind = VerdictKind.CANCELLED if last.error.name == _ABORTED_ERROR else VerdictKind.FAILED
        return replace(produced, kind=kind, error=last.error)
    finals = [m for m in assistants if m.is_final and not m.summary]
    if finals and (last.summary or last.is_final):
        return _answered(finals, produced)
    if _ended_by_rejection(last):
        return replace(produced, kind=VerdictKind.ENDED_WITHOUT_ANSWER)
    return dead


def _answered(finals: list[RunMessage], produced: Verdict) -> Verdict:
    # A final message for another prompt: the model had answered, then the context was compacted and OpenCode told it to
    # go on. The earlier text is the answer to the question and must not get lost behind "anything else?". For the same
    # prompt the last one counts.
    by_prompt = {m.parent_id: m.text for m in finals if m.text}
    text = "\n\n".join(by_prompt.values()) or produced.partial_text
    if not text:
        return replace(produced, kind=VerdictKind.ENDED_WITHOUT_ANSWER)
    return replace(produced, kind=VerdictKind.SUCCEEDED, text=text, cut=finals[-1].finish == "length")


def _has_ended(message: RunMessage) -> bool:
    return message.error is not None or message.is_final


def _ended_by_rejection(last: RunMessage) -> bool:
    """A rejected ask or question ends a run after its tool step. A tool step that went well is followed by another
    step, so an idle session there means that the server died in between.
    """
    return (
        last.completed
        and last.finish == "tool-calls"
        and any(p.kind is PartKind.TOOL and p.tool_status == "error" for p in last.parts)
    )


def _messages_of_run(
    messages: Sequence[RunMessage], my_message_id: str, own_message_ids: frozenset[str]
) -> tuple[list[RunMessage], bool] | None:
    """The messages after mine, and whether a client's next message ends them; None: mine is not in the list."""
    start = next((i for i, m in enumerate(messages) if m.id == my_message_id), None)
    if start is None:
        return None
    run: list[RunMessage] = []
    for message in messages[start + 1 :]:
        if message.role is Role.USER and (message.id in own_message_ids or not _is_inserted(message)):
            return run, True
        run.append(message)
    return run, False


def _is_inserted(message: RunMessage) -> bool:
    """Whether OpenCode or a plugin wrote this user message to keep a run going."""
    return bool(message.parts) and all(
        part.kind is PartKind.COMPACTION or part.synthetic or part.text.startswith(_PLUGIN_PREFIXES)
        for part in message.parts
    )


def _produced(assistants: Sequence[RunMessage], state: SessionState) -> Verdict:
    """The verdict "still running", with everything the run has produced so far."""
    by_model = _usage_by_model(assistants, start={})
    text = ""
    delegations: dict[str, Delegation] = {}
    for message in assistants:
        text = text if message.summary else message.text or text
        delegations |= {part.delegation.session_id: part.delegation for part in message.parts if part.delegation}
    return Verdict(
        VerdictKind.RUNNING,
        partial_text=text,
        retry_attempt=state.retry_attempt,
        usage=sum(by_model.values(), start=Usage()),
        usage_by_model=by_model,
        assistant_ids=frozenset(message.id for message in assistants),
        steps=_steps_told(assistants),
        ended_ids=frozenset(message.id for message in assistants if message.has_end),
        delegations=tuple(delegations.values()),
        delegated=calls_sub_agents(assistants),
        began_ms=min((message.created_ms for message in assistants), default=0),
        tool_states=tuple(
            part.tool_status or "" for message in assistants for part in message.parts if part.kind is PartKind.TOOL
        ),
        last_ms=max((message.created_ms for message in assistants), default=0),
    )
