"""Every endpoint: the request it is, and the value that its answer becomes."""

import inspect
import json
from typing import Any

import pytest
from pydantic import SecretStr

from nubabel_workers.adapters.opencode import PermissionRule, PromptPart, UnexpectedAnswerError, endpoints, wire
from nubabel_workers.adapters.opencode.models import (
    Agent,
    AuthMethod,
    FolderEntry,
    Health,
    McpServer,
    MessagePage,
    PermissionRequest,
    Provider,
    QuestionRequest,
    ServerConfig,
    Session,
    SessionPage,
    Skill,
    ToolCall,
)
from nubabel_workers.adapters.opencode.wire import Answer, Call
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.verdict import BUSY, PartKind, Role, RunMessage, RunPart

PARTS = [PromptPart("prt_1", text="hello")]
PROMPT = {"messageID": "msg_1", "parts": [{"id": "prt_1", "type": "text", "text": "hello"}]}
CHOICES = {"agent": "build", "model": {"providerID": "stub", "modelID": "echo"}, "system": "Be brief."}

SESSION_JSON = {"id": "ses_1", "title": "T", "directory": "/d", "time": {"created": 1, "updated": 2}}
SESSION = Session("ses_1", "T", "/d", created_ms=1, updated_ms=2)
TOOL_JSON = {
    "type": "tool",
    "tool": "bash",
    "callID": "call_1",
    "state": {"status": "completed", "title": "say hi", "input": {"command": "echo hi"}, "output": "hi\n"},
}
MESSAGE_JSON = {
    "info": {"id": "msg_2", "role": "assistant", "parentID": "msg_1", "time": {"created": 1, "completed": 2}},
    "parts": [{"type": "text", "text": "hi"}, TOOL_JSON],
}
MESSAGE = RunMessage(
    "msg_2",
    Role.ASSISTANT,
    "msg_1",
    created_ms=1,
    completed=True,
    parts=(RunPart(PartKind.TEXT, "hi"), RunPart(PartKind.TOOL, tool="bash", tool_status="completed")),
)

