"""Over HTTP: what a caller names and its organization does not have is reported, and the answer tells nothing of it."""

import httpx
import pytest

from nubabel_workers.domain.administration import AuditAction
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.foreign_ids import IdKind
from nubabel_workers.services import report_foreign_ids
from tests.fakes.front_door import ACME, OTHER, FrontDoor

EXECUTION, BATCH, CONNECTION, SESSION = (f"{kind}_{'a' * 26}" for kind in ("exe", "bat", "mcp", "ses"))
DOORS = [
    ("GET", f"/v1/executions/{EXECUTION}", None, "GET /v1/executions/{execution_id}"),
    ("POST", f"/v1/executions/{EXECUTION}/cancel", None, "POST /v1/executions/{execution_id}/cancel"),
    ("GET", f"/v1/executions/{EXECUTION}/events", None, "GET /v1/executions/{execution_id}/events"),
    ("GET", f"/v1/batches/{BATCH}", None, "GET /v1/batches/{batch_id}"),
    ("GET", f"/v1/connections/{CONNECTION}", None, "GET /v1/connections/{connection}"),
    ("GET", f"/sessions/{SESSION}", None, "GET /sessions/{session_id}"),
    ("POST", "/v1/executions", {"prompt": "x", "session_id": SESSION}, "POST /v1/executions"),
    (
        "POST",
        "/v1/executions:batch",
        {"requests": [{"prompt": "x"}, {"prompt": "x", "session_id": SESSION}]},
        "POST /v1/executions:batch",
    ),
]


@pytest.mark.parametrize(("method", "path", "body", "door_name"), DOORS, ids=[name for *_, name in DOORS])
async def test_what_is_anothers_is_listed_with_its_door_and_answered_like_what_is_nobodys(
    method: str, path: str, body: object, door_name: str, door: FrontDoor, http: httpx.AsyncClient
) -> None:
    nobodys = await http.request(method, path, json=body)
    await door.foreign_ids.settled()
    assert door.audit.entries == []
    for name in (EXECUTION, BATCH, CONNECTION, SESSION):
        door.id_owners.of[name] = frozenset({OTHER.id})

    anothers = await http.request(method, path, json=body)

    assert (anothers.status_code, _said(anothers)) == (nobodys.status_code, _said(nobodys))
    await door.foreign_ids.settled()
    (entry,) = door.audit.entries
    assert (entry.action, entry.organization_id) == (AuditAction.FOREIGN_ID_NAMED, None)
    assert entry.actor.startswith("token:")
    assert (entry.detail["door"], entry.detail["organization"], entry.detail["owner"]) == (door_name, ACME.id, OTHER.id)


def _said(answer: httpx.Response) -> dict[str, object]:
    return {name: value for name, value in answer.json().items() if name in {"code", "detail", "output", "status"}}


async def test_a_name_for_a_new_conversation_that_is_anothers_session_is_listed(
    door: FrontDoor, http: httpx.AsyncClient
) -> None:
    """It becomes the caller's own name, as every other does."""
    door.id_owners.of[SESSION] = frozenset({OTHER.id})

    answer = await http.post(
        "/delegate", json={"prompt": "x", "category": "quick", "load_skills": [], "session_id": SESSION}
    )

    assert (answer.status_code, door.executions.only().organization_id) == (504, ACME.id)
    await door.foreign_ids.settled()
    assert [one.subject for one in door.audit.entries] == [SESSION]


async def test_the_answer_does_not_wait_for_the_look(
    door: FrontDoor, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> frozenset[str]:
        raise UnavailableError("the database cannot be reached")

    monkeypatch.setattr(door.id_owners, "owners", away)

    answer = await http.get(f"/v1/executions/{EXECUTION}")

    assert answer.status_code == 404


async def test_nobody_is_looked_up_for_whoever_is_not_authenticated(door: FrontDoor, http: httpx.AsyncClient) -> None:
    await http.get(f"/v1/executions/{EXECUTION}", headers={"authorization": "Bearer nbt_wrong"})
    await door.foreign_ids.settled()

    assert door.id_owners.asked == []


async def test_a_name_of_ones_own_is_not_looked_up(door: FrontDoor, http: httpx.AsyncClient) -> None:
    await http.get("/v1/connections/notion")
    await http.get("/sessions/my-conversation")
    await http.get(f"/sessions/{SESSION}")
    await door.foreign_ids.settled()

    assert door.id_owners.asked == [(IdKind.SESSION, SESSION)]


async def test_refused_claims_of_being_another_organization_are_listed_within_the_same_bounds(
    door: FrontDoor, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_foreign_ids, "LISTED_PER_MINUTE", 2)

    answers = [await http.get("/capabilities", headers={"x-organization-id": OTHER.id}) for _ in range(5)]

    assert {answer.status_code for answer in answers} == {403}
    await door.foreign_ids.close()
    assert [one.action for one in door.audit.entries] == [
        AuditAction.IDENTITY_REFUSED,
        AuditAction.IDENTITY_REFUSED,
        AuditAction.REFUSALS_NOT_LISTED,
    ]
    assert door.audit.entries[-1].detail == {"action": AuditAction.IDENTITY_REFUSED, "refused": 3}
