"""A worker dies before and after every call that has an effect: one whole answer, one model run, nothing stuck."""

import pytest

from nubabel_workers.services import deliver_to_slack
from tests.integration.pipeline.conftest import Pipeline
from tests.integration.pipeline.dying import dies, work_until_quiet

pytestmark = pytest.mark.integration

EFFECTS = [
    "inbound.claim",
    "executions.accept",
    "executions.claim_queued",
    "server.create_session",
    "executions.begin_attempt",
    "server.submit",
    "executions.mark_running",
    "executions.claim_checks",
    "executions.finish",
    "notifications.claim",
    "messenger.post",
    "notifications.part_sent",
    "notifications.sent",
]


async def owner_of(pipeline: Pipeline, name: str) -> object:
    if name == "server":
        (instance,) = await pipeline.services.instances.loads()
        return pipeline.services.servers.server(instance)
    return getattr(pipeline.services, name)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("effect", EFFECTS)
async def test_one_answer_whenever_a_worker_dies(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, effect: str, after: bool
) -> None:
    owner, method = effect.split(".")
    deaths = dies(monkeypatch, await owner_of(pipeline, owner), method, after=after)
    question = await pipeline.mention("[[tokens=6000]] how are you?")

    await work_until_quiet(pipeline)

    assert deaths() == 1
    parts = pipeline.replies(question)
    assert [part.split("\n")[0] for part in parts] == [f"({n}/{len(parts)})" for n in range(1, len(parts) + 1)]
    assert len(parts) > 1
    assert deliver_to_slack.WORKING_REACTION not in question.reactions or not question.reactions["eyes"]
    assert list(pipeline.opencode.simulator.store.model_runs.values()) == [1]
    assert await pipeline.statuses() == ["completed"]
    unsettled = await pipeline.one(
        "SELECT count(*) AS n FROM notifications WHERE status NOT IN ('sent', 'dropped') OR repeated"
    )
    assert unsettled == {"n": 0}


async def test_one_task_takes_over_whatever_the_dead_have_left_behind(pipeline: Pipeline) -> None:
    """Suspect rows are taken one at a time, yet none waits for a hint of its own."""
    questions = [await pipeline.mention(f"question {number}") for number in range(5)]
    await pipeline.suspect("inbound_events")
    await pipeline.take_events()
    await pipeline.suspect("executions")
    await pipeline.mention("and one that nobody has touched")
    await pipeline.take_events()

    await pipeline.dispatch()
    assert await pipeline.statuses() == ["running"] * 6

    await pipeline.run_ends()
    await pipeline.suspect("executions")
    await pipeline.complete()
    assert await pipeline.statuses() == ["completed"] * 6

    await pipeline.suspect("notifications")
    await pipeline.deliver()
    assert [len(pipeline.replies(question)) for question in questions] == [1] * 5
