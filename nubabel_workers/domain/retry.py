"""Whether and when to try again, as data: policies in, decisions out. Nothing here waits."""

from dataclasses import dataclass

from nubabel_workers.domain.dead_letters import DeadLetterReason
from nubabel_workers.domain.errors import PermanentError, TransientError, UncertainError

_EXHAUSTED = "attempts_exhausted"


@dataclass(frozen=True)
class RetryPolicy:
    """Waits double from first_wait_s up to max_wait_s (seconds); max_attempts counts the first try."""

    max_attempts: int
    first_wait_s: float
    max_wait_s: float


@dataclass(frozen=True)
class TryAgain:
    wait_s: float
    look_first: bool = False  # the outcome of the last try is unknown: look it up before repeating


@dataclass(frozen=True)
class GiveUp:
    code: str  # "attempts_exhausted" or the permanent error's own code

    @property
    def reason(self) -> DeadLetterReason:
        """Of the dead letter that follows."""
        exhausted = self.code == _EXHAUSTED
        return DeadLetterReason.ATTEMPTS_EXHAUSTED if exhausted else DeadLetterReason.PERMANENT_ERROR


RetryDecision = TryAgain | GiveUp


def pace_of_waiting(waited_s: float, *, jitter: float) -> float:
    """Seconds until the next look at something that is away, e.g. a server: a tenth of the time waited so far.

    Being away is no failure of the request: it waits as a row, looks often at first and rarely later, and only its
    own time limit ends it. Between 2 and 30 s, spread by jitter (in [0, 1)) from half to one and a half of that.
    """
    return min(30.0, max(2.0, waited_s / 10)) * (0.5 + jitter)


def next_attempt(error: Exception, attempt: int, policy: RetryPolicy, *, jitter: float) -> RetryDecision:
    """Decide what follows the failure of try number `attempt` (1 for the first).

    jitter: a random number in [0, 1); the wait is that share of the exponential ceiling ("full jitter"), so that
    rows that failed together come back apart. The other side's own Retry-After is a floor, never shortened; jitter
    of at most one first wait is added to it.
    """
    if isinstance(error, PermanentError):
        return GiveUp(error.code)
    if attempt >= policy.max_attempts:
        return GiveUp(_EXHAUSTED)
    ceiling = min(policy.max_wait_s, policy.first_wait_s * 2 ** (attempt - 1))
    asked = error.retry_after_s if isinstance(error, TransientError) else None
    wait_s = asked + jitter * policy.first_wait_s if asked is not None else jitter * ceiling
    return TryAgain(wait_s, look_first=isinstance(error, UncertainError))
