"""Rows measured by sending mentions: added time, CPU, throughput, executions in flight, production limits."""

import asyncio
import time
from collections.abc import Mapping

from benchmarks.figures import Report, percentile
from benchmarks.sizes import Sizes
from benchmarks.system import AT_ONCE, TYPICAL, Floor, Outcome, Reading, System

SLOW_PER_S = 5
FAST_PER_S = 30
_MS = 1000.0
_MB = 1_000_000.0
_AIM_ADDED_MS = 50.0
_AIM_CPU_FAST_MS = 15.0
_AIM_CPU_SATURATED_MS = 4.0
_AIM_BYTES_IN_FLIGHT = 10_000.0
_DELAY_IN_FLIGHT_S = 30
_ALL_ANSWERED = 1000
_LONGEST_S = 3600
_SHARE_OF_SENDING = 0.8  # of the last row's time; the rest is for what was sent to begin
_SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}

CPU = "CPU per execution, ms"
ROUND_TRIPS = "Round trips and lines per execution"
MEMORY = "Memory of our processes (PSS), MB"


async def measure_floor(system: System, floor: Floor, sizes: Sizes, report: Report) -> dict[str, Outcome]:
    """Outcomes by load, for the rows that are shown beside it."""
    found = {}
    await system.load_floor(floor, sizes.warm_up, AT_ONCE, per_s=FAST_PER_S)
    loads = {
        f"{SLOW_PER_S}/s": (sizes.floor_slow, TYPICAL, {"per_s": SLOW_PER_S}),
        f"{FAST_PER_S}/s": (sizes.floor_fast, TYPICAL, {"per_s": FAST_PER_S}),
        "saturated": (sizes.floor_saturated, AT_ONCE, {"in_flight": sizes.saturated_in_flight}),
    }
    for name, (count, directive, how) in loads.items():
        before = floor.cpu_s()
        found[name] = outcome = await system.load_floor(floor, count, directive, **how)
        report.add_column(CPU, f"floor, {name}", {"floor": (floor.cpu_s() - before) * _MS / count})
        _note_problems(report, f"floor, {name}", outcome)
    return found


async def measure_idle(system: System, sizes: Sizes, report: Report) -> Reading:
    before = await system.read()
    await asyncio.sleep(sizes.idle_s)
    spent = (await system.read()).since(before)
    ours = sum(spent.cpu[name] for name in system.ours())
    report.add("idle", "CPU of all our processes without work", ours * _MS / sizes.idle_s, "ms/s")
    return spent


async def measure_added_time(
    system: System, per_s: int, count: int, report: Report, floor: Mapping[str, Outcome]
) -> None:
    """Added time and CPU at a steady rate."""
    name = f"{per_s}/s"
    before = await system.read()
    outcome = await system.load(count, TYPICAL, per_s=per_s)
    _add_cpu(system, report, name, (await system.read()).since(before), count, task_events=False)
    beside = floor.get(name)
    for share_name, share in _SHARES.items():
        report.add(
            f"added, {name}",
            f"accepted to replied beyond OpenCode's own, {share_name}",
            _added(outcome, share),
            "ms",
            aim=_AIM_ADDED_MS if share_name == "p95" else None,
            floor=_added(beside, share) if beside else None,
        )
    _note_problems(report, name, outcome)


async def measure_saturated(
    system: System, sizes: Sizes, report: Report, floor: Mapping[str, Outcome], *, task_events: bool
) -> None:
    """Throughput and CPU with a hundred mentions always under way and an OpenCode that answers at once."""
    before = await system.read()
    outcome = await system.load(sizes.saturated, AT_ONCE, in_flight=sizes.saturated_in_flight, timeout_s=120.0)
    spent = (await system.read()).since(before)
    _add_cpu(system, report, "saturated", spent, sizes.saturated, task_events=task_events)
    name = f"throughput{', task events' if task_events else ''}"
    beside = floor.get("saturated")
    what = f"accepted to replied, {sizes.saturated_in_flight} under way, OpenCode answers at once"
    report.add(name, what, outcome.per_s, "jobs/s", floor=beside.per_s if beside else None)
    _note_problems(report, name, outcome)


async def measure_task_events(system: System, sizes: Sizes, report: Report) -> None:
    before = await system.read()
    outcome = await system.load(sizes.fast, TYPICAL, per_s=FAST_PER_S)
    name = f"{FAST_PER_S}/s"
    _add_cpu(system, report, name, (await system.read()).since(before), sizes.fast, task_events=True)
    _note_problems(report, f"{name}, task events", outcome)


