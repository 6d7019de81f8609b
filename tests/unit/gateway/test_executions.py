"""Submitting, reading and cancelling over HTTP."""

import re

import httpx
import pytest

from nubabel_workers.domain.admission import Occupied
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.executions import ExecutionError, Status, Usage
from nubabel_workers.domain.hints import HintTask
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.tenants import Organization
from tests.fakes.front_door import OTHER, STRICT, FrontDoor
from tests.unit.gateway.conftest import client_of

PROMPT = {"prompt": "Which tests are missing?"}


async def test_an_accepted_request_is_stored_before_the_answer_and_hinted_after(
    door: FrontDoor, http: httpx.AsyncClient
) -> None:
    answer = await http.post("/v1/executions", json=PROMPT, headers={"idempotency-key": "k1"})

    row = door.executions.only()
    assert answer.status_code == 202
    assert answer.json() == {
        "id": row.id,
        "session_id": row.session_id,
        "status": "queued",
        "idempotency_key": "k1",
        "repeated": False,
    }
    assert answer.headers["location"] == f"/v1/executions/{row.id}"
    assert (row.prompt, row.organization_id, row.source) == (PROMPT["prompt"], "org_acme", "api")
    assert door.hints.rows(HintTask.DISPATCH) == [row.id]


async def test_what_was_chosen_for_it_is_shown_without_the_operators_words_to_the_agent(
    door: FrontDoor, http: httpx.AsyncClient
) -> None:
    asked = (await http.post("/v1/executions", json=PROMPT)).json()["id"]
    chosen = {"category": "quick", "skills": ["git-master"], "agent": "build", "model": None, "reasons": ["a word"]}
    door.executions.move(asked, Status.RUNNING, analysis=chosen | {"instructions": "delegate to the category"})

    assert (await http.get(f"/v1/executions/{asked}")).json()["analysis"] == chosen


async def test_the_same_key_with_the_same_body_is_the_same_request(door: FrontDoor, http: httpx.AsyncClient) -> None:
    first = await http.post("/v1/executions", json=PROMPT, headers={"idempotency-key": "k1"})
    second = await http.post("/v1/executions", json=PROMPT, headers={"idempotency-key": "k1"})

    assert second.status_code == 202
    assert second.json() == first.json() | {"repeated": True}
    assert len(door.executions.rows) == 1


async def test_the_same_key_with_another_body_is_refused(http: httpx.AsyncClient) -> None:
    await http.post("/v1/executions", json=PROMPT, headers={"idempotency-key": "k1"})

    answer = await http.post("/v1/executions", json={"prompt": "Something else"}, headers={"idempotency-key": "k1"})

    assert answer.status_code == 422
    assert answer.json()["code"] == "idempotency_key_reused"


async def test_two_organizations_may_use_the_same_key(door: FrontDoor, http: httpx.AsyncClient) -> None:
    await http.post("/v1/executions", json=PROMPT, headers={"idempotency-key": "k1"})
    async with client_of(door, token=door.token(OTHER)) as other:
        answer = await other.post("/v1/executions", json={"prompt": "Else"}, headers={"idempotency-key": "k1"})

    assert answer.status_code == 202
    assert len(door.executions.rows) == 2


async def test_without_a_key_every_request_is_new(door: FrontDoor, http: httpx.AsyncClient) -> None:
    first = await http.post("/v1/executions", json=PROMPT)
    second = await http.post("/v1/executions", json=PROMPT)

    assert first.json()["idempotency_key"] != second.json()["idempotency_key"]
    assert len(door.executions.rows) == 2


async def test_the_key_may_stand_in_the_body_but_not_differ_from_the_header(http: httpx.AsyncClient) -> None:
    alone = await http.post("/v1/executions", json=PROMPT | {"idempotency_key": "k1"})
    twice = await http.post(
        "/v1/executions", json=PROMPT | {"idempotency_key": "k1"}, headers={"idempotency-key": "k2"}
    )

    assert alone.json()["idempotency_key"] == "k1"
    assert (twice.status_code, twice.json()["code"]) == (422, "idempotency_key_twice")


async def test_a_session_is_continued_by_its_id_or_by_the_callers_key(http: httpx.AsyncClient) -> None:
    first = (await http.post("/v1/executions", json=PROMPT | {"session_key": "invoice-1"})).json()

    by_id = await http.post("/v1/executions", json=PROMPT | {"session_id": first["session_id"]})
    by_key = await http.post("/v1/executions", json=PROMPT | {"session_key": "invoice-1"})
    alone = await http.post("/v1/executions", json=PROMPT)

    assert by_id.json()["session_id"] == first["session_id"]
    assert by_key.json()["session_id"] == first["session_id"]
    assert alone.json()["session_id"] != first["session_id"]


