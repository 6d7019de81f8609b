"""Where an organization runs is its policy; moving it is a change of that, and nothing is lost by it."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from nubabel_workers.domain.ids import InstanceId, OrganizationId
from nubabel_workers.domain.tenants import Instance, ServersPolicy
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import RunningSimulator, simulator
from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline
from tests.waiting import eventually_true

pytestmark = pytest.mark.integration

AGENTS = ("Sisyphus - ultraworker", "build")


@pytest.fixture
async def own() -> AsyncIterator[RunningSimulator]:
    async with simulator(SimulatorConfig()) as running:
        yield running


async def add_own_server(pipeline: Pipeline, own: RunningSimulator) -> None:
    organization_id = OrganizationId(ORGANIZATION)
    mine = Instance(InstanceId("ins_own"), own.url, "", None, organization_id=organization_id, agents=AGENTS)
    await pipeline.services.instances.add(mine, actor="tests")
    await pipeline.services.instances.report_health("ins_own", healthy=True, detail="", version="", agents=AGENTS)


async def run_ends(pipeline: Pipeline, where: RunningSimulator) -> None:
    async def quiet() -> bool:
        return all(session.run is None for session in where.simulator.store.sessions.values())

    await eventually_true(quiet, what="the end of every run")
    await pipeline.services.database.system().execute("UPDATE executions SET check_at = now() WHERE status = 'running'")


async def set_servers(pipeline: Pipeline, policy: ServersPolicy) -> None:
    await pipeline.services.database.system().execute("UPDATE organizations SET servers = %(p)s", {"p": policy.value})


async def test_a_server_that_is_somebodys_is_used_when_the_policy_says_so_and_no_other_then(
    pipeline: Pipeline, own: RunningSimulator
) -> None:
    await add_own_server(pipeline, own)
    await pipeline.mention("on a shared one")
    await pipeline.take_events()
    await pipeline.dispatch()
    await set_servers(pipeline, ServersPolicy.DEDICATED)
    await pipeline.mention("on our own")
    await pipeline.take_events()
    await pipeline.dispatch()

    placed = await pipeline.services.database.system().all("SELECT instance_id FROM executions ORDER BY position")

    assert [row["instance_id"] for row in placed] == ["ins_1", "ins_own"]


async def test_what_runs_ends_where_it_is_and_the_conversation_goes_on_in_the_new_place(
    pipeline: Pipeline, own: RunningSimulator
) -> None:
    await add_own_server(pipeline, own)
    question = await pipeline.mention("my name is Ada")
    await pipeline.take_events()
    await pipeline.dispatch()
    await set_servers(pipeline, ServersPolicy.DEDICATED)
    await run_ends(pipeline, pipeline.opencode)
    await pipeline.complete()
    await pipeline.deliver()
    await pipeline.say("what is my name?", thread_ts=question.ts)
    await pipeline.take_events()
    await pipeline.dispatch()
    await run_ends(pipeline, own)
    await pipeline.complete()
    await pipeline.deliver()

    assert await pipeline.statuses() == ["completed", "completed"]
    assert "Ada" in pipeline.replies(question)[1]
    assert len(own.simulator.store.sessions) == 1
    assert await session_left(pipeline) == {"detail": {"reason": "policy"}}


async def session_left(pipeline: Pipeline) -> dict[str, Any]:
    return await pipeline.one("SELECT detail FROM execution_events WHERE kind = 'session_replaced'")


async def test_a_conversation_whose_server_is_removed_is_told_apart_from_one_that_was_moved(
    pipeline: Pipeline, own: RunningSimulator
) -> None:
    await add_own_server(pipeline, own)
    await set_servers(pipeline, ServersPolicy.DEDICATED)
    question = await pipeline.mention("my name is Ada")
    await pipeline.take_events()
    await pipeline.dispatch()
    await run_ends(pipeline, own)
    await pipeline.complete()
    await pipeline.services.instances.set_status("ins_own", "removed", only_if_idle=True, actor="tests")
    await set_servers(pipeline, ServersPolicy.SHARED)
    await pipeline.say("what is my name?", thread_ts=question.ts)
    await pipeline.take_events()

    await pipeline.dispatch()

    assert await session_left(pipeline) == {"detail": {"reason": "removed"}}


async def test_without_a_server_of_its_own_it_waits_and_the_timeline_says_for_what(pipeline: Pipeline) -> None:
    await set_servers(pipeline, ServersPolicy.DEDICATED)
    await pipeline.mention("hello")
    await pipeline.take_events()

    await pipeline.dispatch()

    assert await pipeline.statuses() == ["queued"]
    assert await pipeline.one("SELECT waiting_for FROM executions") == {"waiting_for": "own server"}
    assert pipeline.opencode.simulator.store.sessions == {}


async def test_a_server_takes_no_more_than_its_capacity_while_others_have_places(
    pipeline: Pipeline, own: RunningSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next claim chooses before what the last one took runs."""
    executions, all_are_claimed = pipeline.services.executions, asyncio.Event()
    begin = executions.begin_attempt

    async def begin_late(*args: Any, **kwargs: Any) -> int:
        await all_are_claimed.wait()
        return await begin(*args, **kwargs)

    monkeypatch.setattr(executions, "begin_attempt", begin_late)
    await add_own_server(pipeline, own)
    await set_servers(pipeline, ServersPolicy.DEDICATED)
    await pipeline.services.database.system().execute("UPDATE instances SET capacity_runs = 2 WHERE id = 'ins_own'")
    claims = []

    for number in range(5):
        await pipeline.mention(f"[[delay=30]] question {number}")
        await pipeline.take_events()
        claims.append(asyncio.create_task(pipeline.services.dispatch_executions.run()))
        await eventually_true(partial(claimed, pipeline, min(number + 1, 2)), what="the claim")
    all_are_claimed.set()
    await asyncio.gather(*claims)

    assert await pipeline.statuses() == ["running"] * 2 + ["queued"] * 3


