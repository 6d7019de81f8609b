"""OpenCode's JSON, as a server sent it and as it should never be sent."""

import json
from typing import Any

import pytest

from nubabel_workers.adapters.opencode import UnexpectedAnswerError, decoding
from nubabel_workers.domain.executions import Usage
from nubabel_workers.domain.verdict import Delegation, PartKind, Role, RunPart, SessionActivity, SessionState

ASSISTANT: dict[str, Any] = {
    "info": {
        "id": "msg_1fb3a4cdf001",
        "role": "assistant",
        "parentID": "msg_1fb3a4a89001",
        "time": {"created": 1795216264415, "completed": 1795216266020},
        "agent": "build",
        "modelID": "echo",
        "providerID": "stub",
        "cost": 1.7e-05,
        "tokens": {"total": 14, "input": 11, "output": 3, "reasoning": 2, "cache": {"read": 5, "write": 1}},
        "finish": "stop",
    },
    "parts": [
        {"type": "step-start"},
        {"type": "reasoning", "text": "hm"},
        {"type": "text", "text": "hello", "time": {"start": 1, "end": 2}},
        {"type": "tool", "tool": "bash", "callID": "c", "state": {"status": "completed", "input": {}, "output": "x"}},
        {"type": "something-new", "surprise": [1, 2]},
        {"type": "step-finish", "reason": "stop"},
    ],
}


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def with_info(**fields: object) -> bytes:
    return encoded({"info": ASSISTANT["info"] | fields, "parts": []})


def test_message_is_reduced_to_what_decides() -> None:
    message = decoding.decode_message(encoded(ASSISTANT))

    assert (message.id, message.role, message.parent_id) == ("msg_1fb3a4cdf001", Role.ASSISTANT, "msg_1fb3a4a89001")
    assert (message.completed, message.finish, message.error, message.summary) == (True, "stop", None, False)
    assert message.parts == (
        RunPart(PartKind.TEXT, text="hello"),
        RunPart(PartKind.TOOL, tool="bash", tool_status="completed"),
    )
    assert message.usage == Usage(11, 3, 2, 5, 1, 1.7e-05)
    assert message.model == "stub/echo"


def test_summary_flag_of_a_user_message_is_about_changed_files() -> None:
    user = {"info": {"id": "msg_1", "role": "user", "summary": {"diffs": []}}, "parts": []}
    summary = with_info(summary=True)

    assert not decoding.decode_message(encoded(user)).summary
    assert decoding.decode_message(summary).summary


def test_open_message_is_neither_completed_nor_failed() -> None:
    message = decoding.decode_message(with_info(time={"created": 1}, finish=None))

    assert not message.completed
    assert not message.is_final


def test_stack_trace_is_cut_off() -> None:
    error = {"name": "UnknownError", "data": {"message": "it broke\n    at SessionPrompt (/$bunfs/root/x.js:1:2)"}}

    message = decoding.decode_message(with_info(error=error))

    assert message.error is not None
    assert message.error.message == "it broke"
    assert message.error.retryable


@pytest.mark.parametrize(
    ("name", "data", "retryable"),
    [
        ("APIError", {"statusCode": 401, "isRetryable": False}, False),
        ("APIError", {"statusCode": 429, "isRetryable": False}, True),
        ("APIError", {"statusCode": 503}, True),
        ("APIError", {"isRetryable": True}, True),
        ("APIError", {"statusCode": "503"}, False),
        ("ContentFilterError", {}, False),
        ("ContextOverflowError", {}, False),
        ("MessageAbortedError", {}, False),
        ("ProviderAuthError", {}, False),
        ("UnknownError", {}, True),
    ],
)
def test_what_is_worth_another_attempt(name: str, data: dict[str, object], *, retryable: bool) -> None:
    assert decoding.run_error(name, data).retryable is retryable


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({"type": "busy"}, SessionState(SessionActivity.BUSY)),
        ({"type": "idle"}, SessionState(SessionActivity.IDLE)),
        (
            {"type": "retry", "attempt": 2, "message": "stub error 429", "next": 17},
            SessionState(SessionActivity.RETRY, 2, "stub error 429", 17),
        ),
        ({"type": "something new"}, SessionState(SessionActivity.BUSY)),
    ],
)
def test_status_of_a_session(status: dict[str, object], state: SessionState) -> None:
    assert decoding.decode_statuses(encoded({"ses_1": status})) == {"ses_1": state}


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b'{"info":{"id":5}}', b'{"parts":[]}', b"\xff\xfe"])
def test_nonsense_is_refused_without_quoting_it(body: bytes) -> None:
    with pytest.raises(UnexpectedAnswerError) as raised:
        decoding.decode_message(body)

    assert "nonsense" not in str(raised.value)


def test_keys_of_providers_are_not_read() -> None:
    body = encoded({"providers": [{"id": "stub", "options": {"apiKey": "sk-secret"}, "models": {"b": {}, "a": {}}}]})

    assert "secret" not in repr(decoding.decode_providers(body))
    assert decoding.decode_providers(body)[0].models == ("a", "b")


def delegating(metadata: object, *, tool: str = "task") -> RunPart:
    state = {"status": "completed", "metadata": metadata}
    message = {"info": {"id": "msg_1", "role": "assistant"}, "parts": [{"type": "tool", "tool": tool, "state": state}]}
    (part,) = decoding.decode_message(encoded(message)).parts
    return part


def test_delegation_is_read_from_the_call_of_task() -> None:
    metadata = {
        "category": "quick",
        "load_skills": ["git-master"],
        "agent": "Sisyphus-Junior",
        "sessionId": "ses_1",
        "model": {"providerID": "stub", "modelID": "echo"},
    }

    expected = Delegation("ses_1", "quick", "Sisyphus-Junior", ("git-master",), "stub/echo")
    assert delegating(metadata).delegation == expected
    assert delegating(metadata, tool="bash").delegation is None


@pytest.mark.parametrize("metadata", [None, "x", {}, {"category": "quick"}, {"sessionId": 7}, {"sessionId": ""}])
def test_call_of_task_that_reached_no_sub_agent_is_no_delegation(metadata: object) -> None:
    assert delegating(metadata).delegation is None


def test_names_that_a_model_makes_up_are_left_out() -> None:
    metadata = {
        "sessionId": "ses_1",
        "category": "x" * 1_000,
        "agent": "a\x00b",
        "load_skills": [7, "y" * 1_000, "ok", *["more"] * 100],
        "model": {"providerID": "stub"},
    }

    found = delegating(metadata).delegation

    assert found is not None
    assert (found.category, found.agent, found.model) == (None, None, None)
    assert len(found.skills) < 20
    assert set(found.skills) == {"ok", "more"}
