"""What becomes of a request when its OpenCode server or the model behind it goes wrong, on the simulator and for real.

Every run ends as the verdict table says, and each attempt has asked the model for one run.
"""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from config.settings import Settings
from nubabel_workers.adapters.opencode.servers import HttpOpenCodeServer
from nubabel_workers.adapters.storage.usage_reports import PostgresUsageReports
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.executions import NewExecution, Overrides
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.services.read_usage import ReadUsage
from nubabel_workers.simulators.slack.server import SlackSimulator
from tests.conftest import RedisServer
from tests.contract.opencode.backends import AGENT, MODEL, Backend
from tests.contract.opencode.wired import WiredSteps, unheard_of, wired
from tests.integration.pipeline.conftest import ORGANIZATION, pipeline_settings
from tests.integration.pipeline.dying import others_find_its_rows
from tests.integration.pipeline.test_budgets import set_caps
from tests.waiting import eventually_true

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]


@pytest_asyncio.fixture(loop_scope="session")
async def slack() -> AsyncIterator[SlackSimulator]:
    async with SlackSimulator() as running:
        yield running


@pytest.fixture
def settings(
    request: pytest.FixtureRequest,
    slack: SlackSimulator,
    database_url: str,
    clean_redis: RedisServer,
) -> Settings:
    return pipeline_settings(
        slack,
        database_url,
        clean_redis,
        opencode_agent_prefix=AGENT,
        opencode_model_retries=1,
        retry_orchestration_max_attempts=2,
        **getattr(request, "param", {}),
    )


@pytest_asyncio.fixture(loop_scope="session")
async def steps(settings: Settings, slack: SlackSimulator, backend: Backend) -> AsyncIterator[WiredSteps]:
    async with wired(settings, slack, backend) as running:
        yield running


async def dead_letter(steps: WiredSteps) -> str:
    return str((await steps.one("SELECT error FROM dead_letters"))["error"])


# --- one run, and how it ends ---


@pytest.mark.parametrize(
    ("text", "calls", "reply"),
    [
        pytest.param("[[text=hello there]]", 1, "hello there", id="answer"),
        pytest.param("[[finish=length]] [[text=half an ans]]", 1, "length limit", id="answer cut"),
        pytest.param("[[drop=mid]] [[times=1]] a b c d", 2, "a b c d", id="the model's stream closed in the middle"),
        pytest.param("[[overflow]] [[times=1]] long", 2, "ECHO", id="compaction in the middle"),
        pytest.param("[[usage=99000,50]] full", 2, "full", id="compaction after the answer"),
    ],
)
async def test_one_attempt_ends_in_one_reply(steps: WiredSteps, text: str, calls: int, reply: str) -> None:
    question = await steps.mention(unheard_of(text))

    await steps.answer_everything()

    (told,) = steps.replies(question)
    assert reply in told
    assert await steps.attempts() == ["succeeded"]
    assert steps.calls == calls


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        pytest.param("[[status=401]]", "401", id="refused"),
        pytest.param("[[text= ]]", "no_answer", id="nothing said"),
    ],
)
async def test_a_run_that_cannot_succeed_is_one_apology_and_one_dead_letter(
    steps: WiredSteps, text: str, cause: str
) -> None:
    question = await steps.mention(unheard_of(text))

    await steps.answer_everything()

    assert await steps.statuses() == ["failed"]
    assert len(steps.replies(question)) == 1
    assert cause in await dead_letter(steps)
    assert len(await steps.attempts()) == steps.calls == 1


async def test_a_model_that_answers_nonsense_once_is_asked_again(steps: WiredSteps) -> None:
    question = await steps.mention(unheard_of("[[badjson]]"))

    await steps.answer_everything()
    await others_find_its_rows(steps)
    await steps.answer_everything()

    assert await steps.statuses() == ["failed"]
    assert await steps.attempts() == ["failed", "attempts_exhausted"]
    assert steps.calls == 2
    assert len(steps.replies(question)) == 1


