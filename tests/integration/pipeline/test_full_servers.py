"""Servers that are full: who waits for a place hears of one that becomes free, whoever had it."""

import json
from collections.abc import AsyncIterator

import pytest
import redis.asyncio as redis

from config.settings import Settings
from nubabel_workers.domain.hints import HintTask
from tests.integration.pipeline.conftest import Pipeline
from tests.waiting import eventually_true

pytestmark = pytest.mark.integration


class Queue:
    """The messages that wait for workers of the orchestration queue."""

    def __init__(self, client: "redis.Redis") -> None:
        self._client = client

    async def forget(self) -> None:
        await self._client.flushdb()

    async def hinted(self) -> list[str]:
        """Rows that dispatches were hinted for."""
        messages = [json.loads(raw) for raw in await self._client.lrange("orchestration", 0, -1)]
        return [one["headers"]["argsrepr"] for one in messages if one["headers"]["task"] == HintTask.DISPATCH]


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[Queue]:
    async with redis.Redis.from_url(settings.broker_url.get_secret_value()) as client:
        yield Queue(client)


async def takes(pipeline: Pipeline, runs: int) -> None:
    await pipeline.services.database.system().execute("UPDATE instances SET capacity_runs = %(runs)s", {"runs": runs})


async def hinted_one_that_waits(pipeline: Pipeline, queue: Queue) -> bool:
    waiting = [
        row["id"]
        for row in await pipeline.services.database.system().all("SELECT id FROM executions WHERE status = 'queued'")
    ]
    return any(execution_id in hint for hint in await queue.hinted() for execution_id in waiting)


async def test_the_end_of_a_run_wakes_who_waits_for_its_place(pipeline: Pipeline, queue: Queue) -> None:
    await takes(pipeline, 1)
    await pipeline.mention("first")
    await pipeline.mention("second")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.run_ends()
    await queue.forget()

    await pipeline.complete()

    await eventually_true(lambda: hinted_one_that_waits(pipeline, queue), what="a hint")
    await pipeline.answer_everything()
    assert await pipeline.statuses() == ["completed", "completed"]


async def test_where_nobody_waits_the_end_of_a_run_wakes_nobody(pipeline: Pipeline, queue: Queue) -> None:
    await pipeline.mention("the only one")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.run_ends()
    await queue.forget()

    assert await pipeline.services.waiting.next_in_line() is None
    await pipeline.complete()
    pipeline.services.hints.close()

    assert await queue.hinted() == []


async def test_a_run_that_goes_on_wakes_nobody(pipeline: Pipeline, queue: Queue) -> None:
    await takes(pipeline, 1)
    await pipeline.mention("[[hang]] first")
    await pipeline.mention("[[hang]] second")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.services.database.system().execute("UPDATE executions SET check_at = now() WHERE status = 'running'")
    await queue.forget()

    await pipeline.complete()
    pipeline.services.hints.close()

    assert await queue.hinted() == []
