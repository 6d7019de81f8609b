"""`python -m benchmarks [--quick | --smoke] [--only ROW]`: measure, show a table, write the figures as JSON.

Ends with 1 when an accepted message was lost or answered twice, never because something was slow.
"""

import argparse
import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from benchmarks.figures import Report
from benchmarks.rows_analysis import measure_analysis
from benchmarks.rows_backlog import measure_claims
from benchmarks.rows_bridge import measure_callbacks, measure_listeners, measure_tool_calls
from benchmarks.rows_cancel import measure_cancel
from benchmarks.rows_decoder import measure_decoder
from benchmarks.rows_fairness import FAIR_CAPACITY, measure_fairness
from benchmarks.rows_load import (
    FAST_PER_S,
    SLOW_PER_S,
    measure_added_time,
    measure_floor,
    measure_idle,
    measure_in_flight,
    measure_limits,
    measure_memory,
    measure_saturated,
    measure_task_events,
)
from benchmarks.rows_masking import measure_masking
from benchmarks.rows_organizations import measure_admission, measure_organizations, measure_turnover
from benchmarks.rows_paths import measure_lookups, measure_sse
from benchmarks.rows_placement import measure_placement
from benchmarks.rows_warm import measure_warm
from benchmarks.sizes import FULL, QUICK, SMOKE, Sizes
from benchmarks.system import AT_ONCE, Limits, Outcome, System, running_floor, running_system
from nubabel_workers.embedded.processes import StartProcess

_OF_A_SYSTEM: Mapping[str, Callable[[System, Sizes, Report], Awaitable[None]]] = {
    "lookup": measure_lookups,
    "sse": measure_sse,
    "callbacks": measure_callbacks,
    "listeners": measure_listeners,
    "tool-calls": measure_tool_calls,
    "cancel": measure_cancel,
}
_ON_ONE_SYSTEM = (
    "floor",
    "idle",
    "added",
    "throughput",
    *_OF_A_SYSTEM,
    "in-flight",
)
ROWS = (
    "analysis",
    "decoder",
    "masking",
    "claims",
    "warm",
    *_ON_ONE_SYSTEM,
    "task-events",
    "limits",
    "fairness",
    "placement",
    "organizations",
    "admission",
)
_SUBMITS_PER_S = 20
_JSON = Path(".var") / "benchmark.json"
_LOOPS = 1_000_000


def run(arguments: Sequence[str], *, start_process: StartProcess = subprocess.Popen) -> int:
    """Do what the command line says; returns the exit code. start_process: another way to start the system's own."""
    chosen = _chosen(arguments)
    found = Report(machine())
    try:
        asyncio.run(main(chosen.only or ROWS, chosen.sizes, found, start_process))
    finally:  # what was measured before something went wrong is worth seeing too
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(found.as_json(), indent=2) + "\n")
        print(found.as_markdown())
    return 1 if found.problems else 0


async def main(rows: Collection[str], sizes: Sizes, report: Report, start_process: StartProcess) -> None:
    await _without_system(rows, sizes, report)
    if set(_ON_ONE_SYSTEM) & set(rows):
        async with _system(sizes, start_process, task_events=False) as system:
            await _without_limits(system, rows, sizes, report)
    if "task-events" in rows and sizes.with_task_events:
        async with _system(sizes, start_process, task_events=True) as system:
            _say("30/s and saturated, task events on")
            await measure_task_events(system, sizes, report)
            await measure_saturated(system, sizes, report, {}, task_events=True)
    if "limits" in rows:
        limits = Limits(capacity_runs=50, submits_per_second=_SUBMITS_PER_S, posts_per_channel_per_s=1.0)
        async with _system(sizes, start_process, task_events=False, limits=limits) as system:
            _say("production limits")
            await measure_limits(system, sizes, report, submits_per_s=_SUBMITS_PER_S)
    if "fairness" in rows:
        limits = Limits(capacity_runs=FAIR_CAPACITY)
        async with _system(sizes, start_process, task_events=False, limits=limits) as system:
            _say("fairness")
            await measure_fairness(system, sizes, report)
    if "placement" in rows:
        _say("placement")
        await measure_placement(sizes, report)
    await _many_organizations(rows, sizes, report, start_process)


