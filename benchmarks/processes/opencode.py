"""Process: one OpenCode simulator that also knows how long it worked on each job.

`open {delay_s, gap_s, tokens, password}` -> url; `runs` -> job number -> [start, end] on the monotonic clock;
`aborts` -> job number -> when it was asked to stop.
"""

import re
import time
from contextlib import AsyncExitStack
from typing import Any

import uvloop
from pydantic import SecretStr

from benchmarks.processes.commands import Json, serve
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.engine import Engine
from nubabel_workers.simulators.opencode.running import simulator
from nubabel_workers.simulators.opencode.state import Run, SimulatedSession

_JOB = re.compile(r"\bjob (\d+):")


class _Timed:
    """Stands in front of Engine.start and Engine.abort; notes when a run begins, ends and is asked to stop."""

    def __init__(self, engine: Engine) -> None:
        self.runs: dict[int, tuple[float, float]] = {}
        self.aborts: dict[int, float] = {}
        self._start = engine.start
        self._abort = engine.abort

    def start(self, session: SimulatedSession) -> Run:
        began = time.monotonic()
        is_new = session.run is None
        run = self._start(session)
        number = _job_of(session)
        if is_new and run.task is not None and number is not None:
            run.task.add_done_callback(lambda _task: self._ended(number, began))
        return run

    def abort(self, session: SimulatedSession) -> None:
        number = _job_of(session)
        if number is not None:
            self.aborts.setdefault(number, time.monotonic())
        self._abort(session)

    def _ended(self, number: int, began: float) -> None:
        self.runs[number] = (began, time.monotonic())


def _job_of(session: SimulatedSession) -> int | None:
    user = session.newest_user()
    job = _JOB.search(user.text) if user is not None else None
    return None if job is None else int(job.group(1))


class _OpenCode:
    def __init__(self, parts: AsyncExitStack) -> None:
        self._parts = parts
        self._timed: _Timed | None = None

    async def open(self, given: Json) -> str:
        config = SimulatorConfig(
            delay_s=given["delay_s"],
            tokens=given["tokens"],
            gap_s=given["gap_s"],
            password=SecretStr(given["password"]),
        )
        running = await self._parts.enter_async_context(simulator(config))
        engine = running.simulator.engine
        self._timed = _Timed(engine)
        engine.start = self._timed.start  # type: ignore[method-assign]  # the simulator itself needs no such clock
        engine.abort = self._timed.abort  # type: ignore[method-assign]
        return running.url

    async def runs(self, _given: Json) -> dict[int, Any]:
        """Since the last time it was asked."""
        if self._timed is None:
            return {}
        runs, self._timed.runs = self._timed.runs, {}
        return runs

    async def aborts(self, _given: Json) -> dict[int, float]:
        """Since the last time it was asked."""
        if self._timed is None:
            return {}
        aborts, self._timed.aborts = self._timed.aborts, {}
        return aborts


async def main() -> None:
    async with AsyncExitStack() as parts:
        opencode = _OpenCode(parts)
        await serve({"open": opencode.open, "runs": opencode.runs, "aborts": opencode.aborts})


if __name__ == "__main__":
    uvloop.run(main())
