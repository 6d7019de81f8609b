"""Progress on a real Valkey: told once by two sources, bounded, expiring; the rule is the domain's."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import pytest
import redis.asyncio as redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nubabel_workers.adapters.cache import connection, progress
from nubabel_workers.adapters.cache.progress import RedisProgress
from nubabel_workers.domain.progress import ProgressItem, ProgressSource, TextProgress, ToolProgress
from tests.fakes.progress import FakeProgress

pytestmark = pytest.mark.integration

OWNER = "org_1", "exe_1"
LISTENER, PLUGIN = ProgressSource.LISTENER, ProgressSource.PLUGIN

_titles = st.sampled_from([None, "", "Tests", "한글"])
_tools = st.builds(
    ToolProgress,
    session_id=st.just("ses_1"),
    call_id=st.sampled_from(["call_1", "call_2"]),
    tool=st.just("bash"),
    status=st.sampled_from(["pending", "running", "completed", "error"]),
    title=_titles,
    message_id=st.sampled_from(["", "msg_1", "msg_2"]),
)
_texts = st.builds(TextProgress, part_id=st.sampled_from(["prt_1", "prt_2"]), text=st.just("Done."))
_told = st.lists(
    st.tuples(st.sampled_from(ProgressSource), st.lists(st.one_of(_tools, _texts), max_size=4)), max_size=8
)


@pytest.fixture
async def cache(cache_url: str) -> AsyncIterator["redis.Redis"]:
    client = connection.connect(cache_url, timeout_s=15, max_connections=20)
    yield client
    await client.aclose()


@pytest.fixture
def shared(cache: "redis.Redis") -> RedisProgress:
    return RedisProgress(cache, cache, keep_s=60)


async def shown(shared: RedisProgress, owner: tuple[str, str] = OWNER) -> list[Mapping[str, Any]]:
    events = []
    async with aclosing(shared.read(*owner, after="", idle_s=0.01)) as items:  # type: ignore[type-var]
        async for item in items:
            if item is None:
                break
            events.append(item[1])
    return events


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told=_told)
def test_the_shared_stream_decides_as_the_domain_does(
    told: list[tuple[ProgressSource, list[ProgressItem]]], cache_url: str
) -> None:
    async def both() -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
        async with connection.connect(cache_url, timeout_s=15, max_connections=4) as cache:
            await cache.flushdb()
            real, expected = RedisProgress(cache, cache, keep_s=60), FakeProgress()
            for source, items in told:
                assert await real.tell(*OWNER, items, source) == await expected.tell(*OWNER, items, source)
            return await shown(real), [event for _, event in expected.streams[OWNER]]

    found, expected = asyncio.run(both())

    assert found == expected


async def test_told_by_both_at_once_it_is_shown_once(shared: RedisProgress) -> None:
    item = ToolProgress("ses_1", "call_1", "bash", "running", "Tests")

    news = await asyncio.gather(
        *(shared.tell(*OWNER, [item], source) for _ in range(10) for source in (LISTENER, PLUGIN))
    )

    assert sum(news) == 1
    assert await shown(shared) == [item.event()]


async def test_what_is_remembered_is_bounded_and_ends_with_the_stream(
    shared: RedisProgress, cache: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "MAX_NAMED", 5)
    monkeypatch.setattr(progress, "MAX_EVENTS", 100)

    for number in range(10):
        await shared.tell(*OWNER, [TextProgress(f"prt_{number}", "x")], PLUGIN)
    for _ in range(1000):
        await shared.tell(*OWNER, [TextProgress("prt_l", "x")], LISTENER)

    keys = await cache.keys("*")
    assert len(keys) == 2
    assert len(await shown(shared)) == 5
    assert [0 < await cache.ttl(key) <= 60 for key in keys] == [True, True]


async def test_a_long_stream_keeps_its_newest_events(shared: RedisProgress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MAX_EVENTS", 100)

    for number in range(1000):
        await shared.tell(*OWNER, [TextProgress("prt_1", str(number))], LISTENER)

    events = await shown(shared)
    assert 100 <= len(events) < 300
    assert events[-1] == {"type": "text", "text": "999"}


async def test_executions_do_not_share_what_was_told(shared: RedisProgress) -> None:
    item = ToolProgress("ses_1", "call_1", "bash", "running")

    for owner in (OWNER, ("org_1", "exe_2"), ("org_2", "exe_1")):
        assert await shared.tell(*owner, [item], PLUGIN) == 1
