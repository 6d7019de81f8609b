"""Models asked directly, through the providers' SDKs over real HTTP on loopback."""

import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.test_utils import TestServer
from aiohttp.web_request import BaseRequest
from pydantic import SecretStr

from nubabel_workers.adapters.orchestrators.models import AnthropicModel, ModelAccess, OpenAIModel
from nubabel_workers.domain.errors import (
    CredentialsError,
    NubabelError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.executions import Usage
from nubabel_workers.domain.ports.orchestrators import Call
from nubabel_workers.simulators.stub_llm import StubLlm
from tests.unit.adapters.conftest import Receiver

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CALL = Call("exe_1#0", ["earlier", "why?"])

# The shapes are those of the providers' references: messages, and chat completions.
ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "Locks."}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 7,
        "output_tokens": 2,
        "cache_read_input_tokens": 3,
        "cache_creation_input_tokens": 1,
    },
}
OPENAI = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Locks."}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 6,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 4},
    },
}
Models = AnthropicModel | OpenAIModel
Make = Callable[[str], Models]


@pytest.fixture(params=["anthropic", "openai"])
async def model(request: pytest.FixtureRequest, receiver: Receiver) -> AsyncIterator[Models]:
    url = f"http://127.0.0.1:{receiver.port}"
    access = ModelAccess("m", SecretStr("k3y"), url, max_tokens=100)
    kind = AnthropicModel if request.param == "anthropic" else OpenAIModel
    model = kind(access, now=lambda: NOW)
    yield model
    await model.close()


def answer_of(model: Models, **changes: Any) -> dict[str, Any]:
    return (ANTHROPIC if isinstance(model, AnthropicModel) else OPENAI) | changes


def says(body: Any, status: int = 200, **headers: str) -> Any:
    text = body if isinstance(body, str) else json.dumps(body)
    return lambda _request: web.Response(status=status, text=text, content_type="application/json", headers=headers)


async def test_the_answer_and_what_it_used(model: Models, receiver: Receiver) -> None:
    receiver.answer = says(answer_of(model))

    answer = await model.answer(CALL, timeout_s=5)

    assert (answer.text, answer.cut) == ("Locks.", False)
    if isinstance(model, AnthropicModel):
        used = Usage(input_tokens=7, output_tokens=2, cache_read_tokens=3, cache_write_tokens=1)
        assert (answer.model, answer.usage) == ("anthropic/m", used)
    else:
        used = Usage(input_tokens=7, output_tokens=2, reasoning_tokens=4, cache_read_tokens=3)
        assert (answer.model, answer.usage) == ("openai/m", used)


async def test_context_and_question_are_sent_in_their_order(model: Models, receiver: Receiver) -> None:
    receiver.answer = says(answer_of(model))

    await model.answer(CALL, timeout_s=5)

    ((_, headers, body),) = receiver.requests
    assert json.loads(body)["messages"][-1] == {"role": "user", "content": "earlier\n\nwhy?"}
    assert "k3y" in headers.get("x-api-key", "") + headers.get("authorization", "")


async def test_an_answer_that_reached_its_limit_is_cut(model: Models, receiver: Receiver) -> None:
    cut = (
        {"stop_reason": "max_tokens"}
        if isinstance(model, AnthropicModel)
        else {"choices": [{**OPENAI["choices"][0], "finish_reason": "length"}]}  # type: ignore[index]
    )
    receiver.answer = says(answer_of(model, **cut))

    assert (await model.answer(CALL, timeout_s=5)).cut


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, PermanentError),
        (401, CredentialsError),
        (429, RateLimitedError),
        (409, TransientError),
        (500, TransientError),
        (503, UnavailableError),
        (529, UnavailableError),
    ],
)
async def test_each_status_is_an_error_of_ours_and_asked_once(
    model: Models, receiver: Receiver, status: int, error: type[NubabelError]
) -> None:
    receiver.answer = says({"error": {"type": "x", "message": "no, k3y"}}, status, **{"retry-after": "7"})

    with pytest.raises(error) as raised:
        await model.answer(CALL, timeout_s=5)

    assert type(raised.value) is error
    assert getattr(raised.value, "retry_after_s", 7) == 7
    assert "k3y" not in str(raised.value)
    assert len(receiver.requests) == 1


