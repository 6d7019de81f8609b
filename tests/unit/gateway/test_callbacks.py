"""Callbacks of OpenCode's plugin over HTTP: who is let in, what is refused and how, what is told."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.submission import SubmitRequest
from tests.fakes.callbacks import KEY, running_on
from tests.fakes.front_door import ACME, QUICK, FrontDoor
from tests.unit.gateway.conftest import client_of

UPDATE = "/api/sidecar/sessions/ses_root/update"
PROGRESS = "/api/sidecar/sessions/ses_root/progress"
INVOKE = "/api/sidecar/mcp/invoke"
TOOLS = "/api/sidecar/mcp/tools"
IDLE: dict[str, Any] = {"type": "session.idle", "session_id": "ses_root"}
CALL: dict[str, Any] = {"session_id": "ses_root", "call_id": "call_1", "tool_name": "search", "arguments": {"q": "x"}}
TOOL: dict[str, Any] = {
    "type": "tool",
    "session_id": "ses_root",
    "call_id": "call_1",
    "tool": "bash",
    "status": "running",
}
TEXT: dict[str, Any] = {
    "type": "text",
    "session_id": "ses_root",
    "message_id": "msg_1",
    "part_id": "prt_1",
    "text": "Done.",
}


class Plugin:
    """Signs as the plugin of ins_1 does, whose session `ses_root` works on an execution of Acme's."""

    def __init__(self, door: FrontDoor) -> None:
        self.door = door
        self.sessions = door.callbacks.sessions
        self.execution_id = ""

    async def begin(self) -> None:
        submitted = await self.door.submit.submit(
            ACME, SubmitRequest(prompt="hello"), source="api", correlation_id="c", traceparent="t"
        )
        self.execution_id = submitted.execution_id
        self.sessions.add(submitted.session_id, ACME.id, "ins_1", "ses_root")
        self.sessions.parents = {"ses_root": None, "ses_child": "ses_root"}
        running_on(self.sessions, self.door.executions.only(), "ins_1", "ses_root")
        self.door.hints.published.clear()

    async def post(self, path: str, body: Any, **changes: str) -> httpx.Response:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send(path, raw, self.door.callbacks.headers(path, raw, KEY, **changes))

    async def send(self, path: str, raw: bytes, headers: Mapping[str, str]) -> httpx.Response:
        async with client_of(self.door) as client:
            return await client.post(path, content=raw, headers=dict(headers))

    def shown(self) -> list[Mapping[str, Any]]:
        return [event for _, event in self.door.progress.streams[ACME.id, self.execution_id]]


@pytest.fixture
async def plugin() -> Plugin:
    calling = Plugin(FrontDoor(limits=replace(QUICK, max_body_bytes=1_048_576)))
    await calling.begin()
    return calling


@pytest.mark.parametrize("path", [UPDATE, "/internal/sessions/complete"])
async def test_an_idle_session_is_looked_at(plugin: Plugin, path: str) -> None:
    answer = await plugin.post(path, IDLE)

    assert (answer.status_code, answer.json()) == (202, {"accepted": 1})
    assert plugin.door.hints.published == [Hint(HintTask.COMPLETE, plugin.execution_id)]


async def test_an_error_is_the_same_hint_and_our_own_id_names_the_session_too(plugin: Plugin) -> None:
    session_id = plugin.door.executions.only().session_id
    failed = {"type": "session.error", "session_id": "ses_root", "error": {"name": "APIError", "message": "no"}}

    answer = await plugin.post(f"/api/sidecar/sessions/{session_id}/update", failed)

    assert answer.json() == {"accepted": 1}


async def test_the_end_of_a_sub_agent_wakes_nobody(plugin: Plugin) -> None:
    answer = await plugin.post(UPDATE, {"type": "session.idle", "session_id": "ses_child"})

    assert (answer.status_code, answer.json()) == (202, {"accepted": 0})
    assert plugin.door.hints.published == []


