"""Prompts of processes that wake up too late, and runs that nobody waits for: detected, stopped and counted."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nubabel_workers.adapters.opencode.servers import HttpOpenCodeServer
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.executions import EventKind
from nubabel_workers.domain.ports import PromptPart
from nubabel_workers.simulators.slack.model import Message
from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline
from tests.integration.pipeline.dying import others_find_its_rows
from tests.waiting import eventually

pytestmark = pytest.mark.integration

Others = Callable[[], Awaitable[None]]


def incidents(pipeline: Pipeline, kind: str) -> float:
    found = pipeline.services.metrics.registry.get_sample_value("nubabel_incidents_total", {"kind": kind})
    return found or 0.0


def model_runs(pipeline: Pipeline) -> list[int]:
    return list(pipeline.opencode.simulator.store.model_runs.values())


def working(pipeline: Pipeline) -> int:
    return pipeline.opencode.simulator.engine.active


async def a_while_ago(pipeline: Pipeline) -> None:
    await pipeline.services.database.system().execute("UPDATE attempts SET ended_at = ended_at - interval '1 minute'")


async def due_now(pipeline: Pipeline) -> None:
    await pipeline.services.database.system().execute("UPDATE executions SET check_at = now() WHERE status = 'running'")


async def events(pipeline: Pipeline, *, newest: bool = False) -> list[EventKind]:
    order = "DESC" if newest else "ASC"
    row = await pipeline.one(f"SELECT id FROM executions ORDER BY position {order} LIMIT 1")
    return [event.kind for event in await pipeline.services.executions.timeline(ORGANIZATION, str(row["id"]))]


async def the_server(pipeline: Pipeline) -> Any:
    (instance,) = await pipeline.services.instances.loads()
    return pipeline.services.servers.server(instance)


def assistants(pipeline: Pipeline) -> list[Any]:
    (session,) = pipeline.opencode.simulator.store.sessions.values()
    return [message for message in session.messages.values() if not message.is_user]


def stops_while_posting(patch: pytest.MonkeyPatch, server: Any, others: Others) -> None:
    """The process stops in the middle of its POST and wakes up when the others are done; then the prompt arrives."""
    submit = server.submit

    async def stopped(*args: Any, **kwargs: Any) -> None:
        patch.setattr(server, "submit", submit)
        await others()
        await submit(*args, **kwargs)

    patch.setattr(server, "submit", stopped)


async def they_answer(pipeline: Pipeline) -> None:
    await others_find_its_rows(pipeline)
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    await pipeline.deliver()


async def test_a_process_that_stopped_before_it_posted_posts_nothing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = pipeline.services.executions.begin_attempt
    prompts_before: list[int] = []

    async def stopped(execution: Any, lease: Any, **kwargs: Any) -> int:
        monkeypatch.setattr(pipeline.services.executions, "begin_attempt", begin)
        number = await begin(execution, lease, **kwargs)
        await they_answer(pipeline)
        lease.until_monotonic = 0.0  # its own clock has gone on as well
        prompts_before.append(pipeline.opencode.simulator._desk.accepted)
        return number

    monkeypatch.setattr(pipeline.services.executions, "begin_attempt", stopped)
    question = await pipeline.mention("hello")
    await pipeline.take_events()

    assert "1 lost" in await pipeline.dispatch()

    assert prompts_before == [pipeline.opencode.simulator._desk.accepted]
    assert len(pipeline.replies(question)) == 1
    assert incidents(pipeline, "late_prompt") == 0


async def test_a_prompt_that_arrives_late_is_counted_and_asks_no_model_again(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    stops_while_posting(monkeypatch, await the_server(pipeline), lambda: they_answer(pipeline))
    question = await pipeline.mention("hello")
    await pipeline.take_events()

    assert "1 lost" in await pipeline.dispatch()

    assert incidents(pipeline, "late_prompt") == 1
    assert len(pipeline.replies(question)) == 1
    assert model_runs(pipeline) == [1]


async def test_a_late_prompt_does_not_disturb_the_follow_up_that_runs_by_then(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def others_go_on_to_the_follow_up() -> None:
        await they_answer(pipeline)
        await pipeline.say("[[delay=0.3]] second", thread_ts=question.ts)
        await pipeline.take_events()
        await pipeline.dispatch()

    stops_while_posting(monkeypatch, await the_server(pipeline), others_go_on_to_the_follow_up)
    question = await pipeline.mention("first")
    await pipeline.take_events()
    await pipeline.dispatch()
    await eventually(lambda: len(assistants(pipeline)) == 3, what="the run of the late prompt")

    await due_now(pipeline)
    await pipeline.complete()
    await pipeline.deliver()

    first, second = pipeline.replies(question)
    assert ("first" in first, second.count("second")) == (True, 1)
    assert EventKind.STRAY_RUN_STOPPED in await events(pipeline, newest=True)
    assert incidents(pipeline, "stray_run") == 1
    assert working(pipeline) == 0


async def test_a_run_that_a_late_prompt_begins_for_nobody_is_stopped(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def others_are_told_to_stop() -> None:
        await others_find_its_rows(pipeline)
        await pipeline.dispatch()
        await pipeline.say("stop", thread_ts=question.ts)
        await pipeline.take_events()
        await pipeline.complete()
        await a_while_ago(pipeline)

    stops_while_posting(monkeypatch, await the_server(pipeline), others_are_told_to_stop)
    question = await pipeline.mention("[[hang]] think for ever")
    await pipeline.take_events()

    await pipeline.dispatch()
    await eventually(lambda: working(pipeline) == 0, what="the end of the stray run")

    assert await pipeline.statuses() == ["cancelled"]
    assert EventKind.STRAY_RUN_STOPPED in await events(pipeline)
    assert incidents(pipeline, "stray_run") == 1


async def given_up_while_the_server_was_away(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Message:
    question = await pipeline.mention("[[hang]] think for ever")
    await pipeline.take_events()
    await pipeline.dispatch()
    with monkeypatch.context() as away:
        away.setattr(HttpOpenCodeServer, "busy_sessions", _unreachable)
        await pipeline.say("stop", thread_ts=question.ts)
        await pipeline.take_events()
        await pipeline.complete()
    assert await pipeline.statuses() == ["cancelled"]
    return question


async def test_a_run_that_was_given_up_while_its_server_was_away_is_stopped_later(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await given_up_while_the_server_was_away(pipeline, monkeypatch)
    assert working(pipeline) == 1

    await pipeline.services.reconcile_instance.run("ins_1")
    assert working(pipeline) == 1  # it has ended a moment ago: the server's status may be older
    await a_while_ago(pipeline)
    await pipeline.services.reconcile_instance.run("ins_1")
    await eventually(lambda: working(pipeline) == 0, what="the end of the stray run")

    assert EventKind.STRAY_RUN_STOPPED in await events(pipeline)
    assert incidents(pipeline, "stray_run") == 1


async def test_a_stray_run_that_cannot_be_stopped_keeps_no_other_from_being_woken(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await given_up_while_the_server_was_away(pipeline, monkeypatch)
    await a_while_ago(pipeline)
    await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.dispatch()
    await eventually(lambda: working(pipeline) == 1, what="the end of the second run")
    await pipeline.services.database.system().execute(
        "UPDATE executions SET running_since = now() - interval '1 minute' WHERE status = 'running'"
    )
    monkeypatch.setattr(HttpOpenCodeServer, "abort", _unreachable)

    assert await pipeline.services.reconcile_instance.run("ins_1") == 1


async def test_what_somebody_else_runs_on_the_server_is_left_alone(pipeline: Pipeline) -> None:
    server = await the_server(pipeline)
    foreign = await server.create_session(title="an operator's own", metadata={}, directory=None)
    pipeline.opencode.simulator.set_faults(stall=1)
    await server.submit(foreign, message_id="msg_1", parts=[], agent=None, model=None, system=None, timeout_s=5)
    await pipeline.mention("[[hang]] ours")
    await pipeline.take_events()
    await pipeline.dispatch()

    await pipeline.services.reconcile_instance.run("ins_1")

    assert pipeline.opencode.simulator.engine.aborts == 0
    assert working(pipeline) == 2


async def _unreachable(*_: object, **__: object) -> None:
    raise UnavailableError("no route to it")


async def test_a_session_that_goes_on_by_itself_after_its_answer_is_stopped(pipeline: Pipeline) -> None:
    """As oh-my-opencode does by its continuation hooks, where they are not off."""
    await pipeline.mention("hello")
    await pipeline.answer_everything()
    (session,) = pipeline.opencode.simulator.store.sessions.values()
    go_on = PromptPart("prt_by_itself", text="[SYSTEM DIRECTIVE: TODO CONTINUATION] [[hang]]")
    server = await the_server(pipeline)
    await server.submit(
        session.id, message_id="msg_by_itself", parts=[go_on], agent=None, model=None, system=None, timeout_s=5
    )
    await eventually(lambda: working(pipeline) == 1, what="the run that nobody asked for")

    await a_while_ago(pipeline)
    await pipeline.services.reconcile_instance.run("ins_1")

    await eventually(lambda: working(pipeline) == 0, what="the end of the stray run")
    assert (await events(pipeline))[-1] is EventKind.STRAY_RUN_STOPPED
    assert incidents(pipeline, "stray_run") == 1