async def test_whether_the_model_is_there_is_asked_without_a_question_to_it(model: Models, receiver: Receiver) -> None:
    receiver.answer = says({"id": "m", "object": "model", "type": "model"})

    assert await model.check() == "it answers and has m"
    ((path, _, body),) = receiver.requests
    assert path.endswith("/models/m")
    assert body == b""


async def test_an_api_that_tells_nothing_of_its_models_is_not_doubted(model: Models, receiver: Receiver) -> None:
    receiver.answer = says({"error": {"message": "no such path"}}, 404)

    assert "tells nothing of m" in await model.check()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (says({"error": {"message": "no, k3y"}}, 401), CredentialsError),
        (says({"error": {"message": "later"}}, 503), UnavailableError),
        (says("<html>hello</html>"), PermanentError),
        (says({}), PermanentError),
    ],
)
async def test_an_api_that_would_not_answer_is_found_by_looking(
    model: Models, receiver: Receiver, answer: Any, error: type[NubabelError]
) -> None:
    receiver.answer = answer

    with pytest.raises(error) as raised:
        await model.check()

    assert "k3y" not in str(raised.value)
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("body", ["no json", "{}", "[]", '{"choices": [], "content": null}'])
async def test_what_is_no_answer_is_refused(model: Models, receiver: Receiver, body: str) -> None:
    receiver.answer = says(body)

    with pytest.raises(PermanentError) as raised:
        await model.answer(CALL, timeout_s=5)

    assert raised.value.code == "answer_unreadable"


@pytest.mark.parametrize("kind", [AnthropicModel, OpenAIModel])
async def test_nobody_at_the_address_is_away(kind: type[Models]) -> None:
    model = kind(ModelAccess("m", SecretStr("k3y"), "http://127.0.0.1:9"), now=lambda: NOW)

    with pytest.raises(UnavailableError):
        await model.answer(CALL, timeout_s=5)
    with pytest.raises(UnavailableError):
        await model.check()

    await model.close()


@pytest.mark.parametrize(
    ("directive", "error"),
    [("[[drop]]", UncertainError), ("[[status=500]]", TransientError)],
)
async def test_a_model_that_took_the_question_and_did_not_answer_is_not_away(
    directive: str, error: type[NubabelError]
) -> None:
    async with TestServer(StubLlm().application(), host="127.0.0.1") as server:
        model = OpenAIModel(ModelAccess("echo", SecretStr("k"), f"http://127.0.0.1:{server.port}/v1"), now=lambda: NOW)

        with pytest.raises(error) as raised:
            await model.answer(Call("k", [f"{directive} hello"]), timeout_s=5)

        await model.close()
    assert type(raised.value) is error


class BreaksOff(web.StreamResponse):
    """Promises a thousand bytes, and the connection is gone after a few."""

    def __init__(self) -> None:
        super().__init__(headers={"content-length": "1000", "content-type": "application/json"})

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        writer = await super().prepare(request)
        await self.write(b'{"id":')
        assert request.transport is not None
        request.transport.close()
        return writer


async def test_an_answer_that_breaks_off_in_the_middle_is_in_doubt(model: Models, receiver: Receiver) -> None:
    receiver.answer = lambda _request: BreaksOff()

    with pytest.raises(UncertainError):
        await model.answer(CALL, timeout_s=5)


async def test_the_stub_model_answers_it() -> None:
    async with TestServer(StubLlm().application(), host="127.0.0.1") as server:
        model = OpenAIModel(ModelAccess("echo", SecretStr("k"), f"http://127.0.0.1:{server.port}/v1"), now=lambda: NOW)

        answer = await model.answer(Call("k", ["hello"]), timeout_s=5)

        await model.close()
    assert "hello" in answer.text
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0


def test_the_key_is_in_no_representation() -> None:
    assert "k3y" not in repr(ModelAccess("m", SecretStr("k3y")))
