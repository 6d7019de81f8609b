"""Prompts of which nobody knows whether they arrived, and wishes to stop that come at a bad moment."""

from typing import Any

import pytest

from nubabel_workers.adapters.opencode.servers import HttpOpenCodeServer
from nubabel_workers.domain.errors import UnavailableError
from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline
from tests.integration.pipeline.dying import Killed, dies, others_find_its_rows, work_until_quiet

pytestmark = pytest.mark.integration


async def the_server(pipeline: Pipeline) -> Any:
    (instance,) = await pipeline.services.instances.loads()
    return pipeline.services.servers.server(instance)


def fails_once(patch: pytest.MonkeyPatch, owner: object, method: str) -> None:
    real = getattr(owner, method)
    failed: list[bool] = []

    async def failing(*args: Any, **kwargs: Any) -> Any:
        if failed:
            return await real(*args, **kwargs)
        failed.append(True)
        raise UnavailableError("away for a moment")

    patch.setattr(owner, method, failing)


def model_runs(pipeline: Pipeline) -> list[int]:
    return list(pipeline.opencode.simulator.store.model_runs.values())


async def execution_id(pipeline: Pipeline) -> str:
    return str((await pipeline.one("SELECT id FROM executions ORDER BY position LIMIT 1"))["id"])


async def cancel(pipeline: Pipeline) -> None:
    await pipeline.services.cancel_execution.cancel(ORGANIZATION, await execution_id(pipeline), reason="api")


async def test_a_prompt_whose_answer_was_lost_is_looked_up_and_runs_once(pipeline: Pipeline) -> None:
    pipeline.opencode.simulator.set_faults(lose_answers=1)
    question = await pipeline.mention("hello")

    await work_until_quiet(pipeline, rounds=4)

    assert len(pipeline.replies(question)) == 1
    assert model_runs(pipeline) == [1]
    assert await pipeline.one("SELECT count(*) AS attempts FROM attempts") == {"attempts": 1}


