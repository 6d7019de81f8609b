"""The gateway on real PostgreSQL, Valkey and HTTP."""

import asyncio
from dataclasses import replace
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import redis
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.client import (
    AsyncNubabelClient,
    ExecutionNotFoundError,
    IdempotencyKeyReusedError,
    ProgressEvent,
    Status,
    SubmitRequest,
)
from nubabel_workers.domain.credentials import operator_setting, operator_token_text
from nubabel_workers.domain.dead_letters import DeadLetterReason, NewDeadLetter
from nubabel_workers.domain.ports import Incident
from nubabel_workers.gateway.dependencies import GatewayLimits
from tests.integration.gateway.conftest import Gateway, served, until
from tests.waiting import eventually

pytestmark = pytest.mark.integration


async def test_a_request_is_answered_and_its_stream_tells_the_end(gateway: Gateway) -> None:
    async with await gateway.client_of("org_one") as client:
        submitted = await client.submit("Which tests are missing?")
        seen: list[ProgressEvent] = []

        async def follow() -> None:
            seen.extend([event async for event in client.events(submitted.id)])

        following = asyncio.create_task(follow())
        await gateway.run_to_the_end()
        await asyncio.wait_for(following, 10)
        execution = await client.get(submitted.id)

    assert execution.status is Status.COMPLETED
    assert execution.output
    assert seen[-1].execution == execution
    assert seen[0].type == "state"


async def test_one_key_sent_many_times_at_once_is_one_request(gateway: Gateway) -> None:
    request = SubmitRequest(prompt="Hello", idempotency_key="k")
    async with await gateway.client_of("org_one") as client:
        answers = await asyncio.gather(*(client.submit(request) for _ in range(20)))
        found = await client.find("k")

    assert len({answer.id for answer in answers}) == 1
    assert [answer.repeated for answer in answers].count(False) == 1
    assert found is not None
    assert found.id == answers[0].id


async def test_a_key_of_another_request_is_refused(gateway: Gateway) -> None:
    async with await gateway.client_of("org_one") as client:
        await client.submit(SubmitRequest(prompt="Hello", idempotency_key="k"))
        with pytest.raises(IdempotencyKeyReusedError):
            await client.submit(SubmitRequest(prompt="Goodbye", idempotency_key="k"))


async def test_organizations_see_nothing_of_each_other(gateway: Gateway) -> None:
    async with await gateway.client_of("org_one") as one, await gateway.client_of("org_two") as two:
        mine = await one.submit(SubmitRequest(prompt="Hello", idempotency_key="k"))
        assert await two.find("k") is None
        for attempt in (two.get(mine.id), two.cancel(mine.id), two.wait(mine.id, timeout_s=5)):
            with pytest.raises(ExecutionNotFoundError):
                await attempt
        with pytest.raises(ExecutionNotFoundError):
            await two.submit(SubmitRequest(prompt="Hello", session_id=mine.session_id))
        assert (await one.get(mine.id)).status is Status.QUEUED


async def test_a_session_is_continued(gateway: Gateway) -> None:
    async with await gateway.client_of("org_one") as client:
        first = await client.submit(SubmitRequest(prompt="Hello", session_key="한글-아님".encode().hex()))
        await gateway.run_to_the_end()
        second = await client.submit(SubmitRequest(prompt="And then?", session_id=first.session_id))
        await gateway.run_to_the_end()
        ended = await client.get(second.id)

    assert second.session_id == first.session_id
    assert ended.status is Status.COMPLETED


async def test_cancelling_ends_a_queued_request(gateway: Gateway) -> None:
    async with await gateway.client_of("org_one") as client:
        submitted = await client.submit("Hello")
        await client.cancel(submitted.id, reason="enough")
        ended = await client.wait(submitted.id, timeout_s=10)

    assert ended.status is Status.CANCELLED


