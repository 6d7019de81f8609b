"""Dead letters over HTTP: operators only, the same service as the command line."""

import json
from datetime import timedelta
from typing import Any

import httpx
import jsonschema
import pytest

from nubabel_workers.domain.administration import AttemptSummary, DeadLetterGroup, DeadLetterHistory
from nubabel_workers.domain.dead_letters import DeadLetter, DeadLetterReason, DeadLetterStatus, SubjectKind
from nubabel_workers.domain.executions import EventKind, TimelineEvent
from nubabel_workers.domain.hints import HintTask
from nubabel_workers.domain.ids import DeadLetterId
from nubabel_workers.gateway.schemas import published_schemas
from tests.fakes.clock import START
from tests.fakes.front_door import OPERATORS, FrontDoor
from tests.unit.gateway.conftest import client_of

PATH = "/v1/operator/dead-letters"
OPENAPI = json.loads(published_schemas()["openapi.json"])


def letter(number: int, *, reason: DeadLetterReason = DeadLetterReason.PERMANENT_ERROR) -> DeadLetter:
    return DeadLetter(
        id=DeadLetterId(f"dlq_{number:026d}"),
        organization_id="org_acme",
        queue="orchestration",
        task="orchestration.dispatch",
        reason=reason,
        error="model_error: HTTP 400",
        status=DeadLetterStatus.OPEN,
        created_at=START + timedelta(minutes=number),
        subject_kind=SubjectKind.EXECUTION,
        subject_id=f"exe_{number}",
        attempts=1,
    )


def operator_of(door: FrontDoor, name: str = "night") -> httpx.AsyncClient:
    return client_of(door, token=OPERATORS[name].get_secret_value())


def fits(answer: httpx.Response, schema: str) -> Any:
    """The answer's body, after comparing it with the published document."""
    assert answer.status_code == 200, answer.text
    jsonschema.validate(answer.json(), {"$ref": f"#/components/schemas/{schema}", "components": OPENAPI["components"]})
    return answer.json()


@pytest.mark.parametrize("token", [None, "nbo_" + "A" * 43, "x"])
async def test_only_operators_may_look(door: FrontDoor, token: str | None) -> None:
    async with client_of(door, token=token) as http:
        answers = [await http.get(PATH), await http.post(f"{PATH}:replay", json={"all": True})]

    for answer in answers:
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_an_organizations_token_is_no_operators_token(door: FrontDoor, http: httpx.AsyncClient) -> None:
    assert (await http.get(PATH)).status_code == 401
    async with operator_of(door) as operator:
        assert (await operator.post("/v1/executions", json={"prompt": "Hello"})).status_code == 401


async def test_two_tokens_are_valid_while_one_replaces_the_other(door: FrontDoor) -> None:
    door.dead_letters.put(letter(1), letter(2))
    for number, name in enumerate(OPERATORS, start=1):
        async with operator_of(door, name) as http:
            assert (await http.post(f"{PATH}/{letter(number).id}/replay")).status_code == 200

    assert [one.resolved_by for one in door.dead_letters.rows.values()] == ["operator:night", "operator:night-new"]


async def test_they_are_listed_in_pages(door: FrontDoor) -> None:
    door.dead_letters.put(*(letter(number) for number in range(3)))
    async with operator_of(door) as http:
        first = fits(await http.get(PATH, params={"limit": 2}), "DeadLetterList")
        second = fits(await http.get(PATH, params={"limit": 2, "after": first["after"]}), "DeadLetterList")

    assert [one["subject_id"] for one in first["data"]] == ["exe_2", "exe_1"]
    assert ([one["subject_id"] for one in second["data"]], second["after"]) == (["exe_0"], None)
    assert first["data"][0]["explanation"].startswith("The other side refused it")
    assert first["data"][0]["cause"] == "model_error"


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"reason": "undecodable"}, ["exe_9"]),
        ({"created_from": (START + timedelta(minutes=2)).isoformat()}, ["exe_9", "exe_2"]),
        ({"created_before": (START + timedelta(minutes=2)).isoformat()}, ["exe_1"]),
        ({"queue": "notifications"}, []),
        ({"organization_id": "org_acme", "task": "orchestration.dispatch"}, ["exe_9", "exe_2", "exe_1"]),
    ],
)
async def test_they_are_chosen_by_what_they_are(door: FrontDoor, params: dict[str, str], found: list[str]) -> None:
    door.dead_letters.put(letter(1), letter(2), letter(9, reason=DeadLetterReason.UNDECODABLE))
    async with operator_of(door) as http:
        listed = fits(await http.get(PATH, params=params), "DeadLetterList")

    assert [one["subject_id"] for one in listed["data"]] == found


@pytest.mark.parametrize(
    "params", [{"limit": 0}, {"limit": 201}, {"reason": "x"}, {"created_from": "5"}, {"created_from": "2026-01-01"}]
)
async def test_what_does_not_fit_is_named(door: FrontDoor, params: dict[str, Any]) -> None:
    async with operator_of(door) as http:
        answer = await http.get(PATH, params=params)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"][0]["location"] == ["query", *params]


