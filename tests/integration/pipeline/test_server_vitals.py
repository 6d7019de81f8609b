"""Servers that answer and are not well: found by what they tell and by how late events come, drained, taken back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from config.settings import Settings
from nubabel_workers.domain.credentials import callback_key_text
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import RunningSimulator, simulator
from nubabel_workers.simulators.opencode.vitals import BridgeAccess
from nubabel_workers.simulators.slack.server import SlackSimulator
from tests.conftest import RedisServer
from tests.integration.gateway.conftest import served
from tests.integration.pipeline.conftest import Pipeline, pipeline_settings
from tests.integration.pipeline.test_listener import listening
from tests.waiting import eventually_true

pytestmark = pytest.mark.integration

KEY = callback_key_text(b"k" * 32)


@pytest.fixture
async def opencode() -> AsyncIterator[RunningSimulator]:
    async with simulator(SimulatorConfig(heartbeat_s=0.05)) as running:
        yield running


@pytest.fixture
def settings(slack: SlackSimulator, database_url: str, clean_redis: RedisServer) -> Settings:
    return pipeline_settings(
        slack,
        database_url,
        clean_redis,
        opencode_memory_window_s=0.8,
        opencode_memory_within_s=60,
        opencode_event_lag_s=0.5,
        opencode_event_lag_checks=2,
        opencode_event_lag_check_s=0.2,
    )


async def server(pipeline: Pipeline) -> Instance:
    found = await pipeline.services.instances.find("ins_1")
    assert found is not None
    return found


async def is_strained_by(pipeline: Pipeline, words: str) -> bool:
    return words in (await server(pipeline)).strain


async def is_fit(pipeline: Pipeline) -> bool:
    return (await server(pipeline)).is_fit


async def places(pipeline: Pipeline) -> list[str]:
    rows = await pipeline.services.database.system().all(
        "SELECT instance_id FROM executions WHERE instance_id IS NOT NULL ORDER BY position"
    )
    return [row["instance_id"] for row in rows]


@asynccontextmanager
async def telling(pipeline: Pipeline) -> AsyncIterator[None]:
    """The server tells our web how much memory it has."""
    await pipeline.services.instances.add_callback_key("ins_1", KEY, actor="tests")
    async with served(pipeline.services) as gateway:
        access = BridgeAccess(gateway.url, "ins_1", KEY, every_s=0.05)
        async with pipeline.opencode.bridged(access):
            yield


async def test_a_server_that_leaks_is_found_by_its_growth_and_is_well_after_a_restart(pipeline: Pipeline) -> None:
    async with telling(pipeline):
        await eventually_true(lambda: is_fit(pipeline))
        assert (await server(pipeline)).strain == ""

        pipeline.opencode.simulator.set_faults(leak_bytes_per_s=50_000_000)
        await eventually_true(lambda: is_strained_by(pipeline, "its memory grows by"), what="the growth")
        assert (await server(pipeline)).memory_bytes

        pipeline.opencode.simulator.crash()
        await eventually_true(lambda: is_fit(pipeline), what="a server that is well")


async def test_new_sessions_go_to_others_and_those_of_the_strained_server_go_on_there(pipeline: Pipeline) -> None:
    question = await pipeline.mention("first")
    await pipeline.answer_everything()
    agents = (await server(pipeline)).agents
    async with simulator(SimulatorConfig()) as other:
        await pipeline.services.instances.add(
            Instance(InstanceId("ins_2"), other.url, "", None, agents=agents), actor="tests"
        )
        await pipeline.services.instances.report_health("ins_2", healthy=True, detail="", version="", agents=agents)
        async with telling(pipeline):
            pipeline.opencode.simulator.set_faults(leak_bytes_per_s=1e12)
            await eventually_true(lambda: is_strained_by(pipeline, "its memory is"), what="the bound")

            for number in range(3):
                await pipeline.mention(f"another {number}")
            await pipeline.take_events()
            await pipeline.mention("more", thread_ts=question.ts)
            await pipeline.take_events()
            await pipeline.dispatch()

    assert await places(pipeline) == ["ins_1", "ins_2", "ins_2", "ins_2", "ins_1"]


async def test_a_server_whose_events_come_late_is_found_and_taken_back(pipeline: Pipeline) -> None:
    async with listening(pipeline):
        pipeline.opencode.simulator.set_faults(event_delay_s=1.0)
        await eventually_true(lambda: is_strained_by(pipeline, "its events come 1 s late"), what="the lag")
        lag_s = (await server(pipeline)).event_lag_s
        assert lag_s is not None
        assert lag_s == pytest.approx(1.0, abs=0.4)

        pipeline.opencode.simulator.set_faults(event_delay_s=0.0)
        await eventually_true(lambda: is_fit(pipeline), what="a server that is well")


async def test_a_server_that_answers_fast_and_a_listener_that_is_busy_are_no_lag(pipeline: Pipeline) -> None:
    async with listening(pipeline):
        for number in range(5):
            await pipeline.mention(f"question {number}")
        await pipeline.answer_everything()

        async def measured() -> bool:
            return (await server(pipeline)).event_lag_s is not None

        await eventually_true(measured, what="a check")
        assert await is_fit(pipeline)