async def test_a_wiped_cache_does_not_hide_the_end(gateway: Gateway, settings: Settings) -> None:
    async with await gateway.client_of("org_one") as client:
        submitted = await client.submit("Hello")
        waiting = asyncio.create_task(client.wait(submitted.id, timeout_s=20))
        await gateway.run_to_the_end()
        with redis.Redis.from_url(settings.cache_url.get_secret_value()) as cache:
            cache.flushdb()

        assert (await waiting).status is Status.COMPLETED


async def test_many_streams_are_served_at_once(gateway: Gateway) -> None:
    """More than the cache pool of the process has connections."""
    async with await gateway.client_of("org_one") as client:
        submitted = [await client.submit(f"Hello {number}") for number in range(40)]
        seen: list[ProgressEvent] = []

        async def follow(execution_id: str) -> None:
            async for event in client.events(execution_id):
                seen.append(event)
                if event.type == "tool":
                    return

        following = [asyncio.create_task(follow(one.id)) for one in submitted]
        await eventually(lambda: len(seen) == len(submitted))
        for one in submitted:
            await gateway.services.progress.append("org_one", one.id, {"type": "tool", "tool": "bash"})
        async with asyncio.timeout(3):
            await asyncio.gather(*following)

    assert [event.type for event in seen].count("tool") == len(submitted)


async def test_text_that_a_database_cannot_hold_is_refused(gateway: Gateway) -> None:
    token = await gateway.organization("org_one")
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
    bodies = [
        rb'{"prompt": "a\u0000b"}',
        rb'{"prompt": "a\ud800b"}',
        rb'{"prompt": "x", "metadata": {"a": "\ud800"}}',
        rb'{"prompt": "x", "metadata": {"a\u0000": 1}}',
        b'{"prompt": "x", "metadata": {"a": NaN}}',
        b'{"prompt": "x", "metadata": {"a": 1e999}}',
        b'{"prompt": "x", "user_id": "a\\u0000"}',
        b"\x80\x81",
        b'{"a":' * 50_000,
    ]
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as http:
        answers = [await http.post("/v1/executions", content=body) for body in bodies]
        written = await http.post("/v1/executions", json={"prompt": "좋아요 🎉", "metadata": {"키": ["값", 1.5, None]}})

    assert {answer.status_code for answer in answers} <= {400, 422}
    assert all(answer.headers["content-type"] == "application/problem+json" for answer in answers)
    assert written.status_code == 202


async def test_ready_looks_at_every_dependency(gateway: Gateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        answer = await http.get("/ready")

    checks = answer.json()["checks"]
    assert (answer.status_code, answer.json()["status"]) == (200, "ready"), checks
    assert set(checks) == {"database", "tenant_isolation", "schema", "broker", "cache", "opencode"}


async def test_a_tenants_role_that_could_see_more_is_not_ready(gateway: Gateway, database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as owner:
        await owner.execute("ALTER TABLE usage DISABLE ROW LEVEL SECURITY")

    async with httpx.AsyncClient(base_url=gateway.url) as http:
        answer = await http.get("/ready")

    failed = {name for name, check in answer.json()["checks"].items() if check["state"] == "failed"}
    assert (answer.status_code, failed) == (503, {"tenant_isolation"})


def without_broker(settings: Settings) -> Settings:
    return settings.model_copy(update={"broker_url": SecretStr("redis://127.0.0.1:1/0")})


async def test_ready_names_what_is_away(settings: Settings) -> None:
    async with (
        open_services(without_broker(settings), application_name="tests") as services,
        served(services) as gateway,
        httpx.AsyncClient(base_url=gateway.url) as http,
    ):
        answer = await http.get("/ready")
        health = await http.get("/health")

    failed = {name for name, check in answer.json()["checks"].items() if check["state"] == "failed"}
    assert (answer.status_code, health.status_code) == (503, 200)
    assert failed == {"broker", "opencode"}


async def test_without_the_broker_requests_are_accepted_all_the_same(settings: Settings) -> None:
    async with (
        open_services(without_broker(settings), application_name="tests") as services,
        served(services) as gateway,
        await gateway.client_of("org_one") as client,
    ):
        submitted = await client.submit("Hello")

    assert submitted.status is Status.QUEUED


async def test_metrics_show_rows_and_queues(gateway: Gateway) -> None:
    async with await gateway.client_of("org_one") as client:
        await client.submit("Hello")
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        text = (await http.get("/metrics")).text

    assert "nubabel_executions_queued 1.0" in text
    assert 'nubabel_queue_messages{queue="orchestration"}' in text
    assert 'nubabel_submissions_total{outcome="accepted",source="api"} 1.0' in text
    assert "process_cpu_seconds_total" in text


async def test_each_incident_has_its_counter_before_the_first_one(gateway: Gateway) -> None:
    """Prometheus sees growth only in what it has seen before: else the first foreign id of a process alerts nobody."""
    async with httpx.AsyncClient(base_url=gateway.url) as http:
        text = (await http.get("/metrics")).text

    assert [kind for kind in Incident if f'nubabel_incidents_total{{kind="{kind}"}} 0.0' not in text] == []


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /v1/executions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /%ff%00/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"\x00" * 1000,
    ],
    ids=["tls", "version", "length", "chunk", "path", "zeros"],
)
async def test_garbage_on_the_socket_leaves_the_gateway_standing(gateway: Gateway, garbage: bytes) -> None:
    address = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(garbage)
    writer.write_eof()
    async with asyncio.timeout(5):
        await reader.read()
    writer.close()

    async with httpx.AsyncClient(base_url=gateway.url) as http:
        assert (await http.get("/health")).status_code == 200