# Call, method, target, body, what the server answers (None: nothing), the value.
ENDPOINTS: list[tuple[Call[Any], str, str, object, object, object]] = [
    (
        endpoints.health(),
        "GET",
        "/global/health",
        None,
        {"healthy": True, "version": "1.18.33"},
        Health(True, "1.18.33"),
    ),
    (
        endpoints.create_session(
            title="T",
            metadata={"a": 1},
            agent="build",
            model="stub/echo",
            permission=[PermissionRule("bash", "ask")],
            directory="/d",
        ),
        "POST",
        "/session?directory=%2Fd",
        {
            "title": "T",
            "metadata": {"a": 1},
            "agent": "build",
            "model": {"providerID": "stub", "id": "echo"},
            "permission": [{"permission": "bash", "pattern": "*", "action": "ask"}],
        },
        SESSION_JSON,
        SESSION,
    ),
    (
        endpoints.list_sessions("/d", search="a b", limit=2, cursor="17", roots=True),
        "GET",
        "/experimental/session?directory=%2Fd&search=a%20b&limit=2&cursor=17&roots=true",
        None,
        [SESSION_JSON],
        SessionPage([SESSION], "cur"),
    ),
    (endpoints.get_session("ses_1"), "GET", "/session/ses_1", None, SESSION_JSON, SESSION),
    (
        endpoints.update_session("ses_1", title="T", metadata={}, permission=[]),
        "PATCH",
        "/session/ses_1",
        {"title": "T", "metadata": {}, "permission": []},
        SESSION_JSON,
        SESSION,
    ),
    (endpoints.delete_session("ses_1"), "DELETE", "/session/ses_1", None, True, None),
    (endpoints.fork_session("ses_1"), "POST", "/session/ses_1/fork", {}, SESSION_JSON, SESSION),
    (
        endpoints.fork_session("ses_1", before="msg_3"),
        "POST",
        "/session/ses_1/fork",
        {"messageID": "msg_3"},
        SESSION_JSON,
        SESSION,
    ),
    (
        endpoints.summarize_session("ses_1", model="stub/echo"),
        "POST",
        "/session/ses_1/summarize",
        {"providerID": "stub", "modelID": "echo"},
        True,
        None,
    ),
    (endpoints.children("ses_1"), "GET", "/session/ses_1/children", None, [SESSION_JSON], [SESSION]),
    (
        endpoints.submit_prompt(
            "ses_1", message_id="msg_1", parts=PARTS, agent="build", model="stub/echo", system="Be brief."
        ),
        "POST",
        "/session/ses_1/prompt_async",
        PROMPT | CHOICES,
        None,
        None,
    ),
    (
        endpoints.send_message(
            "ses_1", message_id="msg_1", parts=PARTS, agent="build", model="stub/echo", system="Be brief."
        ),
        "POST",
        "/session/ses_1/message",
        PROMPT | CHOICES,
        MESSAGE_JSON,
        MESSAGE,
    ),
    (
        endpoints.list_messages("ses_1", limit=2, before="older"),
        "GET",
        "/session/ses_1/message?limit=2&before=older",
        None,
        [MESSAGE_JSON],
        MessagePage([MESSAGE], "cur"),
    ),
    (endpoints.get_message("ses_1", "msg_2"), "GET", "/session/ses_1/message/msg_2", None, MESSAGE_JSON, MESSAGE),
    (
        endpoints.tool_calls("ses_1", "msg_2"),
        "GET",
        "/session/ses_1/message/msg_2",
        None,
        MESSAGE_JSON,
        [ToolCall("call_1", "bash", "completed", "say hi", {"command": "echo hi"}, "hi\n")],
    ),
    (
        endpoints.session_status("/d"),
        "GET",
        "/session/status?directory=%2Fd",
        None,
        {"ses_1": {"type": "busy"}},
        {"ses_1": BUSY},
    ),
    (endpoints.abort("ses_1"), "POST", "/session/ses_1/abort", None, True, None),
    (
        endpoints.agents(),
        "GET",
        "/agent",
        None,
        [{"name": "build", "mode": "primary", "description": "Builds."}],
        [Agent("build", "primary", description="Builds.")],
    ),
    (
        endpoints.offered_tools("stub/echo", "/d"),
        "GET",
        "/experimental/tool?provider=stub&model=echo&directory=%2Fd",
        None,
        [{"id": "task", "description": "own"}, {"id": "bash"}, {"id": "task", "description": "the plugin's"}],
        {"task": ["own", "the plugin's"], "bash": [""]},
    ),
    (
        endpoints.config("/d"),
        "GET",
        "/config?directory=%2Fd",
        None,
        {"model": "stub/echo", "permission": {"bash": "deny"}, "provider": {"stub": {"options": {"apiKey": "sk"}}}},
        ServerConfig("stub/echo", {"bash": "deny"}, ()),
    ),
    (
        endpoints.providers(),
        "GET",
        "/config/providers",
        None,
        {
            "providers": [{"id": "stub", "name": "Stub", "key": "sk", "models": {"echo": {}}}],
            "default": {"stub": "echo"},
        },
        [Provider("stub", ("echo",), "Stub", "echo")],
    ),
    (
        endpoints.connected_providers(),
        "GET",
        "/provider",
        None,
        {"all": [{"id": "stub"}], "default": {}, "connected": ["stub"]},
        ["stub"],
    ),
    (
        endpoints.provider_auth_methods(),
        "GET",
        "/provider/auth",
        None,
        {"acme": [{"type": "oauth", "label": "Log in", "prompts": []}]},
        {"acme": [AuthMethod("oauth", "Log in")]},
    ),
    (
        endpoints.set_provider_key("acme", SecretStr("sk-1")),
        "PUT",
        "/auth/acme",
        {"type": "api", "key": "sk-1"},
        True,
        None,
    ),
    (endpoints.remove_provider_key("acme"), "DELETE", "/auth/acme", None, True, None),
    (
        endpoints.skills("/d"),
        "GET",
        "/skill?directory=%2Fd",
        None,
        [{"name": "style", "description": "How we write", "location": "/s/SKILL.md", "content": "# long"}],
        [Skill("style", "How we write", "/s/SKILL.md")],
    ),
    (
        endpoints.mcp_servers("/d"),
        "GET",
        "/mcp?directory=%2Fd",
        None,
        {"docs": {"status": "connected"}, "other": {"status": "failed", "error": "refused\n  at Socket"}},
        [McpServer("docs", "connected"), McpServer("other", "failed", "refused")],
    ),
    (
        endpoints.list_permissions("/d"),
        "GET",
        "/permission?directory=%2Fd",
        None,
        [{"id": "per_1", "sessionID": "ses_1", "permission": "bash", "patterns": ["echo hi"]}],
        [PermissionRequest("per_1", "ses_1", "bash", ("echo hi",))],
    ),
    (
        endpoints.reply_permission("per_1", allow=True, directory="/d"),
        "POST",
        "/permission/per_1/reply?directory=%2Fd",
        {"reply": "once"},
        True,
        None,
    ),
    (
        endpoints.list_questions(),
        "GET",
        "/question",
        None,
        [{"id": "que_1", "sessionID": "ses_1", "questions": [{"question": "Which?"}]}],
        [QuestionRequest("que_1", "ses_1", [{"question": "Which?"}])],
    ),
    (
        endpoints.reply_question("que_1", [["Red"], ["my own words"]], directory="/d"),
        "POST",
        "/question/que_1/reply?directory=%2Fd",
        {"answers": [["Red"], ["my own words"]]},
        True,
        None,
    ),
    (endpoints.reject_question("que_1"), "POST", "/question/que_1/reject", None, True, None),
    (
        endpoints.list_folder("a b", directory="/d"),
        "GET",
        "/file?path=a%20b&directory=%2Fd",
        None,
        [
            {"name": "c", "path": "a b/c/", "absolute": "/d/a b/c", "type": "directory", "ignored": False},
            {"name": "e", "path": "a b/e", "absolute": "/d/a b/e", "type": "file", "ignored": False},
        ],
        [FolderEntry("c", "/d/a b/c", is_folder=True), FolderEntry("e", "/d/a b/e", is_folder=False)],
    ),
    (endpoints.dispose("/d"), "POST", "/instance/dispose?directory=%2Fd", None, True, None),
]
NAMES = [row[0].name for row in ENDPOINTS]


