"""Money: held before a run, settled after it, and what becomes of a run that reaches a cap.

The simulated model costs a dollar per million tokens of input: a step that reports 50,000 costs five cents.
"""

import asyncio
from contextlib import suppress

import pytest

from config.settings import Settings
from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.executions import EventKind
from nubabel_workers.domain.limits import checked_change
from nubabel_workers.domain.tenants import NearCap, PolicyChange
from nubabel_workers.services.manage_limits import ManageLimits
from nubabel_workers.simulators.slack.model import Message
from nubabel_workers.simulators.slack.server import SlackSimulator
from tests.conftest import RedisServer
from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline, Steps, pipeline_settings
from tests.integration.pipeline.dying import Killed, dies, others_find_its_rows
from tests.integration.pipeline.test_listener import listening
from tests.waiting import eventually, eventually_true

pytestmark = pytest.mark.integration

_STEP = '[[tool=bash {"command":"sleep 0.3","description":"x"}]]'
DEAR = f"{_STEP * 30} [[usage=50000,0]] [[text=done]]"
_OPERATOR = "cli:anna"


@pytest.fixture
def settings(
    slack: SlackSimulator,
    database_url: str,
    clean_redis: RedisServer,
) -> Settings:
    return pipeline_settings(slack, database_url, clean_redis, budget_first_hold_usd=0.1, budget_first_hold_tokens=1000)


async def set_caps(pipeline: Steps, **caps: float | None) -> None:
    """As an operator who changes them; every process has heard of it."""
    services = pipeline.services
    organizations = PostgresOrganizations(services.database, services.cipher)
    limits = ManageLimits(organizations, services.plans, services.keep_budgets)
    await limits.change(ORGANIZATION, checked_change(caps), actor=_OPERATOR)
    services.tenants._organizations.clear()
    system = services.database.system()
    by_then = "BETWEEN now() AND now() + interval '4 s'"
    await system.execute(f"UPDATE executions SET not_before = now() WHERE not_before {by_then}")
    await system.execute(f"UPDATE budget_holds SET look_at = now() WHERE look_at {by_then}")


async def holds(pipeline: Pipeline) -> list[float]:
    rows = await pipeline.services.database.system().all(
        "SELECT cost::float8 AS cost FROM budget_holds WHERE look_at IS NULL ORDER BY placed_at"
    )
    return [row["cost"] for row in rows]


async def spent(pipeline: Pipeline) -> float:
    return float(str((await pipeline.one("SELECT COALESCE(sum(cost), 0) AS cost FROM usage"))["cost"]))


async def start(pipeline: Pipeline, text: str) -> Message:
    question = await pipeline.mention(text)
    await pipeline.take_events()
    await pipeline.dispatch()
    return question


async def look(pipeline: Pipeline) -> None:
    await pipeline.services.database.system().execute("UPDATE executions SET check_at = now() WHERE status = 'running'")
    await pipeline.complete()
    await pipeline.deliver()


async def until_paused(pipeline: Pipeline) -> None:
    async with asyncio.timeout(20):
        while await pipeline.statuses() == ["running"]:
            await look(pipeline)


async def has_room_looked_for(pipeline: Pipeline) -> int:
    """As a scheduler does, when the time has come."""
    await pipeline.services.database.system().execute("UPDATE budget_holds SET look_at = now() WHERE look_at > now()")
    return await pipeline.services.keep_budgets.resume_those_with_room()


async def paused(pipeline: Pipeline) -> Message:
    await set_caps(pipeline, cost_per_execution=0.17)
    question = await start(pipeline, DEAR)
    await until_paused(pipeline)
    assert await pipeline.statuses() == ["waiting_budget"]
    return question


async def kinds(pipeline: Pipeline) -> list[str]:
    rows = await pipeline.services.database.system().all("SELECT kind FROM execution_events ORDER BY id")
    return [row["kind"] for row in rows]


# --- before a run ---


async def test_without_caps_nothing_is_held(pipeline: Pipeline) -> None:
    await start(pipeline, "hello")

    assert await pipeline.statuses() == ["running"]
    assert await holds(pipeline) == []


