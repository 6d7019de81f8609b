"""An execution's timeline in plain words: what happened, and where the time went. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from nubabel_workers.domain.administration import SessionWait
from nubabel_workers.domain.decimals import in_full
from nubabel_workers.domain.executions import EventKind, SessionLeft, TimelineEvent

_Period = tuple[datetime, datetime]
_WAITS = {
    "capacity": "a free place: every suitable OpenCode server was full",
    "server away": "an OpenCode server that can be reached",
    "orchestrator away": "the service that is to answer it, which could not be reached",
    "own server": "an OpenCode server of the organization's own: it has none that may be used",
    "files": "its turn: only so many requests with attached files are handled at once",
    "budget": "room in the organization's budget",
    "pace": "its turn: the OpenCode server takes only so many prompts a second",
    "directories": "an OpenCode server that can work for one more organization",
    "directory": "its organization's directory on the OpenCode server: only so many are loaded at a time",
    "masking": "time to look through it for sensitive data",
}
_NEW_SESSION = "a new OpenCode session gets what was said before"
_NEXT_PROMPT = "the next prompt begins a new one with what was said before"
_REPLACED: Mapping[str, str] = {
    SessionLeft.POLICY: f"its organization's policy moved it to other servers: {_NEW_SESSION} and goes on there",
    SessionLeft.REMOVED: f"its OpenCode server was taken out of use: {_NEW_SESSION} and goes on elsewhere",
    SessionLeft.GIVEN_UP: f"its OpenCode server stayed away: {_NEW_SESSION} and goes on elsewhere",
    SessionLeft.LOST: f"its OpenCode server does not know its session any more: {_NEXT_PROMPT}",
    SessionLeft.FOREIGN: f"its OpenCode server spoke of another's session: {_NEXT_PROMPT}",
    SessionLeft.UNSTOPPED: f"what ran in its OpenCode session did not stop: {_NEXT_PROMPT}",
}
_REPLACED_UNTOLD = "its OpenCode session is gone or cannot be used; a new one is made"  # by a release that did not say
_WORKED = "OpenCode worked on it"
_QUEUED = "waited for its turn"
_TOLD = "until the answer was delivered"


@dataclass(frozen=True)
class Step:
    """One event. since_start_s: seconds after the first one."""

    at: datetime
    since_start_s: float
    words: str


@dataclass(frozen=True)
class Span:
    """How long one cause took, all its parts together. words: ends the sentence "3.2 s …"."""

    words: str
    seconds: float


def narrate(events: Sequence[TimelineEvent]) -> list[Step]:
    """The events, oldest first, each as a sentence. Words from outside are in it as they are."""
    return [
        Step(event.at, (event.at - events[0].at).total_seconds(), _WORDS[event.kind](event.detail)) for event in events
    ]


def time_spent(
    events: Sequence[TimelineEvent], *, session_wait: SessionWait | None, until: datetime | None
) -> list[Span]:
    """What the time between the first event and the delivery went into, in the order it was first met.

    session_wait: what kept the session busy when the request came. until: the present, for one that goes on;
    None for one that is over, whose time ends with its last event.
    """
    spent: dict[str, float] = {}
    cause: str | None = None
    away = [absence for event in events if (absence := _absence_before(event)) is not None]
    for event, later in zip(events, [*events[1:], None], strict=False):  # without events there is none later either
        cause = _cause_after(event, cause)
        end = until if later is None else later.at
        if cause is None or end is None:
            continue
        away_s = sum(_common_s((event.at, end), absence) for absence in away) if cause == _WORKED else 0.0
        for words, seconds in _split(cause, event.at, end, session_wait, until, away_s):
            spent[words] = spent.get(words, 0.0) + seconds
    return [Span(words, seconds) for words, seconds in spent.items()]


def _cause_after(event: TimelineEvent, before: str | None) -> str | None:
    """What the time after this event is spent on; None after the end."""
    if event.kind is EventKind.LEASE_TAKEN_OVER and before == _WORKED:
        return before  # OpenCode went on without the worker
    cause = _CAUSES.get(event.kind)
    return before if cause is None else cause(event.detail)


def _absence_before(left: TimelineEvent) -> _Period | None:
    """When the server of a run was away that is left with this event: nobody worked on it then."""
    away_s = left.detail.get("away_s") if left.kind is EventKind.SESSION_REPLACED else None
    return (left.at - timedelta(seconds=away_s), left.at) if isinstance(away_s, int | float) else None


def _common_s(one: _Period, other: _Period) -> float:
    return max(0.0, (min(one[1], other[1]) - max(one[0], other[0])).total_seconds())


def _split(
    cause: str,
    start: datetime,
    end: datetime,
    session_wait: SessionWait | None,
    until: datetime | None,
    away_s: float,
) -> list[tuple[str, float]]:
    """Take out of the waiting in the queue what an earlier request of the session is to blame for, and out of the run
    what its server was away.
    """
    if away_s > 0:
        worked_s = (end - start).total_seconds() - away_s
        return [(cause, worked_s), (f"waited for {_WAITS['server away']}", away_s)]
    if cause != _QUEUED or session_wait is None:
        return [(cause, (end - start).total_seconds())]
    free_at = min(max(session_wait.until or until or end, start), end)
    parts = [
        (f"waited for an earlier request of the session, {session_wait.execution_id}", free_at - start),
        (cause, end - free_at),
    ]
    return [(words, length.total_seconds()) for words, length in parts if length.total_seconds() > 0]


def _waited_for(detail: Mapping[str, Any]) -> str:
    reason = str(detail.get("reason", ""))
    return _WAITS.get(reason, reason or "its time")


def _again(detail: Mapping[str, Any]) -> str:
    wait_s = detail.get("wait_s")
    return f"; again in {wait_s:.1f} s" if isinstance(wait_s, int | float) else ""


def _masked(detail: Mapping[str, Any]) -> str:
    said = [f"masked before it left: {_counted(detail['kinds'])}"] if detail.get("kinds") else []
    if detail.get("unread"):
        what_became = "held back" if detail.get("held_back") else "sent as they were"
        said.append(f"files that could not be looked through, {what_became}: {_counted(detail['unread'])}")
    if detail.get("left_out"):
        said.append(f"left out, there was no time to look through it: {_counted(detail['left_out'])}")
    return "; ".join(said) or "looked through before it left"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _submitted(detail: Mapping[str, Any]) -> str:
    known = {name: detail.get(name) for name in ("category", "agent") if detail.get(name)}
    chosen = ", ".join(f"{name} {value}" for name, value in known.items())
    where = f" on {detail['instance']}" if detail.get("instance") else ""
    words = f"submitted to {_orchestrator(detail)}{where}, attempt {detail.get('attempt', 1)}"
    sparing = next((why.partition("economy: ")[2] for why in detail.get("reasons") or () if "economy: " in why), "")
    return words + (f" ({chosen})" if chosen else "") + (f", sparing: {sparing}" if sparing else "")


def _orchestrator(detail: Mapping[str, Any]) -> str:
    """OpenCode has no need to be named where it is the only one."""
    name = detail.get("orchestrator")
    return "OpenCode" if name is None else f"the orchestrator {name}"


def _worked(detail: Mapping[str, Any]) -> str:
    return _WORKED if detail.get("orchestrator") is None else f"{_orchestrator(detail)} worked on it"


def _delegated(detail: Mapping[str, Any]) -> str:
    to = f"category {detail['category']}" if detail.get("category") else str(detail.get("agent") or "a sub-agent")
    known = [f"skills {', '.join(map(str, detail['skills']))}"] if detail.get("skills") else []
    known += [f"model {detail['model']}"] if detail.get("model") else []
    known += [f"session {detail['session_id']}"] if detail.get("session_id") else []
    return f"delegated to {to}" + (f" ({'; '.join(known)})" if known else "")


def _finished(detail: Mapping[str, Any]) -> str:
    verdict, reason = detail.get("verdict"), detail.get("reason")
    words = str(detail.get("status", "finished"))
    if verdict and verdict not in {words, "succeeded"}:
        words += f": {verdict}"
    words += f" ({reason})" if reason else ""
    return words + ("; nothing was delegated" if detail.get("delegated") is False else "")


def _delivered(detail: Mapping[str, Any]) -> str:
    possibly = ", marked as a possible repeat" if detail.get("repeated") else ""
    return f"{_destination(detail)} delivered{possibly}"


def _destination(detail: Mapping[str, Any]) -> str:
    return "the webhook was" if detail.get("kind") == "webhook" else "the answer was"


def _asked(detail: Mapping[str, Any]) -> str:
    what = detail.get("permission") or detail.get("question") or "something"
    return f"OpenCode asked for {what}: refused, nobody is there to answer"


def _tool(detail: Mapping[str, Any]) -> str:
    return f"tool {detail.get('tool', '?')} of {detail.get('provider', '?')}"


def _again_for_the(detail: Mapping[str, Any]) -> str:
    number = detail.get("try", 1)
    return f", try {number}" if number != 1 else ""


def _called(detail: Mapping[str, Any]) -> str:
    seconds = detail.get("seconds")
    lasted = f" after {seconds:.2f} s" if isinstance(seconds, int | float) else ""
    outcome, code = detail.get("outcome"), detail.get("code")
    if outcome == "unknown":
        return f"{_tool(detail)}: the outcome is unknown{lasted}; it may have taken effect"
    return f"{_tool(detail)} {outcome or 'ended'}{lasted}" + (f" ({code})" if code else "")


_WORDS: Mapping[EventKind, Callable[[Mapping[str, Any]], str]] = {
    EventKind.ACCEPTED: lambda d: f"accepted from {d.get('source', 'outside')}",
    EventKind.WAITING: lambda d: f"waits for {_waited_for(d)}{_again(d)}",
    EventKind.DISPATCHING: lambda _: "taken by a worker",
    EventKind.ANALYSED: lambda d: f"analysed: {d.get('category', 'no category')}",
    EventKind.CONTEXT: lambda _: "the thread's earlier messages were read",
    EventKind.MASKED: _masked,
    EventKind.SUBMITTED: _submitted,
    EventKind.DELEGATED: _delegated,
    EventKind.TOOL: lambda d: f"tool {d.get('tool', '')}".rstrip(),
    EventKind.TOOL_CALL_STARTED: lambda d: f"calls {_tool(d)}{_again_for_the(d)}",
    EventKind.TOOL_CALL_ENDED: _called,
    EventKind.ASK_REJECTED: _asked,
    EventKind.BUDGET_REACHED: lambda d: f"paused, its work is kept: no room under {d.get('cap', 'the budget')}",
    EventKind.RESUMED: lambda d: (
        f"goes on: {d['by']} allowed it {in_full(float(d['cost_usd']))} US dollars more"
        if "cost_usd" in d
        else "goes on: there is room in the budget"
    ),
    EventKind.RETRY: lambda d: f"the attempt failed: {d.get('reason', 'no reason known')}{_again(d)}",
    EventKind.RESUBMIT: lambda d: f"the run was lost: {d.get('reason', 'no reason known')}{_again(d)}",
    EventKind.SESSION_REPLACED: lambda d: _REPLACED.get(d.get("reason", ""), _REPLACED_UNTOLD),
    EventKind.CANCEL_REQUESTED: lambda d: f"cancellation asked for: {d.get('reason', 'no reason given')}",
    EventKind.ABORTED: lambda _: "OpenCode was told to stop",
    EventKind.STRAY_RUN_STOPPED: lambda _: "OpenCode was told to stop a run that belonged to nobody any more",
    EventKind.LEASE_TAKEN_OVER: lambda _: "the worker that held it disappeared; another takes over",
    EventKind.FINISHED: _finished,
    EventKind.DELIVERED: _delivered,
    EventKind.DELIVERY_RETRY: lambda d: f"{_destination(d)} not delivered: {d.get('error', 'no reason')}{_again(d)}",
    EventKind.DELIVERY_FAILED: lambda d: f"{_destination(d)} not delivered, given up: {d.get('error', 'no reason')}",
    EventKind.MOVED: lambda d: f"the rollout was changed: {d.get('orchestrator', 'another orchestrator')} answers it",
    EventKind.REPLAYED: lambda d: f"replayed by {d.get('by', 'an operator')}",
    EventKind.CONNECTION_REFUSED: lambda d: (
        f"the connection {d.get('provider', '')} was refused: {d.get('reason', 'no reason given')}; authorize it again"
    ),
}


# Events that are not in here don't change what is waited for.
_CAUSES: Mapping[EventKind, Callable[[Mapping[str, Any]], str | None]] = {
    EventKind.ACCEPTED: lambda _: _QUEUED,
    EventKind.REPLAYED: lambda _: _QUEUED,
    EventKind.WAITING: lambda d: f"waited for {_waited_for(d)}",
    EventKind.BUDGET_REACHED: lambda _: f"waited for {_WAITS['budget']}",
    EventKind.RESUMED: lambda _: _QUEUED,
    EventKind.RETRY: lambda d: f"waited for the next attempt, after: {d.get('reason', 'a failure')}",
    EventKind.RESUBMIT: lambda d: f"waited for the next attempt, after: {d.get('reason', 'a failure')}",
    EventKind.LEASE_TAKEN_OVER: lambda _: "waited for another worker, the first one disappeared",
    EventKind.SUBMITTED: _worked,
    EventKind.FINISHED: lambda _: _TOLD,
    EventKind.DELIVERY_RETRY: lambda d: f"waited to tell the answer again, after: {d.get('error', 'a failure')}",
    EventKind.DELIVERED: lambda _: None,
    EventKind.DELIVERY_FAILED: lambda _: None,
}
