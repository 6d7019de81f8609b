"""Several requests at once over HTTP."""

from typing import Any

import httpx
import pytest

from nubabel_workers.domain.executions import Status
from nubabel_workers.domain.hints import HintTask
from tests.fakes.front_door import ACME, OTHER, FrontDoor
from tests.unit.gateway.conftest import client_of

TWO = {"requests": [{"prompt": "One?"}, {"prompt": "Two?"}]}


async def submitted(http: httpx.AsyncClient, body: Any = TWO, key: str = "k1") -> httpx.Response:
    return await http.post("/v1/executions:batch", json=body, headers={"idempotency-key": key})


async def test_an_accepted_batch_names_its_executions_in_their_order(door: FrontDoor, http: httpx.AsyncClient) -> None:
    answer = await submitted(http)

    body = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/batches/{body['id']}"
    assert [door.executions.rows[one["id"]].prompt for one in body["executions"]] == ["One?", "Two?"]
    assert (body["state"], body["final"], body["idempotency_key"], body["repeated"]) == ("running", False, "k1", False)
    assert door.hints.rows(HintTask.DISPATCH) == [body["executions"][0]["id"]]


async def test_the_same_key_again_is_the_same_batch(http: httpx.AsyncClient) -> None:
    first, second = await submitted(http), await submitted(http)

    assert second.json() == first.json() | {"repeated": True}


async def test_the_same_key_with_another_body_is_refused(http: httpx.AsyncClient) -> None:
    await submitted(http)

    answer = await submitted(http, {**TWO, "on_failure": "cancel_rest"})

    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"requests": []}, "invalid_request", "requests"),
        ({"requests": [{"prompt": "x"}] * 4}, "batch_too_large", "at most 3"),
        ({"requests": [{"prompt": "x"}, {"prompt": "x" * 3000}]}, "prompt_too_large", "requests.1: the prompt has"),
        ({"requests": [{"prompt": "x", "category": "none"}]}, "unknown_category", "requests.0: "),
        ({"requests": [{"prompt": "x", "callback_url": "https://a.example"}]}, "invalid_request", "callback_url"),
        ({"requests": [{"prompt": "x", "idempotency_key": "k"}]}, "invalid_request", "idempotency_key"),
        ({**TWO, "on_failure": "ignore"}, "invalid_request", "on_failure"),
        ({**TWO, "callback_url": "https://a.example"}, "no_webhook_secret", "webhook secret"),
    ],
)
async def test_what_does_not_fit_is_named_and_nothing_is_stored(
    door: FrontDoor, http: httpx.AsyncClient, body: Any, code: str, words: str
) -> None:
    answer = await submitted(http, body)

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert words in answer.text
    assert door.executions.rows == {}


async def test_a_batch_shows_what_became_of_each(door: FrontDoor, http: httpx.AsyncClient) -> None:
    batch = (await submitted(http)).json()
    door.executions.move(batch["executions"][0]["id"], Status.COMPLETED, output="1")

    shown = (await http.get(f"/v1/batches/{batch['id']}")).json()

    assert [(one["status"], one["output"]) for one in shown["executions"]] == [("completed", "1"), ("queued", None)]


async def test_a_cancelled_batch_ends_its_queued_executions(http: httpx.AsyncClient) -> None:
    batch = (await submitted(http)).json()

    answer = await http.post(f"/v1/batches/{batch['id']}/cancel", json={"reason": "enough"})
    again = await http.post(f"/v1/batches/{batch['id']}/cancel")

    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert (again.status_code, again.json()) == (200, answer.json())


async def test_a_cancelled_batch_whose_runs_have_to_be_ended_first_says_that_it_was_asked_to_stop(
    door: FrontDoor, http: httpx.AsyncClient
) -> None:
    batch = (await submitted(http)).json()
    door.executions.move(batch["executions"][0]["id"], Status.RUNNING)

    answer = (await http.post(f"/v1/batches/{batch['id']}/cancel")).json()

    assert (batch["cancel_requested"], answer["cancel_requested"], answer["final"]) == (False, True, False)
    stands = [(one["status"], one["cancel_requested"]) for one in answer["executions"]]
    assert stands == [("running", True), ("cancelled", True)]


async def test_one_reply_is_told_when_the_last_one_ends(door: FrontDoor, http: httpx.AsyncClient) -> None:
    door.tenants.signing[ACME.id] = "whsec_x"
    batch = (await submitted(http, {**TWO, "callback_url": "https://a.example/hook"})).json()

    await http.post(f"/v1/executions/{batch['executions'][0]['id']}/cancel")
    assert door.groups.told == []
    await http.post(f"/v1/executions/{batch['executions'][1]['id']}/cancel")

    (told,) = door.groups.told
    assert told["type"] == "batch.completed_with_failures"
    assert [outcome["status"] for outcome in told["data"]["outcomes"]] == ["cancelled", "cancelled"]
    assert len(door.hints.rows(HintTask.DELIVER)) == 1


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/cancel")])
async def test_another_organization_has_no_such_batch(
    door: FrontDoor, http: httpx.AsyncClient, method: str, path: str
) -> None:
    batch = (await submitted(http)).json()

    async with client_of(door, token=door.token(OTHER)) as other:
        answer = await other.request(method, f"/v1/batches/{batch['id']}{path}")

    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