async def test_another_organizations_session_does_not_exist(door: FrontDoor, http: httpx.AsyncClient) -> None:
    mine = (await http.post("/v1/executions", json=PROMPT)).json()
    async with client_of(door, token=door.token(OTHER)) as other:
        answer = await other.post("/v1/executions", json=PROMPT | {"session_id": mine["session_id"]})

    assert (answer.status_code, answer.json()["code"]) == (404, "session_not_found")
    assert len(door.executions.rows) == 1


async def test_a_busy_session_refuses_where_the_organization_wants_that(door: FrontDoor) -> None:
    async with client_of(door, token=door.token(STRICT)) as strict:
        await strict.post("/v1/executions", json=PROMPT | {"session_key": "one"})
        answer = await strict.post("/v1/executions", json=PROMPT | {"session_key": "one"})

    assert (answer.status_code, answer.json()["status"]) == (202, "rejected")


@pytest.mark.parametrize(
    ("body", "location", "kind"),
    [
        ({}, ["body", "prompt"], "missing"),
        ({"prompt": ""}, ["body", "prompt"], "string_too_short"),
        ({"prompt": 5}, ["body", "prompt"], "string_type"),
        ({"prompt": "x", "promt": "x"}, ["body", "promt"], "extra_forbidden"),
        ({"prompt": "x", "deadline_s": "60"}, ["body", "deadline_s"], "int_type"),
        ({"prompt": "x", "skills": "git"}, ["body", "skills"], "list_type"),
        ({"prompt": "x", "callback_url": "ftp://a"}, ["body", "callback_url"], "string_pattern_mismatch"),
        ({"prompt": "x\x00"}, ["body"], "value_error"),
        ({"prompt": "x", "metadata": {"a": 2**70}}, ["body"], "value_error"),
        ([], ["body"], "model_attributes_type"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_does_not_fit_the_schema_is_named(
    door: FrontDoor, http: httpx.AsyncClient, body: object, location: list[str], kind: str
) -> None:
    answer = await http.post("/v1/executions", json=body)

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_request")
    assert [(error["location"], error["type"]) for error in problem["errors"]] == [(location, kind)]
    assert not problem["errors"][0]["message"].startswith("Value error")
    assert door.executions.rows == {}


async def test_a_prompt_beyond_the_limit_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/executions", json={"prompt": "가" * 700})  # 2100 bytes in UTF-8

    assert (answer.status_code, answer.json()["code"]) == (422, "prompt_too_large")


@pytest.mark.parametrize(
    ("limit", "policy", "left"),
    [
        ("requests_per_minute", '"requests_per_minute";q=1;w=60', r'"requests_per_minute";r=0;t=\d+'),
        ("queued", '"queued";q=1', '"queued";r=0'),
        ("sessions", '"sessions";q=1', '"sessions";r=0'),
    ],
)
async def test_at_a_limit_the_answer_says_which_and_when_to_come_again(
    door: FrontDoor, limit: str, policy: str, left: str
) -> None:
    limited = Organization(OrganizationId("org_limited"), "Limited", limits={limit: 1})
    door.tenants.add_organization(limited)
    door.executions.occupied_now["org_limited"] = Occupied(int(limit != "requests_per_minute"), 1)
    async with client_of(door, token=door.token(limited)) as http:
        if limit == "requests_per_minute":
            await http.post("/v1/executions", json={"prompt": "Hello"})
        refused = await http.post("/v1/executions", json={"prompt": "Hello"})

    assert (refused.status_code, refused.json()["code"]) == (429, f"{limit}_reached")
    assert refused.headers["content-type"] == "application/problem+json"
    assert "administrator" in refused.json()["detail"]
    assert refused.headers["ratelimit-policy"] == policy
    assert re.fullmatch(left, refused.headers["ratelimit"])
    assert int(refused.headers["retry-after"]) >= 1


async def test_a_callback_needs_a_secret_to_sign_it_with(door: FrontDoor, http: httpx.AsyncClient) -> None:
    body = PROMPT | {"callback_url": "https://upstream.example.com/done"}

    refused = await http.post("/v1/executions", json=body)
    door.tenants.signing["org_acme"] = "whsec_x"
    accepted = await http.post("/v1/executions", json=body)

    assert (refused.status_code, refused.json()["code"]) == (422, "no_webhook_secret")
    assert accepted.status_code == 202
    assert door.executions.only().reply == {"kind": "webhook", "url": body["callback_url"]}


async def test_while_the_database_is_away_nothing_is_accepted(door: FrontDoor, http: httpx.AsyncClient) -> None:
    door.executions.error = UnavailableError("the database cannot be reached", retry_after_s=2.2)

    answer = await http.post("/v1/executions", json=PROMPT)

    assert (answer.status_code, answer.json()["code"]) == (503, "temporarily_unavailable")
    assert answer.headers["retry-after"] == "3"
    assert door.hints.published == []


async def test_an_execution_shows_its_outcome(door: FrontDoor, http: httpx.AsyncClient) -> None:
    submitted = (await http.post("/v1/executions", json=PROMPT | {"metadata": {"n": 1}})).json()
    door.executions.move(
        submitted["id"], Status.COMPLETED, output="Two.", usage=Usage(input_tokens=3, output_tokens=4, cost=0.5)
    )

    shown = (await http.get(f"/v1/executions/{submitted['id']}")).json()

    assert (shown["status"], shown["final"], shown["output"]) == ("completed", True, "Two.")
    assert (shown["usage"]["total_tokens"], shown["usage"]["cost_usd"]) == (7, 0.5)
    assert shown["metadata"] == {"n": 1}


async def test_callers_read_the_reason_without_our_addresses(door: FrontDoor, http: httpx.AsyncClient) -> None:
    submitted = (await http.post("/v1/executions", json=PROMPT)).json()
    error = ExecutionError("server_error", "Something failed.", "APIError (status 400): http://10.0.0.5 says no")
    door.executions.move(submitted["id"], Status.FAILED, error=error)

    shown = await http.get(f"/v1/executions/{submitted['id']}")

    assert shown.json()["error"] == {
        "code": "server_error",
        "message": "Something failed.",
        "detail": "APIError (status 400): [address] says no",
    }
    assert "10.0.0.5" not in shown.text


async def test_another_organizations_execution_does_not_exist(door: FrontDoor, http: httpx.AsyncClient) -> None:
    path = (await http.post("/v1/executions", json=PROMPT, headers={"idempotency-key": "k1"})).headers["location"]
    async with client_of(door, token=door.token(OTHER)) as other:
        read = await other.get(path)
        cancelled = await other.post(f"{path}/cancel")
        timeline = await other.get(f"{path}/timeline")
        followed = await other.get(f"{path}/events")
        found = await other.get("/v1/executions", params={"idempotency_key": "k1"})

    assert {read.status_code, cancelled.status_code, timeline.status_code, followed.status_code} == {404}
    assert found.json() == {"data": []}
    assert door.executions.only().cancel_reason is None


async def test_an_execution_is_found_by_its_key(http: httpx.AsyncClient) -> None:
    submitted = (await http.post("/v1/executions", json=PROMPT, headers={"idempotency-key": "k1"})).json()

    found = (await http.get("/v1/executions", params={"idempotency_key": "k1"})).json()
    absent = (await http.get("/v1/executions", params={"idempotency_key": "k2"})).json()

    assert [execution["id"] for execution in found["data"]] == [submitted["id"]]
    assert absent == {"data": []}


async def test_a_queued_execution_is_cancelled_at_once(door: FrontDoor, http: httpx.AsyncClient) -> None:
    path = (await http.post("/v1/executions", json=PROMPT)).headers["location"]

    answer = await http.post(f"{path}/cancel", json={"reason": "no longer needed"})

    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    assert door.executions.only().cancel_reason == "no longer needed"


async def test_cancelling_a_running_one_is_a_wish_that_is_hinted(door: FrontDoor, http: httpx.AsyncClient) -> None:
    submitted = (await http.post("/v1/executions", json=PROMPT)).json()
    door.executions.move(submitted["id"], Status.RUNNING)

    answer = await http.post(f"/v1/executions/{submitted['id']}/cancel")

    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert (submitted.get("cancel_requested"), answer.json()["cancel_requested"]) == (None, True)
    assert door.hints.rows(HintTask.COMPLETE) == [submitted["id"]]


async def test_cancelling_what_has_ended_changes_nothing(door: FrontDoor, http: httpx.AsyncClient) -> None:
    submitted = (await http.post("/v1/executions", json=PROMPT)).json()
    door.executions.move(submitted["id"], Status.COMPLETED)

    answer = await http.post(f"/v1/executions/{submitted['id']}/cancel")

    assert (answer.status_code, answer.json()["status"]) == (200, "completed")


async def test_the_timeline_says_what_happened(http: httpx.AsyncClient) -> None:
    path = (await http.post("/v1/executions", json=PROMPT)).headers["location"]

    timeline = (await http.get(f"{path}/timeline")).json()["data"]

    assert [(entry["kind"], entry["detail"]) for entry in timeline] == [("accepted", {"source": "api"})]


@pytest.mark.parametrize("name", ["exe_1", "exe_" + "A" * 26, "ses_" + "0" * 26, "exe_%00" + "0" * 25])
async def test_a_name_that_no_execution_has_is_refused_before_the_database(
    door: FrontDoor, http: httpx.AsyncClient, name: str
) -> None:
    door.executions.error = AssertionError("asked")

    assert (await http.get(f"/v1/executions/{name}")).status_code in {404, 422}


async def test_the_trace_of_the_caller_is_continued_in_the_row(door: FrontDoor, http: httpx.AsyncClient) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"

    answer = await http.post(
        "/v1/executions", json=PROMPT, headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    )

    row = door.executions.only()
    assert row.traceparent == answer.headers["traceparent"]
    assert row.traceparent.split("-")[1] == trace_id
    assert row.traceparent.split("-")[2] != "00f067aa0ba902b7"
    assert row.correlation_id == answer.headers["x-correlation-id"]