async def test_a_reader_that_takes_nothing_is_cut_off(services: Services) -> None:
    limits = GatewayLimits(stream_row_check_s=0.2, stream_send_timeout_s=0.3)
    async with served(services, limits) as gateway, httpx.AsyncClient(base_url=gateway.url) as http:
        token = await gateway.organization("org_one")
        async with AsyncNubabelClient(gateway.url, token) as client:
            execution_id = (await client.submit("Hello")).id
        for _ in range(100):
            await services.progress.append("org_one", execution_id, {"type": "text", "text": "x" * 100_000})
        address = urlsplit(gateway.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1024)
        lines = (
            f"GET /v1/executions/{execution_id}/events HTTP/1.1",
            "Host: x",
            f"Authorization: Bearer {token}",
            "",
            "",
        )
        writer.write("\r\n".join(lines).encode())

        async def cut_off() -> bool:
            return "nubabel_http_event_streams 0.0" in (await http.get("/metrics")).text

        await reader.read(100)
        assert not await cut_off()
        await until(cut_off)
        writer.close()


async def test_operators_see_and_settle_dead_letters_of_all_organizations(
    services: Services, settings: Settings
) -> None:
    await services.dead_letters.add(
        NewDeadLetter("orchestration", "x", DeadLetterReason.UNKNOWN_TASK, "no such task", payload='{"a": "\x00왜"}')
    )
    text = operator_token_text(b"n" * 32)
    allowed = settings.model_copy(update={"operator_tokens": (operator_setting("night", text),)})
    async with (
        served(replace(services, settings=allowed)) as gateway,
        httpx.AsyncClient(
            base_url=f"{gateway.url}/v1/operator",
            headers={"authorization": f"Bearer {text.get_secret_value()}"},
            trust_env=False,
        ) as http,
    ):
        (one,) = (await http.get("/dead-letters", params={"task": "x"})).json()["data"]
        groups = (await http.get("/dead-letters/groups")).json()["data"]
        shown = (await http.get(f"/dead-letters/{one['id']}")).json()
        replay = (await http.post("/dead-letters:replay", json={"all": True})).json()
        discard = (await http.post(f"/dead-letters/{one['id']}/discard", json={"reason": "test"})).json()

    assert [(group["reason"], group["count"], group["raw"]) for group in groups] == [("unknown-task", 1, 1)]
    assert "왜" in shown["payload"]
    assert (replay["replayed"], replay["not_replayable"]) == (0, 1)
    assert (discard["status"], discard["resolved_by"], discard["note"]) == ("discarded", "operator:night", "test")
