"""Usage over HTTP: a token's own organization, or any for operators."""

from dataclasses import replace
from datetime import date

import httpx
import pytest

from nubabel_workers.domain.budgets import Amount
from nubabel_workers.domain.usage_report import Dimension, UsageQuery
from tests.fakes.clock import START
from tests.fakes.front_door import ACME, OPERATORS, FrontDoor
from tests.unit.cli.test_usage import LINE
from tests.unit.gateway.conftest import client_of
from tests.unit.gateway.test_dead_letters import fits

PATH = "/v1/usage"
OPERATOR_PATH = "/v1/operator/usage"


async def test_a_token_is_told_of_its_own_organization(door: FrontDoor, http: httpx.AsyncClient) -> None:
    door.usage.found = [replace(LINE, lower_bound=True)]

    answer = fits(
        await http.get(PATH, params={"by": ["user", "day"], "from": "2026-10-01", "to": "2026-10-31"}),
        "UsageReportView",
    )

    by = (Dimension.USER, Dimension.DAY)
    assert door.usage.asked == [UsageQuery(date(2026, 10, 1), date(2026, 10, 31), by, ACME.id)]
    assert (answer["from"], answer["to"]) == ("2026-10-01", "2026-10-31")
    (line,) = answer["data"]
    assert (line["total_tokens"], line["cost_usd"], line["lower_bound"]) == (828, 0.5, True)


async def test_without_days_it_is_this_month(door: FrontDoor, http: httpx.AsyncClient) -> None:
    await http.get(PATH)

    assert door.usage.asked == [UsageQuery(START.date().replace(day=1), START.date(), (), ACME.id)]


@pytest.mark.parametrize(
    ("accept", "wanted", "kind"),
    [
        ("*/*", None, "application/json"),
        ("text/csv", None, "text/csv"),
        ("application/json", "csv", "text/csv"),
        ("text/csv", "json", "application/json"),
        ("application/json, text/csv;q=0.5", None, "application/json"),
    ],
)
async def test_the_form_is_chosen_by_accept_or_format(
    door: FrontDoor, http: httpx.AsyncClient, accept: str, wanted: str | None, kind: str
) -> None:
    door.usage.found = [LINE]

    query = {"by": "user"} | ({"format": wanted} if wanted else {})
    answer = await http.get(PATH, params=query, headers={"accept": accept})

    assert answer.headers["content-type"].partition(";")[0] == kind
    if kind == "text/csv":
        assert answer.text.splitlines()[1].startswith("'=cmd(),2,22,")


async def test_csv_is_for_spreadsheets_unless_a_program_asks(door: FrontDoor, http: httpx.AsyncClient) -> None:
    door.usage.found = [LINE]
    query = {"by": "user", "format": "csv"}

    assert (await http.get(PATH, params=query)).content.startswith(b"\xef\xbb\xbfuser,")
    assert (await http.get(PATH, params=query | {"bom": "false"})).content.startswith(b"user,")


@pytest.mark.parametrize("path", [PATH, OPERATOR_PATH])
async def test_an_unknown_field_is_named_beside_those_there_are(door: FrontDoor, path: str) -> None:
    token = door.token() if path == PATH else OPERATORS["night"].get_secret_value()
    async with client_of(door, token=token) as http:
        answer = await http.get(path, params={"by": "user", "until": "2026-10-31"})

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    assert (error["location"], error["type"]) == (["query", "until"], "extra_forbidden")
    assert "by, from, to, format, bom" in error["message"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"from": "2026-10-02", "to": "2026-10-01"}, "bad_range"),
        ({"from": "2020-01-01", "to": "2026-10-01"}, "bad_range"),
        ({"from": "yesterday"}, "invalid_request"),
        ({"by": "team"}, "invalid_request"),
        ({"by": ["user", "user"]}, "bad_division"),
        ({"format": "xml"}, "invalid_request"),
    ],
)
async def test_what_makes_no_sense_is_a_problem(http: httpx.AsyncClient, query: dict[str, str], code: str) -> None:
    answer = await http.get(PATH, params=query)

    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_several_dimensions_in_one_parameter_are_told_how_they_are_written(http: httpx.AsyncClient) -> None:
    answer = await http.get(PATH, params={"by": "user,day"})

    (error,) = answer.json()["errors"]
    assert (answer.status_code, error["location"]) == (422, ["query", "by", 0])
    assert (
        error["message"]
        == "by is one of organization, user, session, model, day; for several repeat it: by=user&by=day"
    )


async def test_operators_see_any_organization_and_others_nothing(door: FrontDoor, http: httpx.AsyncClient) -> None:
    refused = await http.get(OPERATOR_PATH)
    async with client_of(door, token=OPERATORS["night"].get_secret_value()) as operator:
        one = await operator.get(OPERATOR_PATH, params={"organization_id": "org_x"})
        everybody = await operator.get(OPERATOR_PATH, params={"by": "organization"})
        not_a_tenant = await operator.get(PATH)

    assert (refused.status_code, not_a_tenant.status_code) == (401, 401)
    assert (one.status_code, everybody.status_code) == (200, 200)
    assert [query.organization_id for query in door.usage.asked] == ["org_x", None]


# --- allowing more ---


async def test_an_operator_lets_an_execution_go_on_that_waits_for_its_budget(
    door: FrontDoor, http: httpx.AsyncClient
) -> None:
    submitted = (await http.post("/v1/executions", json={"prompt": "hello"})).json()
    path = f"/v1/operator/executions/{submitted['id']}/resume"
    door.budgets.waiting.add(submitted["id"])
    body = {"organization_id": ACME.id, "cost_usd": 2.5}

    async with client_of(door, token=OPERATORS["night"].get_secret_value()) as operator:
        elsewhere = await operator.post(path, json=body | {"organization_id": "org_other"})
        nothing = await operator.post(path, json=body | {"cost_usd": 0})
        allowed = await operator.post(path, json=body)
        again = await operator.post(path, json=body)
    refused = await http.post(path, json=body)

    assert [one.status_code for one in (elsewhere, nothing, allowed, again, refused)] == [404, 422, 202, 409, 401]
    assert again.json()["code"] == "not_waiting_for_budget"


async def test_less_than_a_step_is_refused_with_what_it_takes(door: FrontDoor, http: httpx.AsyncClient) -> None:
    submitted = (await http.post("/v1/executions", json={"prompt": "hello"})).json()
    door.budgets.steps[submitted["id"]] = Amount(0.3, 0)
    body = {"organization_id": ACME.id, "cost_usd": 0.1}

    async with client_of(door, token=OPERATORS["night"].get_secret_value()) as operator:
        refused = await operator.post(f"/v1/operator/executions/{submitted['id']}/resume", json=body)

    assert (refused.status_code, refused.json()["code"]) == (422, "less_than_a_step")
    assert "allow at least 0.30" in refused.json()["detail"]
    assert door.budgets.allowed == {}