async def test_groups_say_how_many_since_when_and_whose(door: FrontDoor) -> None:
    found = DeadLetterGroup(
        DeadLetterReason.PERMANENT_ERROR,
        "model_error",
        "orchestration",
        "t",
        7,
        2,
        START,
        START,
        1,
        ("org_a",),
        "d",
        "e",
    )
    door.dead_letters.found_groups = [found]
    async with operator_of(door) as http:
        groups = fits(await http.get(f"{PATH}/groups"), "DeadLetterGroups")

    assert [(one["cause"], one["count"], one["raw"], one["organization_ids"]) for one in groups["data"]] == [
        ("model_error", 7, 2, ["org_a"])
    ]


async def test_one_is_shown_with_its_past_and_the_look_is_audited(door: FrontDoor) -> None:
    one = letter(1)
    door.dead_letters.put(one)
    door.dead_letters.histories[one.id] = DeadLetterHistory(
        one,
        subject_status="failed",
        subject={"prompt": "왜?"},
        execution_id="exe_1",
        timeline=(TimelineEvent(START, EventKind.ACCEPTED, {"source": "slack"}),),
        attempts=(AttemptSummary(1, "ins_1", "ses_1", "msg_1", START, None, None, None),),
        others=(letter(0),),
    )
    async with operator_of(door) as http:
        shown = fits(await http.get(f"{PATH}/{one.id}"), "DeadLetterDetail")

    assert shown["subject"] == {"prompt": "왜?"}
    assert shown["timeline"][0]["words"] == "accepted from slack"
    assert shown["runs"][0]["instance_id"] == "ins_1"
    assert shown["others"][0]["id"] == letter(0).id
    assert [(entry.actor, entry.action) for entry in door.audit.entries] == [("operator:night", "dead_letter.shown")]


async def test_one_is_replayed_once(door: FrontDoor) -> None:
    door.dead_letters.put(letter(1))
    async with operator_of(door) as http:
        path = f"{PATH}/{letter(1).id}/replay"
        outcomes = [
            fits(await http.post(path, json=body), "ReplayedView")["outcome"] for body in ({"dry_run": True}, {}, {})
        ]

    assert outcomes == ["would_replay", "replayed", "nothing_to_do"]
    assert door.hints.rows(HintTask.DISPATCH) == ["exe_1"]


async def test_those_that_fit_are_replayed_at_a_pace(door: FrontDoor) -> None:
    door.dead_letters.put(*(letter(number) for number in range(4)))
    body = {"filter": {"cause": "model_error"}, "pace_per_s": 2}
    async with operator_of(door) as http:
        dry = fits(await http.post(f"{PATH}:replay", json={**body, "dry_run": True}), "ReplayReportView")
        real = fits(await http.post(f"{PATH}:replay", json=body), "ReplayReportView")

    assert {**dry, "dry_run": False} == real
    assert (real["replayed"], real["takes_s"]) == (4, 1.5)
    assert list(door.dead_letters.starts_s.values()) == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "filter_names_nothing"),
        ({"filter": {"reson": "x"}}, "invalid_request"),
        ({"all": True, "pace_per_s": 0}, "invalid_request"),
        ({"all": True, "pace_per_s": 0.001}, "bad_pace"),
        ({"all": "yes"}, "invalid_request"),
        ({"all": True, "limit": 10_001}, "invalid_request"),
    ],
)
async def test_a_replay_by_mistake_is_refused(door: FrontDoor, body: dict[str, Any], code: str) -> None:
    door.dead_letters.put(letter(1))
    async with operator_of(door) as http:
        answer = await http.post(f"{PATH}:replay", json=body)

    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert door.dead_letters.rows[letter(1).id].status is DeadLetterStatus.OPEN


async def test_one_is_discarded_with_a_reason_and_not_twice(door: FrontDoor) -> None:
    door.dead_letters.put(letter(1))
    path = f"{PATH}/{letter(1).id}/discard"
    async with operator_of(door) as http:
        without = await http.post(path, json={})
        discarded = fits(await http.post(path, json={"reason": "test data"}), "DeadLetterView")
        again = await http.post(path, json={"reason": "test data"})

    assert without.status_code == 422
    assert (discarded["status"], discarded["resolved_by"]) == ("discarded", "operator:night")
    assert (again.status_code, again.json()["code"]) == (409, "not_open")


async def test_those_that_fit_are_discarded(door: FrontDoor) -> None:
    door.dead_letters.put(letter(1), letter(2))
    async with operator_of(door) as http:
        answer = await http.post(f"{PATH}:discard", json={"all": True, "reason": "load test", "limit": 1})

    assert fits(answer, "DiscardReportView") == {"dry_run": False, "discarded": 1, "more": True}


async def test_one_that_does_not_exist_is_not_found(door: FrontDoor) -> None:
    async with operator_of(door) as http:
        answers = [await http.get(f"{PATH}/{letter(1).id}"), await http.post(f"{PATH}/{letter(1).id}/replay")]

    assert [answer.status_code for answer in answers] == [404, 404]