@pytest.mark.parametrize(("call", "method", "target", "body", "answer", "value"), ENDPOINTS, ids=NAMES)
def test_endpoint_is_this_request_and_its_answer_this_value(
    call: Call[Any], method: str, target: str, body: object, answer: object, value: object
) -> None:
    headers = {"content-type": "application/json", "x-next-cursor": "cur"} if answer is not None else {}
    answered = Answer(200, headers, json.dumps(answer).encode() if answer is not None else b"")

    assert (call.method, call.target) == (method, target)
    assert (json.loads(call.body) if call.body is not None else None) == body
    assert wire.read_answer(call, answered) == value


def test_no_endpoint_is_missing_in_the_table() -> None:
    functions = inspect.getmembers(endpoints, inspect.isfunction)
    public = {name for name, function in functions if name[0] != "_" and function.__module__ == endpoints.__name__}

    assert public == set(NAMES)


@pytest.mark.parametrize(
    "call", [row[0] for row in ENDPOINTS if row[4] not in (None, True)], ids=lambda call: call.name
)
@pytest.mark.parametrize("body", [b"", b"{", b'"text"', b"17"])
def test_answer_of_another_shape_is_an_error(call: Call[Any], body: bytes) -> None:
    with pytest.raises(UnexpectedAnswerError):
        wire.read_answer(call, Answer(200, {"content-type": "application/json"}, body))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: endpoints.get_session("msg_1"), id="a message for a session"),
        pytest.param(lambda: endpoints.get_message("ses_1", "ses_1"), id="a session for a message"),
        pytest.param(lambda: endpoints.fork_session("ses_1", before="prt_1"), id="a part for a message"),
        pytest.param(lambda: endpoints.reply_permission("que_1", allow=True), id="a question for a permission"),
        pytest.param(lambda: endpoints.reply_question("per_1", []), id="a permission for a question"),
        pytest.param(lambda: endpoints.set_provider_key("../config", SecretStr("k")), id="a path for a provider"),
        pytest.param(lambda: endpoints.remove_provider_key(""), id="no provider"),
        pytest.param(lambda: endpoints.list_sessions(limit=0), id="an empty page"),
        pytest.param(lambda: endpoints.list_sessions(cursor="abc"), id="a cursor of another list"),
        pytest.param(lambda: endpoints.summarize_session("ses_1", model="echo"), id="a model without a provider"),
    ],
)
def test_what_the_server_would_misread_never_leaves(make: Any) -> None:
    with pytest.raises(InvalidInputError):
        make()


def test_provider_key_shows_in_no_repr_and_is_marked() -> None:
    call = endpoints.set_provider_key("acme", SecretStr("sk-1"))

    assert call.secret
    assert "sk-1" not in repr(call)
