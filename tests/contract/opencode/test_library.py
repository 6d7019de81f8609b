"""What scripts ask of a server beyond the pipeline's own calls: lists, forks, summaries, answers at once, keys."""

import asyncio
from itertools import count

import pytest
from pydantic import SecretStr

from nubabel_workers.adapters.opencode import HttpClient, PermissionRequest, PermissionRule, QuestionRequest, Skill
from nubabel_workers.domain.errors import (
    InvalidInputError,
    NotFoundError,
    UncertainError,
)
from nubabel_workers.domain.verdict import Role
from tests.contract.opencode.backends import AGENT, MODEL, Backend, Conversation, Prompt, new_conversation
from tests.contract.opencode.test_runs import ASK_FOR_BASH, BASH
from tests.contract.opencode.test_sessions import raw

pytestmark = pytest.mark.asyncio(loop_scope="session")

_numbers = count(1)
_WAIT_S = 10.0


async def titled(conversation: Conversation, *titles: str) -> list[str]:
    """Sessions of these titles, each changed in a millisecond of its own; their ids."""
    here = str(conversation.backend.directory)
    made = []
    for title in titles:
        made.append((await conversation.client.create_session(title=title, metadata={"n": 1}, directory=here)).id)
        await asyncio.sleep(0.002)
    return made


async def send(conversation: Conversation, text: str, *, agent: str = AGENT, model: str = MODEL) -> str:
    prompt = Prompt.new(conversation.id, text)
    answer = await conversation.client.send_message(
        conversation.id, message_id=prompt.message_id, parts=prompt.parts, agent=agent, model=model
    )
    assert answer.parent_id == prompt.message_id
    return answer.text


# --- lists of sessions ---


async def test_sessions_are_found_by_title_the_last_changed_first(conversation: Conversation) -> None:
    word = f"Needle{next(_numbers)}"
    ids = await titled(conversation, f"{word} one", f"other {word}", "hay")

    page = await conversation.client.list_sessions(str(conversation.backend.directory), search=word.lower())

    assert [session.id for session in page.sessions] == [ids[1], ids[0]]
    assert page.sessions[0].metadata == {"n": 1}
    assert page.next_cursor is None


async def test_sessions_come_in_pages(conversation: Conversation) -> None:
    word = f"Paged{next(_numbers)}"
    ids = await titled(conversation, *(f"{word} {n}" for n in range(5)))
    seen, cursor = [], None

    for _ in range(3):
        page = await conversation.client.list_sessions(search=word, limit=2, cursor=cursor)
        seen.append([session.id for session in page.sessions])
        cursor = page.next_cursor

    assert seen == [[ids[4], ids[3]], [ids[2], ids[1]], [ids[0]]]
    assert cursor is None


async def test_sessions_of_another_directory_are_left_out(conversation: Conversation) -> None:
    word = f"Placed{next(_numbers)}"
    await titled(conversation, word)

    page = await conversation.client.list_sessions(str(conversation.backend.directory.parent), search=word)

    assert page.sessions == []


async def test_sessions_of_sub_agents_can_be_left_out(conversation: Conversation) -> None:
    word = f"Child{next(_numbers)}"
    await conversation.ask(
        f'[[tool=task {{"description":"{word}","prompt":"hello child","subagent_type":"general"}}]] delegate'
    )

    everything = await conversation.client.list_sessions(search=word)
    roots = await conversation.client.list_sessions(search=word, roots=True)

    assert [session.parent_id for session in everything.sessions] == [conversation.id]
    assert roots.sessions == []


# --- forks and summaries ---


async def test_fork_copies_the_messages_under_new_ids(conversation: Conversation) -> None:
    for text in ("one", "two"):
        await conversation.ask(text)
    messages = await conversation.messages()

    fork = await conversation.client.fork_session(conversation.id)
    copies = (await conversation.client.list_messages(fork.id)).messages

    assert (fork.title, fork.metadata, fork.parent_id) == ("contract (fork #1)", {"tenant": "one"}, None)
    assert [m.text for m in copies] == [m.text for m in messages]
    assert copies[1].parent_id == copies[0].id
    assert not {m.id for m in copies} & {m.id for m in messages}
    assert await conversation.client.children(conversation.id) == []


async def test_fork_before_a_message_ends_there(conversation: Conversation) -> None:
    for text in ("one", "two"):
        await conversation.ask(text)
    second = (await conversation.messages())[2]

    fork = await conversation.client.fork_session(conversation.id, before=second.id)
    whole = await conversation.client.fork_session(conversation.id, before="msg_nosuch")
    again = await conversation.client.fork_session(fork.id)

    assert [m.text for m in (await conversation.client.list_messages(fork.id)).messages] == ["one", "ECHO[2]: one"]
    assert len((await conversation.client.list_messages(whole.id)).messages) == 4
    assert again.title == "contract (fork #2)"


