"""When a server that answers is not well."""

from collections.abc import Callable

import pytest

from nubabel_workers.domain.server_vitals import (
    EventLagJudge,
    EventLagLimits,
    MemoryHistory,
    MemoryLimits,
    MemorySample,
    memory_strain,
)

LIMITS = MemoryLimits(bound_bytes=3_000_000_000, within_s=900, window_s=600)
MB = 1_000_000


def history(size_mb: Callable[[float], float], *, minutes: float = 12, strained: bool = False) -> MemoryHistory:
    """A report every 15 seconds. size_mb: by minutes since the first."""
    samples = [MemorySample(n * 15.0, int(size_mb(n / 4) * MB)) for n in range(int(minutes * 4) + 1)]
    return MemoryHistory(samples, strained=strained)


@pytest.mark.parametrize(
    "size_mb",
    [
        pytest.param(lambda _: 2900, id="much, but no more"),
        pytest.param(lambda minute: 2800 + 100 * (int(minute * 4) % 2), id="up and down"),
        pytest.param(lambda minute: min(2000, 300 + 600 * minute), id="a start that loads directories"),
        pytest.param(lambda minute: 1000 if minute < 9 else 2400, id="a step"),
        pytest.param(lambda minute: 2000 - 50 * minute, id="less and less"),
        pytest.param(lambda minute: 500 + 10 * minute, id="growth that has hours left"),
    ],
)
def test_a_server_is_well(size_mb: Callable[[float], float]) -> None:
    assert memory_strain(history(size_mb), LIMITS) is None


def test_nothing_told_is_nothing_wrong() -> None:
    assert memory_strain(MemoryHistory((), strained=False), LIMITS) is None


def test_a_server_above_the_bound_is_strained_at_once_and_says_how_much_it_has() -> None:
    told = MemoryHistory([MemorySample(0, 3100 * MB)], strained=False)

    assert memory_strain(told, LIMITS) == "its memory is 3.1 GB, the bound 3.0 GB"


def test_steady_growth_that_reaches_the_bound_soon_is_told_with_its_pace_and_the_time_left() -> None:
    reason = memory_strain(history(lambda minute: 1000 + 90 * minute), LIMITS)

    assert reason == "its memory grows by 90 MB a minute: 2.1 GB now, the bound 3.0 GB in 10 min"


def test_growth_is_judged_when_it_has_been_seen_for_all_of_the_window() -> None:
    assert memory_strain(history(lambda minute: 1000 + 90 * minute, minutes=8), LIMITS) is None


def test_growth_across_a_silence_of_minutes_is_not_judged() -> None:
    told = history(lambda minute: 1000 + 90 * minute).samples
    with_a_gap = [one for one in told if not 240 < one.at_s < 600]

    assert memory_strain(MemoryHistory(with_a_gap, strained=False), LIMITS) is None


@pytest.mark.parametrize(("size_mb", "well"), [(2850, False), (2650, True)], ids=["just below", "well below"])
def test_a_strained_server_is_well_again_only_when_it_is_well_below_the_bound(size_mb: float, *, well: bool) -> None:
    reason = memory_strain(history(lambda _: size_mb, strained=True), LIMITS)

    assert (reason is None) is well


def seen(judge: EventLagJudge, *lags_s: float) -> list[bool]:
    return [judge.saw(lag_s) is not None for lag_s in lags_s]


def test_events_are_too_late_when_several_checks_in_a_row_say_so() -> None:
    judge = EventLagJudge(EventLagLimits(limit_s=10, checks=3))

    assert seen(judge, 12, 12, 1, 12, 12) == [False] * 5
    assert seen(judge, 14) == [True]
    assert judge.saw(12) == "its events come 14 s late, 10 s are allowed"


def test_events_are_in_time_again_when_as_many_checks_say_so() -> None:
    judge = EventLagJudge(EventLagLimits(limit_s=10, checks=3))
    seen(judge, 12, 12, 12)

    assert seen(judge, 1, 1, 12, 1, 1, 1) == [True, True, True, True, True, False]
