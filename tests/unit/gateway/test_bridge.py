"""Handing a task over and waiting for it; what can be asked for."""

import asyncio
from dataclasses import replace
from typing import Any

import httpx
import pytest

from nubabel_workers.domain.administration import AuditAction
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.executions import ExecutionError, Status, Usage
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance
from tests.fakes.bridge import FakeServer
from tests.fakes.front_door import OTHER, QUICK, FrontDoor
from tests.unit.gateway.conftest import client_of
from tests.waiting import eventually

TASK = {"category": "ultrabrain", "load_skills": ["debugging"], "prompt": "Why does it deadlock?", "metadata": {"a": 1}}
AT_ONCE = {"prefer": "wait=0"}


def delegated(http: httpx.AsyncClient, body: Any = TASK, **headers: str) -> "asyncio.Task[httpx.Response]":
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.create_task(http.post("/delegate_task", json=body, headers=sent))


async def end(door: FrontDoor, status: Status = Status.COMPLETED, **fields: Any) -> None:
    """What workers would have done."""
    await eventually(lambda: door.progress.readers)
    row = door.executions.move(door.executions.only().id, status, **fields)
    await door.progress.append(row.organization_id, row.id, {"type": "state", "status": status.value})


async def test_a_task_that_ends_in_time_is_answered_with_its_result(door: FrontDoor, http: httpx.AsyncClient) -> None:
    waiting = delegated(http, idempotency_key="k")
    await end(door, output="Two locks.", usage=Usage(input_tokens=7, output_tokens=3))
    answer = await waiting

    row = door.executions.only()
    assert answer.status_code == 200
    assert answer.json() == {
        "session_id": row.session_id,
        "result": "Two locks.",
        "usage": answer.json()["usage"],
        "execution_id": row.id,
        "status": "completed",
    }
    assert answer.json()["usage"]["total_tokens"] == 10
    assert (row.overrides.category, row.overrides.skills) == ("ultrabrain", ["debugging"])
    assert (row.source, row.metadata) == ("api", {"a": 1})
    assert door.progress.readers == 0


async def test_a_task_that_failed_is_answered_with_its_errors(door: FrontDoor, http: httpx.AsyncClient) -> None:
    waiting = delegated(http)
    error = ExecutionError("deadline_exceeded", "Too long.", "stopped after 600 s")
    await end(door, Status.FAILED, output="half", error=error)
    answer = await waiting

    assert answer.status_code == 200
    assert answer.json()["result"] == "half"
    assert answer.json()["errors"] == [
        {"code": "deadline_exceeded", "message": "Too long.", "detail": "stopped after 600 s"}
    ]


async def test_after_the_wait_the_caller_is_told_where_to_look(door: FrontDoor, http: httpx.AsyncClient) -> None:
    answer = await http.post("/delegate_task", json=TASK, headers=AT_ONCE)

    row = door.executions.only()
    assert answer.status_code == 202
    assert answer.json() == {
        "session_id": row.session_id,
        "execution_id": row.id,
        "status": "queued",
        "status_url": f"/v1/executions/{row.id}",
    }
    assert answer.headers["location"] == answer.json()["status_url"]
    assert answer.headers["preference-applied"] == "wait=0"
    assert (await http.get(answer.json()["status_url"])).json()["id"] == row.id


@pytest.mark.parametrize(("now", "code"), [(Status.RUNNING, 202), (Status.COMPLETED, 200)])
async def test_after_the_wait_the_caller_is_told_how_it_is_by_then(now: Status, code: int) -> None:
    door = FrontDoor(limits=replace(QUICK, delegate_wait_s=0.05, stream_row_check_s=60))
    async with client_of(door, token=door.token()) as http:
        waiting = delegated(http)
        await eventually(lambda: door.progress.readers)
        door.executions.move(door.executions.only().id, now)
        answer = await waiting

    assert (answer.status_code, answer.json()["status"]) == (code, now.value)


async def test_the_servers_own_wait_is_never_exceeded() -> None:
    door = FrontDoor(limits=replace(QUICK, delegate_wait_s=0.05))
    async with client_of(door, token=door.token()) as http:
        waiting = delegated(http, prefer="respond-async, wait=600")
        await eventually(lambda: door.progress.readers)
        door.clock.advance(1)
        answer = await waiting

    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0.05")


@pytest.mark.parametrize("prefer", ["wait=x", "wait=", "await=0", "wait=-1", "handling=lenient"])
async def test_a_preference_that_is_not_understood_is_ignored(
    door: FrontDoor, http: httpx.AsyncClient, prefer: str
) -> None:
    waiting = delegated(http, prefer=prefer)
    await end(door, output="done")

    assert (await waiting).status_code == 200


async def test_the_same_key_waits_for_the_same_task(door: FrontDoor, http: httpx.AsyncClient) -> None:
    first, again = delegated(http, idempotency_key="k"), delegated(http, idempotency_key="k")
    await eventually(lambda: door.progress.readers == 2)
    await end(door, output="done")

    assert (await first).json() == (await again).json()
    assert (await delegated(http, idempotency_key="k")).json()["result"] == "done"
    assert len(door.executions.rows) == 1


async def test_a_key_of_another_task_is_refused(http: httpx.AsyncClient) -> None:
    await http.post("/delegate_task", json=TASK, headers=AT_ONCE | {"idempotency-key": "k"})
    answer = await http.post("/delegate_task", json=TASK | {"prompt": "x"}, headers={"idempotency-key": "k"})

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