async def test_what_is_held_is_settled_by_what_was_used(pipeline: Pipeline) -> None:
    await set_caps(pipeline, cost_per_day=10)
    await start(pipeline, "[[usage=20000,0]] hello")
    while_it_runs = await holds(pipeline)

    await pipeline.run_ends()
    await pipeline.complete()

    assert await pipeline.statuses() == ["completed"]
    assert while_it_runs == [0.1]
    assert await holds(pipeline) == []
    assert await spent(pipeline) == pytest.approx(0.02)


@pytest.mark.parametrize(
    "caps",
    [
        {"cost_per_day": 0.15},
        {"cost_per_month": 0.15},
        {"cost_per_user_day": 0.15},
        {"tokens_per_day": 1500},
        {"tokens_per_month": 1500},
    ],
    ids=lambda caps: next(iter(caps)),
)
async def test_what_is_held_for_one_leaves_no_room_for_the_next_until_it_ends(
    pipeline: Pipeline, caps: dict[str, float]
) -> None:
    await set_caps(pipeline, **caps)
    await start(pipeline, "[[delay=0.3]] [[usage=100,0]] one")

    second = await start(pipeline, "[[usage=100,0]] two")

    assert await pipeline.statuses() == ["running", "queued"]
    assert pipeline.opencode.simulator.engine.model_calls == 1
    assert pipeline.replies(second) == []  # it waits for moments, which is no news
    await pipeline.run_ends()
    await pipeline.complete()
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    assert await pipeline.statuses() == ["completed", "completed"]


async def test_spent_out_it_waits_its_thread_is_told_once_and_a_raised_cap_lets_it_go_on(pipeline: Pipeline) -> None:
    await set_caps(pipeline, cost_per_day=0.12)
    await pipeline.mention("[[usage=90000,0]] dear")
    await pipeline.answer_everything()
    question = await start(pipeline, "hello")

    for _ in range(3):
        await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
        await pipeline.dispatch()
        await pipeline.deliver()

    assert await pipeline.statuses() == ["completed", "queued"]
    (told,) = pipeline.replies(question)
    assert "budget for today is used up" in told
    assert "tomorrow" in told
    row = await pipeline.one(
        "SELECT waiting_for, answer_by > now() + interval '1 hour' AS kept FROM executions WHERE status = 'queued'"
    )
    assert row == {"waiting_for": "budget", "kept": True}
    assert (await kinds(pipeline)).count("waiting") == 1
    assert len(pipeline.opencode.simulator.store.sessions) == 2  # of one that waits, none is made in vain
    await set_caps(pipeline, cost_per_day=1)
    await pipeline.answer_everything()
    assert await pipeline.statuses() == ["completed", "completed"]


async def test_a_cap_below_every_estimate_still_admits_one(pipeline: Pipeline) -> None:
    await set_caps(pipeline, cost_per_day=0.01)
    await start(pipeline, "hello")

    assert await holds(pipeline) == [0.01]


async def test_the_estimate_comes_from_the_organizations_own_last_runs(pipeline: Pipeline) -> None:
    for _ in range(6):
        await pipeline.mention("[[usage=30000,0]] hello")
    await pipeline.answer_everything()
    await set_caps(pipeline, cost_per_day=10)

    await start(pipeline, "hello")

    assert await holds(pipeline) == [0.03]


# --- at the cap ---


async def test_a_run_that_reaches_its_cap_is_paused_and_the_thread_told_once(pipeline: Pipeline) -> None:
    question = await paused(pipeline)

    assert await spent(pipeline) <= 0.17
    assert await holds(pipeline) == []
    (told,) = pipeline.replies(question)
    assert "I have paused" in told
    assert "administrator" in told
    assert await pipeline.one("SELECT verdict FROM attempts") == {"verdict": "budget"}
    assert "budget_reached" in await kinds(pipeline)
    (instance,) = await pipeline.services.instances.loads()
    assert instance.in_flight == 0
    assert not await pipeline.services.servers.server(instance).busy_sessions(None)


