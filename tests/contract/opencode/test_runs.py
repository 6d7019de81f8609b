"""From a prompt to its end: answers, repeats, busy sessions, aborts, errors, crashes."""

import json

import pytest

from nubabel_workers.adapters.opencode import (
    HttpClient,
    PermissionAsked,
    PermissionRule,
    QuestionAsked,
    SessionError,
    SessionIdle,
    SessionStatus,
    TextDelta,
    ToolUpdate,
)
from nubabel_workers.domain.errors import NotFoundError, UnavailableError
from nubabel_workers.domain.executions import Usage
from nubabel_workers.domain.verdict import BUSY, IDLE, SessionActivity, VerdictKind
from tests.contract.opencode.backends import MODEL, Backend, Conversation, new_conversation
from tests.contract.opencode.listening import listening

pytestmark = pytest.mark.asyncio(loop_scope="session")


def call_of(tool: str, **arguments: object) -> str:
    return f"[[tool={tool} {json.dumps(arguments)}]]"


BASH = call_of("bash", command="echo hi", description="say hi")
ASK_FOR_BASH = [PermissionRule("bash", "ask")]


# --- answers ---


async def test_prompt_is_answered_with_text_and_usage(conversation: Conversation) -> None:
    verdict = await conversation.ask("hello")

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert verdict.text == "ECHO[2]: hello"
    assert not verdict.cut
    assert verdict.usage == Usage(input_tokens=11, output_tokens=2, cost=1.5e-05)
    assert list(verdict.usage_by_model) == [MODEL]


async def test_cached_input_is_not_counted_twice(conversation: Conversation) -> None:
    verdict = await conversation.ask("[[usage=1000,50,800]] hello")

    assert (verdict.usage.input_tokens, verdict.usage.cache_read_tokens, verdict.usage.output_tokens) == (200, 800, 50)


async def test_follow_up_sees_its_context(conversation: Conversation) -> None:
    answers = [(await conversation.ask(text)).text for text in ("one", "two", "three")]

    assert answers == ["ECHO[2]: one", "ECHO[4]: two", "ECHO[6]: three"]


async def test_accepted_prompt_is_stored_at_once(conversation: Conversation) -> None:
    prompt = await conversation.post("[[delay=0.3]] hello")

    stored = await conversation.client.get_message(conversation.id, prompt.message_id)

    assert stored.text == "[[delay=0.3]] hello"
    await conversation.ended(prompt)


async def test_events_tell_busy_then_idle(conversation: Conversation) -> None:
    async with listening(conversation.backend) as heard:
        await conversation.ask("hello")
        await heard.idle(conversation.id)

    mine = [e for e in heard.seen if getattr(e, "session_id", None) == conversation.id]
    assert mine[0] == SessionStatus(conversation.id, BUSY)
    assert mine[-2:] == [SessionStatus(conversation.id, IDLE), SessionIdle(conversation.id)]
    assert not heard.of(TextDelta, conversation.id)


async def test_text_of_a_watched_session_is_streamed_without_its_thoughts(conversation: Conversation) -> None:
    async with listening(conversation.backend, watched=frozenset({conversation.id})) as heard:
        await conversation.ask("[[reasoning=3]] hello there")
        await heard.idle(conversation.id)

    streamed = "".join(delta.text for delta in heard.of(TextDelta, conversation.id))
    assert streamed.strip() == "ECHO[2]: [[reasoning=3]] hello there"


async def test_long_answer_arrives_whole(conversation: Conversation) -> None:
    async with listening(conversation.backend, watched=frozenset({conversation.id})) as heard:
        verdict = await conversation.ask("[[tokens=200]]")
        await heard.idle(conversation.id)

    assert len(heard.of(TextDelta, conversation.id)) == 200
    assert verdict.text.split() == [f"word{n}" for n in range(200)]


async def test_answer_at_the_output_limit_is_cut(conversation: Conversation) -> None:
    verdict = await conversation.ask("[[finish=length]]")

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert verdict.cut


# --- repeats ---


async def test_repeat_while_running_starts_nothing(conversation: Conversation) -> None:
    before = conversation.backend.model_calls()
    prompt = await conversation.post("[[delay=0.4]] hello")

    await conversation.post("", repeat_of=prompt)
    verdict = await conversation.ended(prompt)

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert conversation.backend.model_calls() - before == 1
    assert len(await conversation.messages()) == 2


