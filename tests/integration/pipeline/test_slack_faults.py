"""Slack goes wrong: one reply, or one dead letter that says why; a marked repeat only where looking up did not help."""

import time
from contextlib import suppress
from datetime import timedelta

import pytest

from nubabel_workers.services import deliver_to_slack
from nubabel_workers.simulators.slack.faults import Fault, FaultKind
from tests.integration.pipeline.conftest import CHANNEL, TEAM, Pipeline
from tests.integration.pipeline.dying import Killed, dies
from tests.integration.pipeline.test_delivery import answered_but_not_told, deliver_later, outcome
from tests.waiting import eventually

pytestmark = pytest.mark.integration

OTHER_TEAM = "T0TWO"


def marked_repeats(pipeline: Pipeline) -> float:
    registry = pipeline.services.metrics.registry
    return registry.get_sample_value("nubabel_incidents_total", {"kind": "marked_repeat"}) or 0.0


async def dead_letters(pipeline: Pipeline) -> list[str]:
    rows = await pipeline.services.database.system().all(
        "SELECT error FROM dead_letters WHERE status = 'open' ORDER BY id"
    )
    return [row["error"] for row in rows]


def post(kind: FaultKind, *, code: str = "internal_error", status: int = 500, seconds: float = 1.0) -> Fault:
    return Fault("chat.postMessage", kind, code=code, status=status, seconds=seconds)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(post(FaultKind.LOST_ANSWER), id="answer lost after the post"),
        pytest.param(post(FaultKind.CLOSED), id="connection closed before the post"),
        pytest.param(post(FaultKind.HTTP_STATUS, status=503), id="HTTP 503"),
        pytest.param(post(FaultKind.HTML), id="a page instead of an answer, posted"),
        pytest.param(post(FaultKind.ERROR, code="internal_error"), id="internal_error, not posted"),
        pytest.param(post(FaultKind.ERROR_AFTER, code="internal_error"), id="internal_error, posted"),
        pytest.param(post(FaultKind.ERROR, code="msg_too_long"), id="too long as a block"),
        pytest.param(post(FaultKind.RATE_LIMITED, seconds=30), id="429"),
    ],
)
async def test_a_post_that_goes_wrong_is_one_unmarked_reply_in_the_end(pipeline: Pipeline, fault: Fault) -> None:
    question = await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(fault)

    for _ in range(3):
        await deliver_later(pipeline)

    (reply,) = pipeline.replies(question)
    assert "repeated" not in reply
    assert (await outcome(pipeline))["status"] == "sent"
    assert marked_repeats(pipeline) == 0
    assert await dead_letters(pipeline) == []


async def test_a_repeat_that_is_marked_is_counted_apart(pipeline: Pipeline) -> None:
    question = await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(post(FaultKind.LOST_ANSWER))
    pipeline.slack.faults.plan(Fault("conversations.replies", FaultKind.HTTP_STATUS, times=9))
    await deliver_later(pipeline)
    await deliver_later(pipeline)
    await pipeline.services.database.system().execute(
        "UPDATE notifications SET uncertain_since = now() - %(ago)s", {"ago": timedelta(hours=1)}
    )

    for _ in range(3):
        await deliver_later(pipeline)

    assert len(pipeline.replies(question)) == 2
    assert marked_repeats(pipeline) == 1


async def test_a_repeat_that_stays_in_doubt_is_a_dead_letter_and_never_a_third_message(pipeline: Pipeline) -> None:
    question = await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(Fault("chat.postMessage", FaultKind.LOST_ANSWER, times=2))
    pipeline.slack.faults.plan(Fault("conversations.replies", FaultKind.HTTP_STATUS, times=9))
    for _ in range(4):
        await deliver_later(pipeline)
        await pipeline.services.database.system().execute(
            "UPDATE notifications SET uncertain_since = now() - interval '1 hour' WHERE uncertain"
        )

    assert len(pipeline.replies(question)) == 2
    (letter,) = await dead_letters(pipeline)
    assert "outcome_unknown" in letter


async def test_one_workspaces_limit_holds_up_no_other(pipeline: Pipeline) -> None:
    pipeline.slack.world.add_workspace(OTHER_TEAM)
    await pipeline.install(team=OTHER_TEAM)
    limited = await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(Fault("*", FaultKind.RATE_LIMITED, times=9, seconds=30, team=TEAM))
    other = await pipeline.mention("hello", team=OTHER_TEAM)

    await pipeline.answer_everything()

    assert len(pipeline.replies(other, team=OTHER_TEAM)) == 1
    assert pipeline.replies(limited) == []


async def test_no_worker_sleeps_while_slack_wants_it_to_wait(pipeline: Pipeline) -> None:
    await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(post(FaultKind.RATE_LIMITED, seconds=30))
    calls = len(pipeline.slack.world.logged("call"))
    began = time.monotonic()

    await pipeline.deliver()
    for _ in range(3):
        await pipeline.deliver()

    assert time.monotonic() - began < 10
    waits = "SELECT extract(epoch FROM not_before - now())::int AS s, lease_owner FROM notifications"
    row = await pipeline.one(f"{waits} WHERE kind = 'outcome'")
    assert 20 <= int(str(row["s"])) <= 31
    assert row["lease_owner"] is None
    asked = pipeline.slack.world.logged("call")[calls:]
    assert [call["method"] for call in asked].count("chat.postMessage") == 1


