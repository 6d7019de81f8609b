"""An OpenCode server that is away: what has to run there waits as rows and costs it one call at a time."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from config.settings import Settings
from nubabel_workers.domain.circuit_breaker import BreakerState, CallKind, CallOutcome
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import RunningSimulator, simulator
from tests.integration.pipeline.conftest import Pipeline
from tests.waiting import eventually, eventually_true

pytestmark = pytest.mark.integration

INSTANCE, OTHER = "ins_1", "ins_2"
FAILURES = 3
NEVER_S = 1000.0


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"breaker_failures": FAILURES, "breaker_first_wait_s": 60, "breaker_max_wait_s": 60}
    )


@pytest.fixture
async def other_server(pipeline: Pipeline) -> AsyncIterator[RunningSimulator]:
    async with simulator(SimulatorConfig()) as running:
        await pipeline.services.database.system().execute(
            "INSERT INTO instances (id, url, agents) VALUES (%(id)s, %(url)s, %(agents)s)",
            {"id": OTHER, "url": running.url, "agents": '["Sisyphus - ultraworker"]'},
        )
        yield running


def goes_away(pipeline: Pipeline) -> None:
    pipeline.opencode.simulator.crash(down_s=NEVER_S)


def comes_back(pipeline: Pipeline) -> None:
    pipeline.opencode.simulator.crash(down_s=0)


async def breaker(pipeline: Pipeline) -> BreakerState:
    gate = (await pipeline.services.breakers.gates()).get(INSTANCE)
    return gate.state if gate else BreakerState.CLOSED


async def the_wait_is_over(pipeline: Pipeline) -> None:
    """As if the time had passed that the breaker stays open."""
    cache = pipeline.services.cache
    standing = orjson.loads(await cache.hget("nubabel:breakers", INSTANCE) or "{}")
    await cache.hset("nubabel:breakers", INSTANCE, orjson.dumps({**standing, "until": 1.0}).decode())
    assert await breaker(pipeline) is BreakerState.HALF_OPEN
    await no_wait(pipeline)


async def no_wait(pipeline: Pipeline) -> None:
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")


async def look_now(pipeline: Pipeline) -> None:
    await pipeline.services.database.system().execute("UPDATE executions SET check_at = now() WHERE status = 'running'")


async def open_by_questions(pipeline: Pipeline, number: int = 5) -> list[str]:
    """That many questions while the server is away; what Flower shows of the second try."""
    for n in range(number):
        await pipeline.mention(f"question {n}")
    await pipeline.take_events()
    goes_away(pipeline)
    first = await pipeline.dispatch()
    await no_wait(pipeline)
    return [first, await pipeline.dispatch()]


async def test_while_every_server_is_away_executions_wait_as_rows_and_nothing_counts(pipeline: Pipeline) -> None:
    first, second = await open_by_questions(pipeline)

    assert first.startswith("5 waiting")
    assert "5 wait " in second
    rows = await pipeline.services.database.system().all(
        "SELECT DISTINCT status, attempt, failures, waiting_for, not_before > now() AS later FROM executions"
    )
    assert rows == [{"status": "queued", "attempt": 0, "failures": 0, "waiting_for": "server away", "later": True}]
    assert await pipeline.one("SELECT count(*) AS n FROM execution_events WHERE kind = 'waiting'") == {"n": 5}
    assert await pipeline.one("SELECT count(*) AS n FROM attempts") == {"n": 0}


async def test_threads_hear_once_that_it_takes_longer_and_get_their_answers_later(pipeline: Pipeline) -> None:
    questions = [await pipeline.mention(f"question {n}") for n in range(4)]
    await pipeline.take_events()
    goes_away(pipeline)
    for _ in range(3):
        await pipeline.dispatch()
        await no_wait(pipeline)
        await pipeline.services.database.system().execute("UPDATE executions SET created_at = now() - interval '5 min'")
        await pipeline.services.maintain.keep_deadlines()
        await pipeline.deliver()
    assert [len(pipeline.replies(question)) for question in questions] == [1] * 4

    comes_back(pipeline)
    await the_wait_is_over(pipeline)
    line = await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    await pipeline.deliver()

    assert line.startswith("4 dispatched")
    assert [len(pipeline.replies(question)) for question in questions] == [2] * 4
    assert await pipeline.one("SELECT max(attempt) AS tries, max(failures) AS failures FROM executions") == {
        "tries": 1,
        "failures": 0,
    }
    assert list(pipeline.opencode.simulator.store.model_runs.values()) == [1] * 4


async def test_half_open_one_execution_tries_the_others_wait_on(pipeline: Pipeline) -> None:
    await open_by_questions(pipeline)
    await the_wait_is_over(pipeline)

    line = await pipeline.dispatch()

    assert line.startswith("1 waiting")
    assert "; 4 wait " in line
    assert await breaker(pipeline) is BreakerState.OPEN


async def test_what_waited_goes_on_when_the_listener_gets_through(pipeline: Pipeline) -> None:
    await open_by_questions(pipeline)
    breakers = pipeline.services.breakers
    breakers.saw(INSTANCE, CallKind.LOOK, CallOutcome.AWAY)
    await pipeline.services.report_servers.run()
    comes_back(pipeline)
    (instance,) = await pipeline.services.instances.loads()

    await pipeline.services.servers.server(instance).version()
    await pipeline.services.report_servers.run()

    assert await breaker(pipeline) is BreakerState.CLOSED
    assert (await pipeline.dispatch()).startswith("5 dispatched")


async def test_a_server_that_the_listener_cannot_connect_to_is_held_back(pipeline: Pipeline) -> None:
    goes_away(pipeline)

    for _ in range(FAILURES):
        await follow_until_it_breaks(pipeline)

    assert await breaker(pipeline) is BreakerState.OPEN


async def test_a_stream_that_breaks_and_is_opened_again_is_no_failure(pipeline: Pipeline) -> None:
    for _ in range(FAILURES):
        following = asyncio.create_task(follow_until_it_breaks(pipeline))
        await eventually(lambda: len(pipeline.opencode.simulator.streams.readers) == 1, what="the event stream")
        pipeline.opencode.simulator.streams.disconnect()
        await following

    assert await pipeline.services.cache.exists("nubabel:breakers") == 0


async def follow_until_it_breaks(pipeline: Pipeline) -> None:
    """As the listener does."""
    (instance,) = await pipeline.services.instances.loads()
    with pytest.raises(ExceptionGroup):
        await pipeline.services.follow_instance.follow(instance, set())
    await pipeline.services.follow_instance.report_down(instance, "the stream ended")


async def test_new_sessions_go_to_another_server_and_nothing_fails(
    pipeline: Pipeline, other_server: RunningSimulator
) -> None:
    goes_away(pipeline)
    questions = [await pipeline.mention(f"question {n}") for n in range(8)]
    await pipeline.take_events()

    await pipeline.dispatch()
    assert await breaker(pipeline) is BreakerState.OPEN
    await no_wait(pipeline)
    await pipeline.dispatch()

    assert await pipeline.statuses() == ["running"] * 8
    rows = await pipeline.services.database.system().all(
        "SELECT DISTINCT instance_id, failures, attempt FROM executions"
    )
    assert rows == [{"instance_id": OTHER, "failures": 0, "attempt": 1}]
    assert len(other_server.simulator.store.sessions) == len(questions)


async def test_a_session_waits_for_its_own_server_while_others_work(
    pipeline: Pipeline, other_server: RunningSimulator
) -> None:
    question = await pipeline.mention("my name is Ada")
    await answered_here(pipeline)
    for _ in range(FAILURES):
        pipeline.services.breakers.saw(INSTANCE, CallKind.PROMPT, CallOutcome.AWAY)
    await pipeline.services.report_servers.run()
    await pipeline.say("what is my name?", thread_ts=question.ts)
    await pipeline.take_events()  # first: events of two conversations have no order
    await pipeline.mention("somebody else's question")
    await pipeline.take_events()

    await pipeline.dispatch()

    assert await pipeline.statuses() == ["completed", "queued", "running"]
    waiting = await pipeline.one(
        "SELECT waiting_for, failures, not_before > now() AS later FROM executions WHERE position = 2"
    )
    assert waiting == {"waiting_for": "server away", "failures": 0, "later": True}


async def answered_here(pipeline: Pipeline) -> None:
    """What waits is answered by INSTANCE, although there is another server."""
    await pipeline.services.database.system().execute("UPDATE instances SET healthy = false WHERE id = 'ins_2'")
    await pipeline.take_events()
    await pipeline.dispatch()
    await eventually_true(lambda: is_idle(pipeline), what="the end of the run")
    await look_now(pipeline)
    await pipeline.complete()
    await pipeline.deliver()
    await pipeline.services.database.system().execute("UPDATE instances SET healthy = true")


async def is_idle(pipeline: Pipeline) -> bool:
    server = next(one for one in await pipeline.services.instances.loads() if one.id == INSTANCE)
    return not await pipeline.services.servers.server(server).busy_sessions(None)


async def test_runs_on_a_server_that_is_away_are_not_asked_about_and_end_when_it_is_back(pipeline: Pipeline) -> None:
    question = await pipeline.mention("[[delay=0.1]] hello")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.run_ends()
    for _ in range(FAILURES):
        pipeline.services.breakers.saw(INSTANCE, CallKind.LOOK, CallOutcome.FAILED)
    await pipeline.services.report_servers.run()

    line = await pipeline.complete()

    assert line.startswith("1 unreachable")
    assert await pipeline.statuses() == ["running"]
    assert await breaker(pipeline) is BreakerState.OPEN  # a call would have succeeded, and closed it
    await the_wait_is_over(pipeline)
    await look_now(pipeline)
    await pipeline.complete()
    await pipeline.deliver()
    assert await breaker(pipeline) is BreakerState.CLOSED
    assert len(pipeline.replies(question)) == 1


async def test_the_thread_of_a_run_on_a_server_that_is_away_is_told(pipeline: Pipeline) -> None:
    question = await pipeline.mention("[[hang]] hello")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.services.database.system().execute("UPDATE executions SET created_at = now() - interval '5 min'")
    await pipeline.services.maintain.keep_deadlines()
    await pipeline.deliver()
    assert pipeline.replies(question) == []

    for _ in range(FAILURES):
        pipeline.services.breakers.saw(INSTANCE, CallKind.LOOK, CallOutcome.AWAY)
    await pipeline.services.report_servers.run()
    for _ in range(2):
        await pipeline.services.maintain.keep_deadlines()
        await pipeline.deliver()

    assert len(pipeline.replies(question)) == 1


async def test_refused_prompts_open_it_while_looks_go_on(pipeline: Pipeline) -> None:
    running = await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.run_ends()
    pipeline.opencode.simulator.set_faults(refuse=FAILURES, refuse_status=503, refuse_path="prompt_async")
    for n in range(FAILURES):
        await pipeline.mention(f"question {n}")
    await pipeline.take_events()

    await pipeline.dispatch()

    assert await breaker(pipeline) is BreakerState.OPEN
    await pipeline.complete()
    await pipeline.deliver()
    assert len(pipeline.replies(running)) == 1
    assert await breaker(pipeline) is BreakerState.OPEN
    await the_wait_is_over(pipeline)
    await pipeline.dispatch()
    assert await breaker(pipeline) is BreakerState.CLOSED
    assert await pipeline.statuses() == ["completed", *["running"] * FAILURES]


@pytest.mark.parametrize("status", [400, 429])
async def test_refusals_that_are_no_failure_of_the_server_open_nothing(pipeline: Pipeline, status: int) -> None:
    pipeline.opencode.simulator.set_faults(refuse=10, refuse_status=status, refuse_path="prompt_async")
    for n in range(5):
        await pipeline.mention(f"question {n}")
    await pipeline.take_events()

    await pipeline.dispatch()

    assert await breaker(pipeline) is BreakerState.CLOSED


async def is_given_up(pipeline: Pipeline) -> None:
    """As if the listener had not reached the server for longer than the setting allows."""
    await pipeline.services.instances.report_health(INSTANCE, healthy=False, detail="away", version="", agents=())
    await pipeline.services.database.system().execute(
        "UPDATE instances SET unhealthy_since = now() - interval '1 day' WHERE id = %(id)s", {"id": INSTANCE}
    )
    await pipeline.services.instances.loads()  # what was known lately is good for seconds


async def ends_elsewhere(pipeline: Pipeline) -> None:
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
    await pipeline.dispatch()
    (row,) = await pipeline.services.database.system().all(
        "SELECT instance_id FROM executions WHERE status = 'running'"
    )
    assert row["instance_id"] == OTHER
    other = await pipeline.services.instances.find(OTHER)
    assert other is not None

    async def nothing_runs() -> bool:
        return not await pipeline.services.servers.server(other).busy_sessions(None)

    await eventually_true(nothing_runs, what="the end of the run elsewhere")
    await look_now(pipeline)
    await pipeline.complete()
    await pipeline.deliver()


async def test_a_conversation_whose_server_is_given_up_goes_on_elsewhere_with_its_earlier_turns(
    pipeline: Pipeline, other_server: RunningSimulator
) -> None:
    question = await pipeline.mention("my name is Ada")
    await answered_here(pipeline)
    goes_away(pipeline)
    await is_given_up(pipeline)
    await pipeline.say("what is my name?", thread_ts=question.ts)
    await pipeline.take_events()

    await ends_elsewhere(pipeline)

    assert "Ada" in pipeline.replies(question)[1]
    replaced = await pipeline.one("SELECT detail FROM execution_events WHERE kind = 'session_replaced'")
    assert replaced == {"detail": {"reason": "given_up"}}


async def test_a_run_on_a_server_that_is_given_up_starts_anew_elsewhere(
    pipeline: Pipeline, other_server: RunningSimulator
) -> None:
    question = await pipeline.mention("[[delay=0.1]] [[text=done]]")
    await pipeline.take_events()
    await pipeline.dispatch()
    goes_away(pipeline)
    await is_given_up(pipeline)
    await look_now(pipeline)
    await pipeline.complete()
    assert await pipeline.statuses() == ["queued"]

    await ends_elsewhere(pipeline)

    assert pipeline.replies(question) == ["done"]
    attempts = await pipeline.services.database.system().all("SELECT verdict FROM attempts ORDER BY number")
    assert [row["verdict"] for row in attempts] == ["session_given_up", "succeeded"]
    left: dict[str, Any] = await pipeline.one("SELECT detail FROM execution_events WHERE kind = 'session_replaced'")
    assert left["detail"]["reason"] == "given_up"
    assert 0 <= left["detail"]["away_s"] < 60  # since its prompt went there, not the whole day


@pytest.mark.parametrize("away", [True, False])
async def test_a_run_on_a_server_that_is_removed_says_so_and_how_long_it_was_away(
    pipeline: Pipeline, other_server: RunningSimulator, *, away: bool
) -> None:
    await pipeline.mention("[[delay=0.1]] [[text=done]]")
    await pipeline.take_events()
    await pipeline.dispatch()
    if away:
        goes_away(pipeline)
        await is_given_up(pipeline)
    await pipeline.services.database.system().execute(
        "UPDATE instances SET status = 'removed' WHERE id = %(id)s", {"id": INSTANCE}
    )
    pipeline.services.instances._lately.clear()  # heard of at once
    await look_now(pipeline)

    await pipeline.complete()

    attempt = await pipeline.one("SELECT verdict FROM attempts")
    left: dict[str, Any] = await pipeline.one("SELECT detail FROM execution_events WHERE kind = 'session_replaced'")
    assert attempt == {"verdict": "session_removed"}
    assert (left["detail"]["reason"], "away_s" in left["detail"]) == ("removed", away)
