"""Whether a new request is taken in: the one place that says no, by which limit of its organization, and until when.

What is taken in runs as soon as it is its turn: `limits.py` names the limits, the claim obeys those about running.
"""

import math
from dataclasses import dataclass

from nubabel_workers.domain.errors import RateLimitedError
from nubabel_workers.domain.limits import Limits
from nubabel_workers.domain.wording import Language, say

REQUESTS = "requests_per_minute"
QUEUED = "queued"
SESSIONS = "sessions"
MINUTE_S = 60

# For a limit that frees when others of the organization end: nobody knows when, so ask again soon.
_ASK_AGAIN_S = 10.0
# How fast requests of an organization without a limit per minute are expected to come, at most.
_FASTEST_PER_S = 1000.0
_SHORTEST_S, _LONGEST_S = 0.25, 60.0
_COUNTED_PER_S = 50_000  # rows for whose count a second passes at least


@dataclass(frozen=True)
class Occupied:
    """queued: executions that wait. sessions: conversations with an execution that is not over."""

    queued: int
    sessions: int

    def with_more(self, accepted: int) -> "Occupied":
        """As if each of them waited, in a conversation of its own."""
        return Occupied(self.queued + accepted, self.sessions + accepted)


@dataclass(frozen=True)
class Refusal:
    """limit: its name. frees_in_s: None where it frees when others of the organization end."""

    limit: str
    allowed: int
    frees_in_s: float | None = None

    @property
    def code(self) -> str:
        """The stable word for callers."""
        return f"{self.limit}_reached"

    @property
    def retry_after_s(self) -> float:
        return _ASK_AGAIN_S if self.frees_in_s is None else self.frees_in_s

    def words(self, language: Language = Language.ENGLISH) -> str:
        """The same in a thread, in an answer over HTTP and in a dead letter."""
        wait_s = str(math.ceil(self.retry_after_s))
        return say(f"refused_{self.limit}", language, allowed=str(self.allowed), wait_s=wait_s)


class LimitReachedError(RateLimitedError):
    """The organization's own limit, or its plan's, refuses the request: nothing was stored."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.words(), retry_after_s=refusal.retry_after_s)
        self.refusal = refusal
        self.code = refusal.code


def refusal_for(limits: Limits, occupied: Occupied, *, session_is_open: bool) -> Refusal | None:
    """session_is_open: the request goes on in a conversation that counts already."""
    if limits.queued is not None and occupied.queued >= limits.queued:
        return Refusal(QUEUED, limits.queued)
    if limits.sessions is not None and not session_is_open and occupied.sessions >= limits.sessions:
        return Refusal(SESSIONS, limits.sessions)
    return None


def counted_again_after_s(occupied: Occupied) -> float:
    """How often an organization at a limit is counted: a long queue not all the time."""
    return _SHORTEST_S + occupied.queued / _COUNTED_PER_S


def good_for_s(limits: Limits, occupied: Occupied) -> float:
    """How long a count can be relied on: half of the time in which what is left could be used up.

    So an organization far from its limits is counted once a minute, one near them four times a second. What is accepted
    in such a time is what it can pass them by.
    """
    left = min(
        (
            most - used
            for most, used in ((limits.queued, occupied.queued), (limits.sessions, occupied.sessions))
            if most is not None
        ),
        default=0,
    )
    per_s = _FASTEST_PER_S if limits.requests_per_minute is None else limits.requests_per_minute / MINUTE_S
    return min(_LONGEST_S, max(counted_again_after_s(occupied), left / per_s / 2))
