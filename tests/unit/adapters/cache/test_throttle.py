"""Limits that processes keep together, on a stand-in for Redis."""

import fakeredis
import pytest
from fakeredis import FakeAsyncRedis

from nubabel_workers.adapters.cache.throttle import RedisThrottle

BLOCKED, OTHER = "slack-post:wsp_1:C1", "slack-post:wsp_1:C2"


@pytest.fixture
def cache() -> FakeAsyncRedis:
    return FakeAsyncRedis(server=fakeredis.FakeServer(), decode_responses=True)


async def test_a_block_holds_up_its_own_key_only(cache: FakeAsyncRedis) -> None:
    throttle = RedisThrottle(cache)

    await throttle.block(BLOCKED, for_s=5)

    assert 4 < await throttle.blocked_for_s(BLOCKED) <= 5
    assert await throttle.blocked_for_s(OTHER) == 0


async def test_a_block_is_obeyed_at_once_by_who_was_told(cache: FakeAsyncRedis) -> None:
    throttle = RedisThrottle(cache)
    assert await throttle.blocked_for_s(BLOCKED) == 0

    await throttle.block(BLOCKED, for_s=5)

    assert await throttle.blocked_for_s(BLOCKED) > 0


async def test_a_block_is_found_by_other_processes(cache: FakeAsyncRedis) -> None:
    await RedisThrottle(cache).block(BLOCKED, for_s=5)

    assert await RedisThrottle(cache).blocked_for_s(BLOCKED) > 0


async def test_a_short_block_hides_no_longer_one(cache: FakeAsyncRedis) -> None:
    throttle = RedisThrottle(cache)

    await throttle.block(BLOCKED, for_s=60)
    await throttle.block(OTHER, for_s=0.001)

    assert await cache.pttl("nubabel:blocks") > 50_000


async def test_who_found_no_block_does_not_ask_again_at_once(cache: FakeAsyncRedis) -> None:
    throttle = RedisThrottle(cache)
    await throttle.blocked_for_s(BLOCKED)

    await RedisThrottle(cache).block(BLOCKED, for_s=5)

    assert await throttle.blocked_for_s(BLOCKED) == 0


async def test_a_window_grants_no_more_than_its_limit(cache: FakeAsyncRedis) -> None:
    throttle = RedisThrottle(cache)

    granted = [await throttle.take("submits:ins_1", per_s=3600, limit=5, wanted=3) for _ in range(3)]

    assert granted == [3, 2, 0]
