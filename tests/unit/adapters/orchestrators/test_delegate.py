"""The delegate service over real HTTP on loopback: what is sent, and what each answer means."""

import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, cast

import httpx
import pytest
from aiohttp import web
from pydantic import SecretStr

from nubabel_workers.adapters.orchestrators.delegate import DelegateService
from nubabel_workers.domain.errors import (
    CredentialsError,
    NotFoundError,
    NubabelError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.executions import Usage
from nubabel_workers.domain.ports.orchestrators import Call, CallAnswer
from nubabel_workers.domain.trace import following
from tests.unit.adapters.conftest import Receiver

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NOW = datetime(2026, 11, 1, tzinfo=UTC)
CALL = Call(
    "exe_1#0",
    ["context", "why?"],
    category="quick",
    skills=("debugging",),
    remote_session_id="theirs",
    metadata={"execution_id": "exe_1"},
)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


def service(client: httpx.AsyncClient, receiver: Receiver, **changes: Any) -> DelegateService:
    values: dict[str, Any] = {
        "url": f"http://127.0.0.1:{receiver.port}/",
        "token": SecretStr("t0p"),
        "now": lambda: NOW,
    } | changes
    return DelegateService(client, **values)


def told(body: Any = None, *, status: int = 200, **headers: str) -> Any:
    body = {"session_id": "theirs", "result": "Locks."} if body is None else body
    return lambda _request: web.Response(
        status=status,
        text=body if isinstance(body, str) else json.dumps(body),
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


async def test_the_task_is_sent_as_the_bridge_contract_says(client: httpx.AsyncClient, receiver: Receiver) -> None:
    receiver.answer = told()

    answer = await service(client, receiver).answer(CALL, timeout_s=5)

    ((path, headers, body),) = receiver.requests
    assert (path, headers["authorization"], headers["idempotency-key"]) == ("/delegate_task", "Bearer t0p", "exe_1#0")
    assert headers["prefer"] == "wait=4"
    assert json.loads(body) == {
        "prompt": "context\n\nwhy?",
        "category": "quick",
        "load_skills": ["debugging"],
        "session_id": "theirs",
        "metadata": {"nubabel": {"execution_id": "exe_1"}},
    }
    assert answer == CallAnswer("Locks.", remote_session_id="theirs")


async def test_a_task_carries_the_trace_of_its_request(client: httpx.AsyncClient, receiver: Receiver) -> None:
    receiver.answer = told()

    with following(TRACEPARENT):
        await service(client, receiver).answer(CALL, timeout_s=5)

    assert receiver.requests[0][1]["traceparent"] == TRACEPARENT


async def test_what_it_used_is_counted_under_its_name(client: httpx.AsyncClient, receiver: Receiver) -> None:
    receiver.answer = told(
        {"session_id": "s", "result": "x", "usage": {"input_tokens": 7, "output_tokens": 2, "cost_usd": 0.5}}
    )

    answer = await service(client, receiver).answer(CALL, timeout_s=5)

    assert (answer.model, answer.usage) == ("delegate", Usage(input_tokens=7, output_tokens=2, cost=0.5))


async def test_a_task_that_goes_on_is_asked_for_again_under_its_key(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    answers = iter([told(status=202, retry_after="0"), told()])

    def next_answer(request: web.Request) -> web.StreamResponse:
        return cast("web.Response", next(answers)(request))

    receiver.answer = next_answer

    answer = await service(client, receiver).answer(CALL, timeout_s=30)

    assert answer.text == "Locks."
    assert [headers["idempotency-key"] for _, headers, _ in receiver.requests] == ["exe_1#0", "exe_1#0"]


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ([{"code": "deadline", "message": "too late"}], "deadline: too late"),
        (["plain words"], "plain words"),
        ([{"x": 1}], "failed"),
    ],
)
async def test_errors_come_with_what_there_is_of_an_answer(
    client: httpx.AsyncClient, receiver: Receiver, errors: list[Any], words: str
) -> None:
    receiver.answer = told({"session_id": "s", "result": "half", "errors": errors})

    answer = await service(client, receiver).answer(CALL, timeout_s=5)

    assert answer.text == "half"
    assert answer.error is not None
    assert words in answer.error


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, CredentialsError),
        (404, NotFoundError),
        (422, PermanentError),
        (429, RateLimitedError),
        (500, TransientError),
        (503, UnavailableError),
        (302, PermanentError),
    ],
)
async def test_each_status_is_an_error_of_ours(
    client: httpx.AsyncClient, receiver: Receiver, status: int, error: type[NubabelError]
) -> None:
    receiver.answer = told(status=status, retry_after="7")

    with pytest.raises(error) as raised:
        await service(client, receiver).answer(CALL, timeout_s=5)

    assert type(raised.value) is error
    assert getattr(raised.value, "retry_after_s", 7) == 7
    assert "t0p" not in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        "no json",
        "[]",
        '{"result": "x"}',
        '{"session_id": "s", "result": 3}',
        '{"session_id": "s", "usage": {"input_tokens": -1}}',
    ],
)
async def test_what_is_no_answer_says_which_field(client: httpx.AsyncClient, receiver: Receiver, body: str) -> None:
    receiver.answer = told(body)

    with pytest.raises(PermanentError) as raised:
        await service(client, receiver).answer(CALL, timeout_s=5)

    assert raised.value.code == "answer_unreadable"


