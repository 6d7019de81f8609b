"""Row of cancelling: from when somebody says so, on each surface, until OpenCode is told to abort the run."""

import asyncio
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.figures import Report, percentile
from benchmarks.sizes import Sizes
from benchmarks.system import System

_AIM_MS: Final = 2000.0
_MS: Final = 1000.0
_LONGEST_S: Final = 3600
_BEGIN_S: Final = 20.0
_END_S: Final = 15.0
_LOOK_EVERY_S: Final = 0.2
_BETWEEN_S: Final = 0.05
_JOB: Final = re.compile(r"\bjob (\d+):")
_NUBABEL: Final = (sys.executable, "-c", "from nubabel_workers.cli.main import app; app()")


@dataclass(frozen=True)
class _Run:
    number: int
    execution_id: str
    organization_id: str


_Stop = Callable[[System, Sequence[_Run]], Awaitable[Mapping[int, float]]]
"""Stops them; number -> when that was asked for, on the monotonic clock."""


async def measure_cancel(system: System, sizes: Sizes, report: Report) -> None:
    """Runs that would go on for ever, stopped one after the other, a moment apart."""
    surfaces: Mapping[str, tuple[_Stop, int]] = {
        'Slack, "stop" in the thread': (_by_word, sizes.cancelled),
        "Slack, question deleted": (_by_deletion, sizes.cancelled),
        "HTTP": (_by_http, sizes.cancelled),
        "command line": (_by_command, sizes.cancelled_by_command),
    }
    for surface, (stop, count) in surfaces.items():
        await _measure(system, report, surface, stop, count)
    started = time.monotonic()
    await _command(system, "executions", "cancel", "--help")
    what = "of the command line's: the start of Python and its imports, once"
    report.add("cancel", what, (time.monotonic() - started) * _MS, "ms")


async def _measure(system: System, report: Report, surface: str, stop: _Stop, count: int) -> None:
    await system.send(count, f"[[delay={_LONGEST_S}]] [[gap=0]]", timeout_s=_BEGIN_S)
    await system.until_running(count, timeout_s=_BEGIN_S)
    runs = await _running(system)
    await system.opencode.ask("aborts")  # those of earlier rows
    asked_at = await stop(system, runs)
    aborted_at = await _aborted(system, asked_at)
    taken = [aborted_at[number] - at for number, at in asked_at.items() if number in aborted_at]
    for name, share, aim in (("p50", 0.5, None), ("p95", 0.95, _AIM_MS)):
        value = percentile(taken, share)
        report.add(
            "cancel", f"{surface}, to OpenCode's abort, {name}", None if value is None else value * _MS, "ms", aim=aim
        )
    if len(runs) < count or len(taken) < len(runs):
        report.problems.append(f"cancel, {surface}: {len(taken)} of {count} runs were stopped")
    await system.until_idle(timeout_s=_END_S)


async def _running(system: System) -> list[_Run]:
    rows = await system.stack.services.database.system().all(
        "SELECT id, organization_id, prompt FROM executions WHERE status = 'running'"
    )
    found = [(_JOB.search(row["prompt"]), row) for row in rows]
    return [_Run(int(job.group(1)), row["id"], row["organization_id"]) for job, row in found if job is not None]


async def _aborted(system: System, asked_at: Mapping[int, float]) -> Mapping[int, float]:
    ends_at = time.monotonic() + _END_S
    seen: dict[int, float] = {}
    while not asked_at.keys() <= seen.keys() and time.monotonic() < ends_at:
        seen |= {int(number): at for number, at in (await system.opencode.ask("aborts")).items()}
        await asyncio.sleep(_LOOK_EVERY_S)
    return seen


async def _by_word(system: System, runs: Sequence[_Run]) -> Mapping[int, float]:
    return await _in_slack(system, runs, "word")


async def _by_deletion(system: System, runs: Sequence[_Run]) -> Mapping[int, float]:
    return await _in_slack(system, runs, "deletion")


async def _in_slack(system: System, runs: Sequence[_Run], how: str) -> Mapping[int, float]:
    at = await system.slack.ask("stop", numbers=[run.number for run in runs], how=how)
    return {int(number): when for number, when in at.items()}


async def _by_http(system: System, runs: Sequence[_Run]) -> Mapping[int, float]:
    at: dict[int, float] = {}
    for tenant in system.stack.tenants:
        async with system.stack.client(tenant) as api:
            for run in runs:
                if run.organization_id == tenant.id:
                    at[run.number] = time.monotonic()
                    (await api.post(f"/v1/executions/{run.execution_id}/cancel")).raise_for_status()
                    await asyncio.sleep(_BETWEEN_S)
    return at


async def _by_command(system: System, runs: Sequence[_Run]) -> Mapping[int, float]:
    at: dict[int, float] = {}
    for run in runs:
        at[run.number] = time.monotonic()
        await _command(system, "executions", "cancel", run.execution_id)
    return at


async def _command(system: System, *words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *_NUBABEL,
        *words,
        env={**os.environ, "NUBABEL_ENV_FILE": str(system.stack.env_file)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await process.wait()
