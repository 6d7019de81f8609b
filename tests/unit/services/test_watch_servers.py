"""Servers that answer and are not well."""

from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.server_vitals import EventLagLimits, MemoryLimits, Vital
from nubabel_workers.services.watch_servers import WatchServers
from tests.fakes.vitals import FakeVitals

MEMORY, EVENTS = ("ins_1", Vital.MEMORY), ("ins_1", Vital.EVENTS)


def watching(vitals: FakeVitals) -> WatchServers:
    return WatchServers(vitals, memory=MemoryLimits(bound_bytes=1000), events=EventLagLimits(limit_s=10, checks=2))


async def told(watch: WatchServers, *sizes: int, process: str = "first") -> list[bool]:
    reports = [await watch.memory("ins_1", process=process, resident_bytes=size) for size in sizes]
    return [reason is not None for reason in reports]


async def test_a_server_is_strained_by_its_memory_until_that_is_less() -> None:
    vitals = FakeVitals()
    watch = watching(vitals)

    assert await told(watch, 500, 1001, 950) == [False, True, True]
    assert MEMORY in vitals.strains
    assert await told(watch, 500) == [False]
    assert MEMORY not in vitals.strains


async def test_a_server_that_was_started_anew_is_well() -> None:
    vitals = FakeVitals()
    watch = watching(vitals)
    await told(watch, 1001)

    await told(watch, 300, process="second")

    assert vitals.strains == {}


async def test_nothing_is_written_of_a_server_that_stays_well() -> None:
    vitals = FakeVitals()
    watch = watching(vitals)
    await watch.connected("ins_1")
    before = len(vitals.told)

    await told(watch, 100, 100)
    await watch.events("ins_1", 0.1)
    await watch.events("ins_1", 0.1)

    assert len(vitals.told) == before
    assert vitals.lags == {"ins_1": 0.1}


async def test_a_server_whose_events_come_late_is_strained_until_they_do_not() -> None:
    vitals = FakeVitals()
    watch = watching(vitals)
    await watch.connected("ins_1")

    for lag_s in (12, 12):
        await watch.events("ins_1", lag_s)
    assert EVENTS in vitals.strains

    for lag_s in (1, 1):
        await watch.events("ins_1", lag_s)
    assert EVENTS not in vitals.strains


async def test_a_new_stream_forgets_what_an_earlier_listener_found() -> None:
    vitals = FakeVitals(strains={EVENTS: "its events come 12 s late"})

    await watching(vitals).connected("ins_1")

    assert vitals.strains == {}


async def test_what_could_not_be_written_down_is_written_at_the_next_check() -> None:
    vitals = FakeVitals()
    watch = watching(vitals)
    await watch.connected("ins_1")
    await watch.events("ins_1", 12)
    await watch.events("ins_1", 12)

    vitals.error = UnavailableError("the database is away")
    for lag_s in (1, 1):
        await watch.events("ins_1", lag_s)
    vitals.error = None
    await watch.events("ins_1", 1)

    assert vitals.strains == {}
