"""Waiting for an execution's end: the row decides, the cache only hurries it up."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.executions import NewExecution, Status
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.services.await_execution import AwaitExecution
from nubabel_workers.services.read_execution import ReadExecution
from tests.fakes.accepted_executions import AcceptedExecutions
from tests.fakes.clock import FakeChance, FakeClock
from tests.fakes.progress import FakeProgress
from tests.waiting import eventually


@dataclass
class Bench:
    clock: FakeClock = field(default_factory=FakeClock)
    progress: FakeProgress = field(default_factory=FakeProgress)
    seen: list[Mapping[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.executions = AcceptedExecutions(self.clock, FakeChance())

    async def accepted(self) -> str:
        new = NewExecution(OrganizationId("org_a"), "cli", "hello", "once:1", "key:1", "", {"kind": "none"})
        return (await self.executions.accept(new, working=None, answer_by_s=60)).execution_id

    def wait(self, execution_id: str, *, row_check_s: float = 5.0) -> "asyncio.Task[Any]":
        wait = AwaitExecution(
            ReadExecution(self.executions.store()), self.progress, self.clock, row_check_s=row_check_s
        )
        return asyncio.create_task(wait.final("org_a", execution_id, timeout_s=60, on_progress=self.seen.append))


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_the_end_is_seen_when_progress_says_that_something_changed(bench: Bench) -> None:
    execution_id = await bench.accepted()
    waiting = bench.wait(execution_id)
    await eventually(lambda: bench.progress.readers)

    await bench.progress.append("org_a", execution_id, {"type": "tool", "tool": "bash"})
    bench.executions.move(execution_id, Status.COMPLETED, output="done")
    await bench.progress.append("org_a", execution_id, {"type": "done"})
    ended = await asyncio.wait_for(waiting, 2)

    assert (ended.status, ended.output) == (Status.COMPLETED, "done")
    assert [event["type"] for event in bench.seen] == ["tool", "done"]
    assert bench.progress.readers == 0


async def test_the_end_is_seen_although_the_cache_lost_everything(bench: Bench) -> None:
    execution_id = await bench.accepted()
    waiting = bench.wait(execution_id, row_check_s=0.01)
    await eventually(lambda: bench.progress.readers)

    bench.executions.move(execution_id, Status.FAILED)

    assert (await asyncio.wait_for(waiting, 2)).status is Status.FAILED


async def test_the_end_is_seen_while_the_cache_is_away(bench: Bench) -> None:
    execution_id = await bench.accepted()
    bench.progress.away = True
    waiting = bench.wait(execution_id, row_check_s=0.01)

    bench.executions.move(execution_id, Status.COMPLETED)

    assert (await asyncio.wait_for(waiting, 2)).status is Status.COMPLETED


async def test_what_is_over_already_needs_no_waiting(bench: Bench) -> None:
    execution_id = await bench.accepted()
    bench.executions.move(execution_id, Status.CANCELLED)

    assert (await asyncio.wait_for(bench.wait(execution_id), 2)).status is Status.CANCELLED


async def test_patience_ends(bench: Bench) -> None:
    execution_id = await bench.accepted()
    waiting = bench.wait(execution_id, row_check_s=0.01)
    await eventually(lambda: bench.progress.readers)

    bench.clock.advance(61)

    assert await asyncio.wait_for(waiting, 2) is None


async def test_an_unknown_execution_is_not_waited_for(bench: Bench) -> None:
    with pytest.raises(NotFoundError):
        await asyncio.wait_for(bench.wait("exe_none"), 2)
