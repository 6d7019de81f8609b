"""Limits of organizations over HTTP, for operators."""

import httpx
import pytest

from nubabel_workers.domain.tenants import Organization
from tests.fakes.front_door import ACME, OPERATORS, FrontDoor
from tests.unit.gateway.test_dead_letters import fits

PATH = f"/v1/operator/organizations/{ACME.id}/limits"
NIGHT = {"authorization": f"Bearer {OPERATORS['night'].get_secret_value()}"}


async def test_operators_read_limits(http: httpx.AsyncClient) -> None:
    answer = fits(await http.get(PATH, headers=NIGHT), "LimitsView")

    assert (answer["plan"], answer["plan_known"], answer["own"]) == ("default", True, [])
    assert answer["limits"]["in_flight"] is None


async def test_operators_change_limits(door: FrontDoor, http: httpx.AsyncClient) -> None:
    await http.patch(PATH, headers=NIGHT, json={"set": {"in_flight": 5, "queued": None}})
    answer = fits(await http.patch(PATH, headers=NIGHT, json={"unset": ["queued"]}), "LimitsView")

    assert answer["own"] == ["in_flight"]
    assert answer["limits"]["in_flight"] == 5
    assert door.organizations.actors == ["operator:night"] * 2


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"set": {"speed": 1}},
        {"set": {"in_flight": -1}},
        {"set": {"in_flight": "3"}},
        {"set": {"in_flight": True}},
        {"set": {"cost_per_day": True}},
        {"set": {"weight": None}},
        {"set": {"in_flight": 1}, "unset": ["in_flight"]},
        {"unset": ["speed"]},
    ],
)
async def test_a_change_that_does_not_fit_is_refused(http: httpx.AsyncClient, body: object) -> None:
    answer = await http.patch(PATH, headers=NIGHT, json=body)

    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("body", [{}, {"set": {}}, {"unset": []}])
async def test_a_change_of_nothing_is_told_in_the_words_of_this_door(http: httpx.AsyncClient, body: object) -> None:
    answer = await http.patch(PATH, headers=NIGHT, json=body)

    assert answer.status_code == 422
    assert 'name a limit in \\"set\\"' in answer.text
    assert "in_flight=20" not in answer.text


async def test_a_service_token_opens_nothing_here(door: FrontDoor, http: httpx.AsyncClient) -> None:
    own: Organization = ACME
    mine = {"authorization": f"Bearer {door.token(own)}"}

    answers = [await http.get(PATH, headers=mine), await http.patch(PATH, headers=mine, json={"set": {"queued": 1}})]

    assert [answer.status_code for answer in answers] == [401, 401]


async def test_an_unknown_organization_is_not_found(http: httpx.AsyncClient) -> None:
    answer = await http.patch(PATH.replace(ACME.id, "org_none"), headers=NIGHT, json={"set": {"queued": 1}})

    assert (answer.status_code, answer.json()["code"]) == (404, "organization_not_found")
