"""When an OpenCode server gets no more calls for a while, and how it gets them back. Pure: policy and standing in,
decision out.

    closed --failures in a row, or a failing share--> open --its wait is over--> half open: one call goes as the probe
       ^                                               ^                            |
       |                                               └--the probe fails: longer---┤
       └--the probe succeeds; or a look does, where looks had failed as well--------┘

Pattern: Nygard, Release It!, chapter 5. Kinds of calls are counted apart: a server that answers every look may still
refuse every prompt, and then only a prompt proves that it is well again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class CallKind(StrEnum):
    """LOOK is every call that is none of the others."""

    PROMPT = "prompt"
    SESSION = "session"  # a new one is made
    LOOK = "look"


class CallOutcome(StrEnum):
    """SERVED: any answer below 500, also a refusal. FAILED: 5xx, or no answer in time. AWAY: no connection at all."""

    SERVED = "served"
    FAILED = "failed"
    AWAY = "away"


class BreakerState(StrEnum):
    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


@dataclass(frozen=True)
class BreakerPolicy:
    """What opens a breaker, and how long it stays open.

    failures_in_a_row: so many of one kind. failing_share: of at least least_calls calls of one kind in window_s
    seconds. Seconds open: first_wait_s, doubled with each opening that follows another, max_wait_s at most; half of it
    at least, the rest is jitter. probe_s: after that a probe without a result is given up, and another may go.
    """

    failures_in_a_row: int = 5
    failing_share: float = 0.5
    least_calls: int = 20
    window_s: float = 30.0
    first_wait_s: float = 2.0
    max_wait_s: float = 30.0
    probe_s: float = 30.0


@dataclass(frozen=True)
class Seen:
    """What one process saw of one kind of calls since its last report. in_a_row: failures since the last success.

    served_ago_s: how long ago the youngest successful call was begun.
    """

    served: int = 0
    failed: int = 0
    in_a_row: int = 0
    away: bool = False
    served_ago_s: float | None = None

    def and_then(self, outcome: CallOutcome, *, began_ago_s: float = 0.0) -> "Seen":
        if outcome is CallOutcome.SERVED:
            return replace(self, served=self.served + 1, in_a_row=0, served_ago_s=began_ago_s)
        away = self.away or outcome is CallOutcome.AWAY
        return replace(self, failed=self.failed + 1, in_a_row=self.in_a_row + 1, away=away)

    def before(self, later: "Seen") -> "Seen":
        """Both reports as one."""
        return Seen(
            served=self.served + later.served,
            failed=self.failed + later.failed,
            in_a_row=later.in_a_row + (0 if later.served else self.in_a_row),
            away=self.away or later.away,
            served_ago_s=later.served_ago_s if later.served_ago_s is not None else self.served_ago_s,
        )


Report = Mapping[CallKind, Seen]


@dataclass(frozen=True)
class Count:
    """Calls of one kind since the window's beginning. in_a_row: failures, also those before it."""

    served: int = 0
    failed: int = 0
    in_a_row: int = 0


@dataclass(frozen=True)
class Standing:
    """A server's breaker as all processes share it. Times: seconds of the shared store's clock.

    until: when the next probe may go; None while closed. openings: how many followed each other. looks_fail: so that
    looks are held back as well, and one that succeeds proves that the server is back.
    """

    counts: Mapping[CallKind, Count] = field(default_factory=dict)
    window_began: float = 0.0
    failed_at: float = 0.0
    opened_at: float = 0.0
    until: float | None = None
    probe_until: float = 0.0
    openings: int = 0
    looks_fail: bool = False


@dataclass(frozen=True)
class Gate:
    """Whether calls may go to a server. wait_s: until the next try; 0 when a probe may go now.

    looks: whether only prompts are held back.
    """

    state: BreakerState = BreakerState.CLOSED
    wait_s: float = 0.0
    looks: bool = True

    @property
    def lets_all(self) -> bool:
        return self.state is BreakerState.CLOSED

    @property
    def lets_probe(self) -> bool:
        return self.state is BreakerState.HALF_OPEN and self.wait_s == 0

    @property
    def words(self) -> str:
        """For operators."""
        if self.state is BreakerState.OPEN:
            return f"open, next try in {self.wait_s:.0f} s"
        return {BreakerState.CLOSED: "closed", BreakerState.HALF_OPEN: "half open, about to be tried"}[self.state]


_PROBE_LOOK_S = 1.0  # while somebody else's probe is on its way, which takes moments
CLOSED = Gate()


