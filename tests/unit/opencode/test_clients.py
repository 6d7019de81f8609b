"""Both clients and their hooks: what is sent, what is told of it, and what never is."""

import contextlib
import inspect
import json
import logging
from collections.abc import AsyncIterator, Mapping

import httpx
import pytest
from pydantic import SecretStr

from nubabel_workers.adapters.opencode.wire import Answer
from nubabel_workers.opencode import (
    AsyncOpenCode,
    CallFigures,
    CallMetrics,
    CallReport,
    NotFoundError,
    OpenCode,
    PromptFile,
    Timeouts,
    each_of,
    is_opencode_id,
    log_calls,
    new_prompt,
)

URL = "http://opencode.test:4096"
MESSAGE = {"info": {"id": "msg_2", "role": "assistant"}, "parts": [{"type": "text", "text": "private answer"}]}


class Pool:
    """Stands in for the pool of either client: answers alike, remembers requests and time limits."""

    def __init__(self, body: object = None, status: int = 200) -> None:
        self.requests: list[httpx.Request] = []
        self.limits: list[tuple[float, float]] = []
        self._answer = httpx.Response(status, json=body)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self._answer

    async def exchange(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, connect_s: float, read_s: float
    ) -> Answer:
        self.limits.append((connect_s, read_s))
        answer = self(httpx.Request(method, url, headers=headers, content=body))
        return Answer(answer.status_code, answer.headers, answer.content)


@contextlib.asynccontextmanager
async def client_on(pool: Pool, **options: object) -> AsyncIterator[AsyncOpenCode]:
    async with AsyncOpenCode(URL, password="pass", **options) as client:  # type: ignore[arg-type]
        client._http = pool
        yield client


async def test_text_is_sent_as_a_prompt_with_ids_of_its_own() -> None:
    pool = Pool(MESSAGE)

    async with client_on(pool) as client:
        answer = await client.send("ses_1", "hello", agent="build", model="stub/echo")
        await client.send("ses_1", "hello")

    first, second = (json.loads(request.content) for request in pool.requests)
    assert answer.text == "private answer"
    assert first["model"] == {"providerID": "stub", "modelID": "echo"}
    assert is_opencode_id("msg", first["messageID"])
    assert is_opencode_id("prt", first["parts"][0]["id"])
    assert first["messageID"] != second["messageID"]


async def test_kept_prompt_is_sent_under_the_same_ids() -> None:
    pool, prompt = Pool(), new_prompt("hello", files=[PromptFile(b"a,b", "text/csv", "a.csv")])

    async with client_on(pool) as client:
        await client.submit("ses_1", prompt)
        await client.submit("ses_1", prompt)

    first, second = (json.loads(request.content) for request in pool.requests)
    assert first == second
    assert first["parts"][1]["url"] == "data:text/csv;base64,YSxi"
    assert len({part["id"] for part in first["parts"]}) == 2


def test_blocking_twin_sends_the_same() -> None:
    pool = Pool(MESSAGE)

    with OpenCode(URL, password=SecretStr("pass")) as client:
        client._http = httpx.Client(transport=httpx.MockTransport(pool))
        answer = client.send("ses_1", new_prompt("hello"))
        client.submit("ses_1", "hello")

    assert answer.text == "private answer"
    assert [request.url.path for request in pool.requests] == ["/session/ses_1/message", "/session/ses_1/prompt_async"]


def test_twins_have_the_same_methods_and_arguments() -> None:
    def shape(client: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(client, inspect.isfunction)
        return {name: [*inspect.signature(method).parameters] for name, method in methods if name[0] != "_"}

    assert shape(AsyncOpenCode) == shape(OpenCode)


async def test_server_may_stay_silent_while_it_works_on_an_answer() -> None:
    pool = Pool(MESSAGE)

    async with client_on(pool, timeouts=Timeouts(connect_s=1, read_s=2, total_s=3)) as client:
        await client.send("ses_1", "hello", wait_s=100)
        await client.get_message("ses_1", "msg_2")

    assert pool.limits == [(1, 100), (1, 2)]


# --- hooks ---


async def test_metrics_count_calls_failures_and_time() -> None:
    metrics = CallMetrics()

    async with client_on(Pool(MESSAGE), on_call=metrics) as client:
        await client.get_message("ses_1", "msg_2")
        client._http = Pool({}, status=404)
        with pytest.raises(NotFoundError):
            await client.get_message("ses_1", "msg_2")
        with pytest.raises(NotFoundError):
            await client.abort("ses_1")

    figures = metrics.snapshot()["get_message"]
    assert (figures.calls, figures.failures) == (2, 1)
    assert figures.slowest_s <= figures.seconds
    assert figures.average_s == figures.seconds / 2
    assert (metrics.total().calls, metrics.total().failures) == (3, 2)


def test_no_calls_have_no_average() -> None:
    assert CallMetrics().total() == CallFigures()
    assert CallFigures().average_s == 0


def told(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


async def test_log_has_no_texts_and_no_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="opencode.test")
    hook = log_calls(logging.getLogger("opencode.test"))

    async with client_on(Pool(MESSAGE), on_call=hook) as client:
        await client.send("ses_1", "private question")
        client._http = Pool([])
        await client.list_sessions("/private/place", search="private")

    assert "opencode send_message: POST /session/ses_1/message -> 200" in told(caplog)
    assert "private" not in told(caplog)
    assert "pass" not in told(caplog)


async def test_log_has_the_texts_when_they_are_asked_for_but_never_credentials(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="opencode.test")
    hook = log_calls(logging.getLogger("opencode.test"))

    async with client_on(Pool(MESSAGE), on_call=hook, with_bodies=True) as client:
        await client.send("ses_1", "private question")
        await client.set_provider_key("acme", SecretStr("sk-secret"))

    assert "private question" in told(caplog)
    assert "private answer" in told(caplog)
    assert "sk-secret" not in told(caplog)
    assert "Basic" not in told(caplog)


async def test_report_has_no_bodies_unless_asked() -> None:
    reports: list[CallReport] = []

    async with client_on(Pool(MESSAGE), on_call=reports.append) as client:
        await client.send("ses_1", "private question")
    async with client_on(Pool(MESSAGE), on_call=reports.append, with_bodies=True) as client:
        await client.send("ses_1", "private question")

    without, with_bodies = reports
    assert (without.request_body, without.answer_body) == (None, None)
    assert without.request_bytes > 0
    assert b"private question" in (with_bodies.request_body or b"")
    assert "private" not in repr(with_bodies)


def test_hooks_are_called_in_order() -> None:
    seen: list[str] = []
    report = CallReport("health", 200, 0.1)

    each_of(lambda _: seen.append("one"), lambda _: seen.append("two"))(report)

    assert seen == ["one", "two"]


def test_unanswered_call_says_whether_it_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="opencode.test")
    hook = log_calls(logging.getLogger("opencode.test"))

    hook(CallReport("health", None, 0.1, sent=True))
    hook(CallReport("health", None, 0.1, sent=False))

    assert "-> no answer" in caplog.records[0].getMessage()
    assert "-> not sent" in caplog.records[1].getMessage()


def test_password_is_in_no_repr() -> None:
    with OpenCode(URL, password="hidden") as client:
        assert "hidden" not in repr(client) + repr(vars(client))
