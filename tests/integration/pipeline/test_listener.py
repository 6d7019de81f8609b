"""The listener: news becomes completions and progress, asks are refused, and another listener takes over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from nubabel_workers.adapters.cache.leadership import RedisLeadership
from nubabel_workers.adapters.opencode.servers import HttpOpenCodeServer
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.executions import EventKind
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.listener.process import Listener
from nubabel_workers.simulators.opencode import config
from nubabel_workers.simulators.opencode.config import SimulatedAgent, SimulatorConfig
from nubabel_workers.simulators.opencode.running import RunningSimulator, simulator
from nubabel_workers.simulators.slack.model import Message
from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline
from tests.waiting import eventually, eventually_true

pytestmark = pytest.mark.integration

LEASE_S = 0.8


def listener(pipeline: Pipeline, name: str, *, lease_s: float = LEASE_S) -> Listener:
    services = pipeline.services
    return Listener(
        services.instances,
        services.follow_instance,
        services.executions,
        RedisLeadership(services.cache, "listeners", name, lease_s=LEASE_S),
        services.progress,
        services.chance,
        lease_s=lease_s,
        on_round=lambda: services.metrics.round_done("listen"),
    )


def connections(pipeline: Pipeline) -> int:
    return len(pipeline.opencode.simulator.streams.readers)


def readers(pipeline: Pipeline) -> set[int]:
    return {id(reader) for reader in pipeline.opencode.simulator.streams.readers}


@asynccontextmanager
async def listening(pipeline: Pipeline, name: str = "one") -> AsyncIterator[None]:
    """A listener that follows the server."""
    stop = asyncio.Event()
    task = asyncio.create_task(listener(pipeline, name).run(stop))
    try:
        await eventually(lambda: connections(pipeline) == 1, what="the event stream")
        yield
    finally:
        stop.set()
        await task


async def shown_after_delivery(pipeline: Pipeline, question: Message, word: str) -> bool:
    await pipeline.deliver()
    return any(word in reply for reply in pipeline.replies(question))


async def is_healthy(pipeline: Pipeline, wanted: bool) -> bool:
    return (await pipeline.services.instances.loads())[0].healthy is wanted


async def due(pipeline: Pipeline) -> int:
    row = await pipeline.one("SELECT count(*) AS n FROM executions WHERE status = 'running' AND check_at <= now()")
    return int(str(row["n"]))


async def start_a_run(pipeline: Pipeline) -> None:
    await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.dispatch()


async def one_of_several_is_due(pipeline: Pipeline) -> int:
    await start_a_run(pipeline)
    return await due(pipeline)


async def until_due(pipeline: Pipeline) -> None:
    await eventually_true(lambda: due(pipeline))


async def test_the_end_of_a_run_makes_its_execution_due(pipeline: Pipeline) -> None:
    async with listening(pipeline):
        await pipeline.mention("[[delay=0.2]] hello")
        await pipeline.take_events()
        await pipeline.dispatch()

        await until_due(pipeline)

    await pipeline.complete()
    assert await pipeline.statuses() == ["completed"]


async def test_tools_are_shown_in_the_thread_and_taken_away_at_the_end(pipeline: Pipeline) -> None:
    async with listening(pipeline):
        question = await pipeline.mention(
            '[[tool=bash {"command":"sleep 0.2","description":"a nap"}]] [[delay=0.3]] go'
        )
        await pipeline.take_events()
        await pipeline.dispatch()
        await eventually_true(lambda: shown_after_delivery(pipeline, question, "bash"))
        await until_due(pipeline)

    await pipeline.complete()
    await pipeline.deliver()

    assert len(pipeline.replies(question)) == 1
    assert "Working" not in pipeline.replies(question)[0]


async def test_progress_reaches_the_stream_of_the_execution(pipeline: Pipeline) -> None:
    async with listening(pipeline):
        await pipeline.mention('[[tool=bash {"command":"true","description":"x"}]] go')
        await pipeline.take_events()
        await pipeline.dispatch()
        await until_due(pipeline)
    execution = await pipeline.one("SELECT id FROM executions")

    told = []
    async for event in pipeline.services.progress.read(ORGANIZATION, str(execution["id"]), after="", idle_s=0.05):
        if event is None:
            break
        told.append(event[1])

    assert {"type": "state", "status": "running"} in told
    assert any(event.get("tool") == "bash" and event.get("status") == "completed" for event in told)


async def ask_for_bash(pipeline: Pipeline) -> Message:
    """A thread whose OpenCode session wants a permission for its next command."""
    question = await pipeline.mention("hello")
    await pipeline.answer_everything()
    for session in pipeline.opencode.simulator.store.sessions.values():
        session.info["permission"] = [{"permission": "bash", "pattern": "*", "action": "ask"}]
    await pipeline.say('[[tool=bash {"command":"true","description":"x"}]] go', thread_ts=question.ts)
    await pipeline.take_events()
    return question


async def kinds_of_the_last(pipeline: Pipeline) -> list[EventKind]:
    execution = await pipeline.one("SELECT id FROM executions ORDER BY position DESC LIMIT 1")
    return [event.kind for event in await pipeline.services.executions.timeline(ORGANIZATION, str(execution["id"]))]


async def test_a_permission_ask_is_refused_with_words_and_noted(pipeline: Pipeline) -> None:
    question = await ask_for_bash(pipeline)
    async with listening(pipeline):
        await pipeline.dispatch()
        await until_due(pipeline)

    await pipeline.complete()
    await pipeline.deliver()

    assert EventKind.ASK_REJECTED in await kinds_of_the_last(pipeline)
    assert len(pipeline.replies(question)) == 2


async def test_an_ask_that_nobody_heard_of_is_found_by_comparison(pipeline: Pipeline) -> None:
    await ask_for_bash(pipeline)
    await pipeline.dispatch()
    await eventually(lambda: pipeline.opencode.simulator.store.asks, what="the ask")
    await pipeline.services.database.system().execute("UPDATE executions SET running_since = now() - interval '1 hour'")

    await pipeline.services.reconcile_instance.run("ins_1")

    assert EventKind.ASK_REJECTED in await kinds_of_the_last(pipeline)


async def test_news_that_was_lost_with_the_stream_is_found_by_comparison(pipeline: Pipeline) -> None:
    await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.services.database.system().execute("UPDATE executions SET running_since = now() - interval '1 hour'")

    async with listening(pipeline):
        await until_due(pipeline)


async def test_two_listeners_follow_a_server_once(pipeline: Pipeline) -> None:
    async with listening(pipeline, "one"), listening(pipeline, "two"):
        assert connections(pipeline) == 1


async def test_a_listener_takes_over_from_one_that_died(pipeline: Pipeline) -> None:
    services = pipeline.services
    dead = RedisLeadership(services.cache, "listeners", "dead", lease_s=LEASE_S)
    assert await dead.take("ins_1")

    async with listening(pipeline, "alive"):
        assert not await dead.take("ins_1")


async def test_a_listener_that_stops_leaves_its_servers_to_others_at_once(pipeline: Pipeline) -> None:
    async with listening(pipeline, "one"):
        pass

    heir = RedisLeadership(pipeline.services.cache, "listeners", "heir", lease_s=LEASE_S)
    assert await heir.take("ins_1")


async def test_a_lost_stream_is_opened_again(pipeline: Pipeline) -> None:
    async with listening(pipeline):
        pipeline.opencode.simulator.crash()

        await eventually(lambda: connections(pipeline) == 1, what="the new stream")


async def test_an_unreachable_server_gets_no_new_sessions_until_it_is_back(pipeline: Pipeline) -> None:
    async with listening(pipeline):
        pipeline.opencode.simulator.crash(down_s=3600)
        await eventually_true(lambda: is_healthy(pipeline, False))

        pipeline.opencode.simulator.crash(down_s=0)
        await eventually_true(lambda: is_healthy(pipeline, True))


async def test_a_listener_bears_that_the_database_is_away_when_news_come(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object, **__: object) -> None:
        raise UnavailableError("the database cannot be reached")

    async with listening(pipeline):
        first = readers(pipeline)
        with monkeypatch.context() as database_away:
            database_away.setattr(pipeline.services.executions, "wake_by_sessions", away)
            database_away.setattr(pipeline.services.instances, "report_health", away)
            await start_a_run(pipeline)
            await eventually(lambda: readers(pipeline) - first, what="another stream")

        await eventually_true(lambda: one_of_several_is_due(pipeline), what="news")


async def test_a_listener_bears_a_bug_in_what_it_does_with_news(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def buggy(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async with listening(pipeline):
        first = readers(pipeline)
        with monkeypatch.context() as bug:
            bug.setattr(pipeline.services.executions, "wake_by_sessions", buggy)
            await start_a_run(pipeline)
            await eventually(lambda: readers(pipeline) - first, what="another stream")

        await eventually_true(lambda: one_of_several_is_due(pipeline), what="news")


async def test_a_listener_ends_although_its_stream_breaks_in_that_moment(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task group one of whose tasks fails swallows the cancellation of its parent (Python 3.11)."""
    follow, broken = pipeline.services.follow_instance.follow, asyncio.Event()

    async def breaks_when_cancelled(instance: Instance, watched: set[str]) -> None:
        try:
            await follow(instance, watched)
        except asyncio.CancelledError:
            if broken.is_set():
                raise
            broken.set()
            raise ExceptionGroup("", [UnavailableError("the event stream broke")]) from None

    monkeypatch.setattr(pipeline.services.follow_instance, "follow", breaks_when_cancelled)

    async with asyncio.timeout(10) as limit, listening(pipeline):
        pass

    assert broken.is_set()
    assert not limit.expired()
    await eventually(lambda: connections(pipeline) == 0, what="no stream")