async def test_repeat_after_the_end_asks_no_model_and_still_tells_idle(conversation: Conversation) -> None:
    prompt = await conversation.post("hello")
    first = await conversation.ended(prompt)
    before = conversation.backend.model_calls()

    async with listening(conversation.backend) as heard:
        await conversation.post("", repeat_of=prompt)
        await heard.idle(conversation.id)

    assert (await conversation.ended(prompt)).text == first.text
    assert conversation.backend.model_calls() == before
    assert [m.text for m in await conversation.messages()] == ["hello", "ECHO[2]: hello"]


async def test_repeat_after_a_failure_runs_again(conversation: Conversation) -> None:
    prompt = await conversation.post("[[status=401]] [[times=1]] again")
    failed = await conversation.ended(prompt)

    await conversation.post("", repeat_of=prompt)
    await conversation.begun(known=failed.assistant_ids)
    verdict = await conversation.ended(prompt)

    assert failed.kind is VerdictKind.FAILED
    assert verdict.kind is VerdictKind.SUCCEEDED
    assert len(verdict.assistant_ids) == 2


# --- busy sessions and aborts ---


async def test_prompts_to_a_busy_session_share_one_later_answer(conversation: Conversation) -> None:
    first = await conversation.post("[[delay=0.6]] first")
    second = await conversation.post("second")
    third = await conversation.post("third")

    verdict = await conversation.ended(third)
    messages = await conversation.messages()

    assert verdict.text == "ECHO[5]: third"
    assert [m.parent_id for m in messages if m.parent_id] == [first.message_id, third.message_id]
    assert second.message_id in {m.id for m in messages}


async def test_abort_keeps_what_was_written(conversation: Conversation) -> None:
    async with listening(conversation.backend, watched=frozenset({conversation.id})) as heard:
        prompt = await conversation.post("[[tokens=100]] [[gap=0.05]]")
        await heard.first(TextDelta, conversation.id)
        await conversation.client.abort(conversation.id)
        error = await heard.first(SessionError, conversation.id)
        await heard.idle(conversation.id)

    verdict = await conversation.ended(prompt)
    assert error.name == "MessageAbortedError"
    assert verdict.kind is VerdictKind.CANCELLED
    assert verdict.partial_text.startswith("word0")


async def test_abort_before_the_first_word(conversation: Conversation) -> None:
    async with listening(conversation.backend) as heard:
        prompt = await conversation.post("[[hang]]")
        await heard.first(SessionStatus, conversation.id)
        await conversation.begun()
        await conversation.client.abort(conversation.id)

        assert (await conversation.ended(prompt)).kind is VerdictKind.CANCELLED

    assert (await conversation.ask("still there?")).kind is VerdictKind.SUCCEEDED


async def test_abort_ends_a_running_tool(conversation: Conversation) -> None:
    async with listening(conversation.backend) as heard:
        prompt = await conversation.post(call_of("bash", command="sleep 30", description="wait"))
        await heard.tool(conversation.id, "running")
        await conversation.client.abort(conversation.id)

        assert (await conversation.ended(prompt)).kind is VerdictKind.CANCELLED


async def test_abort_of_an_idle_session_tells_idle(conversation: Conversation) -> None:
    async with listening(conversation.backend) as heard:
        await conversation.client.abort(conversation.id)
        await heard.idle(conversation.id)


# --- refusals and errors ---


async def test_unknown_agent_shows_only_as_an_event(conversation: Conversation) -> None:
    async with listening(conversation.backend) as heard:
        prompt = await conversation.post("hello", agent="nobody")
        error = await heard.first(SessionError, conversation.id)

    assert "Agent not found" in error.message
    assert await conversation.messages() == []
    assert (await conversation.verdict(prompt)).kind is VerdictKind.NOT_SUBMITTED
    assert not heard.of(SessionIdle, conversation.id)
    with pytest.raises(NotFoundError):
        await conversation.client.get_message(conversation.id, prompt.message_id)


async def test_unknown_model_leaves_a_question_without_an_answer(conversation: Conversation) -> None:
    async with listening(conversation.backend) as heard:
        prompt = await conversation.post("hello", model="stub/nosuch")
        error = await heard.first(SessionError, conversation.id)
        await heard.idle(conversation.id)

    assert "Model not found" in error.message
    assert (await conversation.ended(prompt)).kind is VerdictKind.RESUBMIT
    assert [m.text for m in await conversation.messages()] == ["hello"]