async def test_progress_is_shown_once_however_often_it_is_told(plugin: Plugin) -> None:
    child = TOOL | {"session_id": "ses_child", "tool": "grep"}

    first = await plugin.post(PROGRESS, {"items": [TOOL, TEXT, child]})
    again = await plugin.post(
        PROGRESS, {"items": [TOOL, TEXT, child, TOOL | {"status": "completed", "title": "Tests"}]}
    )

    assert (first.status_code, first.json(), again.json()) == (202, {"accepted": 3}, {"accepted": 1})
    assert [(one["type"], one.get("tool"), one.get("status")) for one in plugin.shown()] == [
        ("tool", "bash", "running"),
        ("text", None, None),
        ("tool", "grep", "running"),
        ("tool", "bash", "completed"),
    ]


async def test_a_call_id_that_comes_back_in_a_later_message_is_another_call(plugin: Plugin) -> None:
    told = [TOOL | {"message_id": message, "status": "completed"} for message in ("msg_1", "msg_2")]

    answers = [(await plugin.post(PROGRESS, {"items": told})).json() for _ in range(2)]

    assert answers == [{"accepted": 2}, {"accepted": 0}]
    assert [one["message_id"] for one in plugin.shown()] == ["msg_1", "msg_2"]


async def test_what_a_sub_agent_writes_is_no_part_of_the_answer(plugin: Plugin) -> None:
    await plugin.post(PROGRESS, {"items": [TEXT | {"session_id": "ses_child"}]})

    assert plugin.shown() == []


async def test_without_a_run_nothing_is_shown(plugin: Plugin) -> None:
    plugin.sessions.running.clear()

    assert (await plugin.post(PROGRESS, {"items": [TOOL]})).json() == {"accepted": 0}


@pytest.mark.parametrize("path", [INVOKE, "/internal/mcp/execute"])
async def test_without_tools_the_agent_is_told_so(plugin: Plugin, path: str) -> None:
    answer = await plugin.post(path, CALL)

    assert answer.status_code == 200
    assert (answer.json()["ok"], answer.json()["error"]["code"]) == (False, "no_tools")
    assert (await plugin.post(TOOLS, {"session_id": "ses_child"})).json() == {"providers": []}


async def test_the_calling_server_is_reached_or_it_is_said_why_not(plugin: Plugin) -> None:
    reached = await plugin.post("/internal/test-opencode", b"")
    plugin.sessions.error = UnavailableError("connection refused")
    lost = await plugin.post("/internal/test-opencode", b"")

    assert (reached.json()["ok"], reached.json()["version"]) == (True, "1.18.33")
    assert (lost.status_code, lost.json()["ok"], lost.json()["detail"]) == (200, False, "connection refused")


@pytest.mark.parametrize("path", [UPDATE, PROGRESS, INVOKE, TOOLS, "/internal/sessions/complete"])
async def test_unsigned_calls_are_refused(plugin: Plugin, path: str) -> None:
    answer = await plugin.send(path, json.dumps(IDLE).encode(), {"content-type": "application/json"})

    assert (answer.status_code, answer.json()["code"]) == (401, "unsigned")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == "NubabelSignature"


@pytest.mark.parametrize("path", [UPDATE, PROGRESS, INVOKE, TOOLS, "/internal/sessions/complete"])
async def test_what_is_no_json_is_told_only_to_whoever_signed_it(plugin: Plugin, path: str) -> None:
    raw = b'{"session_id": '

    unsigned = await plugin.send(path, raw, {"content-type": "application/json"})
    signed = await plugin.post(path, raw)

    assert (unsigned.status_code, unsigned.json()["code"]) == (401, "unsigned")
    assert signed.status_code == 400


async def test_a_service_token_is_no_signature(plugin: Plugin) -> None:
    headers = {"content-type": "application/json", "authorization": f"Bearer {plugin.door.token()}"}

    assert (await plugin.send(UPDATE, json.dumps(IDLE).encode(), headers)).status_code == 401


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"signature": "v1=" + "0" * 64}, "bad_signature"),
        ({"instance": "ins_2"}, "bad_signature"),
        ({"timestamp": "1"}, "signature_too_old"),
        ({"nonce": "short"}, "unsigned"),
    ],
)
async def test_a_wrong_signature_is_refused(plugin: Plugin, changes: dict[str, str], code: str) -> None:
    answer = await plugin.post(UPDATE, IDLE, **changes)

    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert plugin.door.hints.published == []