class TestOfAnotherGeneration:
    @pytest.fixture
    async def opencode(self) -> AsyncIterator[RunningSimulator]:
        async with simulator(SimulatorConfig(version="2.0.0")) as running:
            yield running

    async def test_such_a_server_gets_no_work_and_operators_see_why(self, pipeline: Pipeline) -> None:
        async with listening(pipeline):
            await eventually_true(lambda: is_healthy(pipeline, False))
        await pipeline.mention("hello")
        await pipeline.take_events()

        await pipeline.dispatch()

        assert await pipeline.statuses() == ["queued"]
        row = await pipeline.one("SELECT health_detail FROM instances")
        assert row == {"health_detail": "OpenCode 2.0.0 speaks another API: this release works with 1.x"}


class TestWithoutTheAgentThatWorksByDefault:
    @pytest.fixture
    async def opencode(self) -> AsyncIterator[RunningSimulator]:
        async with simulator(SimulatorConfig(plugin="none")) as running:
            yield running

    async def test_such_a_server_gets_no_work_not_even_of_its_own_sessions(self, pipeline: Pipeline) -> None:
        async with listening(pipeline):
            await eventually_true(lambda: is_healthy(pipeline, False))
        await pipeline.mention("hello")
        await pipeline.take_events()
        await pipeline.services.database.system().execute("UPDATE sessions SET instance_id = 'ins_1'")
        await pipeline.services.database.system().execute("UPDATE executions SET instance_id = 'ins_1'")

        await pipeline.dispatch()

        assert await pipeline.statuses() == ["queued"]
        (instance,) = await pipeline.services.instances.loads()
        assert instance.refused
        assert instance.health_detail.startswith("it has no agent whose name begins with 'Sisyphus - ' (it has: build")

    async def test_it_is_taken_in_as_soon_as_it_has_that_agent(
        self, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with listening(pipeline):
            await eventually_true(lambda: is_healthy(pipeline, False))
            monkeypatch.setattr(config, "PLAIN_AGENTS", (SimulatedAgent("Sisyphus - new"),))

            await eventually_true(lambda: is_healthy(pipeline, True))

        (instance,) = await pipeline.services.instances.loads()
        assert (instance.agents, instance.refused, instance.health_detail) == (("Sisyphus - new",), False, "")


async def test_whoever_follows_a_server_corrects_who_wrote_that_it_is_away(pipeline: Pipeline) -> None:
    (instance,) = await pipeline.services.instances.loads()
    async with listening(pipeline):
        await eventually_true(lambda: is_healthy(pipeline, True))
        await pipeline.services.follow_instance.report_down(instance, "it cannot be reached from here")

        await eventually_true(lambda: is_healthy(pipeline, True), what="a correction")


async def test_a_listener_whose_lease_another_has_taken_says_nothing_of_the_end_of_its_stream(
    pipeline: Pipeline,
) -> None:
    frozen = listener(pipeline, "frozen")
    others = RedisLeadership(pipeline.services.cache, "listeners", "other", lease_s=LEASE_S)
    (instance,) = await pipeline.services.instances.loads()
    following = asyncio.create_task(frozen._follow_once(instance.id, set()))
    await eventually(lambda: connections(pipeline) == 1, what="the event stream")
    await eventually_true(lambda: is_healthy(pipeline, True))
    assert await others.take(instance.id)

    pipeline.opencode.simulator.crash(down_s=0)
    await following

    assert await is_healthy(pipeline, True)


@pytest.mark.parametrize(("lease_s", "healthy"), [(60.0, False), (0.0, True)], ids=["its own", "maybe another's"])
async def test_without_the_cache_only_who_is_sure_of_its_lease_tells_the_end_of_its_stream(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, lease_s: float, healthy: bool
) -> None:
    async def away(_: str) -> bool:
        raise UnavailableError("the cache cannot be reached")

    one = listener(pipeline, "one", lease_s=lease_s)
    (instance,) = await pipeline.services.instances.loads()
    assert await one._take_lease(instance.id)
    following = asyncio.create_task(one._follow_once(instance.id, set()))
    await eventually(lambda: connections(pipeline) == 1, what="the event stream")
    await eventually_true(lambda: is_healthy(pipeline, True))
    monkeypatch.setattr(one._leadership, "take", away)

    pipeline.opencode.simulator.crash(down_s=0)
    await following

    assert await is_healthy(pipeline, healthy)


@asynccontextmanager
async def followed(pipeline: Pipeline) -> AsyncIterator[asyncio.Task[str]]:
    """The server's stream is open and it was asked how it is; the task ends with the stream."""
    task = asyncio.create_task(listener(pipeline, "one")._follow_once("ins_1", set()))
    connected = pipeline.services.follow_instance._connected
    await eventually(lambda: "ins_1" in connected, what="a server that was heard of")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_look_at_a_server_that_is_written_down_as_well_writes_nothing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with followed(pipeline):
        (instance,) = await pipeline.services.instances.loads()
        written = records_reports(pipeline, monkeypatch)

        await pipeline.services.follow_instance.look_again(instance)

    assert instance.healthy
    assert written == []


async def test_who_has_no_stream_open_corrects_nobody(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    (instance,) = await pipeline.services.instances.loads()
    written = records_reports(pipeline, monkeypatch)

    await pipeline.services.follow_instance.look_again(replace(instance, healthy=False))

    assert written == []


async def test_a_correction_that_was_under_way_when_the_stream_broke_is_not_written(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, told = asyncio.Event(), asyncio.Event()

    async def agents_slowly(*_: object) -> list[str]:
        asked.set()
        await told.wait()
        return ["Sisyphus - ultraworker"]

    async with followed(pipeline) as following:
        (instance,) = await pipeline.services.instances.loads()
        monkeypatch.setattr(HttpOpenCodeServer, "agents", agents_slowly)
        looking = asyncio.create_task(pipeline.services.follow_instance.look_again(replace(instance, healthy=False)))
        await asked.wait()
        pipeline.opencode.simulator.crash(down_s=0)
        await following

        told.set()
        await looking

    assert await is_healthy(pipeline, False)


def records_reports(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    written: list[str] = []

    async def report(instance_id: str, **_: object) -> None:
        written.append(instance_id)

    monkeypatch.setattr(pipeline.services.instances, "report_health", report)
    return written
