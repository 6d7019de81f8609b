"""Telling people: in parts, within Slack's limits, and never twice unmarked."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from nubabel_workers.domain.executions import NewExecution
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.notifications import WebhookTarget
from nubabel_workers.simulators.slack.faults import Fault, FaultKind
from nubabel_workers.simulators.slack.model import Message
from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline
from tests.integration.pipeline.dying import others_find_its_rows
from tests.integration.pipeline.webhook_receiver import webhook_receiver

pytestmark = pytest.mark.integration


async def answered_but_not_told(pipeline: Pipeline, text: str = "hello") -> Message:
    question = await pipeline.mention(text)
    await pipeline.take_events()
    await pipeline.deliver()
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    return question


async def deliver_later(pipeline: Pipeline) -> str:
    """As if the waits of all rows were over."""
    await pipeline.services.database.system().execute("UPDATE notifications SET not_before = now()")
    await pipeline.services.cache.flushdb()
    return await pipeline.deliver()


async def outcome(pipeline: Pipeline) -> dict[str, object]:
    return await pipeline.one("SELECT status, failures, repeated FROM notifications WHERE kind = 'outcome'")


async def test_a_long_answer_comes_in_numbered_parts_in_order(pipeline: Pipeline) -> None:
    question = await answered_but_not_told(pipeline, "[[tokens=6000]] write a lot")

    await pipeline.deliver()

    parts = pipeline.replies(question)
    assert len(parts) > 1
    assert [part.split("\n")[0] for part in parts] == [f"({n}/{len(parts)})" for n in range(1, len(parts) + 1)]


async def test_a_crash_between_two_parts_repeats_none_of_them(pipeline: Pipeline) -> None:
    question = await answered_but_not_told(pipeline, "[[tokens=6000]] write a lot")
    pipeline.slack.faults.plan(Fault("chat.postMessage", FaultKind.LOST_ANSWER))
    await pipeline.deliver()

    await deliver_later(pipeline)

    parts = pipeline.replies(question)
    assert len(parts) == len(set(parts))
    assert (await outcome(pipeline))["status"] == "sent"


async def test_a_rate_limit_waits_as_a_row_and_counts_as_no_failure(pipeline: Pipeline) -> None:
    question = await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(Fault("chat.postMessage", FaultKind.RATE_LIMITED, seconds=30))

    await pipeline.deliver()

    assert pipeline.replies(question) == []
    assert await outcome(pipeline) == {"status": "ready", "failures": 0, "repeated": False}
    await deliver_later(pipeline)
    assert len(pipeline.replies(question)) == 1


async def test_one_channels_limit_holds_up_no_other(pipeline: Pipeline) -> None:
    await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(Fault("chat.postMessage", FaultKind.RATE_LIMITED, seconds=30))
    await pipeline.deliver()
    bot = pipeline.slack.workspace("T0ONE").bot_user_id
    other = await pipeline.say(f"<@{bot}> hello", kind="app_mention", channel="C0OTHER")

    await pipeline.answer_everything()

    assert len(pipeline.replies(other, channel="C0OTHER")) == 1


async def test_what_could_not_be_looked_up_for_long_is_posted_once_more_and_marked(pipeline: Pipeline) -> None:
    question = await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(Fault("chat.postMessage", FaultKind.LOST_ANSWER))
    await pipeline.deliver()
    pipeline.slack.faults.plan(Fault("conversations.replies", FaultKind.HTTP_STATUS, times=5))
    await deliver_later(pipeline)
    assert len(pipeline.replies(question)) == 1
    await pipeline.services.database.system().execute(
        "UPDATE notifications SET uncertain_since = now() - %(ago)s", {"ago": timedelta(hours=1)}
    )

    await deliver_later(pipeline)

    first, second = pipeline.replies(question)
    assert "repeated" not in first
    assert "possibly repeated" in second
    assert (await outcome(pipeline))["repeated"] is True


async def test_a_dead_letter_of_a_notification_is_delivered_by_its_replay(pipeline: Pipeline) -> None:
    question = await answered_but_not_told(pipeline)
    pipeline.slack.faults.plan(Fault("chat.postMessage", FaultKind.ERROR, code="is_archived"))
    await pipeline.deliver()
    letter = await pipeline.one("SELECT id FROM dead_letters")

    await pipeline.replay(str(letter["id"]))
    await pipeline.deliver()

    assert len(pipeline.replies(question)) == 1


async def test_a_failing_reaction_harms_nobody(pipeline: Pipeline) -> None:
    pipeline.slack.faults.plan(Fault("reactions.add", FaultKind.ERROR, times=9, code="unknown_method"))
    question = await pipeline.mention("hello")

    await pipeline.answer_everything()

    assert len(pipeline.replies(question)) == 1
    assert await pipeline.services.database.system().all("SELECT id FROM dead_letters") == []


async def test_a_sign_whose_answer_was_lost_does_not_stay(pipeline: Pipeline) -> None:
    pipeline.slack.faults.plan(Fault("reactions.add", FaultKind.LOST_ANSWER))
    question = await answered_but_not_told(pipeline)
    assert "eyes" in question.reactions

    await deliver_later(pipeline)

    assert "eyes" not in question.reactions


async def test_a_process_that_wakes_up_after_its_lease_was_taken_shows_no_sign(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenants, clock = pipeline.services.tenants, pipeline.services.clock
    workspace = tenants.workspace

    async def stopped_for_long(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(tenants, "workspace", workspace)
        await others_find_its_rows(pipeline)
        await pipeline.answer_everything()
        late = clock.monotonic() + 60
        monkeypatch.setattr(clock, "monotonic", lambda: late)
        return await workspace(*args, **kwargs)

    question = await pipeline.mention("hello")
    await pipeline.take_events()
    monkeypatch.setattr(tenants, "workspace", stopped_for_long)

    line = await pipeline.deliver()

    assert "1 lost" in line
    assert "eyes" not in question.reactions
    assert len(pipeline.replies(question)) == 1


async def test_upstream_hears_by_a_signed_webhook(pipeline: Pipeline) -> None:
    secret = SecretStr("whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    await pipeline.set_webhook_secret(secret)
    async with webhook_receiver(secret.get_secret_value()) as receiver:
        await pipeline.services.executions.accept(
            NewExecution(
                organization_id=OrganizationId(ORGANIZATION),
                source="api",
                prompt="[[text=done]] go",
                session_key="api:1",
                idempotency_key="key:1",
                request_hash="",
                reply=WebhookTarget(f"{receiver.url}/hook").as_dict(),
            ),
            working=None,
            answer_by_s=60,
        )

        await pipeline.answer_everything()

        (received,) = receiver.received
    assert received["type"] == "execution.completed"
    assert received["data"]["output"] == "done"


async def test_a_progress_message_that_comes_with_the_end_of_its_run_does_not_stay(pipeline: Pipeline) -> None:
    question = await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.dispatch()
    execution = await pipeline.one("SELECT id FROM executions")
    await pipeline.services.notifications.show_progress(ORGANIZATION, str(execution["id"]), "reading…", pace_s=0)
    await pipeline.run_ends()
    await pipeline.complete()
    await pipeline.services.database.system().execute(  # written down unseen by the statement that ended the run
        "UPDATE notifications SET payload = payload - 'removed' WHERE kind = 'progress'"
    )

    await pipeline.deliver()
    await pipeline.deliver()

    (reply,) = pipeline.replies(question)
    assert "hello" in reply


async def test_nobody_is_asked_for_patience_once_the_answer_is_there(pipeline: Pipeline) -> None:
    question = await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.late_threads_are_told()
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()

    await pipeline.deliver()

    (reply,) = pipeline.replies(question)
    assert "longer than usual" not in reply


async def test_a_post_that_outlasts_the_lease_is_in_doubt(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    question = await answered_but_not_told(pipeline)
    post = pipeline.services.messenger.post

    async def slow(*args: Any, **kwargs: Any) -> str:
        await post(*args, **kwargs)
        return await asyncio.Future()

    with monkeypatch.context() as slack_is_slow:
        slack_is_slow.setattr(pipeline.services.messenger, "post", slow)
        slack_is_slow.setattr(pipeline.services.leases, "time_to_act_s", lambda *_: 0.05)
        await pipeline.deliver()

    await deliver_later(pipeline)

    assert len(pipeline.replies(question)) == 1
    assert (await outcome(pipeline))["status"] == "sent"


async def test_answers_of_a_thread_come_in_their_order_whatever_delays_one(pipeline: Pipeline) -> None:
    question = await answered_but_not_told(pipeline, "[[text=first]] go")
    pipeline.slack.faults.plan(Fault("chat.postMessage", FaultKind.HTTP_STATUS, status=503))
    await pipeline.deliver()
    await pipeline.say("[[text=second]] go on", thread_ts=question.ts)
    await pipeline.answer_everything()
    assert pipeline.replies(question) == []

    await deliver_later(pipeline)
    await pipeline.deliver()

    assert pipeline.replies(question) == ["first", "second"]


async def test_a_cancellation_whose_thread_is_gone_needs_no_words(pipeline: Pipeline) -> None:
    await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.deliver()
    execution = await pipeline.one("SELECT id FROM executions")
    await pipeline.services.cancel_execution.cancel(ORGANIZATION, str(execution["id"]), reason="deleted")
    pipeline.slack.faults.plan(Fault("chat.postMessage", FaultKind.ERROR, code="thread_not_found"))

    await pipeline.deliver()

    assert (await outcome(pipeline))["status"] == "dropped"
    assert await pipeline.services.database.system().all("SELECT id FROM dead_letters") == []