async def test_a_call_that_was_recorded_is_refused(plugin: Plugin) -> None:
    raw = json.dumps(IDLE).encode()
    headers = plugin.door.callbacks.headers(UPDATE, raw)

    answers = [await plugin.send(UPDATE, raw, headers) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 401]
    assert answers[1].json()["code"] == "replayed"


async def test_the_query_is_signed_as_it_is_sent(plugin: Plugin) -> None:
    raw = json.dumps(IDLE).encode()
    signed = plugin.door.callbacks.headers(f"{UPDATE}?a=%41&b", raw)

    assert (await plugin.send(UPDATE, raw, signed)).status_code == 401
    assert (await plugin.post(f"{UPDATE}?a=%41&b", IDLE)).status_code == 202


async def test_while_a_key_is_replaced_both_are_good(plugin: Plugin) -> None:
    raw, new = json.dumps(IDLE).encode(), SecretStr("nck_" + "n" * 43)
    instances = plugin.door.callbacks.instances
    old = plugin.door.callbacks

    async def answers() -> list[int]:
        by_new = await plugin.send(UPDATE, raw, old.headers(UPDATE, raw, new))
        return [(await plugin.post(UPDATE, IDLE)).status_code, by_new.status_code]

    before = await answers()
    await instances.add_callback_key("ins_1", new, actor="tests")
    both = await answers()
    await instances.end_previous_callback_key("ins_1", actor="tests")

    assert (before, both, await answers()) == ([202, 401], [202, 202], [401, 202])


async def test_a_batch_that_fails_and_is_sent_again_lists_what_was_refused_once(
    plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = TOOL | {"status": "error", "refused": "read: not of this session"}
    batch = {"items": [refused, TOOL | {"call_id": "call_2"}]}
    with monkeypatch.context() as away:
        away.setattr(plugin.door.progress, "tell", _away)
        failed = await plugin.post(PROGRESS, batch)
    again = await plugin.post(PROGRESS, batch)
    await plugin.door.foreign_ids.settled()

    assert (failed.status_code, again.status_code) == (503, 202)
    assert [one.action for one in plugin.door.audit.entries] == ["tool_call.refused"]


async def _away(*_: object) -> int:
    raise UnavailableError("the database cannot be reached")


async def test_what_an_agent_was_refused_is_in_the_audit_log_and_shown_to_nobody(plugin: Plugin) -> None:
    refused = TOOL | {"status": "error", "refused": "read: only files in /srv/directories/org_acme are available"}

    answer = await plugin.post(PROGRESS, {"items": [refused, TOOL | {"call_id": "call_2"}]})

    assert (answer.status_code, answer.json()) == (202, {"accepted": 1})
    await plugin.door.foreign_ids.settled()
    (entry,) = plugin.door.audit.entries
    assert (entry.actor, entry.action, entry.organization_id) == ("instance:ins_1", "tool_call.refused", ACME.id)
    assert (entry.detail["tool"], entry.detail["reason"]) == (TOOL["tool"], refused["refused"])


async def test_a_stolen_key_of_another_server_does_nothing_here(plugin: Plugin) -> None:
    """Server B's sessions are not those of A, whose key is used, whatever the body says."""
    plugin.sessions.add("ses_ours2", "org_other", "ins_2", "ses_theirs")
    stolen = [
        await plugin.post("/api/sidecar/sessions/ses_theirs/update", IDLE | {"session_id": "ses_theirs"}),
        await plugin.post("/api/sidecar/sessions/ses_root/update", IDLE | {"session_id": "ses_theirs"}),
        await plugin.post("/api/sidecar/sessions/ses_theirs/progress", {"items": [TOOL]}),
        await plugin.post(PROGRESS, {"items": [TOOL | {"session_id": "ses_theirs"}]}),
        await plugin.post(INVOKE, CALL | {"session_id": "ses_theirs"}),
        await plugin.post(TOOLS, {"session_id": "ses_theirs"}),
    ]

    assert [(answer.status_code, answer.json()["code"]) for answer in stolen] == [(403, "session_not_served")] * 6
    await plugin.door.foreign_ids.settled()
    assert {one.organization_id for one in plugin.door.audit.entries} == {"org_other"}
    assert plugin.shown() == []


@pytest.mark.parametrize(
    ("path", "body"),
    [(UPDATE, IDLE), (PROGRESS, {"items": [TOOL]}), (INVOKE, CALL), (TOOLS, {"session_id": "ses_root"})],
)
async def test_another_organization_in_the_body_is_refused(plugin: Plugin, path: str, body: dict[str, Any]) -> None:
    right = await plugin.post(path, body | {"organization_id": ACME.id})
    wrong = await plugin.post(path, body | {"organization_id": "org_other"})

    assert right.is_success
    assert (wrong.status_code, wrong.json()["code"]) == (403, "organization_mismatch")
    assert [one.organization_id for one in plugin.door.audit.entries] == [ACME.id]


async def test_too_many_callbacks_are_answered_with_when_to_come_back(plugin: Plugin) -> None:
    plugin.sessions.limits[f"callbacks:{ACME.id}"] = 1
    await plugin.post(UPDATE, IDLE)

    answer = await plugin.post(UPDATE, IDLE)

    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (UPDATE, {}),
        (UPDATE, IDLE | {"type": "session.deleted"}),
        (UPDATE, IDLE | {"session_id": "../../etc"}),
        (UPDATE, []),
        ("/api/sidecar/sessions/org_x/update", IDLE),
        (PROGRESS, {"items": []}),
        (PROGRESS, {"items": [TOOL] * 101}),
        (PROGRESS, {"items": [TOOL | {"status": "exploded"}]}),
        (PROGRESS, {"items": [{"type": "thought"}]}),
        (PROGRESS, {"items": [TEXT | {"text": "a\x00b"}]}),
        (INVOKE, CALL | {"arguments": "x"}),
        (INVOKE, CALL | {"tool_name": ""}),
    ],
)
async def test_what_does_not_fit_is_refused_with_what_to_change(plugin: Plugin, path: str, body: Any) -> None:
    answer = await plugin.post(path, body)

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert answer.json()["errors"]


