"""What people in Slack experience, on the whole system with simulated OpenCode."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from nubabel_workers.bootstrap import manage_dead_letters
from nubabel_workers.domain.dead_letters import DeadLetterFilter, DeadLetterStatus
from nubabel_workers.domain.executions import Status
from nubabel_workers.embedded.stack import Stack
from nubabel_workers.simulators.opencode.state import Message as OpenCodeMessage
from tests.e2e.conversation import Conversation, until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


async def test_a_mention_is_answered_in_its_thread(conversation: Conversation) -> None:
    question = conversation.say("@nubabel hello there")

    answer = await conversation.reply(question)
    execution = await conversation.settled(question)

    assert answer.thread_ts == question.ts
    assert answer.body.strip().endswith("hello there")
    assert execution.status is Status.COMPLETED
    assert conversation.bot_messages(question) == [answer]


async def test_a_sign_of_work_comes_within_two_seconds_and_goes_with_the_answer(conversation: Conversation) -> None:
    question = conversation.say("@nubabel take your time [[delay=1.5]]")

    await until(lambda: _async(question.reactions), what="a reaction on the question", timeout_s=2)
    await conversation.reply(question)

    await until(lambda: _async(not question.reactions), what="the reaction is gone")


async def test_korean_is_understood_and_answered(new_conversation: Callable[..., Conversation]) -> None:
    conversation = new_conversation(tenant=1)
    question = conversation.say("@nubabel 배포 계획을 정리해 주세요")

    answer = await conversation.reply(question)

    assert "배포 계획을 정리해 주세요" in answer.body


async def test_a_follow_up_in_the_thread_knows_what_was_said_before(conversation: Conversation) -> None:
    first = conversation.say("@nubabel remember the number seven")
    await conversation.reply(first, "ECHO[2]")

    second = conversation.say("@nubabel which number was it?", thread=first)
    answer = await conversation.reply(second)

    assert answer.body.startswith("ECHO[4]")
    before, after = await conversation.settled(first), await conversation.settled(second)
    assert after.session_id == before.session_id
    assert after.opencode_session_id == before.opencode_session_id


async def test_a_follow_up_needs_no_mention_in_a_thread_that_is_ours(conversation: Conversation) -> None:
    first = conversation.say("@nubabel start")
    await conversation.reply(first)

    second = conversation.say("and go on", thread=first)

    assert (await conversation.reply(second)).body.startswith("ECHO[4]")


async def test_what_people_say_to_each_other_is_left_alone(conversation: Conversation) -> None:
    talk = conversation.say("lunch?")
    conversation.say("at noon", thread=talk)
    question = conversation.say("@nubabel hello")

    await conversation.settled(question)

    assert conversation.bot_messages(talk) == []
    assert await conversation.executions_in_channel() == 1


async def test_a_direct_message_is_answered_without_a_mention(new_conversation: Callable[..., Conversation]) -> None:
    conversation = new_conversation(direct=True)
    question = conversation.say("hello, just you and me")

    answer = await conversation.reply(question)

    assert "just you and me" in answer.body


async def test_a_mention_inside_a_thread_brings_the_earlier_messages(conversation: Conversation) -> None:
    root = conversation.say("The red build is number 4711")
    conversation.say("it began yesterday", thread=root)
    question = conversation.say("@nubabel what is this about?", thread=root)

    await conversation.reply(question)

    execution = await conversation.settled(question)
    session = _opencode_session(conversation.stack, execution.opencode_session_id)
    prompt = next(message.text for message in session if message.is_user)
    assert "The red build is number 4711" in prompt
    assert "it began yesterday" in prompt


async def test_messages_of_one_thread_are_answered_one_after_the_other(conversation: Conversation) -> None:
    first = conversation.say("@nubabel first [[delay=1]] [[text=one]]")
    await conversation.until_status(first, *Status)  # two events within a millisecond may change places on the way
    second = conversation.say("@nubabel second [[text=two]]", thread=first)

    one, two = await asyncio.gather(conversation.settled(first), conversation.settled(second))

    assert [message.body for message in conversation.bot_messages(first)] == ["one", "two"]
    assert one.finished_at is not None
    assert two.started_at is not None
    assert two.started_at >= one.finished_at


async def test_every_line_about_a_message_says_whose_it_is_in_every_process(conversation: Conversation) -> None:
    question = conversation.say("@nubabel hello [[text=done]]")
    execution = await conversation.settled(question)
    await conversation.reply(question)

    async def told() -> bool:
        return {"slack.event_stored", "execution.submitted", "execution.finished", "notification.sent"} <= {
            line["event"] for line in lines()
        }

    def lines() -> list[dict[str, Any]]:
        files = [conversation.stack.logs.path(name) for name in conversation.stack.processes.names()]
        every = [line for file in files if file.exists() for line in file.read_text().splitlines()]
        return [json.loads(line) for line in every if f'"{execution.correlation_id}"' in line]

    await until(told, what="every process has written its lines")
    assert {line["organization_id"] for line in lines()} == {execution.organization_id}
    assert len({line["trace_id"] for line in lines()}) == 1
    about_it = [line for line in lines() if "execution_id" in line]
    assert {line["execution_id"] for line in about_it} == {execution.id}
    assert {line["session_id"] for line in about_it} == {execution.session_id}


async def test_the_word_stop_ends_the_work_down_to_opencode(conversation: Conversation) -> None:
    question = conversation.say("@nubabel think for ever [[hang]]")
    execution = await conversation.until_status(question, Status.RUNNING)

    conversation.say("stop", thread=question)

    execution = await conversation.settled(question)
    assert execution.status is Status.CANCELLED
    assert "Stopped" in (await conversation.reply(question)).body
    await until(
        lambda: _async(not _is_busy(conversation.stack, execution.opencode_session_id)),
        what="OpenCode has stopped working",
    )


async def test_deleting_the_question_ends_the_work(conversation: Conversation) -> None:
    question = conversation.say("@nubabel never mind [[hang]]")
    await conversation.until_status(question, Status.RUNNING)

    conversation.stack.slack.world.delete_by_person(conversation.workspace, conversation.channel, question.ts)

    execution = await conversation.settled(question)
    assert execution.status is Status.CANCELLED


async def test_an_edit_after_the_start_is_told_and_changes_nothing(conversation: Conversation) -> None:
    question = conversation.say("@nubabel original words [[delay=0.5]]")
    await conversation.until_status(question, Status.RUNNING)

    conversation.stack.slack.world.edit_by_person(
        conversation.workspace,
        conversation.channel,
        question.ts,
        f"<@{conversation.workspace.bot_user_id}> other words",
    )

    await conversation.reply(question, "I answer it as it was")
    await conversation.reply(question, "original words")
    await conversation.settled(question)
    assert await conversation.executions_in_channel() == 1


async def test_a_redelivered_event_and_its_twin_are_answered_once(conversation: Conversation) -> None:
    slack, workspace = conversation.stack.slack, conversation.workspace
    question = conversation.say("@nubabel only once, please")  # an app_mention and its message twin
    event = question.wire(workspace.team_id) | {
        "channel": conversation.channel,
        "event_ts": question.ts,
        "type": "app_mention",
    }
    slack.deliver(workspace, event, "Ev0AGAIN")
    slack.deliver(workspace, event, "Ev0AGAIN")

    await conversation.reply(question)
    marker = conversation.say("@nubabel are you done?")  # later events of this channel are through once it is answered
    await conversation.settled(marker)

    assert len(conversation.bot_messages(question)) == 1
    assert await conversation.executions_in_channel() == 2


async def test_a_tool_call_is_shown_while_it_runs(conversation: Conversation) -> None:
    question = conversation.say(
        '@nubabel run it [[tool=bash {"command":"echo hi","description":"Say hi"}]] [[delay=0.5]] [[text=It said hi.]]'
    )

    answer = await conversation.reply(question, "It said hi.")

    await conversation.settled(question)
    assert conversation.bot_messages(question) == [answer]  # the progress message is gone


async def test_a_failure_is_told_and_kept_as_a_dead_letter(conversation: Conversation) -> None:
    question = conversation.say("@nubabel break [[status=400]]")

    answer = await conversation.reply(question)
    execution = await conversation.settled(question)

    assert execution.status is Status.FAILED
    assert execution.id in answer.body
    chosen = DeadLetterFilter(organization_id=conversation.tenant.id)
    found = await manage_dead_letters(conversation.stack.services).page(chosen, status=DeadLetterStatus.OPEN, limit=10)
    assert [letter.subject_id for letter in found.letters] == [execution.id]


async def test_one_organization_cannot_see_what_another_asked(new_conversation: Callable[..., Conversation]) -> None:
    ours, theirs = new_conversation(tenant=0), new_conversation(tenant=1)
    question = ours.say("@nubabel our secret")
    execution = await ours.settled(question)

    async with theirs.stack.client(theirs.tenant) as client:
        response = await client.get(f"/v1/executions/{execution.id}")

    assert response.status_code == 404
    assert await theirs.stack.services.executions.find(theirs.tenant.id, execution.id) is None


async def _async(value: object) -> object:
    return value


def _is_busy(stack: Stack, session_id: str | None) -> bool:
    return any(session_id in sessions for sessions in stack.opencode.simulators[0].insides.store.busy.values())


def _opencode_session(stack: Stack, session_id: str | None) -> list[OpenCodeMessage]:
    assert session_id is not None
    return list(stack.opencode.simulators[0].insides.store.sessions[session_id].messages.values())
