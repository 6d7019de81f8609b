"""A server that comes back is taken back slowly, and its own sessions come first."""

from collections.abc import AsyncIterator

import pytest

from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import RunningSimulator, simulator
from tests.integration.pipeline.conftest import Pipeline

pytestmark = pytest.mark.integration

AGENTS = ("Sisyphus - ultraworker", "build")


@pytest.fixture
async def other() -> AsyncIterator[RunningSimulator]:
    async with simulator(SimulatorConfig()) as running:
        yield running


async def add_other_server(pipeline: Pipeline, other: RunningSimulator) -> None:
    await pipeline.services.instances.add(
        Instance(InstanceId("ins_2"), other.url, "", None, agents=AGENTS), actor="tests"
    )
    await pipeline.services.instances.report_health("ins_2", healthy=True, detail="", version="", agents=AGENTS)


async def returns(pipeline: Pipeline, *, takes: int) -> None:
    """The first server was away, is back, and takes so many runs at first."""
    await pipeline.services.database.system().execute(
        "UPDATE instances SET recovered_at = now(), capacity_runs = %(capacity)s WHERE id = 'ins_1'",
        {"capacity": takes * 5},
    )


async def places(pipeline: Pipeline) -> list[str | None]:
    """Of what runs; None for what waits. In the order in which it was asked."""
    rows = await pipeline.services.database.system().all("SELECT status, instance_id FROM executions ORDER BY position")
    return [row["instance_id"] if row["status"] == "running" else None for row in rows]


async def asked(pipeline: Pipeline, count: int) -> None:
    for number in range(count):
        await pipeline.mention(f"[[hang]] question {number}")
    await pipeline.take_events()


async def test_new_sessions_go_elsewhere_while_interrupted_runs_wait_for_their_server(
    pipeline: Pipeline, other: RunningSimulator
) -> None:
    await asked(pipeline, 2)
    await pipeline.dispatch()
    await add_other_server(pipeline, other)
    pipeline.opencode.simulator.crash(down_s=0)
    await pipeline.run_ends_on("ins_1")
    await pipeline.complete()
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now() + interval '1 hour'")
    await returns(pipeline, takes=2)

    await asked(pipeline, 3)
    await pipeline.dispatch()

    assert await places(pipeline) == [None, None, "ins_2", "ins_2", "ins_2"]
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
    await pipeline.dispatch()
    assert await places(pipeline) == ["ins_1", "ins_1", "ins_2", "ins_2", "ins_2"]


async def test_of_what_has_its_turn_at_once_a_session_of_the_server_comes_before_new_ones(
    pipeline: Pipeline, other: RunningSimulator
) -> None:
    question = await pipeline.mention("my name is Ada")
    await pipeline.answer_everything()
    await add_other_server(pipeline, other)
    await returns(pipeline, takes=1)
    await asked(pipeline, 1)
    await pipeline.say("[[hang]] what is my name?", thread_ts=question.ts)
    await pipeline.take_events()

    await pipeline.dispatch()

    assert await places(pipeline) == [None, "ins_2", "ins_1"]


async def test_a_follow_up_that_found_no_place_on_its_server_is_seen_to_wait_for_it(
    pipeline: Pipeline, other: RunningSimulator
) -> None:
    questions = [await pipeline.mention(f"my number is {number}") for number in range(2)]
    await pipeline.answer_everything()
    await add_other_server(pipeline, other)
    await returns(pipeline, takes=1)
    for question in questions:
        await pipeline.say("[[hang]] what is my number?", thread_ts=question.ts)
    await pipeline.take_events()

    await pipeline.dispatch()

    back, _ = await pipeline.services.instances.loads()
    assert (back.in_flight, back.awaited) == (1, 1)
