"""OpenCode servers that misbehave: every run ends as the verdict table says, with one model run per attempt.

What a real server can be made to do as well is in `tests/contract/opencode/test_pipeline.py`.
"""

import asyncio
from typing import Any

import pytest

from nubabel_workers.adapters.opencode.servers import HttpOpenCodeServer
from tests.integration.pipeline.conftest import Pipeline
from tests.integration.pipeline.dying import work_until_quiet
from tests.integration.pipeline.test_listener import listening, readers, until_due
from tests.waiting import eventually, eventually_true

pytestmark = pytest.mark.integration


async def attempts(pipeline: Pipeline) -> list[str | None]:
    rows = await pipeline.services.database.system().all("SELECT verdict FROM attempts ORDER BY started_at, number")
    return [row["verdict"] for row in rows]


def model_runs(pipeline: Pipeline) -> int:
    return sum(pipeline.opencode.simulator.store.model_runs.values())


async def due_now(pipeline: Pipeline) -> None:
    await pipeline.services.database.system().execute("UPDATE executions SET check_at = now() WHERE status = 'running'")


async def start(pipeline: Pipeline, text: str) -> None:
    await pipeline.mention(text)
    await pipeline.take_events()
    await pipeline.dispatch()


async def test_idle_before_the_last_message_is_waited_for(pipeline: Pipeline) -> None:
    pipeline.opencode.simulator.set_faults(idle_before_final_s=0.3)
    question = await pipeline.mention("hello")

    await pipeline.answer_everything()

    assert len(pipeline.replies(question)) == 1
    assert await attempts(pipeline) == ["succeeded"]


async def test_an_answer_that_comes_after_its_run_was_declared_dead_is_taken_and_not_asked_for_again(
    pipeline: Pipeline,
) -> None:
    pipeline.opencode.simulator.set_faults(idle_before_final_s=1.5)
    question = await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    assert await pipeline.statuses() == ["queued"]
    await eventually(lambda: pipeline.opencode.simulator.engine.active == 0, what="the last message")

    await pipeline.dispatch()
    await pipeline.complete()
    await pipeline.deliver()

    assert len(pipeline.replies(question)) == 1
    assert await attempts(pipeline) == ["succeeded"]
    assert model_runs(pipeline) == 1


async def test_idle_that_is_told_twice_ends_a_run_once(pipeline: Pipeline) -> None:
    pipeline.opencode.simulator.set_faults(duplicate_idle=True)
    async with listening(pipeline):
        question = await pipeline.mention("[[delay=0.2]] hello")
        await pipeline.take_events()
        await pipeline.dispatch()
        await until_due(pipeline)

        await asyncio.gather(pipeline.complete(), pipeline.complete())
        await pipeline.deliver()

    assert len(pipeline.replies(question)) == 1
    assert await attempts(pipeline) == ["succeeded"]


async def test_idle_without_an_answer_is_asked_again(pipeline: Pipeline) -> None:
    pipeline.opencode.simulator.set_faults(idle_without_answer=1)
    question = await pipeline.mention("hello")

    await work_until_quiet(pipeline, rounds=2)

    assert len(pipeline.replies(question)) == 1
    assert await attempts(pipeline) == ["resubmit", "succeeded"]
    assert model_runs(pipeline) == 1


async def given_up(pipeline: Pipeline) -> bool:
    """Looked at once; in the middle of a try, its server says nothing of the tries before."""
    await due_now(pipeline)
    await pipeline.complete()
    return await pipeline.statuses() == ["queued"]


async def test_a_model_that_cannot_be_reached_is_given_up_although_the_server_retries_for_ever(
    pipeline: Pipeline,
) -> None:
    await start(pipeline, "[[status=503]] [[retry_after=0.01]] hello")
    (session,) = pipeline.opencode.simulator.store.sessions.values()
    await eventually(lambda: (session.status or {}).get("attempt", 0) > 6, what="many retries")

    await eventually_true(lambda: given_up(pipeline), what="the run to be given up")

    assert await attempts(pipeline) == ["cancelled"]
    assert pipeline.opencode.simulator.engine.active == 0


