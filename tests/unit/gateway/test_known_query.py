"""Query fields that a path does not know."""

import httpx
import pytest

from tests.fakes.front_door import FrontDoor
from tests.unit.gateway.test_executions import PROMPT


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/executions"),
        ("GET", "/v1/executions"),
        ("GET", "/v1/executions/exe_1"),
        ("POST", "/v1/executions:batch"),
        ("GET", "/v1/batches/bat_1"),
        ("GET", "/v1/connections"),
        ("GET", "/v1/usage"),
    ],
)
async def test_they_are_refused_by_name(http: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await http.request(method, path, params={"colour": "red"}, json=PROMPT if method == "POST" else None)

    assert answer.status_code == 422
    assert ["query", "colour"] in [error["location"] for error in answer.json()["errors"]]


async def test_nothing_is_accepted_beside_them(door: FrontDoor, http: httpx.AsyncClient) -> None:
    await http.post("/v1/executions", params={"dry_run": "true"}, json=PROMPT)

    assert door.executions.rows == {}


@pytest.mark.parametrize("path", ["/health", "/capabilities"])
async def test_they_are_without_effect_where_older_callers_and_probes_ask(http: httpx.AsyncClient, path: str) -> None:
    assert (await http.get(path, params={"colour": "red"})).status_code == 200


async def test_a_stream_minds_none_since_readers_of_streams_add_their_own(http: httpx.AsyncClient) -> None:
    path = "/v1/executions/exe_01kahmz7p1h0v5v6m6bqz0x3ja/events"

    assert (await http.get(path, params={"lastEventId": "7-0"})).status_code == 404  # there is no such execution


async def test_who_does_not_say_who_it_is_hears_of_that_first(http: httpx.AsyncClient) -> None:
    del http.headers["authorization"]

    answer = await http.get("/v1/usage", params={"colour": "red"})

    assert answer.status_code == 401
