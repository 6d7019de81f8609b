"""What was asked, what was told, and what became of each request. Pure: entries in, fates out.

The entries come from the load generator, the Slack simulator and the OpenCode simulator, never from our own tables.
All times are monotonic seconds.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise


class Way(StrEnum):
    """How a request comes in, and how its outcome goes out."""

    EVENTS = "Slack, Events API"
    SOCKET = "Slack, Socket Mode"
    WEBHOOK = "HTTP, webhook"
    POLLING = "HTTP, polled"
    BATCH = "HTTP, batch"  # told in one webhook with others

    @property
    def in_slack(self) -> bool:
        return self in {Way.EVENTS, Way.SOCKET}


class Saying(StrEnum):
    ANSWER = "answer"
    REPEAT = "marked repeat"  # says that it may be one; of a webhook: the same webhook-id again
    APOLOGY = "apology"  # the request failed for good: a dead letter, and the thread is told
    REFUSAL = "refusal"
    NOTICE = "notice"  # "this takes longer": no outcome


class Fate(StrEnum):
    ONCE = "answered once"
    TWICE = "answered twice"
    REFUSED = "refused with a reason"
    APOLOGISED = "dead-lettered and told"
    UNTELLABLE = "could not be told, as expected"
    LOST = "lost"
    STUCK = "stuck"
    NEVER_ACCEPTED = "never accepted"


@dataclass(slots=True)
class Job:
    """One request. tellable: False where archived channel, deleted thread or revoked token keep us from telling.

    accepted_at: when Slack saw our acknowledgement, or the caller our 202. refused: the reason, for what the gateway
    refused. not_accepted: why the last try failed. working: at the end somebody still seems to work on it.
    """

    number: int
    thread: str
    way: Way
    said_at: float
    tellable: bool = True
    accepted_at: float | None = None
    refused: str | None = None
    not_accepted: str | None = None
    working: bool = False
    execution_ids: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Told:
    """Something that reached the outside. job: None where the words don't name it."""

    at: float
    saying: Saying
    thread: str
    job: int | None = None


@dataclass(frozen=True, slots=True)
class ModelRun:
    """A run on OpenCode that called the model. answered: it ended with an answer that was stored."""

    job: int
    began: float
    ended: float
    answered: bool


@dataclass(frozen=True, slots=True)
class JobFate:
    job: Job
    fate: Fate
    outcomes: Sequence[Told] = ()
    repeats: int = 0

    @property
    def outcome_at(self) -> float | None:
        """When its outcome was first seen."""
        return min((told.at for told in self.outcomes), default=None)


def fates_of(jobs: Iterable[Job], told: Iterable[Told]) -> list[JobFate]:
    """What became of each job."""
    by_thread: defaultdict[str, list[Job]] = defaultdict(list)
    for job in jobs:
        by_thread[job.thread].append(job)
    told_in: defaultdict[str, list[Told]] = defaultdict(list)
    for one in told:
        told_in[one.thread].append(one)
    return [fate for thread, asked in by_thread.items() for fate in _fates_in_thread(asked, told_in[thread])]


def order_violations(fates: Sequence[JobFate], runs: Mapping[int, Sequence[ModelRun]]) -> list[tuple[int, int]]:
    """Pairs of jobs of a thread where the later one was answered, or run, before the earlier one was through.

    Only jobs that the earlier one's acceptance precedes count: what comes in late was asked late. Webhooks promise no
    order, and who polls sees an outcome when it looks: over HTTP the order of the runs counts.
    """
    by_thread: defaultdict[str, list[JobFate]] = defaultdict(list)
    for fate in fates:
        by_thread[fate.job.thread].append(fate)
    return [
        (earlier.job.number, later.job.number)
        for thread in by_thread.values()
        for earlier in thread
        for later in thread
        if earlier.job.accepted_at is not None
        and earlier.job.accepted_at < later.job.said_at
        and (_told_before(later, earlier) or _run_before(runs, later.job.number, earlier.job.number))
    ]


def unexplained_reruns(runs: Mapping[int, Sequence[ModelRun]], wipes: Sequence[float]) -> list[int]:
    """Jobs whose model was asked again after a run that had answered, though no server lost its data since."""
    return [
        job
        for job, its_runs in runs.items()
        if any(
            earlier.answered and not any(earlier.began <= wipe <= later.began for wipe in wipes)
            for earlier, later in pairwise(its_runs)
        )
    ]


def _fates_in_thread(jobs: Sequence[Job], told: Sequence[Told]) -> list[JobFate]:
    outcomes: dict[int, list[Told]] = {job.number: [] for job in jobs}
    unnamed: list[Told] = []
    for one in sorted(told, key=lambda one: one.at):
        if one.saying is Saying.NOTICE:
            continue
        if one.job is None or one.job not in outcomes:
            unnamed.append(one)
        else:
            outcomes[one.job].append(one)
    for one in unnamed:
        outcomes[_whom(jobs, outcomes, one)].append(one)
    return [_fate(job, outcomes[job.number]) for job in jobs]


def _whom(jobs: Sequence[Job], outcomes: Mapping[int, Sequence[Told]], one: Told) -> int:
    """Whom an outcome without a name is for: the first that waited for one; else the last that was asked before."""
    asked = [job for job in jobs if job.said_at <= one.at] or list(jobs)
    waiting = [job for job in asked if not outcomes[job.number]]
    return waiting[0].number if waiting else asked[-1].number


def _fate(job: Job, seen: Sequence[Told]) -> JobFate:
    repeats = [one for one in seen if one.saying is Saying.REPEAT]
    unmarked = [one for one in seen if one.saying is not Saying.REPEAT]
    outcomes = unmarked or repeats[:1]
    fate = _fate_of_outcomes(job, outcomes)
    return JobFate(job, fate, outcomes, repeats=len(repeats))


def _fate_of_outcomes(job: Job, outcomes: Sequence[Told]) -> Fate:
    if len(outcomes) > 1 or len(job.execution_ids) > 1:
        return Fate.TWICE
    if outcomes:
        said = outcomes[0].saying
        return {Saying.APOLOGY: Fate.APOLOGISED, Saying.REFUSAL: Fate.REFUSED}.get(said, Fate.ONCE)
    if job.refused is not None:
        return Fate.REFUSED
    if job.accepted_at is None:
        return Fate.NEVER_ACCEPTED
    if not job.tellable:
        return Fate.UNTELLABLE
    return Fate.STUCK if job.working else Fate.LOST


def _told_before(later: JobFate, earlier: JobFate) -> bool:
    """A refusal at the door is told at once, whatever still runs."""
    if not later.job.way.in_slack or later.fate is Fate.REFUSED:
        return False
    first, second = earlier.outcome_at, later.outcome_at
    return first is not None and second is not None and second < first


def _run_before(runs: Mapping[int, Sequence[ModelRun]], later: int, earlier: int) -> bool:
    its_runs, earlier_runs = runs.get(later, ()), runs.get(earlier, ())
    return bool(its_runs and earlier_runs) and its_runs[0].began < earlier_runs[-1].began