async def claimed(pipeline: Pipeline, count: int) -> bool:
    return await pipeline.one("SELECT count(*) AS n FROM executions WHERE status = 'dispatching'") == {"n": count}


@pytest.mark.parametrize("beside", ["shared", "draining"])
async def test_what_waits_for_a_full_server_runs_in_the_order_it_came_whatever_is_free_elsewhere(
    pipeline: Pipeline, own: RunningSimulator, beside: str
) -> None:
    """Places of servers that may not serve it are none: claimed for them, it was put back with a wait of its own."""
    await add_own_server(pipeline, own)
    system = pipeline.services.database.system()
    full, other = ("ins_own", "ins_1") if beside == "shared" else ("ins_1", "ins_own")
    if beside == "shared":
        await set_servers(pipeline, ServersPolicy.DEDICATED)
    else:
        await system.execute("UPDATE instances SET status = 'draining', organization_id = NULL WHERE id = 'ins_own'")
    await system.execute("UPDATE instances SET capacity_runs = 1 WHERE id = %(full)s", {"full": full})
    await system.execute("UPDATE instances SET capacity_runs = 100 WHERE id = %(other)s", {"other": other})
    for number in range(6):
        await pipeline.mention(f"question {number}")
    await pipeline.take_events()
    where = own if full == "ins_own" else pipeline.opencode

    order = []
    for _ in range(6):
        await pipeline.dispatch()
        order += [row["id"] for row in await system.all("SELECT id FROM executions WHERE status = 'running'")]
        await run_ends(pipeline, where)
        await pipeline.complete()

    came = [row["id"] for row in await system.all("SELECT id FROM executions ORDER BY position")]
    assert order == came
    assert await pipeline.one("SELECT count(*) AS n FROM execution_events WHERE kind = 'waiting'") == {"n": 0}
