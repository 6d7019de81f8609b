"""The table of a chaos run, from fates, runs and faults. Pure: text out."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.chaos.ledger import Fate, JobFate, ModelRun
from tests.faults.chaos.suffering import Suffered, Takeover

_NEVER = "…"


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that a run yields. quiet: whether it had become quiet before the deadline."""

    fates: Sequence[JobFate]
    out_of_order: Sequence[tuple[int, int]]
    runs: Mapping[int, Sequence[ModelRun]]
    rerun: Sequence[int]
    suffered: Sequence[Suffered] = ()
    takeovers: Sequence[Takeover] = ()
    load_s: float = 0.0
    quiet_after_s: float | None = None
    books: Sequence[str] = ()  # what a recount found to be off
    pauses: int = 0  # of runs that came to a cap of their budget
    notes: Sequence[str] = field(default_factory=tuple)

    def count(self, fate: Fate) -> int:
        return sum(one.fate is fate for one in self.fates)

    @property
    def accepted(self) -> int:
        return sum(one.job.accepted_at is not None for one in self.fates)

    @property
    def repeats(self) -> int:
        return sum(one.repeats for one in self.fates)

    @property
    def broken(self) -> bool:
        """Whether the promise was broken."""
        fates = (Fate.LOST, Fate.TWICE, Fate.STUCK)
        return any(self.count(fate) for fate in fates) or bool(self.out_of_order) or bool(self.books)


def table(result: Result) -> str:
    sections = [
        _rows("requests", _outcomes(result)),
        _rows("accepted, by way", sorted(_by_way(result).items())),
        _rows("never accepted, by cause", sorted(_causes(result).items())),
        _rows("model runs per request", sorted(_run_counts(result).items())),
        _rows("seconds", _times(result)),
        _recoveries(result),
        _rows("wait of a killed worker's job for its next owner", _waits(result.takeovers)),
        _offenders(result),
        *(f"after quiet there are still {one}" for one in result.books),
        *result.notes,
    ]
    verdict = (
        "BROKEN: lost, twice, stuck, out of order or off by something"
        if result.broken
        else "nothing lost, nothing twice"
    )
    return "\n\n".join([section for section in sections if section] + [verdict])


def recovery_s(fault: Suffered, fates: Iterable[JobFate]) -> float | None:
    """From the fault's end until the last request that was in flight during it had its outcome; None: none was."""
    in_flight = [
        one.outcome_at
        for one in fates
        if one.job.accepted_at is not None
        and one.outcome_at is not None
        and one.job.accepted_at <= fault.ended
        and one.outcome_at >= fault.began
    ]
    return max(0.0, max(in_flight) - fault.ended) if in_flight else None


def first_outcome_s(fault: Suffered, fates: Iterable[JobFate]) -> float | None:
    """From the fault's end until the first request that was made afterwards had its outcome."""
    later = [one.outcome_at for one in fates if one.outcome_at is not None and one.job.said_at > fault.ended]
    return min(later) - fault.ended if later else None


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least that share of the values doesn't exceed; 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def _outcomes(result: Result) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [("asked", len(result.fates)), ("accepted", result.accepted)]
    for fate in Fate:
        rows.append((str(fate), result.count(fate)))
        if fate is Fate.TWICE:
            rows.append(("  marked repeats", result.repeats))
    return [
        *rows,
        ("order violations", len(result.out_of_order)),
        ("asked of the model again though answered", len(result.rerun)),
        ("pauses at a cap of the budget", result.pauses),
    ]


def _by_way(result: Result) -> Counter[str]:
    return Counter(str(one.job.way) for one in result.fates if one.job.accepted_at is not None)


def _causes(result: Result) -> Counter[str]:
    never = (one.job for one in result.fates if one.fate is Fate.NEVER_ACCEPTED)
    return Counter(f"{job.way}: {job.not_accepted or 'no answer yet'}" for job in never)


def _run_counts(result: Result) -> Counter[int]:
    accepted = (one.job.number for one in result.fates if one.job.accepted_at is not None)
    return Counter(len(result.runs.get(number, ())) for number in accepted)


