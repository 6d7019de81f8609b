"""OpenCode's answers as a broken, foreign or hostile server would give them: each is a value or an error of ours."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nubabel_workers.adapters.opencode import (
    OpenCodeClient,
    PromptPart,
    SyncOpenCodeClient,
    Timeouts,
    UnexpectedAnswerError,
    decoding,
    endpoints,
    new_http_client,
    new_sync_http_client,
)
from nubabel_workers.domain.errors import NubabelError, TransientError
from tasks.runtime import LoopThread
from tests.faults.raw_input.amount import cases
from tests.faults.raw_input.raw_server import RawServer, answers, raw_server
from tests.faults.raw_input.values import as_json, each_spoiled, spoiled

_TIMEOUTS = Timeouts(connect_s=2, read_s=2, total_s=4)
_MAX_WAIT_S = 24 * 3600

_MESSAGE = {
    "info": {
        "id": "msg_1",
        "role": "assistant",
        "parentID": "msg_0",
        "finish": "stop",
        "cost": 0.1,
        "summary": False,
        "time": {"created": 1, "completed": 2},
        "providerID": "p",
        "modelID": "m",
        "tokens": {"input": 1, "output": 2, "reasoning": 3, "cache": {"read": 4, "write": 5}},
        "error": {"name": "APIError", "data": {"message": "x", "statusCode": 500, "isRetryable": True}},
    },
    "parts": [{"type": "text", "text": "hello"}, {"type": "tool", "tool": "bash", "state": {"status": "running"}}],
}
_SESSION = {"id": "ses_1", "title": "t", "directory": "/", "time": {"created": 1, "updated": 2}, "metadata": {"a": "b"}}
_ASK = {"id": "per_1", "sessionID": "ses_1", "permission": "bash", "patterns": ["*"], "questions": [{"question": "q"}]}
_AGENT = {"name": "build", "mode": "primary", "hidden": False, "description": "d"}
_TOOL_PART = {
    "type": "tool",
    "callID": "call_1",
    "tool": "bash",
    "state": {"status": "error", "title": "t", "input": {"command": "true"}, "output": "o", "error": "e"},
}
_SAMPLES: dict[str, Any] = {
    "decode_health": {"healthy": True, "version": "1.18.33"},
    "decode_session": _SESSION,
    "decode_sessions": [_SESSION],
    "decode_message": _MESSAGE,
    "decode_messages": [_MESSAGE],
    "decode_agents": [_AGENT],
    "decode_statuses": {"ses_1": {"type": "retry", "attempt": 2, "message": "m", "next": 1795216375000}},
    "decode_permissions": [_ASK],
    "decode_questions": [_ASK],
    "decode_providers": {"providers": [{"id": "p", "models": {"m": {}}}]},
    "decode_connected": {"all": [{"id": "p"}], "default": {"p": "m"}, "connected": ["p"]},
    "decode_auth_methods": {"p": [{"type": "api", "label": "API key"}]},
    "decode_folder": [{"name": "a", "path": "a/", "absolute": "/a", "type": "directory"}],
    "decode_skills": [{"name": "s", "description": "d", "location": "l"}],
    "decode_mcp": {"m": {"status": "failed", "error": "e"}},
    "decode_tool_calls": {"info": _MESSAGE["info"], "parts": [_TOOL_PART]},
    "decode_tool_descriptions": [{"id": "task", "description": "Available categories:", "parameters": {}}],
    "decode_config": {"model": "p/m", "permission": {"bash": "ask"}, "plugin": ["x"]},
}
_PROBLEM = {"name": "NotFoundError", "data": {"message": "m", "ref": "err_1"}}


def _bodies_like(sample: Any) -> st.SearchStrategy[bytes]:
    """The sample with something wrong in it."""
    if isinstance(sample, list):
        return spoiled({"it": sample}).map(lambda given: as_json(given.get("it")))
    return spoiled(sample).map(as_json)


_bodies = st.sampled_from([*_SAMPLES.values(), _PROBLEM]).flatmap(lambda it: st.just(as_json(it)) | _bodies_like(it))

_part = PromptPart(id="prt_1", text="hello")
_CALLS: dict[str, Callable[[Any], Any]] = {
    "health": lambda client: client.health(),
    "create_session": lambda client: client.create_session(title="t"),
    "get_session": lambda client: client.get_session("ses_1"),
    "children": lambda client: client.children("ses_1"),
    "submit_prompt": lambda client: client.submit_prompt("ses_1", message_id="msg_1", parts=[_part]),
    "list_messages": lambda client: client.list_messages("ses_1"),
    "get_message": lambda client: client.get_message("ses_1", "msg_1"),
    "session_status": lambda client: client.session_status(),
    "abort": lambda client: client.abort("ses_1"),
    "agents": lambda client: client.agents(),
    "config": lambda client: client.config(),
    "providers": lambda client: client.providers(),
    "list_sessions": lambda client: client.list_sessions(),
    "update_session": lambda client: client.update_session("ses_1", title="t"),
    "delete_session": lambda client: client.delete_session("ses_1"),
    "fork_session": lambda client: client.fork_session("ses_1"),
    "summarize_session": lambda client: client.summarize_session("ses_1", model="p/m", wait_s=4),
    "tool_calls": lambda client: client.tool_calls("ses_1", "msg_1"),
    "connected_providers": lambda client: client.connected_providers(),
    "provider_auth_methods": lambda client: client.provider_auth_methods(),
    "list_folder": lambda client: client.call(endpoints.list_folder(".")),
    "skills": lambda client: client.skills(),
    "mcp_servers": lambda client: client.mcp_servers(),
    "list_permissions": lambda client: client.list_permissions(),
    "reply_permission": lambda client: client.reply_permission("per_1", allow=False),
    "list_questions": lambda client: client.list_questions(),
    "reject_question": lambda client: client.reject_question("que_1"),
}


@pytest.fixture(scope="module")
def server(loop: LoopThread) -> Iterator[RawServer]:
    with raw_server(loop) as running:
        yield running


@given(call=st.sampled_from(sorted(_CALLS)), answer=answers(_bodies, b"application/json"))
@cases(300)
def test_any_answer_is_a_value_or_an_error_of_ours(
    loop: LoopThread, server: RawServer, call: str, answer: bytes
) -> None:
    server.answer = answer

    async def ask() -> None:
        http = new_http_client()
        try:
            await _CALLS[call](OpenCodeClient(http, server.url, timeouts=_TIMEOUTS))
        finally:
            await http.aclose()

    _value_or_error(lambda: loop.run(ask(), timeout_s=10))


@given(call=st.sampled_from(sorted(_CALLS)), answer=answers(_bodies, b"application/json"))
@cases(60)
def test_the_sync_twin_does_the_same(server: RawServer, call: str, answer: bytes) -> None:
    server.answer = answer

    with new_sync_http_client() as http:
        _value_or_error(lambda: _CALLS[call](SyncOpenCodeClient(http, server.url, timeouts=_TIMEOUTS)))


def test_every_decoder_has_a_sample() -> None:
    assert set(_SAMPLES) == {name for name in vars(decoding) if name.startswith("decode_")}


@pytest.mark.parametrize("decoder", _SAMPLES)
def test_any_body_is_a_value_or_an_error_of_ours(decoder: str) -> None:
    decode = getattr(decoding, decoder)
    decode(as_json(_SAMPLES[decoder]))

    for body in map(as_json, each_spoiled(_SAMPLES[decoder])):
        with suppress(UnexpectedAnswerError):
            decode(body)


def test_sums_of_tokens_can_be_stored() -> None:
    for body in map(as_json, each_spoiled(_MESSAGE)):
        with suppress(UnexpectedAnswerError):
            usage = decoding.decode_message(body).usage
            assert abs(usage.input_tokens) + abs(usage.output_tokens) + abs(usage.cache_read_tokens) < 2**62
            assert abs(usage.cost) < 2**62


def _value_or_error(ask: Callable[[], object]) -> None:
    wait_s = 0.0
    try:
        ask()
    except TransientError as error:
        wait_s = error.retry_after_s or 0.0
    except NubabelError:
        pass
    assert 0 <= wait_s <= _MAX_WAIT_S