async def test_a_session_is_continued_and_belongs_to_its_organization(door: FrontDoor, http: httpx.AsyncClient) -> None:
    first = (await http.post("/delegate_task", json=TASK, headers=AT_ONCE)).json()
    again = await http.post("/delegate_task", json=TASK | {"session_id": first["session_id"]}, headers=AT_ONCE)
    async with client_of(door, token=door.token(OTHER)) as other:
        foreign = await other.post("/delegate_task", json=TASK | {"session_id": first["session_id"]})

    assert again.json()["session_id"] == first["session_id"]
    assert (foreign.status_code, foreign.json()["code"]) == (404, "session_not_found")


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"category": "magic"}, "unknown_category", "ultrabrain"),
        ({"load_skills": ["magic"]}, "unknown_skill", "git-master"),
        ({"metadata": {"a": "x" * 3000}, "prompt": ""}, "invalid_request", None),
        ({"skills": ["debugging"]}, "invalid_request", None),
        ({"metadata": {"a": "\x00"}}, "invalid_request", None),
    ],
)
async def test_what_does_not_fit_is_refused_and_says_what_there_is(
    door: FrontDoor, http: httpx.AsyncClient, change: dict[str, Any], code: str, named: str | None
) -> None:
    answer = await http.post("/delegate_task", json=TASK | change)

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert named is None or named in answer.json()["detail"]
    assert door.executions.rows == {}


async def test_who_leaves_frees_its_place_and_loses_nothing(door: FrontDoor, http: httpx.AsyncClient) -> None:
    waiting = delegated(http)
    await eventually(lambda: door.progress.readers)
    waiting.cancel()
    await eventually(lambda: not door.progress.readers)

    assert door.executions.only().status is Status.QUEUED
    assert door.app.state.streams.has_room("org_acme")


async def test_a_process_that_stops_tells_those_who_wait(door: FrontDoor, http: httpx.AsyncClient) -> None:
    waiting = delegated(http)
    await eventually(lambda: door.progress.readers)
    door.app.state.stopping.set()

    assert (await waiting).status_code == 202


async def test_without_room_for_waiting_the_task_is_stored_all_the_same() -> None:
    door = FrontDoor(limits=replace(QUICK, streams_per_organization=1))
    async with client_of(door, token=door.token()) as http:
        waiting = delegated(http)
        await eventually(lambda: door.progress.readers)
        second = await http.post("/delegate_task", json=TASK)
        waiting.cancel()

    assert second.status_code == 202
    assert len(door.executions.rows) == 2


async def test_while_the_database_is_away_the_wait_goes_on(door: FrontDoor, http: httpx.AsyncClient) -> None:
    waiting = delegated(http)
    await eventually(lambda: door.progress.readers)
    door.executions.error = UnavailableError("the database is away")
    await door.progress.append("org_acme", door.executions.only().id, {"type": "state"})
    door.executions.error = None
    await end(door, output="done")

    assert (await waiting).json()["result"] == "done"


@pytest.mark.parametrize(
    ("headers", "metadata", "code", "place"),
    [
        ({"x-organization-id": "org_other"}, {}, "organization_mismatch", "header X-Organization-ID"),
        ({}, {"organizationId": "org_other"}, "organization_mismatch", "body.metadata.organizationId"),
        ({"x-user-id": "anna"}, {"user_id": "bert"}, "user_mismatch", "body.metadata.user_id"),
    ],
)
async def test_whoever_names_somebody_else_is_refused_and_audited(
    door: FrontDoor, http: httpx.AsyncClient, headers: dict[str, str], metadata: dict[str, Any], code: str, place: str
) -> None:
    answer = await http.post("/delegate_task", json=TASK | {"metadata": metadata}, headers=headers)

    (entry,) = door.audit.entries
    assert (answer.status_code, answer.json()["code"]) == (403, code)
    assert (entry.action, entry.organization_id, entry.detail["place"]) == (
        AuditAction.IDENTITY_REFUSED,
        "org_acme",
        place,
    )
    assert entry.actor.startswith("token:tok_")
    assert door.executions.rows == {}


async def test_headers_that_agree_name_the_user(door: FrontDoor, http: httpx.AsyncClient) -> None:
    headers = AT_ONCE | {"x-organization-id": "org_acme", "x-user-id": "anna"}
    body = TASK | {"metadata": {"organizationId": "org_acme", "userId": "anna"}}

    answer = await http.post("/delegate_task", json=body, headers=headers)

    assert (answer.status_code, door.executions.only().user_id) == (202, "anna")


async def test_capabilities_tell_what_there_is_and_which_server_is_silent(
    door: FrontDoor, http: httpx.AsyncClient
) -> None:
    instance = Instance(InstanceId("ins_1"), "http://secret-host:1", "opencode", None, version="1.0", agents=("build",))
    door.instances.add(instance, FakeServer("1.1", ["Sisyphus - ultraworker"]))
    door.instances.add(replace(instance, id=InstanceId("ins_2")), FakeServer("1.1", [], hangs=True))

    answer = await http.get("/capabilities")

    found = answer.json()
    assert answer.status_code == 200
    assert {"quick", "ultrabrain"} <= {one["name"] for one in found["categories"]}
    assert "git-master" in {one["name"] for one in found["skills"]}
    assert found["agents"] == ["Sisyphus - ultraworker", "build"]
    assert found["versions"] == ["1.0", "1.1"]
    assert [(one["id"], one["answered"]) for one in found["servers"]] == [("ins_1", True), ("ins_2", False)]
    assert "secret-host" not in answer.text
