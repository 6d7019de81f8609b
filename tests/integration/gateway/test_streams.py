"""Event streams across processes: resumed elsewhere, joined late, read slowly or not at all."""

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from config.settings import Settings
from nubabel_workers.adapters.cache.progress import RedisProgress
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.client import AsyncNubabelClient, SubmitRequest
from nubabel_workers.gateway.dependencies import GatewayLimits
from tests.integration.gateway.conftest import Gateway, served
from tests.waiting import eventually, eventually_true

pytestmark = pytest.mark.integration

ORGANIZATION = "org_streams"
_QUICK = GatewayLimits(stream_row_check_s=0.2)


class Event(dict[str, str]):
    """Fields of one server-sent event."""


async def events_of(
    http: httpx.AsyncClient, url: str, *, last_event_id: str = "", count: int | None = None
) -> list[Event]:
    """The first so many events that have an id, or all until the stream ends."""
    seen: list[Event] = []
    headers = {"last-event-id": last_event_id} if last_event_id else {}
    async with http.stream("GET", url, headers=headers, timeout=60) as response:
        assert response.status_code == 200, await response.aread()
        async for event in _parsed(response):
            seen.append(event)
            if count is not None and len([one for one in seen if "id" in one]) == count:
                break
    return seen


async def _parsed(response: httpx.Response) -> AsyncIterator[Event]:
    event = Event()
    async for line in response.aiter_lines():
        if not line and event:
            yield event
            event = Event()
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


class Caller:
    """An upstream service, by the published client and by plain HTTP."""

    def __init__(self, token: str, client: AsyncNubabelClient, http: httpx.AsyncClient) -> None:
        self.token = token
        self.client = client
        self.http = http


@asynccontextmanager
async def caller(gateway: Gateway, organization_id: str = ORGANIZATION) -> AsyncIterator[Caller]:
    token = await gateway.organization(organization_id)
    async with (
        AsyncNubabelClient(gateway.url, token) as client,
        httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}, trust_env=False, timeout=60) as http,
    ):
        yield Caller(token, client, http)


async def tell(services: Services, execution_id: str, *numbers: int, **more: Any) -> None:
    for number in numbers:
        event: Mapping[str, Any] = {"type": "text", "text": f"{number}", **more}
        await services.progress.append(ORGANIZATION, execution_id, event)


def texts(events: list[Event]) -> list[str]:
    return [one["data"] for one in events if one["event"] == "text"]


def told(*numbers: int) -> list[str]:
    return [f'{{"type":"text","text":"{number}"}}' for number in numbers]


@pytest.mark.parametrize("by_session", [False, True], ids=["execution", "session"])
async def test_a_stream_is_resumed_at_another_web_process_to_its_end(
    gateway: Gateway, settings: Settings, by_session: bool
) -> None:
    async with (
        caller(gateway) as upstream,
        open_services(settings, application_name="other") as elsewhere,
        served(elsewhere, _QUICK) as other,
    ):
        submitted = await upstream.client.submit("Hello")
        path = f"/v1/executions/{submitted.id}/events"
        if by_session:
            path = f"/api/sidecar/sessions/{submitted.session_id}/stream"
        await tell(gateway.services, submitted.id, 1, 2, 3)

        first = await events_of(upstream.http, gateway.url + path, count=2)
        await tell(gateway.services, submitted.id, 4)
        rest = asyncio.create_task(events_of(upstream.http, other.url + path, last_event_id=first[-1]["id"]))
        await gateway.run_to_the_end()
        seen = await rest
        end = await upstream.http.get(gateway.url + path, headers={"last-event-id": seen[-1]["id"]})

    assert texts(first) == told(1, 2)
    assert texts(seen)[:2] == told(3, 4)
    assert seen[-1]["event"] == "done"
    assert end.status_code == 204


async def test_who_comes_late_gets_what_was_missed(gateway: Gateway) -> None:
    async with caller(gateway) as upstream:
        submitted = await upstream.client.submit("Hello")
        await tell(gateway.services, submitted.id, 1, 2)
        await gateway.run_to_the_end()

        seen = await events_of(upstream.http, f"{gateway.url}/v1/executions/{submitted.id}/events")

    assert texts(seen) == told(1, 2)
    assert [one["event"] for one in seen][-1] == "done"


async def test_a_session_is_followed_by_either_of_its_ids_and_by_its_own_organization_alone(gateway: Gateway) -> None:
    async with (
        caller(gateway) as upstream,
        caller(gateway, "org_other") as stranger,
    ):
        submitted = await upstream.client.submit("Hello")
        await gateway.run_to_the_end()
        row = await gateway.services.database.system().one("SELECT opencode_session_id FROM sessions")
        assert row is not None
        streams = [
            f"{gateway.url}/api/sidecar/sessions/{one}/stream"
            for one in (submitted.session_id, row["opencode_session_id"])
        ]

        seen = [await events_of(upstream.http, stream) for stream in streams]
        refused = [(await stranger.http.get(stream)).status_code for stream in streams]

    assert [events[-1]["id"] for events in seen] == [f"{submitted.id}/end"] * 2
    assert refused == [404, 404]


async def test_who_has_seen_one_execution_to_its_end_is_shown_the_sessions_next(gateway: Gateway) -> None:
    async with caller(gateway) as upstream:
        first = await upstream.client.submit("Hello")
        stream = f"{gateway.url}/api/sidecar/sessions/{first.session_id}/stream"
        await tell(gateway.services, first.id, 1)
        begun = await events_of(upstream.http, stream, count=1)
        await gateway.run_to_the_end()
        second = await upstream.client.submit(SubmitRequest(prompt="And then?", session_id=first.session_id))

        rest_of_first = await events_of(upstream.http, stream, last_event_id=begun[-1]["id"])
        following = asyncio.create_task(events_of(upstream.http, stream, last_event_id=rest_of_first[-1]["id"]))
        await gateway.run_to_the_end()
        seen = await following

    assert rest_of_first[-1]["id"] == f"{first.id}/end"
    assert seen[-1]["id"] == f"{second.id}/end"


async def test_a_reader_that_reads_nothing_costs_no_memory_and_is_cut_off(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_out = 0
    read = RedisProgress.read

    async def counted(self: RedisProgress, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        nonlocal handed_out
        async for item in read(self, *args, **kwargs):
            handed_out += 1
            yield item

    monkeypatch.setattr(RedisProgress, "read", counted)
    limits = GatewayLimits(stream_row_check_s=60, stream_send_timeout_s=1.5)
    async with served(services, limits) as gateway, caller(gateway) as upstream:
        submitted = await upstream.client.submit("Hello")
        await tell(services, submitted.id, *range(900), padding="x" * 16_000)
        tracemalloc.start()
        try:
            with closing(_reads_nothing(gateway.url, upstream.token, submitted.id)):
                await eventually(lambda: handed_out > 0, what="the stream's beginning", timeout_s=60)
                await eventually_true(lambda: _is_over(gateway), what="the end of the stream", timeout_s=60)
                peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert handed_out < 900
    assert peak < 8_000_000  # of 14 MB that wait in the cache


async def _is_over(gateway: Gateway) -> bool:
    async with httpx.AsyncClient(trust_env=False) as http:
        metrics = (await http.get(f"{gateway.url}/metrics")).text
    return "nubabel_http_event_streams 0.0" in metrics


def _reads_nothing(url: str, token: str, execution_id: str) -> socket.socket:
    address = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((address.hostname, address.port))
    request = f"GET /v1/executions/{execution_id}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
    connection.sendall(request.encode())
    return connection
