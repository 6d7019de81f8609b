"""Rows of fairness: what a flood costs the others, how equal the saturated are."""

import asyncio
import time
from collections.abc import Iterable, Sequence

from benchmarks.figures import Report, percentile
from benchmarks.requests import at_pace, database_now, organization_of, submitted
from benchmarks.sizes import Sizes
from benchmarks.system import System

FAIR_CAPACITY = 20
_RUN = "[[delay=1]] [[tokens=1]]"
_FLOOD, _QUIET = "org_flood", [f"org_quiet_{number}" for number in range(9)]
_SATURATED = [f"org_saturated_{number}" for number in range(5)]
_EVERY_S = 5.0
_FLOOD_PER_S = 100.0  # five times what the server runs
_AT_ONCE = 16  # submissions under way in this process
_AIM_RATIO = 2.0
_AIM_JAIN = 0.95
_MS = 1000.0

_Times = Sequence[tuple[float, float]]

_TIMES = """
SELECT extract(epoch FROM running_since - created_at)::float8 AS start_s,
  extract(epoch FROM finished_at - created_at)::float8 AS answer_s
FROM executions WHERE organization_id = ANY(%(of)s) AND status = 'completed' AND created_at >= %(since)s
"""
_RUN_SECONDS = """
SELECT o.id, COALESCE(sum(extract(epoch FROM (
    least(e.finished_at, %(until)s) - greatest(e.running_since, %(since)s)))), 0)::float8 AS run_s
FROM unnest(%(of)s::text[]) AS o(id)
LEFT JOIN executions e ON e.organization_id = o.id AND e.running_since < %(until)s AND e.finished_at > %(since)s
GROUP BY o.id
"""


async def measure_fairness(system: System, sizes: Sizes, report: Report) -> None:
    """Nine organizations that ask now and then, without and with a flood; then five that all want everything.

    The flood comes twice: as fast as it is accepted, which takes all of the machine's processors, and at a pace, which
    leaves the machine room, so that what is measured is the order of the queue alone.
    """
    await _add_organizations(system, [_FLOOD, *_QUIET, *_SATURATED])
    alone = await _quiet_ones(system, sizes.quiet_s)
    for pace, per_s in ((f", {_FLOOD_PER_S:g} a second", _FLOOD_PER_S), ("", None)):
        flood = asyncio.create_task(_submit(system, _FLOOD, sizes.flood, per_s=per_s))
        beside = await _quiet_ones(system, sizes.quiet_s)
        flood.cancel()
        await asyncio.wait([flood])
        name = f"a flood of {sizes.flood:,}{pace}"
        report.notes.append(f"fairness: {await _flooded(system):,} requests of {name} were accepted meanwhile")
        await _empty(system)
        _add_ratios(report, name, alone, beside)
    await _measure_shares(system, sizes, report)


def _add_ratios(report: Report, name: str, alone: _Times, beside: _Times) -> None:
    for what, which in (("to its start", 0), ("to its answer", 1)):
        before, after = (percentile([one[which] for one in some], 0.95) or 0.0 for some in (alone, beside))
        report.add("fairness", f"one of nine alone, accepted {what}, p95", before * _MS, "ms")
        report.add("fairness", f"the same beside {name}", after * _MS, "ms")
        ratio = after / before if before else None
        report.add("fairness", f"part of {name} in it, {what}", ratio, "times", aim=_AIM_RATIO)


async def _measure_shares(system: System, sizes: Sizes, report: Report) -> None:
    """Jain's index of the seconds that their runs took, from the first request on: who got more while the others were
    still coming in gets less afterwards.
    """
    since = await database_now(system.stack.services)
    await asyncio.gather(*(_submit(system, one, sizes.saturated_each) for one in _SATURATED))
    await asyncio.sleep(sizes.quiet_s / 2)
    params = {"of": _SATURATED, "since": since, "until": await database_now(system.stack.services)}
    rows = await system.stack.services.database.system().all(_RUN_SECONDS, params)
    used = [row["run_s"] for row in rows]
    report.add(
        "fairness", "Jain's index of five saturated, by run-seconds", _jain(used), "", aim=_AIM_JAIN, at_least=True
    )
    await _empty(system)


def _jain(shares: Sequence[float]) -> float:
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


async def _quiet_ones(system: System, seconds: float) -> _Times:
    """Each asks once in five seconds, spread over them; (to its start, to its answer) of what was answered, seconds."""
    since, asked = await database_now(system.stack.services), int(seconds / _EVERY_S) * len(_QUIET)
    for number in range(asked):
        began = time.monotonic()
        await _submit(system, _QUIET[number % len(_QUIET)], 1)
        await asyncio.sleep(max(0.0, _EVERY_S / len(_QUIET) - (time.monotonic() - began)))
    await asyncio.sleep(_EVERY_S)
    params = {"of": _QUIET, "since": since}
    rows = await system.stack.services.database.system().all(_TIMES, params)
    return [(row["start_s"], row["answer_s"]) for row in rows]


async def _submit(system: System, organization_id: str, count: int, *, per_s: float | None = None) -> None:
    """per_s: None for as fast as they are accepted."""
    services = system.stack.services
    organization = await organization_of(services, organization_id)
    room = asyncio.Semaphore(_AT_ONCE)

    async def one() -> None:
        async with room:
            await submitted(services, organization, _RUN)

    if per_s is None:
        await asyncio.gather(*(one() for _ in range(count)))
    else:
        await at_pace(range(count), lambda _: one(), per_s=per_s)


async def _flooded(system: System) -> int:
    """Of the flood, not yet given up."""
    row = await system.stack.services.database.system().one(
        "SELECT count(*) AS n FROM executions WHERE organization_id = %(flood)s AND status <> 'cancelled'",
        {"flood": _FLOOD},
    )
    return int(row["n"]) if row else 0


async def _add_organizations(system: System, ids: Iterable[str]) -> None:
    for one in ids:
        await system.stack.services.database.system().execute(
            "INSERT INTO organizations (id, name) VALUES (%(id)s, %(id)s)", {"id": one}
        )


async def _empty(system: System) -> None:
    """Give up what waits, and let what runs end."""
    await system.stack.services.database.system().execute(
        "UPDATE executions SET status = 'cancelled', finished_at = now() WHERE status = 'queued'"
    )
    await system.until_idle(timeout_s=30)
