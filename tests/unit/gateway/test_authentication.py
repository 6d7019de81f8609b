"""Who may call, as whom."""

from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from nubabel_workers.domain.credentials import operator_token_text
from tests.fakes.clock import START
from tests.fakes.front_door import ACME, FrontDoor
from tests.unit.gateway.conftest import client_of

PATH = "/v1/executions/exe_00000000000000000000000000"
UNKNOWN = f"nbt_{'0' * 26}_{'A' * 43}"


async def test_without_a_token_nothing_is_shown(door: FrontDoor) -> None:
    async with client_of(door) as http:
        answer = await http.get(PATH)

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "header", [f"Bearer {UNKNOWN}", "Bearer x", "Bearer", "Basic YTpi", "Bearer \xff", f"Bearer {UNKNOWN} x"]
)
async def test_what_is_no_token_of_ours_is_refused(door: FrontDoor, header: str) -> None:
    async with client_of(door) as http:
        answer = await http.get(PATH, headers={b"authorization": header.encode("latin-1")})

    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


async def test_whoever_sends_another_kind_of_token_is_told_which_one_is_needed(door: FrontDoor) -> None:
    async with client_of(door, token=operator_token_text(bytes(32)).get_secret_value()) as http:
        answer = await http.get(PATH)

    assert answer.status_code == 401
    assert "a service token looks like nbt_..." in answer.json()["detail"]


async def test_a_token_ends_when_it_expires(door: FrontDoor) -> None:
    token = door.tenants.add_token(7, ACME.id, expires_at=START + timedelta(minutes=1))
    async with client_of(door, token=token) as http:
        before = await http.get(PATH)
        door.clock.advance(60)
        after = await http.get(PATH)

    assert (before.status_code, after.status_code) == (404, 401)


async def test_a_revoked_token_is_refused(door: FrontDoor) -> None:
    token = door.tenants.add_token(7, ACME.id, revoked_at=START)
    async with client_of(door, token=token) as http:
        answer = await http.get(PATH)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def test_a_disabled_organization_is_told_so(door: FrontDoor, http: httpx.AsyncClient) -> None:
    door.tenants.add_organization(replace(ACME, disabled_at=START))

    answer = await http.get(PATH)

    assert (answer.status_code, answer.json()["code"]) == (403, "organization_disabled")
