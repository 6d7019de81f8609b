"""Sessions, ids, directories, credentials: what every request relies on."""

import asyncio
import contextlib

import pytest
from pydantic import SecretStr

from nubabel_workers.adapters.opencode import (
    HttpClient,
    OpenCodeClient,
    SyncOpenCodeClient,
    UnexpectedAnswerError,
    events,
    new_stream_session,
    new_sync_http_client,
)
from nubabel_workers.adapters.opencode.wire import Answer, Call
from nubabel_workers.domain.errors import CredentialsError, InvalidInputError, NotFoundError, TransientError
from tests.contract.opencode.backends import MODEL, Backend, Conversation, Prompt
from tests.waiting import eventually_true

pytestmark = pytest.mark.asyncio(loop_scope="session")


def raw(method: str, target: str, body: bytes | None = None) -> Call[Answer]:
    """A request that the library would not make."""
    return Call("raw", method, target, lambda answer: answer, body)


async def test_server_tells_the_pinned_version(conversation: Conversation) -> None:
    health = await conversation.client.health()

    assert health.healthy
    assert health.version == "1.18.33"


async def test_created_session_can_be_read_changed_and_deleted(conversation: Conversation) -> None:
    client = conversation.client

    read = await client.get_session(conversation.id)
    changed = await client.update_session(conversation.id, title="renamed", metadata={"tenant": "two"})
    await client.delete_session(conversation.id)

    assert read.title == "contract"
    assert read.metadata == {"tenant": "one"}
    assert read.directory == str(conversation.backend.directory)
    assert (changed.title, changed.metadata) == ("renamed", {"tenant": "two"})
    with pytest.raises(NotFoundError):
        await client.delete_session(conversation.id)


@pytest.mark.parametrize("session_id", ["ses_nosuch", "ses_e04c6c8adffelu6jCO7yt16c8l"])
async def test_unknown_session_is_not_found(conversation: Conversation, session_id: str) -> None:
    with pytest.raises(NotFoundError):
        await conversation.client.get_session(session_id)
    with pytest.raises(NotFoundError):
        await conversation.client.list_messages(session_id)
    prompt = Prompt.new(session_id, "hello")
    with pytest.raises(NotFoundError):
        await conversation.client.submit_prompt(session_id, message_id=prompt.message_id, parts=[])


async def test_unknown_message_is_not_found(conversation: Conversation) -> None:
    with pytest.raises(NotFoundError):
        await conversation.client.get_message(conversation.id, "msg_nosuch")


async def test_id_of_another_form_looks_like_a_server_error(conversation: Conversation) -> None:
    with pytest.raises(TransientError, match=r"500 to raw .*UnknownError"):
        await conversation.client.call(raw("GET", "/session/abc"))


async def test_unknown_path_answers_the_web_page(conversation: Conversation) -> None:
    for method in ("GET", "POST"):
        answer = await conversation.client.call(raw(method, "/no/such/path", b"{}" if method == "POST" else None))

        assert answer.status == 200
        assert answer.content_type == "text/html"


async def test_web_page_is_not_taken_for_an_answer(backend: Backend, http: HttpClient) -> None:
    client = OpenCodeClient(http, backend.url + "/nosuch", username=backend.username, password=backend.password)

    with pytest.raises(UnexpectedAnswerError):
        await client.health()


@pytest.mark.parametrize(
    ("target", "body"),
    [
        pytest.param("/session", b'{"title": 5}', id="title of a wrong type"),
        pytest.param("/session", b"{bad", id="no JSON"),
        pytest.param("/session/ses_nosuch/prompt_async", b"{}", id="prompt without parts"),
        pytest.param("/session/ses_nosuch/prompt_async", b'{"messageID":"x","parts":[]}', id="bad message id"),
        pytest.param("/permission/xx/reply", b'{"reply":"once"}', id="permission id of a wrong form"),
    ],
)
async def test_bad_request_is_our_mistake(conversation: Conversation, target: str, body: bytes) -> None:
    with pytest.raises(InvalidInputError):
        await conversation.client.call(raw("POST", target, body))


async def test_wrong_password_is_refused_everywhere(backend: Backend, http: HttpClient) -> None:
    wrong = SecretStr("wrong")
    client = OpenCodeClient(http, backend.url, username=backend.username, password=wrong)

    with pytest.raises(CredentialsError):
        await client.health()
    async with new_stream_session() as session:
        stream = events(session, backend.url, username=backend.username, password=wrong)
        async with contextlib.aclosing(stream) as bursts:
            with pytest.raises(CredentialsError):
                await anext(bursts)


async def test_agents_models_and_configuration_are_told(conversation: Conversation) -> None:
    agents = {agent.name: agent for agent in await conversation.client.agents()}
    providers = {provider.id: provider.models for provider in await conversation.client.providers()}
    config = await conversation.client.config()

    assert agents["build"].mode == "primary"
    assert providers["stub"] == ("echo",)
    assert config.model == MODEL
    assert isinstance(config.permission, dict)
    assert config.permission["question"] == "deny"


async def test_status_and_asks_belong_to_the_directory(conversation: Conversation) -> None:
    prompt = await conversation.post("[[delay=2]] hello")
    client, here = conversation.client, str(conversation.backend.directory)

    async def works() -> bool:
        return conversation.id in await client.session_status(here)

    await eventually_true(works, what="its work, which begins a moment after the prompt was taken")
    elsewhere = await client.session_status(str(conversation.backend.directory.parent))
    await conversation.ended(prompt)

    assert conversation.id not in elsewhere
    assert conversation.id not in await client.session_status(here)
    assert await client.list_permissions(here) == []
    assert await client.list_questions(here) == []


async def test_messages_come_in_pages_from_the_newest_backwards(conversation: Conversation) -> None:
    for text in ("one", "two"):
        await conversation.ask(text)

    newest = await conversation.client.list_messages(conversation.id, limit=3)
    older = await conversation.client.list_messages(conversation.id, limit=3, before=newest.next_cursor)

    assert [m.text for m in newest.messages] == ["ECHO[2]: one", "two", "ECHO[4]: two"]
    assert [m.text for m in older.messages] == ["one"]
    assert older.next_cursor is None


async def test_sub_agents_session_is_a_child(conversation: Conversation) -> None:
    await conversation.client.update_session(conversation.id, title="parent")
    verdict = await conversation.ask(
        'delegate [[tool=task {"description":"look","prompt":"hello child","subagent_type":"general"}]]'
    )

    children = await conversation.client.children(conversation.id)

    assert verdict.text.startswith("ECHO[4]: delegate")
    assert [child.parent_id for child in children] == [conversation.id]
    assert children[0].metadata == {}


async def test_sync_twin_does_the_same(backend: Backend) -> None:
    def converse() -> list[str]:
        with new_sync_http_client() as http:
            client = SyncOpenCodeClient(http, backend.url, username=backend.username, password=backend.password)
            session = client.create_session(title="sync", directory=str(backend.directory))
            with pytest.raises(NotFoundError):
                client.get_message(session.id, "msg_nosuch")
            return [session.title, *(agent.name for agent in client.agents() if agent.name == "build")]

    assert await asyncio.to_thread(converse) == ["sync", "build"]
