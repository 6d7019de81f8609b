"""What goes wrong, and when: a plan that follows from its seed alone. Nothing here touches a process."""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    KILL = "kill"  # SIGKILL; the supervisor starts it again
    STOP = "stop"  # SIGSTOP, SIGCONT after hold_s: longer than the leases
    RESTART = "restart"  # SIGTERM, then a new start
    KILL_IN_POST = "kill in post"  # SIGKILL of the worker whose post Slack has taken, but not answered yet
    KILL_IN_SUBMIT = "kill in submit"  # SIGKILL of the worker whose prompt OpenCode has taken, but not answered yet
    VALKEY_KILL = "valkey killed"  # and started with its data
    VALKEY_WIPE = "valkey wiped"  # killed and started empty
    VALKEY_FLUSH = "valkey flushed"  # FLUSHALL
    VALKEY_HANG = "valkey hangs"  # SIGSTOP
    POSTGRES_KILL = "postgres killed"
    POSTGRES_RESTART = "postgres restarted"
    POSTGRES_HANG = "postgres hangs"  # postmaster and sessions stopped
    OPENCODE_CRASH = "opencode crashed"  # what was stored stays, runs are gone
    OPENCODE_WIPE = "opencode wiped"  # sessions are gone, too
    OPENCODE_HANG = "opencode hangs"
    SLACK_LOST_ANSWER = "slack: answer lost"  # posted, then the connection closed
    SLACK_INTERNAL_ERROR = "slack: internal_error"  # HTTP 200 although it was posted
    SLACK_TAKEN_LATE = "slack: taken late"  # when nobody waits for the answer any more
    SLACK_RATE_LIMIT = "slack: 429"
    SLACK_5XX = "slack: 5xx"
    FLEET_ADD = "fleet: server added"  # works for a while, then it is drained and, once idle, removed
    FLEET_DRAIN = "fleet: server drained"  # gets nothing new, then it is active again
    FLEET_REMOVE = "fleet: server removed"  # by force; started anew and added again after a while
    FLEET_GIVE_UP = "fleet: server given up"  # away for longer than its sessions wait for it
    FLEET_LEAK = "fleet: server leaks"  # until the scheduler has had it restarted
    FLEET_LAG = "fleet: events late"
    FLEET_FEWER = "fleet: fewer directories"  # than there are organizations
    LIMIT_REQUESTS = "limit: requests_per_minute"
    LIMIT_QUEUED = "limit: queued"
    LIMIT_SESSIONS = "limit: sessions"
    LIMIT_IN_FLIGHT = "limit: in_flight"
    LIMIT_TOKENS_DAY = "limit: tokens_per_day"
    LIMIT_TOKENS_MONTH = "limit: tokens_per_month"
    LIMIT_COST_MONTH = "limit: cost_per_month"
    LIMIT_COST_USER = "limit: cost_per_user_day"


PROCESS_FAULTS = frozenset({FaultKind.KILL, FaultKind.STOP, FaultKind.RESTART})
SLACK_FAULTS = frozenset(kind for kind in FaultKind if kind.value.startswith("slack:"))
LIMIT_FAULTS = frozenset(kind for kind in FaultKind if kind.value.startswith("limit:"))
BUDGET_FAULTS = frozenset(
    {
        FaultKind.LIMIT_TOKENS_DAY,
        FaultKind.LIMIT_TOKENS_MONTH,
        FaultKind.LIMIT_COST_MONTH,
        FaultKind.LIMIT_COST_USER,
    }
)