async def measure_in_flight(system: System, sizes: Sizes, report: Report) -> None:
    """Everything at once, then nothing for half a minute, then everything at once again."""
    nothing = system.memory()
    report.add_column(MEMORY, "0", _megabytes(nothing))
    for count in sizes.in_flight:
        delay_s = _DELAY_IN_FLIGHT_S if count == _ALL_ANSWERED else 5
        before = await system.read()
        await system.send(count, f"[[delay={delay_s}]] [[gap=0]]", timeout_s=delay_s)
        peak = await system.until_running(count, timeout_s=delay_s)
        memory, busy = system.memory(), await _leased(system)
        outcome = await system.rest(count, timeout_s=delay_s + count / 20)
        _add_cpu(system, report, f"{count:,} at once", (await system.read()).since(before), count, task_events=False)
        _add_in_flight(report, count, peak, memory, nothing)
        report.add(_row(count), "rows held by a worker meanwhile", float(busy), "rows", aim=1.0)
        report.add(_row(count), "unanswered", float(outcome.unanswered), "executions", aim=1.0)
        _note_problems(report, _row(count), outcome)


async def measure_memory(system: System, sizes: Sizes, report: Report) -> None:
    """As many in flight as come in within the time; nobody waits for their answers, so it is a system's last row."""
    nothing = system.memory()
    report.add_column(MEMORY, "0 again", _megabytes(nothing))
    ends_at = time.monotonic() + sizes.most_in_flight_s
    sending_s = sizes.most_in_flight_s * _SHARE_OF_SENDING
    await system.send(sizes.most_in_flight, f"[[delay={_LONGEST_S}]] [[gap=0]]", timeout_s=sending_s)
    peak = await system.until_running(sizes.most_in_flight, timeout_s=ends_at - time.monotonic())
    _add_in_flight(report, sizes.most_in_flight, peak, system.memory(), nothing)
    accepted, kept = await system.accepted(), await system.kept()
    row = _row(sizes.most_in_flight)
    report.add(row, "accepted within the row's time", float(accepted), "executions")
    report.add(row, "accepted and neither running nor waiting", float(max(0, accepted - kept)), "executions", aim=1.0)
    if kept < accepted:
        report.problems.append(f"{row}: {accepted - kept} of {accepted} accepted are nowhere")


def _add_in_flight(
    report: Report, wanted: int, peak: int, memory: Mapping[str, int], nothing: Mapping[str, int]
) -> None:
    report.add_column(MEMORY, f"{peak:,}", _megabytes(memory))
    report.add(_row(wanted), "running at the same time", float(peak), "executions")
    growth = (sum(memory.values()) - sum(nothing.values())) / max(1, peak)
    # A hundred executions are less than what the allocators of eight processes move by themselves.
    aim = _AIM_BYTES_IN_FLIGHT if wanted >= _ALL_ANSWERED else None
    report.add(_row(wanted), "memory of our processes, per execution", growth, "bytes", aim=aim)


def _row(count: int) -> str:
    return f"{count:,} in flight"


async def measure_limits(system: System, sizes: Sizes, report: Report, *, submits_per_s: int) -> None:
    """Twice what the server takes arrives; the surplus waits its turn."""
    outcome = await system.load(sizes.limited, AT_ONCE, per_s=2 * submits_per_s, timeout_s=90.0)
    row = "production limits"
    report.add(row, f"answered; one server takes {submits_per_s} a second", outcome.per_s, "jobs/s")
    report.add(row, "accepted to replied beyond OpenCode's own, p95", _added(outcome, 0.95), "ms")
    limited = sum(count for name, count in outcome.notes.items() if name.endswith("ratelimited"))
    report.add(row, "calls that Slack refused with 429", float(limited), "calls")
    _note_problems(report, row, outcome)


async def _leased(system: System) -> int:
    """What workers are at right now: tasks wait for nothing but such rows."""
    row = await system.stack.services.database.system().one(
        "SELECT count(*) AS n FROM executions WHERE lease_owner IS NOT NULL AND lease_until > now()"
    )
    return int(row["n"]) if row else 0


def _add_cpu(system: System, report: Report, load: str, spent: Reading, count: int, *, task_events: bool) -> None:
    column = f"{load}, task events" if task_events else load
    per_execution = {name: seconds * _MS / count for name, seconds in spent.cpu.items()}
    ours = sum(per_execution[name] for name in system.ours())
    report.add_column(CPU, column, {"all of ours": ours, **per_execution})
    report.add_column(ROUND_TRIPS, column, {name: value / count for name, value in spent.counts.items()})
    aims = {f"{FAST_PER_S}/s": _AIM_CPU_FAST_MS, "saturated": _AIM_CPU_SATURATED_MS}
    if load in aims:
        aim = None if task_events else aims[load]
        report.add(f"CPU, {column}", "all our processes, per execution", ours, "ms", aim=aim)


def _added(outcome: Outcome, share: float) -> float | None:
    value = percentile((job.added_s for job in outcome.jobs), share)
    return None if value is None else value * _MS


def _megabytes(memory: Mapping[str, int]) -> dict[str, float]:
    return {"all of ours": sum(memory.values()) / _MB, **{name: size / _MB for name, size in memory.items()}}


def _note_problems(report: Report, row: str, outcome: Outcome) -> None:
    report.problems += [f"{row}: {problem}" for problem in outcome.problems]
    again = outcome.notes.get("delivery_failed", 0)
    if again:
        report.notes.append(f"{row}: {again} events were not acknowledged in time and came again.")
