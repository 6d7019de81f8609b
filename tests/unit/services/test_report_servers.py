"""A server is back: what waited for it goes on."""

from dataclasses import dataclass, field

import pytest

from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.services.report_servers import ReportServers
from tests.fakes.breakers import FakeBreakers
from tests.fakes.hints import FakeHints


@dataclass
class BreakersThatClose(FakeBreakers):
    closed: list[str] = field(default_factory=list)

    async def report(self) -> list[str]:
        return self.closed


@dataclass
class FakeWaiting:
    """batches: what is left to wake, by steps; an error is raised. endless: always one more."""

    batches: list[list[str] | TransientError] = field(default_factory=list)
    endless: bool = False
    steps: int = 0

    async def wake(self, instance_id: str) -> list[str]:
        assert instance_id == "ins_a"
        self.steps += 1
        if self.endless:
            return [f"exe_{self.steps}"]
        batch = self.batches.pop(0) if self.batches else []
        if isinstance(batch, TransientError):
            raise batch
        return batch

    async def put_off(self, pool: str | None, *, wait_s: float) -> int:
        raise NotImplementedError

    async def space_out(self, pool: str | None, *, per_s: float) -> int:
        raise NotImplementedError

    async def next_in_line(self) -> str | None:
        raise NotImplementedError


async def report(waiting: FakeWaiting) -> list[Hint]:
    hints = FakeHints()
    await ReportServers(BreakersThatClose(closed=["ins_a"]), waiting, hints).run()
    return hints.published


async def test_all_that_wait_are_woken_and_the_first_step_is_hinted_at() -> None:
    waiting = FakeWaiting([["exe_1", "exe_2"], ["exe_3"]])

    hints = await report(waiting)

    assert (hints, waiting.batches) == ([Hint(HintTask.DISPATCH, "exe_1")], [])


async def test_nothing_that_waits_is_no_hint() -> None:
    assert await report(FakeWaiting()) == []


async def test_waking_ends_though_others_put_off_what_was_woken() -> None:
    waiting = FakeWaiting(endless=True)

    await report(waiting)

    assert waiting.steps == 20


@pytest.mark.parametrize("woken", [[], [["exe_1"]]])
async def test_a_database_that_is_away_in_the_middle_is_not_the_caller_s_failure(woken: list[list[str]]) -> None:
    waiting = FakeWaiting([*woken, TransientError("away")])

    hints = await report(waiting)

    assert len(hints) == len(woken)