async def test_fork_goes_on_with_the_context_of_its_origin(conversation: Conversation) -> None:
    await conversation.ask("one")
    fork = await conversation.client.fork_session(conversation.id)

    text = await send(Conversation(conversation.backend, conversation.client, fork), "two")

    assert text == "ECHO[4]: two"
    assert len(await conversation.messages()) == 2


async def test_summary_replaces_the_context_and_keeps_the_messages(conversation: Conversation) -> None:
    for text in ("one", "two"):
        await conversation.ask(text)

    await conversation.client.summarize_session(conversation.id, model=MODEL)
    messages = await conversation.messages()

    assert [(m.role, m.summary, m.text) for m in messages[-2:]] == [
        (Role.USER, False, ""),
        (Role.ASSISTANT, True, "Stub summary"),
    ]
    assert messages[0].text == "one"
    assert await send(conversation, "three") == "ECHO[4]: three"


async def test_summary_of_a_busy_session_comes_after_its_run(conversation: Conversation) -> None:
    await conversation.post("[[delay=0.4]] hello")
    await conversation.begun()

    await conversation.client.summarize_session(conversation.id, model=MODEL)

    assert [m.text for m in await conversation.messages()] == [
        "[[delay=0.4]] hello",
        "ECHO[2]: [[delay=0.4]] hello",
        "",
        "Stub summary",
    ]


async def test_what_is_not_there_cannot_be_forked_or_summarized(conversation: Conversation) -> None:
    with pytest.raises(NotFoundError):
        await conversation.client.fork_session("ses_nosuch")
    with pytest.raises(NotFoundError):
        await conversation.client.summarize_session("ses_nosuch", model=MODEL)
    with pytest.raises(UncertainError, match="500"):
        await conversation.client.summarize_session(conversation.id, model="stub/nosuch")


# --- messages that wait for their answer ---


async def test_sent_message_returns_with_its_answer(conversation: Conversation) -> None:
    assert await send(conversation, "[[delay=0.2]] hello") == "ECHO[2]: [[delay=0.2]] hello"


async def test_models_error_is_told_in_the_answer(conversation: Conversation) -> None:
    prompt = Prompt.new(conversation.id, "[[status=401]]")

    answer = await conversation.client.send_message(
        conversation.id, message_id=prompt.message_id, parts=prompt.parts, agent=AGENT, model=MODEL
    )

    assert answer.error is not None
    assert (answer.error.name, answer.error.status_code) == ("APIError", 401)


@pytest.mark.parametrize(
    "choices", [{"agent": "nosuch"}, {"model": "stub/nosuch"}], ids=lambda choice: next(iter(choice))
)
async def test_unknown_agent_or_model_of_a_sent_message_is_a_server_error(
    conversation: Conversation, choices: dict[str, str]
) -> None:
    with pytest.raises(UncertainError, match="500 to send_message"):
        await send(conversation, "hello", **choices)


async def test_waiting_for_an_answer_ends_and_the_run_goes_on(conversation: Conversation) -> None:
    prompt = Prompt.new(conversation.id, "[[delay=1]] hello")
    sending = conversation.client.send_message(
        conversation.id, message_id=prompt.message_id, parts=prompt.parts, agent=AGENT, model=MODEL, wait_s=0.4
    )

    with pytest.raises(UncertainError):
        await sending

    assert (await conversation.ended(prompt)).text == "ECHO[2]: [[delay=1]] hello"


async def test_message_to_an_unknown_session_is_not_found(conversation: Conversation) -> None:
    prompt = Prompt.new("ses_nosuch", "hello")
    with pytest.raises(NotFoundError):
        await conversation.client.send_message("ses_nosuch", message_id=prompt.message_id, parts=prompt.parts)


async def test_tool_calls_of_an_answer_have_their_arguments_and_results(conversation: Conversation) -> None:
    await conversation.ask(BASH)
    step = (await conversation.messages())[1]

    (call,) = await conversation.client.tool_calls(conversation.id, step.id)

    assert (call.tool, call.status, call.error) == ("bash", "completed", None)
    assert call.input["command"] == "echo hi"
    assert (call.output or "").strip() == "hi"


# --- asks ---


