"""The soak's slope is that of the time after the warm-up."""

import pytest

from tests.faults.chaos.memory import Sample, growth_mib_per_minute, memory_table


def test_steady_growth_is_seen() -> None:
    samples = [Sample(at, 100 + at / 60) for at in range(0, 600, 5)]

    assert growth_mib_per_minute(samples) == pytest.approx(1.0)


def test_growth_of_the_warm_up_is_not_counted() -> None:
    samples = [Sample(at, min(100.0, 50 + at)) for at in range(0, 600, 5)]

    assert growth_mib_per_minute(samples) == pytest.approx(0.0)


def test_the_table_names_each_process() -> None:
    assert "+0.00" in memory_table({"web": [Sample(0, 80.0), Sample(5, 80.0), Sample(10, 80.0)]})
