"""The same guard where a library brings its own HTTP client."""

import asyncio
import gzip

import httpx2
import pytest
from aiohttp import web

from nubabel_workers.adapters.egress.guard import EgressGuard, EgressPolicy
from nubabel_workers.adapters.egress.http_client import EgressRefusedError, guarded_client
from tests.unit.adapters.conftest import Receiver, ScriptedResolver


def client_to(receiver: Receiver, *answers: list[str]) -> tuple[httpx2.AsyncClient, ScriptedResolver]:
    """A client that is let through to the receiver by the name mcp.example."""
    resolver = ScriptedResolver(*(answers or (["127.0.0.1"],)))
    policy = EgressPolicy.parse([f"mcp.example:{receiver.port}"])
    return guarded_client(EgressGuard(policy, resolver=resolver), timeout_s=5, read_timeout_s=5), resolver


async def test_request_and_answer_arrive_as_they_are(receiver: Receiver) -> None:
    receiver.answer = lambda _request: web.Response(status=201, text="done", headers={"Mcp-Session-Id": "s1"})
    client, resolver = client_to(receiver)

    async with client:
        answer = await client.post(
            f"http://mcp.example:{receiver.port}/mcp?a=%2Fb", json={"id": 1}, headers={"Authorization": "Bearer t"}
        )

    assert (answer.status_code, answer.text, answer.headers["mcp-session-id"]) == (201, "done", "s1")
    path, headers, body = receiver.requests[0]
    assert (path, body) == ("/mcp", b'{"id":1}')
    assert (headers["authorization"], headers["host"]) == ("Bearer t", f"mcp.example:{receiver.port}")
    assert resolver.asked == ["mcp.example"]


@pytest.mark.parametrize("url", ["http://mcp.example/", "https://127.0.0.1/", "https://[::1]/", "https://10.0.0.1/"])
async def test_url_out_of_bounds_is_refused_before_anything_is_sent(receiver: Receiver, url: str) -> None:
    client, _ = client_to(receiver)

    async with client:
        with pytest.raises(EgressRefusedError):
            await client.get(url)

    assert receiver.requests == []


async def test_name_that_changes_to_a_private_address_is_refused(receiver: Receiver) -> None:
    receiver.answer = lambda _request: web.Response(headers={"Connection": "close"})
    client, _ = client_to(receiver, ["127.0.0.1"], ["169.254.169.254"])
    url = f"http://mcp.example:{receiver.port}/mcp"

    async with client:
        await client.get(url)
        with pytest.raises(EgressRefusedError, match="not public"):
            await client.get(url)

    assert len(receiver.requests) == 1


async def test_redirect_shows_no_way_to_follow(receiver: Receiver) -> None:
    receiver.answer = lambda _request: web.Response(status=307, headers={"Location": "/elsewhere"})
    client, _ = client_to(receiver)

    async with client:
        answer = await client.post(f"http://mcp.example:{receiver.port}/mcp", follow_redirects=True)

    assert (answer.status_code, answer.next_request) == (307, None)
    assert [path for path, _, _ in receiver.requests] == ["/mcp"]


async def test_proxy_of_the_environment_is_no_way_out(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{receiver.port}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{receiver.port}")
    client, _ = client_to(receiver)

    async with client:
        with pytest.raises(EgressRefusedError):
            await client.get("http://10.0.0.1/")

    assert receiver.requests == []


async def test_packed_answer_that_nobody_asked_for_is_refused(receiver: Receiver) -> None:
    bomb = gzip.compress(b"x" * 1_000_000)
    receiver.answer = lambda _request: web.Response(body=bomb, headers={"Content-Encoding": "gzip"})
    client, _ = client_to(receiver)

    async with client:
        with pytest.raises(httpx2.RemoteProtocolError, match="packed"):
            await client.get(f"http://mcp.example:{receiver.port}/")

    assert receiver.requests[0][1]["accept-encoding"] == "identity"


async def test_pieces_of_an_open_stream_arrive_as_they_come() -> None:
    more = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await answer.write(b"data: 1\n\n")
        await more.wait()
        await answer.write(b"data: 2\n\n")
        return answer

    app = web.Application()
    app.router.add_get("/", stream)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    guard = EgressGuard(EgressPolicy.parse(["127.0.0.1"]))

    async with (
        guarded_client(guard, timeout_s=5, read_timeout_s=5) as client,
        client.stream("GET", f"http://127.0.0.1:{runner.addresses[0][1]}/") as answer,
    ):
        pieces = answer.aiter_bytes()
        first = await anext(pieces)
        more.set()
        second = await anext(pieces)

    assert (first, second) == (b"data: 1\n\n", b"data: 2\n\n")
    await runner.cleanup()


async def test_server_that_cannot_be_reached_is_a_connect_error() -> None:
    guard = EgressGuard(EgressPolicy.parse(["127.0.0.1:9"]))

    async with guarded_client(guard, timeout_s=5, read_timeout_s=5) as client:
        with pytest.raises(httpx2.ConnectError) as refused:
            await client.get("http://127.0.0.1:9/")

    assert not isinstance(refused.value, EgressRefusedError)