async def test_a_raised_cap_lets_a_paused_run_go_on_where_it_was(pipeline: Pipeline) -> None:
    question = await paused(pipeline)
    assert await has_room_looked_for(pipeline) == 0

    await set_caps(pipeline, cost_per_execution=100)
    assert await pipeline.services.keep_budgets.resume_those_with_room() == 1
    assert await pipeline.statuses() == ["queued"]
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    await pipeline.deliver()

    assert await pipeline.statuses() == ["completed"]
    store = pipeline.opencode.simulator.store
    (session,) = store.sessions.values()
    asked = [message.text for message in session.messages.values() if message.is_user]
    assert len(asked) == 2
    assert asked[1] == "Continue where you stopped."
    row = await pipeline.one("SELECT attempt, output FROM executions")
    assert row["attempt"] == 2
    assert len(pipeline.replies(question)) == 2  # that it paused, and the answer
    total = sum(m.info["tokens"]["input"] for m in session.messages.values() if not m.is_user)
    assert await pipeline.one("SELECT input_tokens AS n FROM usage") == {"n": total}


async def test_an_operator_lets_one_paused_run_cost_more(pipeline: Pipeline) -> None:
    await paused(pipeline)
    row = await pipeline.one("SELECT id FROM executions")

    await pipeline.services.keep_budgets.allow(ORGANIZATION, str(row["id"]), cost=50, actor=_OPERATOR)
    with pytest.raises(InvalidInputError, match="does not wait"):
        await pipeline.services.keep_budgets.allow(ORGANIZATION, str(row["id"]), cost=50, actor=_OPERATOR)
    await pipeline.dispatch()

    assert await pipeline.statuses() == ["running"]
    entry = await pipeline.one("SELECT actor, action, subject FROM audit_log ORDER BY id DESC LIMIT 1")
    assert entry == {"actor": _OPERATOR, "action": "execution.resumed", "subject": row["id"]}


async def test_less_than_a_step_of_the_run_is_refused_with_what_it_takes(pipeline: Pipeline) -> None:
    await paused(pipeline)
    row = await pipeline.one("SELECT id FROM executions")

    with pytest.raises(InvalidInputError, match=r"allow at least 0\.05"):
        await pipeline.services.keep_budgets.allow(ORGANIZATION, str(row["id"]), cost=0.01, actor=_OPERATOR)

    assert await pipeline.statuses() == ["waiting_budget"]


@pytest.mark.parametrize("raised", [False, True], ids=["still short", "raised meanwhile"])
async def test_whoever_finds_a_run_that_was_told_to_stop_tells_the_thread_what_is_short(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, raised: bool
) -> None:
    """The worker that told it to stop died before it wrote the pause down."""
    await set_caps(pipeline, cost_per_execution=0.17)
    question = await start(pipeline, DEAR)
    deaths = dies(monkeypatch, pipeline.services.keep_budgets._budgets, "pause", after=False)
    with suppress(Killed):
        await until_paused(pipeline)
    if raised:
        await set_caps(pipeline, cost_per_execution=100)

    await others_find_its_rows(pipeline)
    await look(pipeline)

    assert deaths() == 1
    assert await pipeline.statuses() == ["waiting_budget"]
    assert ["I have paused" in told for told in pipeline.replies(question)] == ([] if raised else [True])
    assert await has_room_looked_for(pipeline) == int(raised)


