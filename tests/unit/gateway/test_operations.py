"""Health, readiness and metrics."""

import asyncio
from dataclasses import replace

from nubabel_workers.domain.circuit_breaker import BreakerState
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.ports import OpenExecutions
from tests.fakes.front_door import FrontDoor
from tests.unit.gateway.conftest import client_of


async def fine() -> str:
    return "as it should be"


async def broken() -> str:
    raise UnavailableError("the broker cannot be reached")


async def hanging() -> str:
    await asyncio.Event().wait()
    return ""


async def crashing() -> str:
    raise KeyError("secret")


async def test_health_asks_nobody() -> None:
    door = FrontDoor(checks={"database": broken})
    async with client_of(door) as http:
        answer = await http.get("/health")

    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_load_balancers_may_ask_by_head() -> None:
    async with client_of(FrontDoor(checks={"database": fine})) as http:
        statuses = [(await http.head(path)).status_code for path in ("/health", "/ready")]
    async with client_of(FrontDoor(checks={"database": broken})) as http:
        statuses += [(await http.head(path)).status_code for path in ("/health", "/ready")]

    assert statuses == [200, 200, 200, 503]


async def test_ready_names_each_dependency_with_state_and_latency() -> None:
    async with client_of(FrontDoor(checks={"database": fine, "cache": fine})) as http:
        answer = await http.get("/ready")

    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert set(answer.json()["checks"]) == {"database", "cache"}
    assert all(check["state"] == "ok" and check["latency_ms"] >= 0 for check in answer.json()["checks"].values())


async def test_one_failing_dependency_makes_it_not_ready_and_is_told_apart() -> None:
    checks = {"database": fine, "broker": broken, "schema": crashing}
    async with client_of(FrontDoor(checks=checks)) as http:
        answer = await http.get("/ready")

    found = answer.json()["checks"]
    assert (answer.status_code, answer.json()["status"]) == (503, "not_ready")
    assert found["database"]["state"] == "ok"
    assert (found["broker"]["state"], found["broker"]["detail"]) == ("failed", "the broker cannot be reached")
    assert (found["schema"]["state"], found["schema"]["detail"]) == ("failed", "the check itself failed")


async def test_a_dependency_that_hangs_is_given_up() -> None:
    door = FrontDoor(checks={"broker": hanging, "database": fine})
    door.app.state.readiness._timeout_s = 0.05
    async with client_of(door) as http:
        answer = await http.get("/ready")

    assert answer.status_code == 503
    assert answer.json()["checks"]["broker"]["detail"] == "no answer within 0.05 s"


async def test_asking_often_looks_once() -> None:
    looks = 0

    async def counted() -> str:
        nonlocal looks
        looks += 1
        return ""

    door = FrontDoor(checks={"database": counted})
    async with client_of(door) as http:
        await asyncio.gather(*(http.get("/ready") for _ in range(5)))
        door.clock.advance(1.5)
        await http.get("/ready")

    assert looks == 2


async def test_metrics_show_requests_rows_and_queues() -> None:
    door = FrontDoor()
    door.maintenance.values = {"executions_queued": 3, "oldest_queued_execution_s": 1.5}
    door.maintenance.open = [OpenExecutions("org_busy", 2, 0, oldest_queued_s=4.5, cost_today=0.25, tokens_today=900)]
    door.queues.values = {"orchestration": 7}
    door.breakers = {"ins_1": BreakerState.CLOSED, "ins_2": BreakerState.OPEN}
    servers = door.callbacks.instances.rows
    servers["ins_1"] = replace(servers["ins_1"], memory_bytes=2_000, event_lag_s=12.5, strain="its events come late")
    async with client_of(door, token=door.token()) as http:
        await http.post("/v1/executions", json={"prompt": "Hello"})
        await http.get("/nothing/at/all")
        text = (await http.get("/metrics")).text

    assert "nubabel_executions_queued 3.0" in text
    assert 'nubabel_organization_executions{organization="org_busy",state="queued"} 2.0' in text
    assert 'nubabel_organization_executions{organization="other",state="queued"} 1.0' in text
    assert 'nubabel_organization_oldest_queued_seconds{organization="org_busy"} 4.5' in text
    assert 'nubabel_organization_cost_today_usd{organization="org_busy"} 0.25' in text
    assert 'nubabel_organization_tokens_today{organization="org_busy"} 900.0' in text
    assert "nubabel_oldest_queued_execution_seconds 1.5" in text
    assert 'nubabel_opencode_breaker_state{instance="ins_1"} 0.0' in text
    assert 'nubabel_opencode_breaker_state{instance="ins_2"} 2.0' in text
    assert 'nubabel_opencode_memory_bytes{instance="ins_1"} 2000.0' in text
    assert 'nubabel_opencode_event_lag_seconds{instance="ins_1"} 12.5' in text
    assert 'nubabel_opencode_strained{instance="ins_1"} 1.0' in text
    assert 'nubabel_queue_messages{queue="orchestration"} 7.0' in text
    assert 'nubabel_http_requests_total{method="POST",route="/v1/executions",status="202"} 1.0' in text
    assert 'nubabel_http_requests_total{method="GET",route="unmatched",status="404"} 1.0' in text
    assert 'nubabel_submissions_total{outcome="accepted",source="api"} 1.0' in text


async def test_scraping_often_reads_the_database_rarely() -> None:
    door = FrontDoor()
    async with client_of(door) as http:
        for _ in range(5):
            await http.get("/metrics")
        door.clock.advance(6)
        await http.get("/metrics")

    assert door.maintenance.reads == 2


async def test_metrics_are_served_while_the_database_is_away() -> None:
    door = FrontDoor()
    door.maintenance.error = UnavailableError("the database cannot be reached")
    async with client_of(door) as http:
        answer = await http.get("/metrics")

    assert answer.status_code == 200
    assert 'nubabel_metrics_source_up{source="database"} 0.0' in answer.text
    assert 'nubabel_metrics_source_up{source="broker"} 1.0' in answer.text


async def test_two_applications_live_in_one_process() -> None:
    FrontDoor()
    FrontDoor()