async def question_in(conversation: Conversation) -> QuestionRequest:
    here = str(conversation.backend.directory)
    async with asyncio.timeout(_WAIT_S):
        while True:
            for question in await conversation.client.list_questions(here):
                if question.session_id == conversation.id:
                    return question
            await asyncio.sleep(0.02)


async def permission_in(conversation: Conversation) -> PermissionRequest:
    here = str(conversation.backend.directory)
    async with asyncio.timeout(_WAIT_S):
        while True:
            for ask in await conversation.client.list_permissions(here):
                if ask.session_id == conversation.id:
                    return ask
            await asyncio.sleep(0.02)


async def test_answered_question_lets_the_run_go_on(backend: Backend, http: HttpClient) -> None:
    conversation = await new_conversation(backend, http, permission=[PermissionRule("question", "allow")])
    prompt = await conversation.post("[[question]]")
    question = await question_in(conversation)

    await conversation.client.reply_question(question.id, [["green", "Blue"]], directory=str(backend.directory))
    await conversation.ended(prompt)
    (call,) = await conversation.client.tool_calls(conversation.id, (await conversation.messages())[1].id)

    assert question.questions[0]["question"] == "Which colour?"
    assert call.output == (
        'User has answered your questions: "Which colour?"="green, Blue". '
        "You can now continue with the user's answers in mind."
    )


async def test_granted_permission_lets_the_tool_run(backend: Backend, http: HttpClient) -> None:
    conversation = await new_conversation(backend, http, permission=ASK_FOR_BASH)
    prompt = await conversation.post(BASH)
    ask = await permission_in(conversation)

    await conversation.client.reply_permission(ask.id, allow=True, directory=str(backend.directory))
    await conversation.ended(prompt)
    (call,) = await conversation.client.tool_calls(conversation.id, (await conversation.messages())[1].id)

    assert (ask.permission, ask.patterns) == ("bash", ("echo hi",))
    assert call.status == "completed"


async def test_asks_that_are_not_there_cannot_be_answered(conversation: Conversation) -> None:
    with pytest.raises(NotFoundError):
        await conversation.client.reply_question("que_nosuch", [["Red"]])
    with pytest.raises(NotFoundError):
        await conversation.client.reply_permission("per_nosuch", allow=True)


# --- what the server has ---


async def test_providers_and_what_they_need_are_told(conversation: Conversation) -> None:
    (provider,) = await conversation.client.providers()

    assert (provider.id, provider.name, provider.models, provider.default_model) == ("stub", "Stub", ("echo",), "echo")
    assert await conversation.client.connected_providers() == ["stub"]
    assert await conversation.client.provider_auth_methods() == {}


async def test_key_of_any_provider_is_taken_and_removed(conversation: Conversation) -> None:
    await conversation.client.set_provider_key("acme", SecretStr("sk-1"))
    await conversation.client.remove_provider_key("acme")
    await conversation.client.remove_provider_key("acme")


@pytest.mark.parametrize("body", [b'{"apiKey":"sk-1"}', b'{"type":"api"}'], ids=["old guide", "no key"])
async def test_key_in_another_form_is_our_mistake(conversation: Conversation, body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        await conversation.client.call(raw("PUT", "/auth/acme", body))


async def test_skills_and_mcp_servers_are_told(conversation: Conversation) -> None:
    here = str(conversation.backend.directory)

    assert [skill.name for skill in await conversation.client.skills(here)] == ["customize-opencode"]
    assert all(isinstance(skill, Skill) and skill.description for skill in await conversation.client.skills(here))
    assert await conversation.client.mcp_servers(here) == []


# --- the old guide's guesses ---


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/app"), ("POST", "/app/init"), ("GET", "/session/ses_x/stream"), ("GET", "/tui")],
    ids=lambda value: value,
)
async def test_endpoint_of_the_old_guide_is_the_web_page(conversation: Conversation, method: str, target: str) -> None:
    answer = await conversation.client.call(raw(method, target, b"{}" if method == "POST" else None))

    assert (answer.status, answer.content_type) == (200, "text/html")


async def test_message_in_the_form_of_the_old_guide_is_refused(conversation: Conversation) -> None:
    with pytest.raises(InvalidInputError):
        await conversation.client.call(
            raw("POST", f"/session/{conversation.id}/message", b'{"content":"hello","role":"user"}')
        )


async def test_session_in_the_form_of_the_old_guide_is_refused(conversation: Conversation) -> None:
    with pytest.raises(InvalidInputError):
        await conversation.client.call(raw("POST", "/session", b'{"model":"gpt-4","agent":"default","prompt":"x"}'))