async def test_whoever_looks_for_room_in_vain_tells_the_thread_where_the_pause_was_not_told(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was room for the step that was cut off, and there is none for going on."""
    await set_caps(pipeline, cost_per_day=0.17)
    question = await start(pipeline, DEAR)
    dies(monkeypatch, pipeline.services.keep_budgets._budgets, "pause", after=False)
    with suppress(Killed):
        await until_paused(pipeline)
    await set_caps(pipeline, cost_per_day=0.22)
    await others_find_its_rows(pipeline)
    await look(pipeline)
    told_at_first = pipeline.replies(question)

    for _ in range(3):
        assert await has_room_looked_for(pipeline) == 0
    await pipeline.deliver()

    assert await pipeline.statuses() == ["waiting_budget"]
    assert told_at_first == []
    assert ["I have paused" in told for told in pipeline.replies(question)] == [True]


async def test_the_progress_message_goes_while_it_is_paused_and_comes_back_with_the_next_progress(
    pipeline: Pipeline,
) -> None:
    await set_caps(pipeline, cost_per_execution=0.17)
    question = await start(pipeline, DEAR)
    row = await pipeline.one("SELECT id FROM executions")
    show = pipeline.services.notifications.show_progress
    await show(ORGANIZATION, str(row["id"]), "Working on it", pace_s=0)
    await pipeline.deliver()
    shown = pipeline.replies(question)

    await until_paused(pipeline)
    while_paused = pipeline.replies(question)
    await set_caps(pipeline, cost_per_execution=100)
    await pipeline.services.keep_budgets.resume_those_with_room()
    await pipeline.dispatch()
    await show(ORGANIZATION, str(row["id"]), "Working on it", pace_s=0)
    await pipeline.deliver()
    while_it_runs_again = pipeline.replies(question)
    await pipeline.run_ends()
    await pipeline.complete()
    await pipeline.deliver()

    assert shown == ["Working on it"]
    assert ["I have paused" in told for told in while_paused] == [True]
    assert while_it_runs_again == [*while_paused, "Working on it"]
    assert "Working on it" not in pipeline.replies(question)


async def test_a_paused_run_is_cancelled_at_once_and_what_it_did_is_kept(pipeline: Pipeline) -> None:
    question = await paused(pipeline)

    await pipeline.say("stop", thread_ts=question.ts)
    await pipeline.take_events()
    await pipeline.deliver()

    assert await pipeline.statuses() == ["cancelled"]
    assert await pipeline.one("SELECT count(*) AS n FROM budget_holds") == {"n": 0}
    assert len(pipeline.replies(question)) == 2


async def test_a_paused_run_ends_with_an_apology_when_nobody_raises_the_cap_in_time(pipeline: Pipeline) -> None:
    question = await paused(pipeline)
    await pipeline.services.database.system().execute("UPDATE executions SET answer_by = now()")

    await pipeline.services.maintain.keep_deadlines()
    await pipeline.deliver()

    assert await pipeline.statuses() == ["failed"]
    assert "nobody allowed it more" in pipeline.replies(question)[-1]


async def test_a_follow_up_waits_behind_a_paused_run(pipeline: Pipeline) -> None:
    question = await paused(pipeline)

    await pipeline.say("and this", thread_ts=question.ts)
    await pipeline.take_events()
    await pipeline.dispatch()

    assert await pipeline.statuses() == ["waiting_budget", "queued"]


async def test_whoever_dies_between_stop_and_pause_leaves_a_pause_and_not_a_second_run(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_caps(pipeline, cost_per_execution=0.17)
    await start(pipeline, DEAR)
    engine = pipeline.opencode.simulator.engine
    await eventually(lambda: engine.model_calls >= 4, what="the cap's reach")
    dies(monkeypatch, pipeline.services.complete_executions._observe, "abort", after=True)
    with pytest.raises(Killed):
        await look(pipeline)
    assert await pipeline.statuses() == ["running"]

    await others_find_its_rows(pipeline)
    await look(pipeline)

    assert await pipeline.statuses() == ["waiting_budget"]
    calls = engine.model_calls
    assert await has_room_looked_for(pipeline) == 0
    assert engine.model_calls == calls


# --- the books ---


async def test_holds_of_what_runs_no_more_are_given_back_and_others_are_not(pipeline: Pipeline) -> None:
    await set_caps(pipeline, cost_per_day=10)
    await start(pipeline, "[[hang]]")
    await start(pipeline, "[[hang]]")
    system = pipeline.services.database.system()
    await system.execute("UPDATE budget_holds SET placed_at = now() - interval '1 minute'")
    await system.execute("UPDATE attempts SET ended_at = now() WHERE execution_id = (SELECT min(id) FROM executions)")
    await system.execute("UPDATE executions SET status = 'queued' WHERE id = (SELECT min(id) FROM executions)")

    await asyncio.gather(*(pipeline.services.keep_budgets.resume_those_with_room() for _ in range(3)))

    assert len(await holds(pipeline)) == 1
    counted = await pipeline.one("SELECT count(*) AS n FROM attempts WHERE ended_at IS NULL")
    assert counted == {"n": 1}


async def test_the_timeline_tells_of_pause_and_resumption(pipeline: Pipeline) -> None:
    await paused(pipeline)
    row = await pipeline.one("SELECT id FROM executions")
    await pipeline.services.keep_budgets.allow(ORGANIZATION, str(row["id"]), cost=50, actor=_OPERATOR)

    timeline = await pipeline.services.executions.timeline(ORGANIZATION, str(row["id"]))

    assert [event.kind for event in timeline][-2:] == [EventKind.BUDGET_REACHED, EventKind.RESUMED]
    assert timeline[-1].detail == {"by": _OPERATOR, "cost_usd": 50}


async def test_with_a_listener_a_run_passes_its_cap_by_no_more_than_one_step(pipeline: Pipeline) -> None:
    """Nobody forces a look: each step that ends is a reason for one."""
    await set_caps(pipeline, cost_per_execution=0.22)
    async with listening(pipeline):
        await start(pipeline, DEAR)
        async with asyncio.timeout(30):
            while await pipeline.statuses() == ["running"]:
                await pipeline.complete()
                await asyncio.sleep(0.02)

    assert await pipeline.statuses() == ["waiting_budget"]
    (session,) = pipeline.opencode.simulator.store.sessions.values()
    steps = [message for message in session.messages.values() if not message.is_user]
    assert len(steps) <= 5  # four fit, and one is the step that was stopped
    assert 0.1 <= await spent(pipeline) <= 0.22


async def test_runs_of_many_at_once_together_stay_under_the_cap_of_the_day(pipeline: Pipeline) -> None:
    await set_caps(pipeline, cost_per_day=0.5)
    for _ in range(6):
        await pipeline.mention(f"{_STEP * 3} [[usage=50000,0]] [[text=done]]")
    await pipeline.take_events()

    async def nothing_runs() -> bool:
        await pipeline.dispatch()
        await look(pipeline)
        return not {"dispatching", "running"} & set(await pipeline.statuses())

    await eventually_true(nothing_runs, timeout_s=30, what="the end of every run")

    assert await spent(pipeline) <= 0.5
    assert await holds(pipeline) == []
    assert set(await pipeline.statuses()) <= {"completed", "waiting_budget", "queued"}


# --- near a cap ---


async def economize(pipeline: Pipeline) -> None:
    organizations = PostgresOrganizations(pipeline.services.database, pipeline.services.cipher)
    change = PolicyChange(near_cap=NearCap.ECONOMIZE)
    assert await organizations.set_policy(ORGANIZATION, change, actor=_OPERATOR) is not None
    pipeline.services.tenants._organizations.clear()


async def plan_of_the_last(pipeline: Pipeline) -> dict[str, object]:
    return await pipeline.one(
        """SELECT analysis->>'category' AS category,
             analysis->>'reasons' LIKE '%category quick: economy: most of cost_per_day is used%' AS economy,
             deadline_at < now() + interval '301 seconds' AS short
           FROM executions ORDER BY position DESC LIMIT 1"""
    )


async def test_when_most_of_the_budget_is_used_an_organization_may_economize(pipeline: Pipeline) -> None:
    await set_caps(pipeline, cost_per_day=1)
    await economize(pipeline)
    first = await start(pipeline, "[[usage=820000,0]] refactor the whole architecture of the billing service")
    assert await plan_of_the_last(pipeline) == {"category": "unspecified-high", "economy": False, "short": False}
    await pipeline.run_ends()
    await look(pipeline)

    second = await start(pipeline, "[[usage=1000,0]] refactor the whole architecture of the billing service")

    assert await plan_of_the_last(pipeline) == {"category": "quick", "economy": True, "short": True}
    await pipeline.run_ends()
    await look(pipeline)
    assert "less effort" not in pipeline.replies(first)[-1]
    assert "less effort" in pipeline.replies(second)[-1]


async def test_unless_it_is_asked_for_nobody_gets_less(pipeline: Pipeline) -> None:
    await set_caps(pipeline, cost_per_day=1)
    await start(pipeline, "[[usage=820000,0]] refactor the whole architecture of the billing service")
    await pipeline.run_ends()
    await look(pipeline)

    await start(pipeline, "[[usage=1000,0]] refactor the whole architecture of the billing service")

    assert (await plan_of_the_last(pipeline))["economy"] is False


async def test_what_was_paused_says_for_which_cap_it_waits(pipeline: Pipeline) -> None:
    await paused(pipeline)
    row = await pipeline.one("SELECT id FROM executions")
    execution = await pipeline.services.executions.find(ORGANIZATION, str(row["id"]))
    assert execution is not None

    waiting = await pipeline.services.read_waiting.of(execution)

    assert waiting is not None
    assert "leaves no room (cost_per_execution)" in waiting.words
