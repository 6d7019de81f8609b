"""Requests out, answers and errors in, without a socket."""

import json

import pytest
from pydantic import SecretStr

from nubabel_workers.adapters.opencode import PermissionRule, PromptPart, UnexpectedAnswerError, endpoints, wire
from nubabel_workers.adapters.opencode.wire import Answer, Call
from nubabel_workers.domain.errors import (
    CredentialsError,
    InvalidInputError,
    NotFoundError,
    NubabelError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UnavailableError,
    UncertainError,
)

JSON = {"content-type": "application/json"}
SUBMIT = endpoints.submit_prompt("ses_1", message_id="msg_1", parts=[PromptPart("prt_1", text="secret plans")])
READ = endpoints.get_session("ses_1")


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()} or JSON, body)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, InvalidInputError),
        (401, CredentialsError),
        (403, CredentialsError),
        (404, NotFoundError),
        (405, PermanentError),
        (408, TransientError),
        (409, TransientError),
        (422, InvalidInputError),
        (429, RateLimitedError),
        (500, TransientError),
        (502, UnavailableError),
        (503, UnavailableError),
        (504, UnavailableError),
    ],
)
def test_status_means_one_error(status: int, error: type[NubabelError]) -> None:
    with pytest.raises(error) as raised:
        wire.read_answer(READ, answer(status))

    assert type(raised.value) is error


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_server_error_leaves_a_prompt_uncertain(status: int) -> None:
    with pytest.raises(UncertainError):
        wire.read_answer(SUBMIT, answer(status))


def test_lost_answer_of_a_prompt_is_uncertain_and_of_a_read_is_not() -> None:
    assert isinstance(wire.no_answer(SUBMIT, "ReadTimeout"), UncertainError)
    assert isinstance(wire.no_answer(READ, "ReadTimeout"), UnavailableError)
    assert isinstance(wire.not_sent(SUBMIT, "ConnectError"), UnavailableError)


def test_servers_own_waiting_time_is_kept() -> None:
    with pytest.raises(RateLimitedError) as raised:
        wire.read_answer(READ, answer(429, retry_after="7"))

    assert raised.value.retry_after_s == 7


def test_error_names_class_and_reference_but_never_the_text() -> None:
    body = json.dumps({"name": "UnknownError", "data": {"message": "secret plans\n at stack", "ref": "err_1"}}).encode()

    with pytest.raises(TransientError) as raised:
        wire.read_answer(READ, answer(500, body))

    assert str(raised.value) == "OpenCode answered 500 to get_session (UnknownError err_1)"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"text"', b'{"name":null,"data":[]}'])
def test_error_body_of_any_shape_is_survived(body: bytes) -> None:
    with pytest.raises(NotFoundError):
        wire.read_answer(READ, answer(404, body))


@pytest.mark.parametrize("call", [READ, SUBMIT, endpoints.abort("ses_1"), endpoints.health()])
def test_web_page_of_an_unknown_path_is_no_answer(call: Call[object]) -> None:
    with pytest.raises(UnexpectedAnswerError):
        wire.read_answer(call, answer(200, b"<!doctype html>", content_type="text/html"))


def test_no_content_is_the_answer_to_a_prompt() -> None:
    wire.read_answer(SUBMIT, Answer(204, {}, b""))


def test_prompt_carries_its_own_ids() -> None:
    call = endpoints.submit_prompt(
        "ses_1",
        message_id="msg_1",
        parts=[
            PromptPart("prt_1", text="안녕"),
            PromptPart("prt_2", file_url="data:text/plain;base64,aGk=", mime_type="text/plain", filename="a.txt"),
        ],
        agent="Sisyphus - ultraworker",
        model="openrouter/vendor/model",
        system="Answer briefly.",
    )

    assert (call.method, call.target) == ("POST", "/session/ses_1/prompt_async")
    assert not call.repeatable
    assert json.loads(call.body or b"") == {
        "messageID": "msg_1",
        "parts": [
            {"id": "prt_1", "type": "text", "text": "안녕"},
            {
                "id": "prt_2",
                "type": "file",
                "mime": "text/plain",
                "url": "data:text/plain;base64,aGk=",
                "filename": "a.txt",
            },
        ],
        "agent": "Sisyphus - ultraworker",
        "model": {"providerID": "openrouter", "modelID": "vendor/model"},
        "system": "Answer briefly.",
    }


def test_session_is_created_with_its_title_rules_and_directory() -> None:
    call = endpoints.create_session(
        title="T",
        metadata={"a": 1},
        model="stub/echo",
        permission=[PermissionRule("bash", "deny")],
        directory="/data/ü 1",
    )

    assert call.target == "/session?directory=%2Fdata%2F%C3%BC%201"
    assert json.loads(call.body or b"") == {
        "title": "T",
        "metadata": {"a": 1},
        "model": {"providerID": "stub", "id": "echo"},
        "permission": [{"permission": "bash", "pattern": "*", "action": "deny"}],
    }


def test_refusal_of_an_ask_can_carry_a_message() -> None:
    call = endpoints.reply_permission("per_1", allow=False, message="nobody is here", directory="/d")

    assert call.target == "/permission/per_1/reply?directory=%2Fd"
    assert json.loads(call.body or b"") == {"reply": "reject", "message": "nobody is here"}


@pytest.mark.parametrize("session_id", ["", "abc", "ses_1/../../config", "ses_1?x=1", "ses_" + "a" * 200, "ses_\n"])
def test_id_of_another_form_never_leaves(session_id: str) -> None:
    with pytest.raises(InvalidInputError):
        endpoints.get_session(session_id)


@pytest.mark.parametrize("model", ["echo", "/echo", "stub/", ""])
def test_model_without_a_provider_is_refused(model: str) -> None:
    with pytest.raises(InvalidInputError):
        endpoints.submit_prompt("ses_1", message_id="msg_1", parts=[], model=model)


@pytest.mark.parametrize("url", ["ftp://host", "host:4096", "http://", "http://user:pw@host", "/path"])
def test_url_without_host_or_with_credentials_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError):
        wire.checked_base_url(url)


def test_credentials_and_prompts_show_in_no_repr() -> None:
    authorization = wire.basic_authorization("opencode", SecretStr("pass"))

    assert authorization is not None
    assert authorization.get_secret_value() == "Basic b3BlbmNvZGU6cGFzcw=="
    assert "b3Bl" not in repr(authorization)
    assert "secret plans" not in repr(SUBMIT)
    assert "body" not in repr(Answer(200, {}, b"body"))
