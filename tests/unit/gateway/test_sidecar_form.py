"""Callers of the old sidecar, as they have always called it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from nubabel_workers.domain.administration import AuditAction
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.executions import ExecutionError, Status
from nubabel_workers.gateway.app import create_private_app
from tests.fakes.front_door import OTHER, QUICK, FrontDoor
from tests.unit.gateway.conftest import client_of
from tests.waiting import eventually

DELEGATION: dict[str, Any] = {
    "category": "ultrabrain",
    "load_skills": ["mcp-integration"],
    "prompt": "Summarize my Notion tasks",
    "session_id": "ses_123",
    "organizationId": "org_acme",
    "userId": "user_456",
    "callbacks": {
        "sessionUpdate": "http://hooks.internal/api/sidecar/sessions/ses_123/update",
        "mcpInvoke": "http://hooks.internal/api/sidecar/mcp/invoke",
        "progress": "http://hooks.internal/api/sidecar/sessions/ses_123/progress",
    },
}
FOLLOW_UP = {"prompt": "How many are urgent?"}


async def ended(door: FrontDoor, asked: "asyncio.Task[httpx.Response]", **fields: Any) -> httpx.Response:
    """The answer, after workers have ended the newest execution."""
    await eventually(lambda: door.progress.readers)
    newest = list(door.executions.rows)[-1]
    fields = {"status": Status.COMPLETED, "output": "You have 5 active tasks...", **fields}
    row = door.executions.move(newest, opencode_session_id="oc_abc123", **fields)
    await door.progress.append(row.organization_id, row.id, {"type": "state", "status": row.status.value})
    return await asked


def delegate(http: httpx.AsyncClient, **change: Any) -> "asyncio.Task[httpx.Response]":
    return asyncio.create_task(http.post("/delegate", json=DELEGATION | change))


async def test_a_task_is_delegated_as_ever(door: FrontDoor, http: httpx.AsyncClient) -> None:
    answer = await ended(door, delegate(http))

    row = door.executions.only()
    assert answer.status_code == 200
    assert answer.json() == {
        "output": "You have 5 active tasks...",
        "status": "success",
        "metadata": {
            "model": "claude-sonnet-4-5",
            "opencodeSessionId": "oc_abc123",
            "nubabelSessionId": "ses_123",
        },
    }
    assert (row.user_id, row.overrides.category, row.overrides.skills) == ("user_456", "ultrabrain", [])
    assert row.reply == {
        "kind": "callbacks",
        "session_update": DELEGATION["callbacks"]["sessionUpdate"],
        "progress": DELEGATION["callbacks"]["progress"],
    }


async def test_a_session_is_continued_by_the_id_of_opencode_ours_or_the_callers(
    door: FrontDoor, http: httpx.AsyncClient
) -> None:
    await ended(door, delegate(http))
    session_id = door.executions.only().session_id

    for name in ("oc_abc123", session_id, "ses_123"):
        answer = await ended(door, asyncio.create_task(http.post(f"/sessions/{name}/prompt", json=FOLLOW_UP)))
        assert answer.json()["metadata"]["nubabelSessionId"] == "ses_123"

    assert {row.session_id for row in door.executions.rows.values()} == {session_id}
    assert len(door.executions.rows) == 4


async def test_a_task_of_the_same_session_continues_it(door: FrontDoor, http: httpx.AsyncClient) -> None:
    await ended(door, delegate(http))
    await ended(door, delegate(http, prompt="And now?"))

    assert len({row.session_id for row in door.executions.rows.values()}) == 1


async def test_a_caller_that_tries_again_meets_its_own_task(door: FrontDoor, http: httpx.AsyncClient) -> None:
    first, again = delegate(http), delegate(http)
    await eventually(lambda: door.progress.readers == 2)
    answers = await ended(door, first), await again

    assert answers[0].json() == answers[1].json()
    assert len(door.executions.rows) == 1

    await ended(door, delegate(http))  # the conversation has gone on: these words are new ones
    assert len(door.executions.rows) == 2


async def test_a_session_is_looked_at(door: FrontDoor, http: httpx.AsyncClient) -> None:
    asked = delegate(http)
    await eventually(lambda: door.progress.readers)
    busy = (await http.get("/sessions/ses_123")).json()
    await ended(door, asked)
    idle = (await http.get("/sessions/oc_abc123")).json()

    assert (busy["state"], busy["status"], busy["result"]) == ("busy", "running", None)
    assert (idle["state"], idle["status"], idle["result"]) == ("idle", "success", "You have 5 active tasks...")
    assert idle["metadata"]["model"] == "claude-sonnet-4-5"


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/sessions/oc_abc/prompt", {}, "Validation error: prompt is required and must be a string"),
        ("/sessions/oc_abc/prompt", {"prompt": 5}, "Validation error: prompt is required and must be a string"),
        ("/sessions/oc_abc/prompt", {"prompt": ""}, "Validation error: prompt is required and must be a string"),
        ("/delegate", DELEGATION | {"session_id": None}, "Validation error: session_id is required and must be a s"),
        ("/delegate", DELEGATION | {"category": "magic"}, 'Validation error: unknown category "magic"; there are: '),
        ("/delegate", DELEGATION | {"load_skills": ["magic"]}, 'Validation error: unknown skill "magic"; there are'),
        (
            "/delegate",
            DELEGATION | {"load_skills": "x"},
            "Validation error: load_skills is required and must be a list",
        ),
        ("/delegate", DELEGATION | {"load_skills": [5]}, "Validation error: load_skills.0 is required and must be a s"),
        ("/delegate", DELEGATION | {"context": "x"}, "Validation error: context must be an object"),
        ("/delegate", DELEGATION | {"callbacks": "x"}, "Validation error: callbacks must be an object"),
        ("/delegate", [], "Validation error: the body must be a JSON object"),
    ],
)
async def test_what_does_not_fit_is_refused_in_the_sidecars_form(
    door: FrontDoor, http: httpx.AsyncClient, path: str, body: Any, said: str
) -> None:
    answer = await http.post(path, json=body)

    assert answer.status_code == 400
    assert answer.json()["output"].startswith(said)
    assert answer.json() | {"output": ""} == {
        "output": "",
        "status": "failed",
        "metadata": {"model": "unknown", "error": "VALIDATION_ERROR"},
    }
    assert door.executions.rows == {}


async def test_skills_that_are_missing_are_asked_for_as_a_list(http: httpx.AsyncClient) -> None:
    answer = await http.post("/delegate", json={k: v for k, v in DELEGATION.items() if k != "load_skills"})

    said = answer.json()["output"]
    assert said == "Validation error: load_skills is required and must be a list of strings, [] for none"


async def test_a_body_without_the_json_media_type_is_told_which_header_to_send(http: httpx.AsyncClient) -> None:
    answer = await http.post("/delegate", content=b"{}", headers={"content-type": "text/plain"})

    assert answer.status_code == 400
    assert "Content-Type: application/json" in answer.json()["output"]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe{", b""])
async def test_a_body_that_is_no_json_is_refused_in_the_sidecars_form(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post("/delegate", content=body, headers={"content-type": "application/json"})

    assert (answer.status_code, answer.json()["metadata"]["error"]) == (400, "VALIDATION_ERROR")


@pytest.mark.parametrize("url", ["http://example.com/x", "https://127.0.0.1/x", "https://169.254.169.254/", "no url"])
async def test_a_callback_that_leads_inside_is_refused(door: FrontDoor, http: httpx.AsyncClient, url: str) -> None:
    answer = await http.post("/delegate", json=DELEGATION | {"callbacks": {"progress": url}})

    assert (answer.status_code, answer.json()["metadata"]["error"]) == (400, "VALIDATION_ERROR")
    assert answer.json()["output"].startswith("Validation error: callbacks.progress: the URL")
    assert url not in answer.json()["output"]
    assert door.executions.rows == {}


async def test_a_task_without_callbacks_tells_nobody(door: FrontDoor, http: httpx.AsyncClient) -> None:
    await ended(door, delegate(http, callbacks=None))

    assert door.executions.only().reply == {"kind": "none"}


async def test_a_task_that_takes_too_long_times_out_and_goes_on() -> None:
    door = FrontDoor(limits=replace(QUICK, sidecar_wait_s=0.05))
    async with client_of(door, token=door.token()) as http:
        asked = delegate(http)
        await eventually(lambda: door.progress.readers)
        door.clock.advance(1)
        answer = await asked

    assert answer.status_code == 504
    assert answer.json() == {
        "output": "Session completion timeout after 50ms",
        "status": "failed",
        "metadata": {"model": "unknown", "nubabelSessionId": "ses_123", "error": "TIMEOUT_ERROR"},
    }
    assert door.executions.only().status is Status.QUEUED


async def test_a_prompt_that_takes_too_long_fails_as_it_always_did() -> None:
    door = FrontDoor(limits=replace(QUICK, sidecar_wait_s=0.05))
    async with client_of(door, token=door.token()) as http:
        await ended(door, delegate(http))
        asked = asyncio.create_task(http.post("/sessions/oc_abc123/prompt", json=FOLLOW_UP))
        await eventually(lambda: door.progress.readers)
        door.clock.advance(1)
        answer = await asked

    assert answer.status_code == 500
    assert answer.json()["output"] == "Failed to send prompt to session: Session completion timeout after 50ms"
    assert answer.json()["metadata"]["error"] == "EXECUTION_ERROR"


async def test_a_failed_task_is_an_execution_error(door: FrontDoor, http: httpx.AsyncClient) -> None:
    error = ExecutionError("boom", "Sorry.", "inner detail")

    answer = await ended(door, delegate(http), status=Status.FAILED, output=None, error=error)

    assert (answer.status_code, answer.json()["output"]) == (500, "Sorry.")
    assert answer.json()["metadata"] == {
        "model": "unknown",
        "opencodeSessionId": "oc_abc123",
        "nubabelSessionId": "ses_123",
        "error": "EXECUTION_ERROR",
    }


async def test_a_process_that_stops_asks_to_try_again(door: FrontDoor, http: httpx.AsyncClient) -> None:
    asked = delegate(http)
    await eventually(lambda: door.progress.readers)
    door.app.state.stopping.set()
    answer = await asked

    assert (answer.status_code, answer.json()["metadata"]["error"]) == (503, "UNAVAILABLE")


async def test_without_the_database_nothing_is_accepted(door: FrontDoor, http: httpx.AsyncClient) -> None:
    door.executions.error = UnavailableError("away")

    answer = await http.post("/delegate", json=DELEGATION)

    assert (answer.status_code, answer.json()["metadata"]["error"]) == (503, "UNAVAILABLE")
    assert answer.headers["retry-after"]


async def test_without_room_for_waiting_nothing_is_accepted() -> None:
    door = FrontDoor(limits=replace(QUICK, streams_per_organization=1))
    async with client_of(door, token=door.token()) as http:
        asked = delegate(http)
        await eventually(lambda: door.progress.readers)
        answer = await http.post("/delegate", json=DELEGATION | {"session_id": "other"})
        asked.cancel()

    assert (answer.status_code, answer.json()["metadata"]["error"]) == (429, "UNAVAILABLE")
    assert len(door.executions.rows) == 1


async def test_an_unknown_session_or_one_of_somebody_else_does_not_exist(
    door: FrontDoor, http: httpx.AsyncClient
) -> None:
    await ended(door, delegate(http))
    async with client_of(door, token=door.token(OTHER)) as other:
        answers = [
            await other.post("/sessions/oc_abc123/prompt", json=FOLLOW_UP),
            await other.get("/sessions/ses_123"),
            await http.get("/sessions/unknown"),
        ]

    assert [(one.status_code, one.json()["metadata"]["error"]) for one in answers] == [(404, "SESSION_NOT_FOUND")] * 3


@pytest.mark.parametrize(
    ("headers", "change"),
    [
        ({"x-organization-id": "org_other"}, {}),
        ({}, {"organizationId": "org_123"}),
        ({}, {"context": {"organizationId": "org_123"}}),
        ({"x-user-id": "somebody"}, {}),
        ({}, {"context": {"userId": "somebody"}}),
    ],
)
async def test_whoever_names_somebody_else_is_refused_and_audited(
    door: FrontDoor, http: httpx.AsyncClient, headers: dict[str, str], change: dict[str, Any]
) -> None:
    answer = await http.post("/delegate", json=DELEGATION | change, headers=headers)

    assert (answer.status_code, answer.json()["metadata"]["error"]) == (403, "FORBIDDEN")
    assert [entry.action for entry in door.audit.entries] == [AuditAction.IDENTITY_REFUSED]
    assert door.executions.rows == {}


async def test_without_a_token_the_answer_has_the_sidecars_form(door: FrontDoor) -> None:
    async with client_of(door) as http:
        answer = await http.post("/delegate", json=DELEGATION)

    assert (answer.status_code, answer.json()["metadata"]["error"]) == (401, "UNAUTHORIZED")
    assert answer.headers["www-authenticate"] == "Bearer"


class TestPrivateAddress:
    """Where callers without any header act for one organization."""

    @pytest.fixture
    async def inside(self, door: FrontDoor) -> AsyncIterator[httpx.AsyncClient]:
        app = create_private_app(door.app, "org_acme")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:3001") as http:
            yield http

    async def test_no_token_is_needed(self, door: FrontDoor, inside: httpx.AsyncClient) -> None:
        answer = await ended(door, delegate(inside))

        assert answer.json()["status"] == "success"
        assert door.executions.only().organization_id == "org_acme"

    async def test_another_organization_is_refused_and_audited(
        self, door: FrontDoor, inside: httpx.AsyncClient
    ) -> None:
        answer = await inside.post("/delegate", json=DELEGATION | {"organizationId": "org_other"})

        assert answer.status_code == 403
        assert [entry.actor for entry in door.audit.entries] == ["sidecar_listen"]

    @pytest.mark.parametrize("path", ["/v1/executions", "/v1/operator/dead-letters", "/metrics", "/docs", "/ready"])
    async def test_only_the_bridge_is_there(self, inside: httpx.AsyncClient, path: str) -> None:
        assert (await inside.get(path)).status_code == 404
        assert (await inside.get("/health")).status_code == 200

    async def test_a_token_that_is_shown_has_to_be_valid(self, inside: httpx.AsyncClient) -> None:
        answer = await inside.post("/delegate", json=DELEGATION, headers={"authorization": "Bearer nbt_x"})

        assert answer.status_code == 401

    @pytest.mark.parametrize("header", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}])
    async def test_browsers_are_refused(
        self, door: FrontDoor, inside: httpx.AsyncClient, header: dict[str, str]
    ) -> None:
        answer = await inside.post("/delegate", json=DELEGATION, headers=header)

        assert (answer.status_code, answer.json()["code"]) == (403, "browser_refused")
        assert door.executions.rows == {}
