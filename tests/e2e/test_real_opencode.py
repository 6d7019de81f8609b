"""From Slack to the reply through a real OpenCode server from npm, with a stub model behind it."""

import asyncio

import pytest

from nubabel_workers.domain.executions import Status
from nubabel_workers.embedded.stack import Stack, StackOptions
from tests.e2e.conversation import Conversation, until

pytestmark = [
    pytest.mark.integration,
    pytest.mark.node,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240),
]

STACK = StackOptions(
    opencode="real",
    copies={"flower": 0},
    settings={"scheduler_reconcile_s": "3", "lease_s": "5"},
)
_LITTLE_BYTES = 100_000_000  # less than any OpenCode server has
_WITHIN_S = 90.0  # a cold server loads for seconds before its first answer


async def test_a_mention_is_answered_and_a_follow_up_sees_it(conversation: Conversation) -> None:
    first = conversation.say("@nubabel remember the number seven")
    assert "remember the number seven" in (await conversation.reply(first, timeout_s=_WITHIN_S)).body

    second = conversation.say("@nubabel which number was it?", thread=first)
    answer = await conversation.reply(second, timeout_s=_WITHIN_S)

    assert answer.body.startswith("ECHO[4]")  # the model was shown both questions and its own first answer
    before, after = await conversation.settled(first), await conversation.settled(second)
    assert before.opencode_session_id == after.opencode_session_id
    assert after.usage is not None
    assert after.usage.output_tokens > 0


async def test_the_memory_of_its_process_is_known(stack: Stack) -> None:
    async def memory_bytes() -> int | None:
        (instance,) = await stack.services.instances.loads()
        return instance.memory_bytes

    assert await until(memory_bytes, what="a report") > _LITTLE_BYTES


async def test_a_tool_really_runs(conversation: Conversation) -> None:
    question = conversation.say(
        '@nubabel [[tool=bash {"command":"echo from-the-shell > made-by-a-tool","description":"Write a file"}]] '
        "[[text=Written.]]"
    )

    await conversation.reply(question, "Written.", timeout_s=_WITHIN_S)

    written = conversation.stack.opencode.real[0].directory / "made-by-a-tool"
    assert written.read_text() == "from-the-shell\n"
    await conversation.settled(question)


async def test_stop_reaches_the_server(conversation: Conversation) -> None:
    question = conversation.say("@nubabel think for ever [[hang]]")
    await conversation.until_status(question, Status.RUNNING, timeout_s=_WITHIN_S)

    conversation.say("stop", thread=question)

    assert (await conversation.settled(question)).status is Status.CANCELLED


async def test_a_server_killed_in_the_middle_answers_after_its_restart(
    stack: Stack, conversation: Conversation
) -> None:
    calls_before = _model_calls(stack)
    question = conversation.say("@nubabel [[delay=5]] [[text=still here]]")
    await conversation.until_status(question, Status.RUNNING, timeout_s=_WITHIN_S)
    await _model_is_asked(stack)

    await stack.opencode.real[0].kill()
    await stack.opencode.real[0].start()

    execution = await conversation.settled(question, timeout_s=_WITHIN_S)
    assert execution.status is Status.COMPLETED
    assert execution.attempt == 2
    assert [message.body for message in conversation.bot_messages(question)] == ["still here"]
    assert _model_calls(stack) - calls_before == execution.attempt  # one run each


def _model_calls(stack: Stack) -> int:
    assert stack.opencode.model is not None
    return stack.opencode.model.stats["main"]


async def _model_is_asked(stack: Stack) -> None:
    assert stack.opencode.model is not None
    async with asyncio.timeout(_WITHIN_S):
        while not stack.opencode.model.stats["active"]:  # noqa: ASYNC110  # OpenCode asks it over HTTP
            await asyncio.sleep(0.02)