async def test_a_look_up_that_fails_leaves_the_question_open(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline.opencode.simulator.set_faults(lose_answers=1)
    fails_once(monkeypatch, await the_server(pipeline), "has_message")
    question = await pipeline.mention("hello")

    await work_until_quiet(pipeline, rounds=4)

    assert len(pipeline.replies(question)) == 1
    assert model_runs(pipeline) == [1]
    assert await pipeline.one("SELECT count(*) AS attempts FROM attempts") == {"attempts": 1}


async def test_a_submit_that_could_not_be_written_down_is_found_again(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_once(monkeypatch, pipeline.services.executions, "mark_running")
    question = await pipeline.mention("hello")

    await work_until_quiet(pipeline, rounds=4)

    assert len(pipeline.replies(question)) == 1
    assert model_runs(pipeline) == [1]
    assert await pipeline.one("SELECT count(*) AS attempts FROM attempts") == {"attempts": 1}


async def test_a_run_found_again_is_looked_at_at_once(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    dies(monkeypatch, await the_server(pipeline), "submit", after=True)
    await pipeline.mention("hello")
    await pipeline.take_events()
    with pytest.raises(Killed):
        await pipeline.dispatch()
    await others_find_its_rows(pipeline)

    await pipeline.dispatch()

    assert await pipeline.one("SELECT status, check_at <= now() AS due FROM executions") == {
        "status": "running",
        "due": True,
    }


async def test_a_cancellation_during_the_submit_is_acted_on_at_once(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await the_server(pipeline)
    submit = server.submit

    async def cancelled_meanwhile(*args: Any, **kwargs: Any) -> None:
        await submit(*args, **kwargs)
        await cancel(pipeline)

    monkeypatch.setattr(server, "submit", cancelled_meanwhile)
    await pipeline.mention("[[hang]] think for ever")
    await pipeline.take_events()
    await pipeline.dispatch()

    await pipeline.complete()

    assert await pipeline.statuses() == ["cancelled"]
    assert await server.busy_sessions(None) == {}


async def test_a_cancelled_execution_whose_prompt_never_arrived_is_not_posted(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    dies(monkeypatch, await the_server(pipeline), "submit", after=False)
    await pipeline.mention("hello")
    await pipeline.take_events()
    with pytest.raises(Killed):
        await pipeline.dispatch()
    await cancel(pipeline)
    await others_find_its_rows(pipeline)

    await pipeline.dispatch()

    assert await pipeline.statuses() == ["cancelled"]
    assert model_runs(pipeline) == []


async def test_a_cancellation_met_on_the_way_back_to_the_queue_is_found_by_the_scheduler(pipeline: Pipeline) -> None:
    question = await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.services.executions.request_cancel(ORGANIZATION, await execution_id(pipeline), reason="api")

    await pipeline.services.maintain.keep_deadlines()
    await pipeline.deliver()

    assert await pipeline.statuses() == ["cancelled"]
    assert len(pipeline.replies(question)) == 1


async def test_after_a_run_that_could_not_be_stopped_the_conversation_moves_to_a_new_session(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = await pipeline.mention("my name is Ada")
    await pipeline.answer_everything()
    await pipeline.say("[[hang]] and then?", thread_ts=question.ts)
    await pipeline.take_events()
    await pipeline.dispatch()
    with monkeypatch.context() as away:
        away.setattr(HttpOpenCodeServer, "busy_sessions", _unreachable)
        await pipeline.say("stop", thread_ts=question.ts)
        await pipeline.take_events()
        await pipeline.complete()
    assert await pipeline.statuses() == ["completed", "cancelled"]

    await pipeline.say("what is my name?", thread_ts=question.ts)
    await pipeline.take_events()
    await pipeline.dispatch()

    places = await pipeline.services.database.system().all(
        "SELECT count(DISTINCT opencode_session_id) AS n FROM attempts"
    )
    assert places == [{"n": 2}]


async def test_a_prompt_in_doubt_that_is_cancelled_keeps_its_session_to_itself(pipeline: Pipeline) -> None:
    pipeline.opencode.simulator.set_faults(lose_answers=1)
    question = await pipeline.mention("[[hang]] think for ever")
    await pipeline.take_events()
    await pipeline.dispatch()
    assert await pipeline.statuses() == ["queued"]

    await cancel(pipeline)
    await pipeline.say("and now?", thread_ts=question.ts)
    await pipeline.take_events()
    await pipeline.dispatch()

    assert await pipeline.statuses() == ["cancelled", "running"]
    places = await pipeline.one("SELECT count(DISTINCT opencode_session_id) AS n FROM attempts")
    assert places == {"n": 2}


async def _unreachable(*_: object, **__: object) -> None:
    raise UnavailableError("no route to it")


async def test_the_replay_of_an_old_question_answers_that_question(pipeline: Pipeline) -> None:
    question = await pipeline.mention("[[status=401]] [[times=1]] what is red?")
    await pipeline.answer_everything()
    await pipeline.say("what is blue?", thread_ts=question.ts)
    await pipeline.answer_everything()
    letter = await pipeline.one("SELECT id FROM dead_letters")

    await pipeline.replay(str(letter["id"]))
    await pipeline.answer_everything()

    apology, blue, red = pipeline.replies(question)
    assert "Sorry" in apology
    assert "what is blue?" in blue
    assert "what is red?" in red


async def test_a_prompt_that_was_accepted_a_moment_ago_is_waited_for_before_it_counts_as_lost(
    pipeline: Pipeline,
) -> None:
    await pipeline.mention("[[hang]] hello")
    await pipeline.take_events()
    await pipeline.dispatch()
    pipeline.opencode.simulator.crash()
    for session in pipeline.opencode.simulator.store.sessions.values():
        session.messages.clear()  # as in a directory that is still being loaded
    await pipeline.services.database.system().execute("UPDATE executions SET check_at = now()")

    await pipeline.complete()

    assert await pipeline.statuses() == ["running"]
    await pipeline.services.database.system().execute(
        "UPDATE executions SET check_at = now(), running_since = now() - interval '1 minute'"
    )
    await pipeline.complete()
    assert await pipeline.statuses() == ["queued"]