async def test_a_model_that_is_retried_for_ever_is_given_up(steps: WiredSteps) -> None:
    await steps.start(unheard_of("[[status=429]] [[retry_after=1]] never"))
    await steps.model_is_asked(times=2)
    await eventually_true(lambda: _is_retrying(steps), what="the second wait for the model")

    await steps.due_now()
    await steps.complete()

    assert await steps.attempts() == ["cancelled"]
    assert await steps.statuses() == ["queued"]
    assert await steps.working() == 0


async def test_an_unknown_agent_fails_at_once_although_the_server_never_tells(steps: WiredSteps) -> None:
    await steps.services.instances.report_health(
        "ins_1", healthy=True, detail="", version="", agents=[f"{AGENT} of old"]
    )
    question = await steps.mention("hello")

    await steps.answer_everything()

    assert await steps.statuses() == ["failed"]
    assert "unknown_agent" in await dead_letter(steps)
    assert len(steps.replies(question)) == 1
    assert steps.calls == 0


async def test_an_unknown_model_is_idle_without_an_answer_and_fails_at_once(steps: WiredSteps) -> None:
    await steps.services.executions.accept(
        NewExecution(
            organization_id=OrganizationId(ORGANIZATION),
            source="api",
            prompt="hello",
            session_key="api:1",
            idempotency_key="key:1",
            request_hash="",
            reply={"kind": "none"},
            overrides=Overrides(model="stub/nosuch"),
        ),
        working=None,
        answer_by_s=60,
    )

    await steps.dispatch()
    await steps.run_ends()
    await steps.complete()

    assert await steps.statuses() == ["failed"]
    assert await steps.attempts() == ["unknown_model"]
    assert f"no model 'stub/nosuch'; it has: {MODEL}" in await dead_letter(steps)
    assert steps.calls == 0


@pytest.mark.parametrize("settings", [{"opencode_default_model": "stub/nosuch"}], indirect=True)
async def test_a_default_model_that_the_server_does_not_have_is_said_to_the_operators(steps: WiredSteps) -> None:
    question = await steps.mention("hello")

    await steps.answer_everything()

    assert await steps.statuses() == ["failed"]
    assert "NUBABEL_OPENCODE_DEFAULT_MODEL" in await dead_letter(steps)
    (reply,) = steps.replies(question)
    assert "AI model" in reply


async def test_a_run_past_its_deadline_is_stopped_and_what_there_is_is_shown(steps: WiredSteps) -> None:
    question = await steps.mention(unheard_of("[[hang=mid]] [[tokens=9]]"))
    await steps.take_events()
    await steps.dispatch()
    await steps.model_is_asked()
    await steps.services.database.system().execute("UPDATE executions SET deadline_at = now()")

    await steps.due_now()
    await steps.complete()
    await steps.deliver()

    (reply,) = steps.replies(question)
    assert "longer than allowed" in reply
    assert await steps.attempts() == ["deadline_exceeded"]
    assert await steps.working() == 0
    assert await steps.one("SELECT (usage->>'lower_bound')::bool AS more FROM executions") == {"more": True}


# --- follow-ups ---


async def test_follow_ups_wait_their_turn_and_are_answered_in_order(steps: WiredSteps) -> None:
    question = await steps.mention("[[delay=0.2]] one")
    for text in ("two", "three"):
        await steps.say(text, thread_ts=question.ts)
    await steps.take_events()
    for _ in range(3):
        await steps.dispatch()
        await steps.dispatch()
        assert (await steps.statuses()).count("running") == 1
        await steps.run_ends()
        await steps.complete()
        await steps.deliver()

    answers = [reply.partition(":")[0] for reply in steps.replies(question)]
    assert answers == ["ECHO[2]", "ECHO[4]", "ECHO[6]"]
    assert len(await steps.attempts()) == steps.calls == 3


# --- runs of nobody, prompts that come late ---