def gate(standing: Standing, now: float) -> Gate:
    if standing.until is None:
        return CLOSED
    looks = not standing.looks_fail
    if now < standing.until:
        return Gate(BreakerState.OPEN, standing.until - now, looks)
    probing = now < standing.probe_until
    return Gate(BreakerState.HALF_OPEN, _PROBE_LOOK_S if probing else 0.0, looks)


def with_probe(standing: Standing, now: float, policy: BreakerPolicy) -> Standing | None:
    """The standing with the one probe taken; None when none may go: closed, still open, or somebody else's goes."""
    return replace(standing, probe_until=now + policy.probe_s) if gate(standing, now).lets_probe else None


def after(
    standing: Standing, report: Report, now: float, policy: BreakerPolicy, *, jitter: float, probing: bool
) -> Standing:
    """What a report makes of a standing. probing: the reporter holds the probe. jitter: in [0, 1)."""
    if standing.until is None:
        return _after_while_closed(standing, report, now, policy, jitter)
    failed = any(seen.failed for seen in report.values())
    looks_fail = standing.looks_fail or _looks_failed(report)
    if _proves_recovery(standing, report, now, probing=probing and not failed):
        return Standing(openings=standing.openings, failed_at=now)
    if failed and now >= standing.until:
        return _opened(replace(standing, looks_fail=looks_fail), now, policy, jitter)
    return replace(standing, looks_fail=looks_fail, probe_until=0.0 if probing else standing.probe_until)


def is_forgotten(standing: Standing, now: float, policy: BreakerPolicy) -> bool:
    """Whether nothing of it matters any more."""
    return standing.until is None and now - standing.failed_at > _calm_s(policy)


def _after_while_closed(
    standing: Standing, report: Report, now: float, policy: BreakerPolicy, jitter: float
) -> Standing:
    failed = any(seen.failed for seen in report.values())
    fresh = now - standing.window_began <= policy.window_s
    remembered = now - standing.failed_at <= policy.window_s
    counts = {
        kind: _counted(standing.counts.get(kind, Count()), report.get(kind, Seen()), fresh=fresh, remembered=remembered)
        for kind in {*standing.counts, *report}
    }
    counted = replace(
        standing,
        counts=counts,
        window_began=standing.window_began if fresh else now,
        failed_at=now if failed else standing.failed_at,
        openings=standing.openings if now - standing.failed_at <= _calm_s(policy) else 0,
        looks_fail=_looks_failed(report) or _trips(counts.get(CallKind.LOOK, Count()), policy),
    )
    if failed and any(_trips(count, policy) for count in counts.values()):
        return _opened(counted, now, policy, jitter)
    return counted


def _looks_failed(report: Report) -> bool:
    """A server that cannot be reached at all fails at everything, whichever call was the one to find out."""
    return any(seen.away for seen in report.values()) or report.get(CallKind.LOOK, Seen()).in_a_row > 0


def _counted(count: Count, seen: Seen, *, fresh: bool, remembered: bool) -> Count:
    carried = count.in_a_row if remembered and not seen.served else 0
    return Count(
        served=seen.served + (count.served if fresh else 0),
        failed=seen.failed + (count.failed if fresh else 0),
        in_a_row=seen.in_a_row + carried,
    )


def _trips(count: Count, policy: BreakerPolicy) -> bool:
    calls = count.served + count.failed
    by_share = calls >= policy.least_calls and count.failed >= policy.failing_share * calls
    return count.in_a_row >= policy.failures_in_a_row or by_share


def _opened(standing: Standing, now: float, policy: BreakerPolicy, jitter: float) -> Standing:
    openings = standing.openings + 1
    longest = min(policy.max_wait_s, policy.first_wait_s * 2 ** min(openings - 1, 30))
    return Standing(
        failed_at=now,
        opened_at=now,
        until=now + longest * (0.5 + jitter / 2),
        openings=openings,
        looks_fail=standing.looks_fail,
    )


def _proves_recovery(standing: Standing, report: Report, now: float, *, probing: bool) -> bool:
    """A call that was begun after the opening and succeeded; one from before it may just have been slow."""
    kinds = {kind for kind, seen in report.items() if _served_since(standing.opened_at, seen, now)}
    return bool(kinds) and (probing or CallKind.PROMPT in kinds or standing.looks_fail)


def _served_since(opened_at: float, seen: Seen, now: float) -> bool:
    return seen.served_ago_s is not None and seen.in_a_row == 0 and now - seen.served_ago_s > opened_at


def _calm_s(policy: BreakerPolicy) -> float:
    """So long without a failure, and the next opening is a first one again."""
    return policy.window_s + policy.max_wait_s