async def test_refusal_by_the_model_fails_the_run(conversation: Conversation) -> None:
    verdict = await conversation.ask("[[status=401]]")

    assert verdict.kind is VerdictKind.FAILED
    assert verdict.error is not None
    assert (verdict.error.name, verdict.error.status_code, verdict.error.retryable) == ("APIError", 401, False)


async def test_rate_limit_of_the_model_is_retried_by_the_server(conversation: Conversation) -> None:
    async with listening(conversation.backend) as heard:
        verdict = await conversation.ask("[[status=429]] [[retry_after=1]] [[times=1]]")
        await heard.idle(conversation.id)

    retries = [s.state for s in heard.of(SessionStatus, conversation.id) if s.state.activity is SessionActivity.RETRY]
    assert [state.retry_attempt for state in retries] == [1]
    assert verdict.kind is VerdictKind.SUCCEEDED


async def test_filtered_answer_fails_the_run(conversation: Conversation) -> None:
    verdict = await conversation.ask("[[finish=content_filter]]")

    assert verdict.kind is VerdictKind.FAILED
    assert verdict.error is not None
    assert (verdict.error.name, verdict.error.retryable) == ("ContentFilterError", False)


async def test_broken_answer_of_the_model_fails_the_run_without_a_stack_trace(conversation: Conversation) -> None:
    verdict = await conversation.ask("[[badjson]]")

    assert verdict.kind is VerdictKind.FAILED
    assert verdict.error is not None
    assert verdict.error.name == "UnknownError"
    assert "\n" not in verdict.error.message


async def test_stream_that_breaks_off_is_followed_by_another_step(conversation: Conversation) -> None:
    verdict = await conversation.ask("[[drop=mid]] [[times=1]] a b c d")

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert verdict.text == "ECHO[3]: [[drop=mid]] [[times=1]] a b c d"
    assert [m.finish for m in await conversation.messages() if m.parent_id] == ["unknown", "stop"]


async def test_overflow_is_compacted_within_the_run(conversation: Conversation) -> None:
    async with listening(conversation.backend) as heard:
        verdict = await conversation.ask(f"[[overflow]] [[times=1]] {conversation.id}")
        await heard.idle(conversation.id)

    errors = [error.name for error in heard.of(SessionError, conversation.id)]
    assert errors == ["ContextOverflowError"]
    assert verdict.kind is VerdictKind.SUCCEEDED
    assert verdict.text.startswith("ECHO[4]: The previous request exceeded")
    assert "Stub summary" not in verdict.text


async def test_full_context_is_compacted_after_the_answer(conversation: Conversation) -> None:
    verdict = await conversation.ask("[[usage=99000,50]] hello")

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert verdict.text.startswith("ECHO[2]: [[usage=99000,50]] hello\n\nECHO[4]: Continue if you have next steps")
    assert verdict.usage.input_tokens == 99000 + 11 + 11


# --- tools and asks ---


async def test_tool_step_is_told_and_followed_by_the_answer(conversation: Conversation) -> None:
    async with listening(conversation.backend) as heard:
        verdict = await conversation.ask(BASH)
        await heard.idle(conversation.id)

    updates = heard.of(ToolUpdate, conversation.id)
    assert [u.status for u in updates] == ["pending", "running", "completed"]
    assert {u.tool for u in updates} == {"bash"}
    assert updates[-1].title == "echo hi"
    assert verdict.text.startswith("ECHO[4]: ")
    assert verdict.usage.input_tokens == 22
    assert [m.finish for m in await conversation.messages() if m.parent_id] == ["tool-calls", "stop"]


async def test_call_of_an_unknown_tool_is_told_to_the_model(conversation: Conversation) -> None:
    verdict = await conversation.ask(f"{call_of('nosuch', a=1)} [[result]]")

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert verdict.text.startswith("The arguments provided to the tool are invalid: ")


async def test_denied_tool_is_not_offered(backend: Backend, http: HttpClient) -> None:
    conversation = await new_conversation(backend, http, permission=[PermissionRule("bash", "deny")])

    async with listening(backend) as heard:
        verdict = await conversation.ask(BASH)
        await heard.idle(conversation.id)

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert heard.of(ToolUpdate, conversation.id)[-1].tool == "invalid"


async def test_question_is_denied_by_configuration(conversation: Conversation) -> None:
    async with listening(conversation.backend) as heard:
        verdict = await conversation.ask("[[question]]")
        await heard.idle(conversation.id)

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert not heard.of(QuestionAsked, conversation.id)