# One round of faults; dealt in random order, so that every kind comes up before any comes again.
_DECK: tuple[tuple[FaultKind, int], ...] = (
    (FaultKind.KILL, 7),
    (FaultKind.STOP, 4),
    (FaultKind.RESTART, 2),
    (FaultKind.KILL_IN_POST, 3),
    (FaultKind.KILL_IN_SUBMIT, 3),
    *(
        (kind, 1)
        for kind in FaultKind
        if kind.value.startswith(("valkey", "postgres", "opencode", "slack:", "fleet:", "limit:"))
    ),
)


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """at_s: from the start of the load. target: a process, an OpenCode server's number or a Slack team, which
    stands for its organization where a limit changes.

    hold_s: how long it lasts; 0 for what is over at once.
    """

    at_s: float
    kind: FaultKind
    target: str
    hold_s: float = 0.0

    @property
    def subject(self) -> str:
        """What it makes unavailable: no second fault befalls that meanwhile."""
        if self.kind in LIMIT_FAULTS:
            return f"limits of {self.target}"
        store = self.kind.value.partition(" ")[0]
        return store if store in {"valkey", "postgres"} else self.target


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """every_s: seconds between two faults. stop_s: how long a process is stopped, from and to.

    outage_s: how long a store or OpenCode is away or hangs, from and to. fleet_s, limit_s: how long a change of the
    fleet or of a limit lasts. given_up_s: how long a server is away that is given up. spender: the team whose requests
    cost something. kinds: no others are dealt.
    """

    duration_s: float
    every_s: float
    processes: Sequence[str]
    teams: Sequence[str]
    opencode_servers: int
    stop_s: tuple[float, float] = (12.0, 18.0)
    outage_s: tuple[float, float] = (1.0, 5.0)
    fleet_s: tuple[float, float] = (6.0, 12.0)
    limit_s: tuple[float, float] = (4.0, 10.0)
    given_up_s: tuple[float, float] = (25.0, 35.0)
    spender: str = ""
    kinds: Collection[FaultKind] = tuple(FaultKind)


def make_plan(seed: int, options: PlanOptions) -> list[PlannedFault]:
    """The faults in the order of their times; the last ones begin one interval before the load ends."""
    chance = random.Random(seed)
    busy_until: dict[str, float] = {}
    plan: list[PlannedFault] = []
    deck: list[FaultKind] = []
    number = 1
    while number * options.every_s <= options.duration_s - options.every_s:
        deck = deck or _shuffled(chance, options.kinds)
        at_s = options.every_s * (number + chance.uniform(-0.3, 0.3))
        fault = _fault(chance, deck.pop(), at_s, options, busy_until)
        if fault is not None:
            busy_until[fault.subject] = at_s + fault.hold_s
            plan.append(fault)
        number += 1
    return plan


def _shuffled(chance: random.Random, kinds: Collection[FaultKind]) -> list[FaultKind]:
    deck = [kind for kind, times in _DECK for _ in range(times) if kind in kinds]
    chance.shuffle(deck)
    return deck


def _fault(
    chance: random.Random, kind: FaultKind, at_s: float, options: PlanOptions, busy_until: Mapping[str, float]
) -> PlannedFault | None:
    """None: whatever it could befall suffers from another fault at that time."""
    hold_s = _hold_s(chance, kind, options)
    candidates = [PlannedFault(at_s, kind, target, hold_s) for target in _targets(kind, options)]
    free = [fault for fault in candidates if busy_until.get(fault.subject, 0.0) <= at_s]
    return chance.choice(free) if free else None


def _targets(kind: FaultKind, options: PlanOptions) -> Sequence[str]:
    if kind in PROCESS_FAULTS:
        return options.processes
    if kind in BUDGET_FAULTS:
        return [options.spender] if options.spender else []
    if kind in SLACK_FAULTS | LIMIT_FAULTS or kind is FaultKind.KILL_IN_POST:
        return options.teams
    if kind is FaultKind.FLEET_ADD:
        return ["the fleet"]
    if kind.value.startswith(("opencode", "fleet:")) or kind is FaultKind.KILL_IN_SUBMIT:
        return [f"opencode {number}" for number in range(1, options.opencode_servers + 1)]
    return [kind.value.partition(" ")[0]]


def _hold_s(chance: random.Random, kind: FaultKind, options: PlanOptions) -> float:
    if kind is FaultKind.STOP:
        return chance.uniform(*options.stop_s)
    if kind is FaultKind.FLEET_GIVE_UP:
        return chance.uniform(*options.given_up_s)
    if kind.value.startswith("fleet:"):
        return chance.uniform(*options.fleet_s)
    if kind in LIMIT_FAULTS:
        return chance.uniform(*options.limit_s)
    lasting = kind.value.startswith(("valkey", "postgres", "opencode")) and kind is not FaultKind.VALKEY_FLUSH
    return chance.uniform(*options.outage_s) if lasting else 0.0