async def test_a_run_that_could_not_be_stopped_is_not_met_by_the_next_attempt(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(pipeline, "[[status=503]] [[retry_after=0.01]] hello")
    (session,) = pipeline.opencode.simulator.store.sessions.values()
    await eventually(lambda: (session.status or {}).get("attempt", 0) > 6, what="many retries")
    monkeypatch.setattr(HttpOpenCodeServer, "abort", _does_nothing)

    await eventually_true(lambda: given_up(pipeline), what="the run to be given up")
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
    await pipeline.dispatch()

    places = await pipeline.one("SELECT count(DISTINCT opencode_session_id) AS n FROM attempts")
    assert places == {"n": 2}


async def test_an_agent_that_the_server_has_lost_is_a_dead_letter_that_names_it(pipeline: Pipeline) -> None:
    await pipeline.services.database.system().execute("""UPDATE instances SET agents = '["Sisyphus - of old"]'""")
    question = await pipeline.mention("hello")

    await pipeline.answer_everything()

    assert await pipeline.statuses() == ["failed"]
    assert len(pipeline.replies(question)) == 1
    letter = await pipeline.one("SELECT reason, error FROM dead_letters")
    assert letter["reason"] == "permanent-error"
    assert "Sisyphus - of old" in str(letter["error"])
    assert model_runs(pipeline) == 0


async def test_a_run_of_more_than_a_page_of_steps_is_found_whole(pipeline: Pipeline) -> None:
    steps = '[[tool=bash {"command":"true","description":"x"}]]' * 105
    question = await pipeline.mention(f"{steps} [[text=done at last]]")

    await pipeline.answer_everything()

    assert pipeline.replies(question) == ["done at last"]
    assert model_runs(pipeline) == 1
    usage = await pipeline.one("SELECT (usage->>'input_tokens')::int AS tokens FROM executions")
    assert usage == {"tokens": 106 * 11}


async def used(pipeline: Pipeline) -> tuple[dict[str, object], list[Any], dict[str, object]]:
    """Of the execution, of each attempt, and of the model: input tokens, and whether it is a lower bound."""
    wanted = "(usage->>'input_tokens')::int AS tokens, (usage->>'lower_bound')::bool AS lower_bound"
    execution = await pipeline.one(f"SELECT {wanted} FROM executions")
    each = await pipeline.services.database.system().all(f"SELECT {wanted} FROM attempts ORDER BY number")
    return execution, each, await pipeline.one("SELECT input_tokens AS tokens, lower_bound FROM usage")


async def hangs_in_its_second_step(pipeline: Pipeline) -> None:
    await start(pipeline, '[[tool=bash {"command":"sleep 0.1","description":"x"}]] hello')
    engine = pipeline.opencode.simulator.engine
    await eventually(lambda: engine.model_calls == 1, what="the first step")
    pipeline.opencode.simulator.set_faults(stall=1)
    await eventually(lambda: engine.model_calls == 2, what="the second step")


async def test_what_a_crashed_attempt_used_is_added_to_the_bill_as_a_lower_bound(pipeline: Pipeline) -> None:
    await hangs_in_its_second_step(pipeline)
    pipeline.opencode.simulator.crash()
    await due_now(pipeline)
    await pipeline.complete()
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()

    assert await pipeline.statuses() == ["completed"]
    execution, (crashed, answered), model = await used(pipeline)
    assert crashed == {"tokens": 11, "lower_bound": True}
    assert answered["lower_bound"] is False
    total = {"tokens": 11 + answered["tokens"], "lower_bound": True}
    assert (execution, model) == (total, total)


async def test_what_an_attempt_used_before_it_was_declared_dead_is_counted_once_when_it_answers_after_all(
    pipeline: Pipeline,
) -> None:
    pipeline.opencode.simulator.set_faults(idle_before_final_s=1.5)
    await start(pipeline, '[[tool=bash {"command":"true","description":"x"}]] hello')
    await pipeline.run_ends()
    await pipeline.complete()
    assert await pipeline.statuses() == ["queued"]
    await eventually(lambda: pipeline.opencode.simulator.engine.active == 0, what="the last message")

    await pipeline.dispatch()
    await pipeline.complete()

    assert await pipeline.statuses() == ["completed"]
    (session,) = pipeline.opencode.simulator.store.sessions.values()
    spent = sum(message.info["tokens"]["input"] for message in session.messages.values() if not message.is_user)
    execution, _, model = await used(pipeline)
    assert (execution["tokens"], model["tokens"]) == (spent, spent)


async def test_what_a_stopped_run_used_is_recorded_as_a_lower_bound(pipeline: Pipeline) -> None:
    await hangs_in_its_second_step(pipeline)
    await pipeline.services.database.system().execute("UPDATE executions SET deadline_at = now()")
    await due_now(pipeline)

    await pipeline.complete()

    assert await pipeline.statuses() == ["failed"]
    execution, (attempt,), model = await used(pipeline)
    assert execution == attempt == model == {"tokens": 11, "lower_bound": True}


async def test_what_a_refused_run_used_is_exact(pipeline: Pipeline) -> None:
    await start(pipeline, "[[status=401]] hello")
    await pipeline.run_ends()

    await pipeline.complete()

    execution, (attempt,), _ = await used(pipeline)
    assert execution == attempt == {"tokens": 0, "lower_bound": False}


async def test_a_server_that_answers_slowly_is_waited_for(pipeline: Pipeline) -> None:
    pipeline.opencode.simulator.set_faults(slow_s=0.15)
    question = await pipeline.mention("hello")

    await pipeline.answer_everything()

    assert len(pipeline.replies(question)) == 1
    assert await attempts(pipeline) == ["succeeded"]
    assert model_runs(pipeline) == 1


async def test_an_event_stream_that_breaks_in_the_middle_of_a_turn_costs_a_moment(pipeline: Pipeline) -> None:
    async with listening(pipeline):
        await start(pipeline, "[[delay=0.3]] hello")
        await pipeline.services.database.system().execute(  # old enough to be compared with the server
            "UPDATE executions SET running_since = now() - interval '1 minute'"
        )
        first = readers(pipeline)
        pipeline.opencode.simulator.set_faults(deaf_s=0.2)
        pipeline.opencode.simulator.streams.disconnect()
        await eventually(lambda: readers(pipeline) - first, what="the new stream")

        await until_due(pipeline)
        await eventually(lambda: pipeline.opencode.simulator.engine.active == 0, what="the end of the run")

    await due_now(pipeline)
    await pipeline.complete()
    assert await attempts(pipeline) == ["succeeded"]
    assert model_runs(pipeline) == 1


async def test_a_follow_up_does_not_overtake_a_turn_whose_server_was_killed(pipeline: Pipeline) -> None:
    question = await pipeline.mention("[[hang]] [[times=1]] first")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.say("second", thread_ts=question.ts)
    await pipeline.take_events()
    pipeline.opencode.simulator.crash()
    await due_now(pipeline)
    await pipeline.complete()

    await work_until_quiet(pipeline, rounds=3)

    first, second = pipeline.replies(question)
    assert ("first" in first, "second" in second) == (True, True)
    assert await attempts(pipeline) == ["resubmit", "succeeded", "succeeded"]
    assert model_runs(pipeline) == 3


async def _does_nothing(*_: Any, **__: Any) -> None:
    return None


async def the_last_look_was_long_ago(pipeline: Pipeline) -> None:
    await pipeline.services.database.system().execute(
        "UPDATE executions SET check_at = now(), progress_at = progress_at - interval '1 day' WHERE status = 'running'"
    )


async def test_a_run_that_stands_still_is_stopped_and_tried_again(pipeline: Pipeline) -> None:
    question = await pipeline.mention("[[hang]] hello")
    await pipeline.take_events()
    await pipeline.dispatch()
    await due_now(pipeline)
    await pipeline.complete()
    assert await pipeline.statuses() == ["running"]  # the first look only says how far it is

    await the_last_look_was_long_ago(pipeline)
    await pipeline.complete()

    assert await pipeline.statuses() == ["queued"]
    server = (await pipeline.services.instances.loads())[0]
    assert await pipeline.services.servers.server(server).busy_sessions(None) == {}
    told = await pipeline.one("SELECT detail->>'reason' AS reason FROM execution_events WHERE kind = 'retry'")
    assert str(told["reason"]).startswith("the run stood still for ")
    assert pipeline.replies(question) == []
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
    await pipeline.dispatch()
    again = await pipeline.one("SELECT status, attempt, progress_mark FROM executions")
    assert again == {"status": "running", "attempt": 2, "progress_mark": None}


async def test_a_run_that_comes_further_goes_on_however_long_it_takes(pipeline: Pipeline) -> None:
    await pipeline.mention('[[tool=bash {"command": "true"}]] [[hang]]')
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.services.database.system().execute(
        "UPDATE executions SET progress_mark = 'before', progress_at = now() - interval '1 day', check_at = now()"
    )

    await pipeline.complete()

    assert await pipeline.statuses() == ["running"]
    row = await pipeline.one("SELECT progress_at > now() - interval '1 minute' AS lately FROM executions")
    assert row == {"lately": True}