async def test_ask_refused_with_a_message_lets_the_run_go_on(backend: Backend, http: HttpClient) -> None:
    conversation = await new_conversation(backend, http, permission=ASK_FOR_BASH)

    async with listening(backend) as heard:
        prompt = await conversation.post(BASH)
        ask = await heard.first(PermissionAsked, conversation.id)
        listed = await conversation.client.list_permissions(ask.directory)
        await conversation.client.reply_permission(
            ask.id, allow=False, message="nobody is here", directory=ask.directory
        )
        verdict = await conversation.ended(prompt)
        await heard.idle(conversation.id)

    assert (ask.permission, ask.patterns) == ("bash", ("echo hi",))
    assert ask.directory == str(backend.directory)
    assert [request.id for request in listed] == [ask.id]
    assert verdict.kind is VerdictKind.SUCCEEDED
    with pytest.raises(NotFoundError):
        await conversation.client.reply_permission(ask.id, allow=True, directory=ask.directory)


async def test_ask_refused_without_a_message_ends_the_run(backend: Backend, http: HttpClient) -> None:
    conversation = await new_conversation(backend, http, permission=ASK_FOR_BASH)

    async with listening(backend) as heard:
        prompt = await conversation.post(BASH)
        ask = await heard.first(PermissionAsked, conversation.id)
        await conversation.client.reply_permission(ask.id, allow=False, directory=ask.directory)
        await heard.idle(conversation.id)

    assert (await conversation.ended(prompt)).kind is VerdictKind.ENDED_WITHOUT_ANSWER


async def test_granted_ask_runs_the_tool(backend: Backend, http: HttpClient) -> None:
    conversation = await new_conversation(backend, http, permission=ASK_FOR_BASH)

    async with listening(backend) as heard:
        prompt = await conversation.post(BASH)
        ask = await heard.first(PermissionAsked, conversation.id)
        await conversation.client.reply_permission(ask.id, allow=True, directory=ask.directory)
        verdict = await conversation.ended(prompt)
        await heard.idle(conversation.id)

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert heard.of(ToolUpdate, conversation.id)[-1].status == "completed"


async def test_rejected_question_ends_the_run(backend: Backend, http: HttpClient) -> None:
    conversation = await new_conversation(backend, http, permission=[PermissionRule("question", "allow")])

    async with listening(backend) as heard:
        prompt = await conversation.post("[[question]]")
        asked = await heard.first(QuestionAsked, conversation.id)
        listed = await conversation.client.list_questions(asked.directory)
        await conversation.client.reject_question(asked.id, directory=asked.directory)
        await heard.idle(conversation.id)

    assert asked.questions[0]["question"] == "Which colour?"
    assert [request.id for request in listed] == [asked.id]
    assert (await conversation.ended(prompt)).kind is VerdictKind.ENDED_WITHOUT_ANSWER


# --- crashes ---


CRASHED_RUNS = {
    "before the first word": "[[delay=1]] hello",
    "while writing": "[[tokens=40]] [[gap=0.03]]",
    "while a tool runs": call_of("bash", command="sleep 1", description="wait"),
}


async def test_prompts_are_posted_again_after_a_crash(backend: Backend, http: HttpClient) -> None:
    """One crash for all three: starting the real server again takes seconds."""
    runs = []
    for text in CRASHED_RUNS.values():
        conversation = await new_conversation(backend, http)
        runs.append((conversation, await conversation.post(text)))
    for conversation, _ in runs:
        await conversation.begun()
    await backend.crash()

    dead = [await conversation.ended(prompt) for conversation, prompt in runs]
    for conversation, prompt in runs:
        await conversation.post("", repeat_of=prompt)
    for (conversation, _), before in zip(runs, dead, strict=True):
        await conversation.begun(known=before.assistant_ids)
    verdicts = [await conversation.ended(prompt) for conversation, prompt in runs]

    assert [verdict.kind for verdict in dead] == [VerdictKind.RESUBMIT] * len(runs)
    assert [verdict.kind for verdict in verdicts] == [VerdictKind.SUCCEEDED] * len(runs)
    for conversation, prompt in runs:
        assert [m.id for m in await conversation.messages()].count(prompt.message_id) == 1


async def test_stream_breaks_when_the_server_dies(backend: Backend) -> None:
    async with listening(backend) as heard:
        await backend.crash()
        failure = await heard.broken()

    assert isinstance(failure, UnavailableError)
