"""Policies of organizations over HTTP, for operators."""

import httpx
import pytest

from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance
from tests.fakes.front_door import ACME, OPERATORS, FrontDoor
from tests.unit.gateway.test_dead_letters import fits

PATH = f"/v1/operator/organizations/{ACME.id}/policies"
NIGHT = {"authorization": f"Bearer {OPERATORS['night'].get_secret_value()}"}


def shared(door: FrontDoor) -> None:
    door.callbacks.instances.rows["ins_1"] = Instance(InstanceId("ins_1"), "http://opencode", "", None)


async def test_operators_read_policies(door: FrontDoor, http: httpx.AsyncClient) -> None:
    shared(door)

    answer = fits(await http.get(PATH, headers=NIGHT), "PoliciesView")

    assert answer == {
        "organization_id": ACME.id,
        "busy_policy": "queue",
        "masking": "mask",
        "servers": "shared",
        "near_cap": "keep",
        "repeated_questions": "run",
        "budget_approvers": [],
        "unserved": None,
    }


async def test_who_is_moved_to_servers_of_its_own_that_it_does_not_have_is_told_so(
    door: FrontDoor, http: httpx.AsyncClient
) -> None:
    shared(door)

    answer = fits(await http.patch(PATH, headers=NIGHT, json={"servers": "dedicated"}), "PoliciesView")

    assert answer["servers"] == "dedicated"
    assert "only on servers of its own, and there is none" in answer["unserved"]


async def test_what_is_not_named_stays_as_it_is(door: FrontDoor, http: httpx.AsyncClient) -> None:
    await http.patch(PATH, headers=NIGHT, json={"masking": "refuse"})
    answer = fits(await http.patch(PATH, headers=NIGHT, json={"servers": "dedicated", "masking": None}), "PoliciesView")

    assert (answer["busy_policy"], answer["masking"], answer["servers"]) == ("queue", "refuse", "dedicated")
    assert fits(await http.get(PATH, headers=NIGHT), "PoliciesView") == answer
    assert door.organizations.actors == ["operator:night"] * 2


@pytest.mark.parametrize("body", [{}, {"masking": None}, {"masking": "sometimes"}, {"speed": 1}, {"plan": "team"}, []])
async def test_a_change_that_does_not_fit_is_refused_and_changes_nothing(
    door: FrontDoor, http: httpx.AsyncClient, body: object
) -> None:
    answer = await http.patch(PATH, headers=NIGHT, json=body)

    assert answer.status_code == 422, answer.text
    assert door.organizations.actors == []


async def test_who_may_allow_more_is_a_list_that_can_be_emptied(http: httpx.AsyncClient) -> None:
    named = await http.patch(PATH, headers=NIGHT, json={"budget_approvers": ["U024BE7LH"]})
    wrong = await http.patch(PATH, headers=NIGHT, json={"budget_approvers": ["anna"]})
    emptied = await http.patch(PATH, headers=NIGHT, json={"budget_approvers": []})

    assert fits(named, "PoliciesView")["budget_approvers"] == ["U024BE7LH"]
    assert (wrong.status_code, emptied.json()["budget_approvers"]) == (422, [])


async def test_an_empty_change_is_told_what_to_name(http: httpx.AsyncClient) -> None:
    answer = await http.patch(PATH, headers=NIGHT, json={})

    assert "name one of busy_policy, masking, servers, near_cap, repeated_questions, budget_approvers" in answer.text


async def test_a_service_token_opens_nothing_here(door: FrontDoor, http: httpx.AsyncClient) -> None:
    mine = {"authorization": f"Bearer {door.token(ACME)}"}

    answers = [await http.get(PATH, headers=mine), await http.patch(PATH, headers=mine, json={"masking": "off"})]

    assert [answer.status_code for answer in answers] == [401, 401]
    assert door.organizations.actors == []


@pytest.mark.parametrize("named", ["org_none", ACME.name])
async def test_an_organization_is_named_by_its_id(http: httpx.AsyncClient, named: str) -> None:
    path = PATH.replace(ACME.id, named)

    answers = [await http.get(path, headers=NIGHT), await http.patch(path, headers=NIGHT, json={"masking": "off"})]

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "organization_not_found")] * 2