async def test_a_body_that_is_too_large_is_refused(plugin: Plugin) -> None:
    large = IDLE | {"padding": "x" * 20_000}

    assert (await plugin.post(UPDATE, large)).status_code == 413
    assert (await plugin.post(PROGRESS, {"items": [TEXT], "padding": "x" * 300_000})).status_code == 413


async def test_what_a_later_plugin_adds_is_passed_over(plugin: Plugin) -> None:
    assert (await plugin.post(UPDATE, IDLE | {"mood": "good"})).status_code == 202


VITALS = "/api/sidecar/server"
WELL: dict[str, Any] = {"process": "Xq3v0b8rTqGk2m1z", "resident_bytes": 700_000_000}


async def test_memory_of_the_server_that_signed_is_judged(plugin: Plugin) -> None:
    well = await plugin.post(VITALS, WELL)
    strained = await plugin.post(VITALS, WELL | {"resident_bytes": 3_200_000_000})

    assert (well.status_code, well.json()) == (200, {"strain": None})
    assert strained.json() == {"strain": "its memory is 3.2 GB, the bound 3.0 GB"}
    assert [instance_id for instance_id, _ in plugin.door.callbacks.vitals.samples] == ["ins_1"]


@pytest.mark.parametrize(
    "change",
    [
        {"process": "short"},
        {"process": "with a blank in it"},
        {"resident_bytes": -1},
        {"resident_bytes": 2**60},
        {"resident_bytes": "much"},
    ],
    ids=str,
)
async def test_memory_that_cannot_be_is_refused(plugin: Plugin, change: dict[str, Any]) -> None:
    answer = await plugin.post(VITALS, WELL | change)

    assert answer.status_code == 422
    assert plugin.door.callbacks.vitals.samples == {}


async def test_memory_told_without_a_signature_is_refused(plugin: Plugin) -> None:
    answer = await plugin.send(VITALS, json.dumps(WELL).encode(), {"content-type": "application/json"})

    assert answer.status_code == 401
    assert plugin.door.callbacks.vitals.samples == {}
