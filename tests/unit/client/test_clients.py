"""Both clients, case by case the same: what they send, what they make of answers, when they try again."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol

import httpx
import pytest
from pydantic import SecretStr

from nubabel_workers import client as published
from nubabel_workers.client import (
    ApiError,
    AskedRequest,
    AsyncNubabelClient,
    AuthenticationError,
    Batch,
    BatchRequest,
    ConnectionFailedError,
    Delegated,
    DelegateRequest,
    Execution,
    ExecutionNotFoundError,
    ForbiddenError,
    IdempotencyKeyReusedError,
    InvalidRequestError,
    NubabelClient,
    ProgressEvent,
    RetryLimits,
    Status,
    SubmitRequest,
    Submitted,
    SubmittedBatch,
    TooManyRequestsError,
    UnavailableError,
    WaitTimeoutError,
)

TOKEN = "nbt_very_secret"
ID = "exe_00000000000000000000000001"
SUBMITTED = {
    "id": ID,
    "session_id": "ses_1",
    "status": "queued",
    "idempotency_key": "k",
    "repeated": False,
    "added_later": 1,
}
EXECUTION = {
    "id": ID,
    "session_id": "ses_1",
    "status": "completed",
    "final": True,
    "output": "Two.",
    "created_at": "2026-11-21T12:00:00Z",
}
BATCH_ID = "bat_00000000000000000000000001"
BATCH = {
    "id": BATCH_ID,
    "state": "running",
    "final": False,
    "on_failure": "report",
    "executions": [{"id": ID, "session_id": "ses_1", "status": "completed", "output": "Two."}],
    "created_at": "2026-11-21T12:00:00Z",
}
AT_ONCE = RetryLimits(attempts=3, first_wait_s=0, max_wait_s=0.01)

Handler = Callable[[httpx.Request], httpx.Response]


class Client(Protocol):
    """Either client, awaited."""

    async def submit(self, request: SubmitRequest | str) -> Submitted: ...
    async def delegate(
        self, request: DelegateRequest | str, *, timeout_s: float = 600, idempotency_key: str | None = None
    ) -> Delegated: ...
    async def get(self, execution_id: str) -> Execution: ...
    async def find(self, idempotency_key: str) -> Execution | None: ...
    async def cancel(self, execution_id: str, *, reason: str | None = None) -> Execution: ...
    async def wait(self, execution_id: str, *, timeout_s: float) -> Execution: ...
    async def submit_batch(self, request: BatchRequest) -> SubmittedBatch: ...
    async def cancel_batch(self, batch_id: str, *, reason: str | None = None) -> Batch: ...
    async def wait_batch(self, batch_id: str, *, timeout_s: float) -> Batch: ...


class Threaded:
    """The blocking client in a thread."""

    def __init__(self, client: NubabelClient) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(method, *args, **kwargs)

        return call


class Gateway:
    """Answers in turn; keeps what it was asked."""

    def __init__(self, answers: Sequence[httpx.Response | Exception]) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def body(self, number: int = 0) -> Any:
        return json.loads(self.asked[number].content)


@asynccontextmanager
async def opened(kind: str, handler: Handler, retries: RetryLimits = AT_ONCE) -> AsyncIterator[Client]:
    transport = httpx.MockTransport(handler)
    if kind == "async":
        async with httpx.AsyncClient(transport=transport) as http:
            yield AsyncNubabelClient("https://gateway/", TOKEN, retries=retries, http=http)
    else:
        with httpx.Client(transport=transport) as http:
            yield Threaded(NubabelClient("https://gateway/", TOKEN, retries=retries, http=http))


@pytest.fixture(params=["blocking", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def events_of(kind: str, handler: Handler, *, after: str | None = None) -> list[ProgressEvent]:
    transport = httpx.MockTransport(handler)
    if kind == "async":
        async with httpx.AsyncClient(transport=transport) as http:
            client = AsyncNubabelClient("https://gateway", TOKEN, retries=AT_ONCE, http=http)
            return [event async for event in client.events(ID, after=after)]
    with httpx.Client(transport=transport) as http:
        blocking = NubabelClient("https://gateway", TOKEN, retries=AT_ONCE, http=http)
        return await asyncio.to_thread(lambda: list(blocking.events(ID, after=after)))


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    body = {"code": code, "detail": "because", "correlation_id": "req_1", "errors": [{"location": ["body"]}]}
    return httpx.Response(status, json=body, headers=headers)


def stream(*frames: str) -> httpx.Response:
    return httpx.Response(200, text="".join(f"{frame}\n\n" for frame in frames))


async def test_a_submission_says_who_asks_and_always_has_a_key(kind: str) -> None:
    gateway = Gateway([httpx.Response(202, json=SUBMITTED)])
    async with opened(kind, gateway) as client:
        submitted = await client.submit("Hello")

    (asked,) = gateway.asked
    assert (asked.method, str(asked.url)) == ("POST", "https://gateway/v1/executions")
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert len(asked.headers["idempotency-key"]) >= 20
    assert gateway.body() == {"prompt": "Hello"}
    assert (submitted.id, submitted.status) == (ID, Status.QUEUED)


async def test_everything_asked_travels_and_the_key_and_trace_as_headers(kind: str) -> None:
    gateway = Gateway([httpx.Response(202, json=SUBMITTED)])
    request = SubmitRequest(
        prompt="Hello", skills=[], metadata={"a": None}, idempotency_key="k", traceparent="00-aa", deadline_s=5
    )
    async with opened(kind, gateway) as client:
        await client.submit(request)

    assert gateway.body() == {"prompt": "Hello", "skills": [], "metadata": {"a": None}, "deadline_s": 5}
    assert gateway.asked[0].headers["idempotency-key"] == "k"
    assert gateway.asked[0].headers["traceparent"] == "00-aa"


@pytest.mark.parametrize(
    "failure",
    [
        lambda: httpx.ConnectError("refused"),
        lambda: httpx.ReadTimeout("slow"),
        lambda: problem(503, "x"),
        lambda: httpx.Response(502, text="<html>"),
    ],
    ids=["connect", "read", "503", "502"],
)
async def test_a_passing_failure_is_repeated_under_the_same_key(
    kind: str, failure: Callable[[], httpx.Response | Exception]
) -> None:
    gateway = Gateway([failure(), httpx.Response(202, json=SUBMITTED)])
    async with opened(kind, gateway) as client:
        await client.submit("Hello")

    keys = [asked.headers["idempotency-key"] for asked in gateway.asked]
    assert len(keys) == 2
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "malformed_json", InvalidRequestError),
        (401, "unauthorized", AuthenticationError),
        (403, "organization_disabled", ForbiddenError),
        (404, "not_found", ExecutionNotFoundError),
        (413, "body_too_large", InvalidRequestError),
        (422, "invalid_request", InvalidRequestError),
        (422, "idempotency_key_reused", IdempotencyKeyReusedError),
        (500, "internal_error", UnavailableError),
        (418, "teapot", ApiError),
    ],
)
async def test_a_refusal_is_an_error_of_its_kind_and_not_repeated(
    kind: str, status: int, code: str, error: type[ApiError]
) -> None:
    gateway = Gateway([problem(status, code)])
    async with opened(kind, gateway) as client:
        with pytest.raises(error) as raised:
            await client.get(ID)

    assert (raised.value.status, raised.value.code, raised.value.detail) == (status, code, "because")
    assert raised.value.correlation_id == "req_1"
    assert raised.value.errors == ({"location": ["body"]},)


async def test_after_some_tries_it_is_given_up(kind: str) -> None:
    refused = Gateway([httpx.ConnectError("x")] * 3)
    busy = Gateway([problem(503, "temporarily_unavailable")] * 3)
    async with opened(kind, refused) as client:
        with pytest.raises(ConnectionFailedError):
            await client.get(ID)
    async with opened(kind, busy) as client:
        with pytest.raises(UnavailableError):
            await client.get(ID)

    assert (refused.answers, busy.answers) == ([], [])


async def test_a_wait_longer_than_allowed_is_left_to_the_caller(kind: str) -> None:
    gateway = Gateway([problem(429, "rate_limited", **{"retry-after": "30"})])
    async with opened(kind, gateway, replace(AT_ONCE, max_total_wait_s=29)) as client:
        with pytest.raises(TooManyRequestsError) as raised:
            await client.get(ID)

    assert raised.value.retry_after_s == 30


async def test_a_call_with_a_time_limit_does_not_wait_beyond_it(kind: str) -> None:
    gateway = Gateway([problem(429, "requests_per_minute_reached", **{"retry-after": "30"}) for _ in range(2)])
    async with opened(kind, gateway) as client:
        with pytest.raises(TooManyRequestsError):
            await client.delegate("How many?", timeout_s=20)
        with pytest.raises(TooManyRequestsError):
            await client.wait_batch(BATCH_ID, timeout_s=20)

    assert gateway.answers == []


async def test_a_refused_request_names_its_parts(kind: str) -> None:
    errors = [
        {"location": ["body", "prompt"], "message": "Field required", "type": "missing"},
        {"location": ["body", "skills", 0], "message": "must be a string"},
        {"location": "nonsense"},
    ]
    body = {"code": "invalid_request", "detail": "it does not fit", "correlation_id": "req_1", "errors": errors}
    async with opened(kind, Gateway([httpx.Response(422, json=body)])) as client:
        with pytest.raises(InvalidRequestError) as raised:
            await client.get(ID)

    assert str(raised.value) == (
        "422 invalid_request: it does not fit: prompt: Field required; skills.0: must be a string (req_1)"
    )


async def test_of_many_wrong_parts_some_are_named(kind: str) -> None:
    errors = [{"location": ["body", "requests", number, "prompt"], "message": "missing"} for number in range(8)]
    body = {"code": "invalid_request", "detail": "it does not fit", "errors": errors}
    async with opened(kind, Gateway([httpx.Response(422, json=body)])) as client:
        with pytest.raises(InvalidRequestError, match=r"requests\.4\.prompt: missing and 3 more$"):
            await client.get(ID)


async def test_an_answer_of_somebody_else_is_no_result(kind: str) -> None:
    async with opened(kind, Gateway([httpx.Response(200, text="<html>Log in</html>")])) as client:
        with pytest.raises(UnavailableError, match="unreadable_answer"):
            await client.get(ID)


async def test_reading_finding_and_cancelling(kind: str) -> None:
    gateway = Gateway(
        [
            httpx.Response(200, json=EXECUTION),
            httpx.Response(200, json={"data": [EXECUTION]}),
            httpx.Response(200, json={"data": []}),
            httpx.Response(202, json=EXECUTION),
        ]
    )
    async with opened(kind, gateway) as client:
        read = await client.get(ID)
        assert await client.find("k 1&") == read
        assert await client.find("k2") is None
        await client.cancel(ID, reason="enough")

    assert (read.output, read.succeeded, read.final) == ("Two.", True, True)
    assert gateway.asked[1].url.params["idempotency_key"] == "k 1&"
    assert (gateway.asked[3].url.path, gateway.body(3)) == (f"/v1/executions/{ID}/cancel", {"reason": "enough"})


async def test_an_id_cannot_lead_elsewhere(kind: str) -> None:
    async with opened(kind, Gateway([])) as client:
        for execution_id in ("../../x", "a/b", "", "exe_1?x"):
            with pytest.raises(ValueError, match="letters, digits"):
                await client.get(execution_id)


DONE = f"id: end\nevent: done\ndata: {json.dumps(EXECUTION)}"


async def test_events_come_until_done(kind: str) -> None:
    answer = stream(
        'event: state\ndata: {"status":"running"}', ": heartbeat", 'id: 1-0\nevent: tool\ndata: {"a":1}', DONE
    )

    events = await events_of(kind, Gateway([answer]))

    assert [event.type for event in events] == ["state", "tool", "done"]
    assert (events[1].data, events[1].id) == ({"a": 1}, "1-0")
    assert events[2].execution is not None
    assert events[2].execution.output == "Two."


async def test_a_broken_stream_is_resumed_behind_what_was_seen(kind: str) -> None:
    gateway = Gateway(
        [
            httpx.ConnectError("x"),
            stream('id: 1-0\nevent: tool\ndata: {"a":1}', "id: 2-0\nevent: tool\ndata: cut"),
            problem(503, "temporarily_unavailable"),
            stream(DONE),
        ]
    )

    events = await events_of(kind, gateway, after="0-5")

    assert [event.type for event in events] == ["tool", "tool", "done"]
    assert [asked.headers.get("last-event-id") for asked in gateway.asked] == ["0-5", "0-5", "2-0", "2-0"]


async def test_nothing_comes_after_the_end_was_seen(kind: str) -> None:
    assert await events_of(kind, Gateway([httpx.Response(204)]), after="end") == []


async def test_following_what_does_not_exist_says_so(kind: str) -> None:
    with pytest.raises(ExecutionNotFoundError):
        await events_of(kind, Gateway([problem(404, "not_found")]))


async def test_waiting_returns_the_ended_execution(kind: str) -> None:
    async with opened(kind, Gateway([stream(DONE)])) as client:
        execution = await client.wait(ID, timeout_s=5)

    assert execution.output == "Two."


async def test_waiting_ends_in_time(kind: str) -> None:
    def silent(_request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("nothing came")

    retries = RetryLimits(attempts=1000, first_wait_s=0.05, max_wait_s=0.05)
    async with opened(kind, silent, retries) as client:
        with pytest.raises(WaitTimeoutError):
            await client.wait(ID, timeout_s=0.2)


def test_the_token_is_in_no_repr() -> None:
    for client in (NubabelClient("https://gateway", TOKEN), AsyncNubabelClient("https://gateway", SecretStr(TOKEN))):
        assert TOKEN not in repr(client) + repr(vars(client))
        if isinstance(client, NubabelClient):
            client.close()


@pytest.mark.parametrize("client", [NubabelClient, AsyncNubabelClient])
@pytest.mark.parametrize("token", ["", " \n", "Bearer nbt_x", "nbt_x\nnbt_y", "nbt_\u00e9", "nbt_\x00"])
def test_a_token_that_is_none_is_refused_when_the_client_is_made(
    client: type[NubabelClient | AsyncNubabelClient], token: str
) -> None:
    with pytest.raises(ValueError, match="the token") as raised:
        client("https://gateway", token)

    assert "nbt_" not in str(raised.value)


async def test_white_space_around_a_token_is_no_part_of_it() -> None:
    gateway = Gateway([httpx.Response(202, json=SUBMITTED)])
    with httpx.Client(transport=httpx.MockTransport(gateway)) as http:
        NubabelClient("https://gateway", SecretStr(f" {TOKEN}\r\n"), http=http).submit("Hello")

    assert gateway.asked[0].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("url", ["gateway:8000", "ftp://gateway", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        NubabelClient(url, TOKEN)


def test_the_published_names() -> None:
    assert all(hasattr(published, name) for name in published.__all__)


def test_importing_the_client_loads_nothing_of_the_service() -> None:
    heavy = (
        "config",
        "celery",
        "kombu",
        "sqlalchemy",
        "psycopg",
        "redis",
        "fastapi",
        "slack_sdk",
        "nubabel_workers.adapters",
    )
    program = f"import sys, nubabel_workers.client; print([name for name in {heavy!r} if name in sys.modules])"

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert found.stdout.strip() == "[]"


DELEGATED = {
    "session_id": "ses_1",
    "execution_id": ID,
    "status": "completed",
    "result": "Two.",
    "usage": {"total_tokens": 9},
    "added_later": 1,
}
PENDING = {"session_id": "ses_1", "execution_id": ID, "status": "queued", "status_url": f"/v1/executions/{ID}"}


async def test_a_task_is_handed_over_and_its_result_returned(kind: str) -> None:
    gateway = Gateway([httpx.Response(200, json=DELEGATED)])
    task = DelegateRequest(category="quick", load_skills=["debugging"], prompt="How many?", metadata={"a": 1})
    async with opened(kind, gateway) as client:
        found = await client.delegate(task, timeout_s=30.5, idempotency_key="k")

    (asked,) = gateway.asked
    assert (found.result, found.succeeded, found.errors) == ("Two.", True, ())
    assert found.usage is not None
    assert found.usage.total_tokens == 9
    assert asked.url == "https://gateway/delegate_task"
    assert (asked.headers["prefer"], asked.headers["idempotency-key"]) == ("wait=30", "k")
    assert asked.extensions["timeout"]["read"] == 60.0  # the wait, and the usual time for an answer
    assert gateway.body() == {
        "category": "quick",
        "load_skills": ["debugging"],
        "prompt": "How many?",
        "metadata": {"a": 1},
    }


async def test_a_task_whose_answer_was_lost_is_asked_for_again_under_the_same_key(kind: str) -> None:
    gateway = Gateway([httpx.ReadError("gone"), httpx.Response(200, json=DELEGATED)])
    async with opened(kind, gateway) as client:
        await client.delegate("How many?")

    first, second = (asked.headers["idempotency-key"] for asked in gateway.asked)
    assert first == second
    assert first


async def test_a_task_that_takes_longer_than_one_answer_is_followed_to_its_end(kind: str) -> None:
    ended = EXECUTION | {"status": "failed", "output": "half", "error": {"code": "boom", "message": "Sorry."}}
    gateway = Gateway([httpx.Response(202, json=PENDING), stream(f"id: end\nevent: done\ndata: {json.dumps(ended)}")])
    async with opened(kind, gateway) as client:
        found = await client.delegate("How many?")

    assert gateway.asked[0].headers["prefer"] == "wait=60"
    assert (found.execution_id, found.status, found.result) == (ID, Status.FAILED, "half")
    assert [error.code for error in found.errors] == ["boom"]


async def test_patience_with_a_task_ends_and_the_task_goes_on(kind: str) -> None:
    def never_ends(request: httpx.Request) -> httpx.Response:
        is_task = request.url.path == "/delegate_task"
        return httpx.Response(202, json=PENDING) if is_task else stream("event: state\ndata: {}")

    async with opened(kind, never_ends) as client:
        with pytest.raises(WaitTimeoutError):
            await client.delegate("How many?", timeout_s=0.2)


async def test_a_batch_is_submitted_under_one_key(kind: str) -> None:
    gateway = Gateway([httpx.Response(202, json=BATCH | {"idempotency_key": "k", "repeated": False})])
    request = BatchRequest(requests=[AskedRequest(prompt="One plus one?")], idempotency_key="k")

    async with opened(kind, gateway) as client:
        submitted = await client.submit_batch(request)

    assert (submitted.id, submitted.final) == (BATCH_ID, False)
    assert gateway.asked[0].url.path == "/v1/executions:batch"
    assert gateway.asked[0].headers["idempotency-key"] == "k"
    assert gateway.body() == {"requests": [{"prompt": "One plus one?"}], "on_failure": "report"}


async def test_a_batch_is_waited_for_until_its_end_is_written_down(kind: str) -> None:
    over = BATCH | {"state": "completed", "final": True}
    gateway = Gateway(
        [httpx.Response(200, json=BATCH), httpx.Response(200, json=BATCH), httpx.Response(200, json=over)]
    )

    async with opened(kind, gateway) as client:
        batch = await client.wait_batch(BATCH_ID, timeout_s=5)

    assert (batch.state, [one.output for one in batch.executions]) == ("completed", ["Two."])


async def test_a_batch_whose_end_is_not_written_down_in_time_is_left_to_itself(kind: str) -> None:
    gateway = Gateway([httpx.Response(200, json=BATCH) for _ in range(10)])

    async with opened(kind, gateway) as client:
        with pytest.raises(WaitTimeoutError, match=BATCH_ID):
            await client.wait_batch(BATCH_ID, timeout_s=0.1)


async def test_a_batch_is_cancelled_with_a_reason(kind: str) -> None:
    gateway = Gateway([httpx.Response(202, json=BATCH)])

    async with opened(kind, gateway) as client:
        await client.cancel_batch(BATCH_ID, reason="enough")

    assert gateway.asked[0].url.path == f"/v1/batches/{BATCH_ID}/cancel"
    assert gateway.body() == {"reason": "enough"}