async def test_an_endless_answer_is_refused(client: httpx.AsyncClient, receiver: Receiver) -> None:
    receiver.answer = told({"session_id": "s", "result": "x" * (9 * 1024 * 1024)})

    with pytest.raises(PermanentError) as raised:
        await service(client, receiver).answer(CALL, timeout_s=20)

    assert raised.value.code == "answer_too_large"


@pytest.mark.parametrize("then", [told(status=503), told(status=429)])
async def test_once_it_has_taken_the_task_on_no_error_means_that_nothing_happens(
    client: httpx.AsyncClient, receiver: Receiver, then: Any
) -> None:
    answers = iter([told(status=202, retry_after="0"), then])

    def next_answer(request: web.Request) -> web.StreamResponse:
        return cast("web.Response", next(answers)(request))

    receiver.answer = next_answer

    with pytest.raises(UncertainError):
        await service(client, receiver).answer(CALL, timeout_s=30)


@pytest.mark.parametrize(
    "answer",
    [
        told(status=502),
        told(status=504),
        lambda _request: web.Response(body=b"no gzip", headers={"content-encoding": "gzip"}),
    ],
)
async def test_what_says_nothing_of_the_task_is_in_doubt(
    client: httpx.AsyncClient, receiver: Receiver, answer: Any
) -> None:
    receiver.answer = answer

    with pytest.raises(UncertainError):
        await service(client, receiver).answer(CALL, timeout_s=5)


async def test_its_health_is_looked_at_without_a_task(client: httpx.AsyncClient, receiver: Receiver) -> None:
    receiver.answer = told({"status": "ok"})

    assert await service(client, receiver).check() == "it answers and takes our token"
    assert [path for path, _, _ in receiver.requests] == ["/health", "/capabilities"]
    receiver.answer = told(status=503)
    with pytest.raises(UnavailableError):
        await service(client, receiver).check()
    with pytest.raises(UnavailableError):
        await service(client, receiver, url="http://127.0.0.1:9").check()


@pytest.mark.parametrize("status", [401, 403])
async def test_a_token_that_it_refuses_is_found_without_a_task(
    client: httpx.AsyncClient, receiver: Receiver, status: int
) -> None:
    receiver.answer = lambda request: web.Response(status=200 if request.path == "/health" else status)

    with pytest.raises(CredentialsError):
        await service(client, receiver).check()


async def test_one_that_tells_no_capabilities_is_not_doubted(client: httpx.AsyncClient, receiver: Receiver) -> None:
    receiver.answer = lambda request: web.Response(status=200 if request.path == "/health" else 404)

    assert "the first task shows" in await service(client, receiver).check()


async def test_nobody_at_the_address_is_away(client: httpx.AsyncClient, receiver: Receiver) -> None:
    with pytest.raises(UnavailableError):
        await service(client, receiver, url="http://127.0.0.1:9").answer(CALL, timeout_s=5)


async def test_an_answer_that_does_not_come_is_in_doubt(client: httpx.AsyncClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        unanswered = DelegateService(client, url=url, token=None, now=lambda: NOW)

        with pytest.raises(UncertainError):
            await unanswered.answer(CALL, timeout_s=0.2)