def _times(result: Result) -> list[tuple[str, object]]:
    waits = [
        one.outcome_at - one.job.accepted_at
        for one in result.fates
        if one.outcome_at is not None and one.job.accepted_at is not None
    ]
    quiet = _NEVER if result.quiet_after_s is None else f"{result.quiet_after_s:.0f}"
    return [
        ("load", f"{result.load_s:.0f}"),
        ("accepted a second", f"{result.accepted / result.load_s if result.load_s else 0:.1f}"),
        ("from acceptance to outcome, p50", f"{percentile(waits, 0.5):.1f}"),
        ("from acceptance to outcome, p99", f"{percentile(waits, 0.99):.1f}"),
        ("from acceptance to outcome, max", f"{max(waits, default=0):.1f}"),
        ("until quiet", quiet),
    ]


def _recoveries(result: Result) -> str:
    by_kind: defaultdict[str, list[Suffered]] = defaultdict(list)
    for fault in result.suffered:
        by_kind[str(fault.kind)].append(fault)
    if not by_kind:
        return ""
    lines = [
        "recovery, seconds after the fault's end",
        f"  {'':<24} {'':>5} {'first of later':>15} | last in flight",
        f"  {'fault':<24} {'times':>5} {'p50':>7} {'max':>7} | {'p50':>7} {'max':>7}",
    ]
    for kind, faults in [*sorted(by_kind.items()), ("all", list(result.suffered))]:
        first = [s for one in faults if (s := first_outcome_s(one, result.fates)) is not None]
        last = [s for one in faults if (s := recovery_s(one, result.fates)) is not None]
        lines.append(f"  {kind:<24} {len(faults):>5} {_p50_and_max(first)} | {_p50_and_max(last)}")
    return "\n".join(lines)


def _p50_and_max(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.5):>7.1f} {max(values, default=0):>7.1f}"


def _waits(takeovers: Sequence[Takeover]) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for worker in sorted({one.worker for one in takeovers}):
        its_own = [one.waited_s for one in takeovers if one.worker == worker]
        waits = [wait for wait in its_own if wait is not None]
        unseen = len(its_own) - len(waits)
        words = (
            f"p50 {percentile(waits, 0.5):.1f}, p95 {percentile(waits, 0.95):.1f}, max {max(waits, default=0):.1f} s"
        )
        rows.append((f"{worker}, {len(its_own)} times", f"{words}{f', {unseen} not seen' if unseen else ''}"))
    return rows


def _offenders(result: Result) -> str:
    by_number = {one.job.number: one for one in result.fates}
    bad = [one.job.number for one in result.fates if one.fate in {Fate.LOST, Fate.TWICE, Fate.STUCK}]
    lines = [_biography(by_number[number], result.runs) for number in bad]
    for earlier, later in result.out_of_order:
        lines += ["  out of order:", *(_biography(by_number[number], result.runs) for number in (earlier, later))]
    lines += [f"  asked of the model again: {_biography(by_number[number], result.runs)}" for number in result.rerun]
    return "\n".join(["look at", *lines]) if lines else ""


def _biography(one: JobFate, runs: Mapping[int, Sequence[ModelRun]]) -> str:
    """Times in seconds since the request was made."""
    job = one.job

    def since(at: float | None) -> str:
        return _NEVER if at is None else f"{at - job.said_at:.1f}"

    told = ", ".join(f"{told.saying} {since(told.at)}" for told in one.outcomes) or "nothing"
    its_runs = ", ".join(
        f"{since(run.began)} to {since(run.ended)}{'' if run.answered else ' without an answer'}"
        for run in runs.get(job.number, ())
    )
    where = f"{job.way}, {job.thread}"
    return f"  #{job.number} {one.fate} ({where}): accepted {since(job.accepted_at)}, runs {its_runs}, told {told}"


def _rows(title: str, rows: Sequence[tuple[object, object]]) -> str:
    if not rows:
        return ""
    width = max(len(str(name)) for name, _ in rows)
    return "\n".join([title, *(f"  {name!s:<{width}}  {value}" for name, value in rows)])