async def test_a_limit_of_unknown_length_is_not_asked_about_at_once_again(pipeline: Pipeline) -> None:
    await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(post(FaultKind.ERROR, code="ratelimited"))

    await pipeline.deliver()

    row = await pipeline.one(
        "SELECT not_before > now() + interval '3 s' AS later FROM notifications WHERE kind = 'outcome'"
    )
    assert row == {"later": True}


async def test_a_revoked_token_is_one_explained_dead_letter_for_each_answer(pipeline: Pipeline) -> None:
    questions = [await pipeline.mention(text) for text in ("one", "two")]
    await pipeline.take_events()
    await pipeline.deliver()
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    pipeline.slack.world.uninstall(TEAM)

    for _ in range(3):
        await deliver_later(pipeline)

    assert [pipeline.replies(question) for question in questions] == [[], []]
    letters = await dead_letters(pipeline)
    assert len(letters) == 2
    assert all(letter.startswith(("token_revoked", "workspace_ended")) for letter in letters)
    assert (await pipeline.one("SELECT status FROM workspaces"))["status"] == "revoked"


async def test_an_archived_channel_is_one_explained_dead_letter(pipeline: Pipeline) -> None:
    question = await answered_but_not_told(pipeline)
    pipeline.slack.workspace(TEAM).channels[CHANNEL].archived = True

    for _ in range(2):
        await deliver_later(pipeline)

    (letter,) = await dead_letters(pipeline)
    assert letter.startswith("is_archived")
    assert await pipeline.one("SELECT reason FROM dead_letters") == {"reason": "permanent-error"}
    assert pipeline.replies(question) == []


async def test_a_deleted_thread_is_one_explained_dead_letter(pipeline: Pipeline) -> None:
    question = await answered_but_not_told(pipeline)
    pipeline.slack.world.delete_by_person(pipeline.slack.workspace(TEAM), CHANNEL, question.ts)

    for _ in range(2):
        await deliver_later(pipeline)

    (letter,) = await dead_letters(pipeline)
    assert "thread_not_found" in letter


async def test_a_message_that_is_too_long_in_any_form_is_one_explained_dead_letter(pipeline: Pipeline) -> None:
    question = await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(Fault("chat.postMessage", FaultKind.ERROR, code="msg_too_long", times=9))

    for _ in range(2):
        await deliver_later(pipeline)

    (letter,) = await dead_letters(pipeline)
    assert "msg_too_long" in letter
    assert pipeline.replies(question) == []


async def test_a_post_that_slack_takes_after_we_gave_up_is_not_repeated(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver_to_slack, "_MAX_CALL_S", 0.1)
    question = await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(post(FaultKind.TAKEN_LATE, seconds=1.0))
    await deliver_later(pipeline)
    await deliver_later(pipeline)
    assert pipeline.replies(question) == []

    await eventually(lambda: pipeline.replies(question), what="Slack has taken the post")
    await deliver_later(pipeline)

    assert len(pipeline.replies(question)) == 1
    assert (await outcome(pipeline))["status"] == "sent"
    assert marked_repeats(pipeline) == 0


async def test_a_post_that_slack_never_took_is_repeated_when_it_cannot_come_any_more(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver_to_slack, "_MAX_CALL_S", 0.1)
    question = await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(post(FaultKind.TAKEN_LATE, seconds=3600))
    await deliver_later(pipeline)
    monkeypatch.undo()
    await pipeline.services.database.system().execute(
        "UPDATE notifications SET uncertain_since = uncertain_since - %(ago)s", {"ago": timedelta(minutes=1)}
    )

    await deliver_later(pipeline)

    assert len(pipeline.replies(question)) == 1
    assert marked_repeats(pipeline) == 0


async def test_a_post_that_slack_takes_after_its_worker_has_died_is_not_repeated(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(post(FaultKind.TAKEN_LATE, seconds=1.0))
    with monkeypatch.context() as patch:
        patch.setattr(deliver_to_slack, "_MAX_CALL_S", 0.1)
        dies(patch, pipeline.services.notifications, "retry", after=False)
        with suppress(Killed):
            await pipeline.deliver()
    system = pipeline.services.database.system()
    await system.execute("UPDATE notifications SET lease_until = now() WHERE lease_owner IS NOT NULL")
    await pipeline.services.maintain.publish_overdue()
    await deliver_later(pipeline)
    assert pipeline.replies(question) == []

    await eventually(lambda: pipeline.replies(question), what="Slack has taken the post")
    await deliver_later(pipeline)

    assert len(pipeline.replies(question)) == 1
    assert (await outcome(pipeline))["status"] == "sent"
    assert marked_repeats(pipeline) == 0