async def _many_organizations(rows: Collection[str], sizes: Sizes, report: Report, start_process: StartProcess) -> None:
    if {"organizations", "admission"} & set(rows):
        async with _system(sizes, start_process, task_events=False) as system:
            if "organizations" in rows:
                _say("a thousand organizations")
                await measure_organizations(system, sizes, report)
            if "admission" in rows:
                _say("admission")
                await measure_admission(system, sizes, report)
    if "organizations" in rows:
        _say("their turnover on a fleet")
        await measure_turnover(sizes, report)


async def _without_system(rows: Collection[str], sizes: Sizes, report: Report) -> None:
    if "analysis" in rows:
        measure_analysis(report)
    if "decoder" in rows:
        measure_decoder(sizes, report)
    if "masking" in rows:
        measure_masking(report)
    if "claims" in rows:
        _say("claims")
        await measure_claims(sizes, report)
    if "warm" in rows:
        _say("warm sessions")
        await measure_warm(sizes, report)


async def _without_limits(system: System, rows: Collection[str], sizes: Sizes, report: Report) -> None:
    floor: dict[str, Outcome] = {}
    if "floor" in rows:
        _say("floor")
        async with running_floor(system) as straight_line:
            floor = await measure_floor(system, straight_line, sizes, report)
    if "idle" in rows:
        await measure_idle(system, sizes, report)
    if "added" in rows:
        for per_s, count in ((SLOW_PER_S, sizes.slow), (FAST_PER_S, sizes.fast)):
            _say(f"added time at {per_s}/s")
            await measure_added_time(system, per_s, count, report, floor)
    if "throughput" in rows:
        _say("throughput")
        await measure_saturated(system, sizes, report, floor, task_events=False)
    for row, measure in _OF_A_SYSTEM.items():
        if row in rows:
            _say(row)
            await measure(system, sizes, report)
    if "in-flight" in rows:
        _say("in flight")
        await measure_in_flight(system, sizes, report)
        _say("memory")
        await measure_memory(system, sizes, report)


@asynccontextmanager
async def _system(
    sizes: Sizes, start_process: StartProcess, *, task_events: bool, limits: Limits | None = None
) -> AsyncIterator[System]:
    _say("starting the system")
    async with running_system(task_events=task_events, limits=limits, start_process=start_process) as system:
        await system.load(sizes.warm_up, AT_ONCE, per_s=FAST_PER_S if limits is None else _SUBMITS_PER_S / 2)
        yield system


def machine() -> dict[str, str | int]:
    """How fast it is, and how busy with other things: figures of two runs compare only where these agree."""
    started = time.process_time()
    for _ in range(_LOOPS):
        pass
    loop_ms = (time.process_time() - started) * 1000
    return {
        "cores": os.cpu_count() or 0,
        "load before": f"{os.getloadavg()[0]:.1f}",
        "a million loops": f"{loop_ms:.0f} ms",
    }


def _say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _chosen(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.set_defaults(sizes=FULL)
    quick = "about two minutes: smaller numbers, fewer rows"
    size.add_argument("--quick", dest="sizes", action="store_const", const=QUICK, help=quick)
    smoke = "as little as there can be, to see whether the rows work; what the figures are means nothing"
    size.add_argument("--smoke", dest="sizes", action="store_const", const=SMOKE, help=smoke)
    parser.add_argument("--only", action="append", choices=ROWS, metavar="ROW", help=f"one of {', '.join(ROWS)}")
    parser.add_argument("--json", type=Path, default=_JSON, help=f"where the figures go (default {_JSON})")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    # What our services say in this process would stand between the table's lines.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    sys.exit(run(sys.argv[1:]))
