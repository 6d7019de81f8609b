"""Both clients: what they send, and what a failing transport means."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping

import aiohttp
import httpx
import pytest
from pydantic import SecretStr

from nubabel_workers.adapters.opencode import (
    CallReport,
    HttpOpenCodeServers,
    OpenCodeClient,
    PromptPart,
    SyncOpenCodeClient,
    Timeouts,
    UnexpectedAnswerError,
    new_http_client,
    transport,
)
from nubabel_workers.adapters.opencode.wire import Answer
from nubabel_workers.domain.errors import NubabelError, UnavailableError, UncertainError
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.domain.trace import following
from tests.unit.adapters.opencode.tcp import Behaviour, free_url, server

URL = "http://opencode.test:4096"
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PARTS = [PromptPart("prt_1", text="hello")]


class Recorded:
    """A transport of either client that answers every request alike and remembers them."""

    def __init__(self, status: int = 200, body: object = None, *, error: Exception | None = None) -> None:
        self.requests: list[httpx.Request] = []
        self._status, self._body, self._error = status, body, error

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self._error is not None:
            raise self._error
        return httpx.Response(self._status, json=self._body)

    async def exchange(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None, connect_s: float, read_s: float
    ) -> Answer:
        answer = self(httpx.Request(method, url, headers=headers, content=body))
        return Answer(answer.status_code, answer.headers, answer.content)


def client_on(recorded: Recorded, **options: object) -> OpenCodeClient:
    return OpenCodeClient(recorded, URL, password=SecretStr("pass"), **options)  # type: ignore[arg-type]


async def test_request_carries_credentials_and_json() -> None:
    recorded = Recorded(body={"id": "ses_1"})

    client = client_on(recorded)
    session = await client.create_session(title="T")

    request = recorded.requests[0]
    assert session.id == "ses_1"
    assert str(request.url) == URL + "/session"
    assert request.headers["authorization"] == "Basic b3BlbmNvZGU6cGFzcw=="
    assert json.loads(request.content) == {"title": "T"}


async def test_a_call_for_a_request_carries_its_trace_and_no_other_does() -> None:
    recorded = Recorded(body={"healthy": True, "version": "1"})
    client = client_on(recorded)

    with following(TRACEPARENT):
        await client.health()
    await client.health()
    with following("no trace"):
        await client.health()

    assert [request.headers.get("traceparent") for request in recorded.requests] == [TRACEPARENT, None, None]


def test_sync_twin_sends_the_same() -> None:
    recorded = Recorded(body={"healthy": True, "version": "1"})

    with httpx.Client(transport=httpx.MockTransport(recorded)) as http:
        health = SyncOpenCodeClient(http, URL, password=SecretStr("pass")).health()

    assert health.version == "1"
    assert recorded.requests[0].headers["authorization"] == "Basic b3BlbmNvZGU6cGFzcw=="


def test_twins_have_the_same_methods() -> None:
    assert {n for n in dir(OpenCodeClient) if n[0] != "_"} == {n for n in dir(SyncOpenCodeClient) if n[0] != "_"}


async def test_password_is_in_no_repr() -> None:
    client = client_on(Recorded())
    assert repr(client) == f"OpenCodeClient({URL!r})"


async def test_every_call_is_reported() -> None:
    reports: list[CallReport] = []

    client = client_on(Recorded(404, {}), on_call=reports.append)
    with contextlib.suppress(NubabelError):
        await client.get_session("ses_1")
    client = client_on(Recorded(error=httpx.ConnectError("no")), on_call=reports.append)
    with contextlib.suppress(NubabelError):
        await client.health()

    assert [(report.name, report.status) for report in reports] == [("get_session", 404), ("health", None)]


KEY = aiohttp.client_reqrep.ConnectionKey("h", 1, False, True, None, None, None, None)
TRANSPORT_ERRORS = [
    (httpx.ConnectError("refused"), False),
    (httpx.ConnectTimeout("slow"), False),
    (httpx.PoolTimeout("full"), False),
    (httpx.ReadTimeout("silent"), True),
    (httpx.ReadError("reset"), True),
    (httpx.WriteError("reset"), True),
    (httpx.RemoteProtocolError("garbage"), True),
    (aiohttp.ClientConnectorError(KEY, OSError("refused")), False),
    (aiohttp.ConnectionTimeoutError("slow"), False),
    (aiohttp.ServerDisconnectedError(), True),
    (aiohttp.ClientOSError("reset"), True),
    (aiohttp.SocketTimeoutError("silent"), True),
    (aiohttp.ClientPayloadError("cut"), True),
    (OSError("reset"), True),
    (TimeoutError(), True),
]


@pytest.mark.parametrize(("error", "sent"), TRANSPORT_ERRORS, ids=lambda value: type(value).__name__)
async def test_every_transport_error_says_whether_the_prompt_may_have_arrived(error: Exception, *, sent: bool) -> None:
    client = client_on(Recorded(error=error))
    with pytest.raises(UncertainError if sent else UnavailableError):
        await client.submit_prompt("ses_1", message_id="msg_1", parts=PARTS)
    with pytest.raises(UnavailableError):
        await client.get_session("ses_1")


@pytest.mark.parametrize(("error", "sent"), TRANSPORT_ERRORS, ids=lambda value: type(value).__name__)
def test_sync_twin_agrees(error: Exception, *, sent: bool) -> None:
    with httpx.Client(transport=httpx.MockTransport(Recorded(error=error))) as http:
        client = SyncOpenCodeClient(http, URL)
        with pytest.raises(UncertainError if sent else UnavailableError):
            client.submit_prompt("ses_1", message_id="msg_1", parts=PARTS)


async def test_refused_connection_sends_nothing() -> None:
    async with contextlib.aclosing(new_http_client()) as http:
        with pytest.raises(UnavailableError):
            await OpenCodeClient(http, await free_url()).submit_prompt("ses_1", message_id="msg_1", parts=PARTS)


async def hang_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def stay_silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()  # until the client goes away


async def cut_the_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
    await writer.drain()


@pytest.mark.parametrize("behaviour", [hang_up, stay_silent, cut_the_answer])
async def test_prompt_without_a_clear_answer_is_uncertain(behaviour: Behaviour) -> None:
    timeouts = Timeouts(connect_s=1, read_s=0.2, total_s=1)

    async with server(behaviour) as url, contextlib.aclosing(new_http_client()) as http:
        client = OpenCodeClient(http, url, timeouts=timeouts)
        with pytest.raises(UncertainError):
            await client.submit_prompt("ses_1", message_id="msg_1", parts=PARTS)
        with pytest.raises(UnavailableError):
            await client.get_session("ses_1")


async def test_answer_that_drips_is_ended_by_the_total_limit() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)

    async with server(drip) as url, contextlib.aclosing(new_http_client()) as http:
        with pytest.raises(UnavailableError, match="TimeoutError"):
            await OpenCodeClient(http, url, timeouts=Timeouts(1, 1, 0.2)).get_session("ses_1")


async def answer_at_length(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 11\r\n\r\n[1, 2, 3, 4")
    await writer.drain()


async def answer_without_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n[1, 2, 3, 4")
    await writer.drain()
    await reader.read()


@pytest.mark.parametrize("behaviour", [answer_at_length, answer_without_end])
async def test_endless_answer_is_refused(behaviour: Behaviour, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nubabel_workers.adapters.opencode.transport.MAX_ANSWER_BYTES", 10)

    async with server(behaviour) as url, contextlib.aclosing(new_http_client()) as http:
        with pytest.raises(UnexpectedAnswerError):
            await OpenCodeClient(http, url).health()


def test_sync_twin_refuses_an_endless_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nubabel_workers.adapters.opencode.client.MAX_ANSWER_BYTES", 10)
    recorded = Recorded(body={"healthy": True, "version": "1"})

    with httpx.Client(transport=httpx.MockTransport(recorded)) as http, pytest.raises(UnexpectedAnswerError):
        SyncOpenCodeClient(http, URL).health()


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:1")
    monkeypatch.setenv("ALL_PROXY", "http://proxy.test:1")

    with transport.new_sync_http_client() as http:
        assert not http._mounts
    async with contextlib.aclosing(new_http_client()) as http_client:
        assert not http_client._opened().trust_env


async def test_servers_client_is_kept_until_its_access_changes() -> None:
    servers = HttpOpenCodeServers(Recorded())
    instance = Instance(InstanceId("ins_1"), URL, "opencode", SecretStr("one"))
    rotated = Instance(InstanceId("ins_1"), URL, "opencode", SecretStr("two"))

    first = servers.server(instance)

    assert servers.server(instance) is first
    assert servers.server(rotated) is not first


@pytest.mark.parametrize(("status", "known"), [(200, True), (404, False)])
async def test_message_is_looked_up(status: int, *, known: bool) -> None:
    recorded = Recorded(status, {"info": {"id": "msg_1", "role": "user"}, "parts": []})

    opencode = HttpOpenCodeServers(recorded).server(Instance(InstanceId("ins_1"), URL, "opencode", None))

    assert await opencode.has_message("ses_1", "msg_1") is known
    assert "authorization" not in recorded.requests[0].headers


def test_library_needs_no_configuration() -> None:
    program = "import sys, nubabel_workers.adapters.opencode; assert not {'config', 'celery'} & set(sys.modules)"

    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
