"""What an execution in the queue waits for, in words: the same for whoever asks, by whichever door."""

import math
from dataclasses import dataclass

from nubabel_workers.domain.budgets import WAITS_FOR_BUDGET
from nubabel_workers.domain.limits import Limits
from nubabel_workers.domain.placement import AWAY, FULL, OWN, PACE

SESSION = "session"
IN_FLIGHT = "in_flight"
TURN = "turn"
STARTING = "starting"
AGAIN = "again"
MOST_AHEAD = 1000  # counted

_STORED = {
    WAITS_FOR_BUDGET: "its organization's budget leaves no room",
    AWAY: "its OpenCode server is away",
    OWN: "none of its organization's own OpenCode servers can be used",
    PACE: "its OpenCode server takes no more prompts in this moment",
    FULL: "every OpenCode server is busy",
}


@dataclass(frozen=True)
class Line:
    """What was found about an execution in the queue.

    ahead: executions of its organization that go before it, MOST_AHEAD at most. in_flight: of its organization.
    stored_reason: why it was put back, wait_s: seconds until it may be taken again (not above 0: now).
    usual_run_s: what its organization's last runs took; None: there was none.
    """

    session_is_taken: bool
    ahead: int
    in_flight: int
    stored_reason: str | None
    wait_s: float
    usual_run_s: float | None


@dataclass(frozen=True)
class Waiting:
    """reason: a stable word. position: in its organization's queue, 1 is next. starts_in_s: None: nobody can know."""

    reason: str
    words: str
    position: int
    starts_in_s: float | None


def waiting_of(line: Line, limits: Limits, *, free_places: int) -> Waiting:
    """free_places: what the OpenCode servers together can still run."""
    reason, why, starts_in_s = _why(line, limits, free_places)
    position = line.ahead + 1
    place = f"more than {MOST_AHEAD}" if line.ahead >= MOST_AHEAD else str(position)
    words = f"{why}; place {place} in its organization's queue; {_expected(starts_in_s)}"
    return Waiting(reason, words, position, starts_in_s)


def _why(line: Line, limits: Limits, free_places: int) -> tuple[str, str, float | None]:
    if line.session_is_taken:
        return SESSION, "an earlier request of its conversation is not over", line.usual_run_s
    if line.wait_s > 0:
        return _put_back(line)
    if limits.in_flight is not None and line.in_flight >= limits.in_flight:
        rounds = math.ceil((line.ahead + 1) / max(1, limits.in_flight))
        starts_in_s = None if line.usual_run_s is None or not limits.in_flight else line.usual_run_s * rounds
        return IN_FLIGHT, f"its organization runs {line.in_flight} at once, which is its limit", starts_in_s
    if free_places <= 0:
        return FULL, _STORED[FULL], None
    if line.ahead:
        return TURN, "others of its organization came before", None
    return STARTING, "it is about to start", 0.0


def _put_back(line: Line) -> tuple[str, str, float | None]:
    if line.stored_reason not in _STORED:
        return AGAIN, "it is tried again after a pause", line.wait_s
    known_s = line.wait_s if line.stored_reason == PACE else None
    return line.stored_reason, _STORED[line.stored_reason], known_s


def _expected(starts_in_s: float | None) -> str:
    if starts_in_s is None:
        return "when it starts cannot be told"
    return "expected to start at once" if starts_in_s < 1 else f"expected to start in about {math.ceil(starts_in_s)} s"
