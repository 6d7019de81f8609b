"""What /metrics reads from the stores: one reading that fails takes no other with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from nubabel_workers.domain.circuit_breaker import BreakerState
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.ports import MaintenanceStore, OpenExecutions
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.gateway.metrics import SystemGauges
from tests.fakes.clock import FakeClock

BUSY = OpenExecutions("org_1", queued=3, in_flight=1, oldest_queued_s=2.0, cost_today=0.5, tokens_today=10)


@dataclass
class Rows:
    """Of the maintenance port what gauges need."""

    failing: set[str] = field(default_factory=set)

    async def gauges(self) -> Mapping[str, float]:
        self._fail_or_not("gauges")
        return {"executions_queued": 3.0}

    async def busiest(self, *, limit: int, always: Sequence[str]) -> Sequence[OpenExecutions]:
        self._fail_or_not("busiest")
        return [BUSY]

    def _fail_or_not(self, name: str) -> None:
        if name in self.failing:
            raise UnavailableError("it takes too long")


class Queues:
    async def lengths(self) -> Mapping[str, int]:
        return {}


async def no_breakers() -> Mapping[str, BreakerState]:
    return {}


async def no_servers() -> Sequence[Instance]:
    return ()


def gauges_of(rows: Rows, clock: FakeClock) -> SystemGauges:
    return SystemGauges(cast("MaintenanceStore", rows), Queues(), no_breakers, no_servers, clock)


def samples(gauges: SystemGauges) -> dict[tuple[str, ...], float]:
    return {(one.name, *sample.labels.values()): sample.value for one in gauges.collect() for sample in one.samples}


async def test_a_day_of_usage_that_takes_too_long_costs_no_other_gauge() -> None:
    rows, clock = Rows(), FakeClock()
    gauges = gauges_of(rows, clock)
    await gauges.refresh()
    rows.failing = {"busiest"}
    clock.advance(6)

    await gauges.refresh()

    found = samples(gauges)
    assert found["nubabel_metrics_source_up", "database"] == 1.0
    assert found["nubabel_executions_queued",] == 3.0
    assert found["nubabel_organization_cost_today_usd", "org_1"] == 0.5


async def test_without_the_database_nothing_of_it_is_shown() -> None:
    rows, clock = Rows(), FakeClock()
    gauges = gauges_of(rows, clock)
    await gauges.refresh()
    rows.failing = {"gauges", "busiest"}
    clock.advance(6)

    await gauges.refresh()

    found = samples(gauges)
    assert found["nubabel_metrics_source_up", "database"] == 0.0
    assert [name for name in found if name[0].startswith("nubabel_organization_cost")] == []