async def test_a_run_that_was_given_up_unseen_is_stopped_by_the_next_comparison(
    steps: WiredSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    await steps.start(unheard_of("[[hang]]"))
    await steps.model_is_asked()
    with monkeypatch.context() as away:
        away.setattr(HttpOpenCodeServer, "busy_sessions", _unreachable)
        await steps.services.database.system().execute("UPDATE executions SET deadline_at = now()")
        await steps.due_now()
        await steps.complete()
    assert await steps.statuses() == ["failed"]
    assert await steps.working() == 1
    await steps.services.database.system().execute("UPDATE attempts SET ended_at = now() - interval '1 minute'")

    await steps.services.reconcile_instance.run("ins_1")

    await eventually_true(lambda: _nothing_works(steps), what="the end of the run")


async def test_a_prompt_that_arrives_after_its_answer_neither_runs_nor_disturbs_the_follow_up(
    steps: WiredSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def others_go_on_to_the_follow_up() -> None:
        await others_find_its_rows(steps)
        await steps.dispatch()
        await steps.run_ends()
        await steps.complete()
        await steps.deliver()
        await steps.say(second, thread_ts=question.ts)
        await steps.take_events()
        await steps.dispatch()
        await steps.model_is_asked(times=2)

    second = unheard_of("[[delay=0.3]] second")
    _stops_while_posting(monkeypatch, await _server(steps), others_go_on_to_the_follow_up)
    question = await steps.mention("first")
    await steps.take_events()
    await steps.dispatch()

    await steps.run_ends()
    await steps.complete()
    await steps.deliver()

    assert await steps.statuses() == ["completed", "completed"]
    told_first, told_second = steps.replies(question)
    assert "first" in told_first
    assert told_second.count("second") == 1
    assert await steps.attempts() == ["succeeded", "succeeded"]


# --- servers that forget and hang; one that is killed: `tests/e2e/test_real_opencode.py` ---


async def test_conversations_of_a_server_that_comes_back_empty_go_on_in_new_sessions(steps: WiredSteps) -> None:
    question = await steps.mention("my name is Ada")
    await steps.answer_everything()
    interrupted = await steps.mention(unheard_of("[[delay=1]] [[text=still here]]"))
    await steps.take_events()
    await steps.dispatch()
    await steps.model_is_asked(times=2)

    await steps.backend.restart_empty()
    await steps.due_now()
    await steps.complete()
    await steps.say("what is my name?", thread_ts=question.ts)
    await steps.answer_all()

    _, second = steps.replies(question)
    assert "Ada" in second  # the echo shows what the model was given
    assert steps.replies(interrupted) == ["still here"]
    # Of the two that met the loss, one was running, and the other's prompt was refused.
    assert sorted(map(str, await steps.attempts())) == ["session_lost"] * 2 + ["succeeded"] * 3
    assert await steps.sessions() == steps.calls == 4


@pytest.mark.parametrize("settings", [{"opencode_read_timeout_s": 0.5}], indirect=True)
async def test_while_a_server_hangs_its_requests_wait_without_counting_failures(steps: WiredSteps) -> None:
    running = await steps.mention(unheard_of("[[delay=0.1]] [[text=one]]"))
    await steps.take_events()
    await steps.dispatch()
    await steps.run_ends()
    waiting = await steps.mention(unheard_of("[[text=two]]"))
    await steps.take_events()

    async with steps.backend.hung():
        await steps.complete()
        await steps.dispatch()
        assert await steps.statuses() == ["running", "queued"]

    failures = await steps.one("SELECT sum(failures)::int AS n FROM executions")
    assert failures == {"n": 0}
    await steps.answer_all()
    assert (steps.replies(running), steps.replies(waiting)) == (["one"], ["two"])
    assert await steps.attempts() == ["succeeded", "succeeded"]
    assert steps.calls == 2


async def _is_retrying(steps: WiredSteps) -> bool:
    (instance,) = await steps.services.instances.loads()
    states = await steps.services.servers.server(instance).busy_sessions(None)
    return any(state.retry_attempt > 1 for state in states.values())


async def _server(steps: WiredSteps) -> Any:
    (instance,) = await steps.services.instances.loads()
    return steps.services.servers.server(instance)


async def _nothing_works(steps: WiredSteps) -> bool:
    return await steps.working() == 0


def _stops_while_posting(patch: pytest.MonkeyPatch, server: Any, others: Callable[[], Any]) -> None:
    """The process stops in the middle of its POST and wakes up when the others are done; then the prompt arrives."""
    submit = server.submit

    async def stopped(*args: Any, **kwargs: Any) -> None:
        patch.setattr(server, "submit", submit)
        await others()
        await submit(*args, **kwargs)

    patch.setattr(server, "submit", stopped)


async def _unreachable(*_: object, **__: object) -> None:
    raise UnavailableError("no route to it")


# --- usage ---


async def test_what_is_billed_is_what_the_model_reported_sub_agents_included(steps: WiredSteps) -> None:
    """Two steps of the main agent and one of the sub-agent; each reports 1000 tokens in, 800 of them cached, and 50."""
    task = '{"description":"part","prompt":"[[usage=1000,50,800]] [[text=part done]]","subagent_type":"general"}'
    question = await steps.mention(unheard_of(f"[[tool=task {task}]] [[usage=1000,50,800]] [[text=all done]]"))

    await steps.answer_all()

    assert steps.replies(question) == ["all done"]
    assert steps.calls == 3
    report = ReadUsage(PostgresUsageReports(steps.services.database), steps.services.clock)
    (line,) = (await report.run(organization_id=ORGANIZATION)).lines
    assert (line.input_tokens, line.cache_read_tokens, line.output_tokens) == (3 * 200, 3 * 800, 3 * 50)
    assert (line.executions, line.lower_bound, line.cost_computed) == (1, False, False)
    assert line.cost > 0


# --- budgets ---

_STEP = '[[tool=bash {"command":"echo step","description":"a step"}]]'


async def test_a_run_paused_at_its_cap_goes_on_in_its_session_when_the_cap_is_raised(steps: WiredSteps) -> None:
    """The stub's model costs a dollar per million tokens of input: each step costs five cents."""
    question = await steps.mention(unheard_of(f"{_STEP * 12} [[usage=50000,0]] [[text=all done]]"))
    await set_caps(steps, cost_per_execution=0.17)
    await steps.take_events()

    await until_none_runs(steps)

    assert await steps.statuses() == ["waiting_budget"]
    assert await steps.working() == 0
    paused = await steps.one("SELECT sum(cost)::float8 AS cost, bool_or(lower_bound) AS more FROM usage")
    assert paused["cost"] == pytest.approx(0.15)
    assert paused["more"] is True  # the step that was stopped
    calls = steps.calls

    await set_caps(steps, cost_per_execution=100)
    await steps.services.keep_budgets.resume_those_with_room()
    await steps.answer_all()

    assert await steps.statuses() == ["completed"]
    assert await steps.sessions() == 1
    assert steps.calls > calls
    assert len(await steps.attempts()) == 2
    assert steps.replies(question)[-1]


_STEP_COST = 0.05
_CHEAP_FIRST_HOLD = {"budget_first_hold_usd": _STEP_COST}


class Pace:
    """A step of the model begins when the runs were looked at since the one before, however busy the machine is."""

    _LOOKS = 2  # the first may have begun before the step before was told

    def __init__(self) -> None:
        self._looks = 0.0
        self._more = asyncio.Condition()

    async def before_answer(self) -> None:
        due = self._looks + self._LOOKS
        async with self._more:
            await self._more.wait_for(lambda: self._looks >= due)

    async def looked(self, times: float = 1) -> None:
        async with self._more:
            self._looks += times
            self._more.notify_all()


@asynccontextmanager
async def paced(steps: WiredSteps) -> AsyncIterator[Pace]:
    pace = Pace()
    steps.backend.answers_wait_for(pace.before_answer)
    try:
        yield pace
    finally:
        steps.backend.answers_wait_for(None)
        await pace.looked(math.inf)


async def until_none_runs(steps: WiredSteps) -> None:
    """Each run is looked at between any two of its steps, as when a listener hears of each of them."""
    async with asyncio.timeout(90), paced(steps) as pace:
        while {"queued", "dispatching", "running"} & {*await steps.statuses()}:
            await steps.dispatch()
            await steps.due_now()
            await steps.complete()
            await pace.looked()
            if await waits_for_room(steps):
                return


async def waits_for_room(steps: WiredSteps) -> bool:
    """Whatever does not rest already waits in the queue for its budget."""
    row = await steps.one(
        """SELECT count(*) FILTER (WHERE status IN ('dispatching', 'running')
             OR status = 'queued' AND waiting_for IS DISTINCT FROM 'budget') AS n FROM executions"""
    )
    return row["n"] == 0


async def books(steps: WiredSteps) -> dict[str, Any]:
    """What was billed, what the attempts and the executions say that they used, and what is still held."""
    return dict(
        await steps.one(
            """SELECT (SELECT COALESCE(sum(cost), 0)::float8 FROM usage) AS billed,
                 (SELECT sum((usage->>'cost')::float8) FROM attempts) AS by_attempts,
                 (SELECT sum((usage->>'cost')::float8) FROM executions) AS by_executions,
                 (SELECT count(*) FROM budget_holds WHERE look_at IS NULL) AS holds,
                 (SELECT count(*) FROM attempts WHERE ended_at IS NULL) AS open"""
        )
    )


def settled(cost: float) -> dict[str, Any]:
    exactly = pytest.approx(cost)
    return {"billed": exactly, "by_attempts": exactly, "by_executions": exactly, "holds": 0, "open": 0}


async def test_a_sub_agent_that_comes_to_the_cap_is_stopped_with_its_run_and_what_both_used_is_settled(
    steps: WiredSteps,
) -> None:
    """Each step costs five cents. What the one that delegates costs is not told before the sub-agent has ended."""
    part = f"{_STEP * 12} [[usage=50000,0]] [[text=part done]]"
    task = json.dumps({"description": "part", "prompt": part, "subagent_type": "general"})
    await steps.mention(unheard_of(f"[[tool=task {task}]] [[usage=50000,0]] [[text=all done]]"))
    await set_caps(steps, cost_per_execution=0.22)
    await steps.take_events()

    await until_none_runs(steps)

    assert await steps.statuses() == ["waiting_budget"]
    assert await steps.working() == 0  # neither of them
    assert steps.calls * _STEP_COST <= 0.22 + 2 * _STEP_COST  # one step of each that was at work
    counted = await books(steps)
    assert counted == settled(counted["billed"])
    assert 0.15 <= counted["billed"] <= 0.22


@pytest.mark.parametrize("settings", [_CHEAP_FIRST_HOLD], indirect=True)
async def test_a_retry_comes_to_the_cap_that_the_attempt_before_has_used_a_part_of(steps: WiredSteps) -> None:
    """Both attempts together stay under the cap of the run, and both are billed."""
    await set_caps(steps, cost_per_execution=0.22)
    async with paced(steps) as pace:
        await steps.start(unheard_of(f"{_STEP * 12} [[usage=50000,0]] [[text=all done]]"))
        await steps.model_is_asked()
        await pace.looked(2)
        await steps.model_is_asked(2)
        await steps.backend.crash()

    await until_none_runs(steps)

    assert await steps.statuses() == ["waiting_budget"]
    first, second = await steps.attempts()
    assert first != "budget"
    assert second == "budget"
    counted = await books(steps)
    assert counted == settled(counted["billed"])
    assert 0.1 <= counted["billed"] <= 0.22
    assert steps.calls * _STEP_COST <= 0.22 + 2 * _STEP_COST  # one step of each attempt was cut off


@pytest.mark.parametrize("settings", [_CHEAP_FIRST_HOLD], indirect=True)
async def test_runs_at_once_pass_a_cap_by_no_more_than_one_step_of_each(steps: WiredSteps) -> None:
    """By what the model was really asked, not by what was billed."""
    await set_caps(steps, cost_per_day=0.6)
    for _ in range(3):
        await steps.mention(unheard_of(f"{_STEP * 12} [[usage=50000,0]] [[text=all done]]"))
    await steps.take_events()

    await until_none_runs(steps)

    assert await steps.working() == 0
    assert 0.3 <= steps.calls * _STEP_COST <= 0.6 + 3 * _STEP_COST
    counted = await books(steps)
    assert counted == settled(counted["billed"])
    assert counted["billed"] <= 0.6
