"""The bridge contract and the old sidecar's form on real PostgreSQL, Valkey and HTTP, with the OpenCode simulator."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.adapters.orchestrators.delegate import DelegateService
from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.adapters.storage.conversations import PostgresConversations
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.client import DelegateRequest
from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.executions import Status
from nubabel_workers.domain.notifications import CallbacksTarget
from nubabel_workers.domain.ports import Conversation
from nubabel_workers.domain.ports.orchestrators import Call
from nubabel_workers.domain.submission import SubmitRequest
from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.processes import ChildProcess
from nubabel_workers.gateway.dependencies import GatewayLimits
from tests.integration.gateway.callback_receiver import CallbackReceiver, callback_receiver
from tests.integration.gateway.conftest import Gateway, environment_of, served, until
from tests.loopback import is_healthy

pytestmark = pytest.mark.integration

TASK = {"category": "quick", "load_skills": [], "prompt": "[[text=Two locks.]] why?", "metadata": {"a": 1}}


@asynccontextmanager
async def caller(gateway: Gateway, organization_id: str = "org_one") -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {await gateway.organization(organization_id)}"}
    async with httpx.AsyncClient(base_url=gateway.url, headers=headers, timeout=30, trust_env=False) as http:
        yield http


async def accepted(services: Services, number: int = 1) -> list[str]:
    """Ids of the executions, oldest first, when there are so many."""
    ids: list[str] = []

    async def enough() -> bool:
        rows = await services.database.system().all("SELECT id FROM executions ORDER BY position", {})
        ids[:] = [row["id"] for row in rows]
        return len(ids) >= number

    await until(enough)
    return ids


async def test_a_task_that_ends_in_time_is_answered(gateway: Gateway) -> None:
    async with caller(gateway) as http:
        waiting = asyncio.create_task(http.post("/delegate_task", json=TASK))
        await accepted(gateway.services)
        await gateway.run_to_the_end()
        answer = await waiting

    assert answer.status_code == 200
    assert answer.json()["result"] == "Two locks."
    assert answer.json()["usage"]["total_tokens"] > 0
    assert "errors" not in answer.json()


async def test_the_python_client_hands_a_task_over_and_waits_beyond_one_answer(
    services: Services,
) -> None:
    limits = GatewayLimits(stream_row_check_s=0.2, delegate_wait_s=0.2)
    async with served(services, limits) as gateway, await gateway.client_of("org_one") as client:
        task = DelegateRequest(category="quick", load_skills=[], prompt="[[text=Two locks.]] why?")
        waiting = asyncio.create_task(client.delegate(task, timeout_s=30, idempotency_key="k"))
        (execution_id,) = await accepted(services)
        await until(lambda: _follows(gateway))
        await gateway.run_to_the_end()
        done = await waiting

    assert (done.result, done.execution_id, done.succeeded) == ("Two locks.", execution_id, True)


async def test_another_installation_can_delegate_to_this_one(services: Services) -> None:
    """What it asks for as its orchestrator `delegate`, this gateway answers, over several exchanges if need be."""
    limits = GatewayLimits(stream_row_check_s=0.2, delegate_wait_s=0.2)
    async with served(services, limits) as gateway, httpx.AsyncClient(trust_env=False) as http:
        token = SecretStr(await gateway.organization("org_one"))
        upstream = DelegateService(http, url=gateway.url, token=token, now=services.clock.now)
        call = Call("exe_theirs#0", ["[[text=Two locks.]] why?"], category="quick", metadata={"execution_id": "e"})
        waiting = asyncio.create_task(upstream.answer(call, timeout_s=30))
        await accepted(services)
        await until(lambda: _said_later(gateway))
        await gateway.run_to_the_end()
        answer = await waiting

        again = await upstream.answer(call, timeout_s=30)
        follow_up = Call("exe_theirs2#0", ["more"], remote_session_id="ses_00000000000000000000000000")
        with pytest.raises(NotFoundError):
            await upstream.answer(follow_up, timeout_s=30)

    assert (answer.text, answer.error) == ("Two locks.", None)
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0
    assert again == answer
    assert await services.database.system().one("SELECT count(*) AS n FROM executions") == {"n": 1}


async def _said_later(gateway: Gateway) -> bool:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        return 'route="/delegate_task",status="202"' in (await http.get("/metrics")).text


async def _follows(gateway: Gateway) -> bool:
    """Whether somebody reads an event stream now: the long answer is over by then, and was a 202."""
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        metrics = (await http.get("/metrics")).text
    return 'route="/delegate_task",status="202"' in metrics and "event_streams 1.0" in metrics


async def test_after_the_wait_the_result_is_where_the_answer_said(gateway: Gateway) -> None:
    async with caller(gateway) as http:
        pending = await http.post("/delegate_task", json=TASK, headers={"prefer": "wait=1"})
        await gateway.run_to_the_end()
        found = await http.get(pending.headers["location"])

    assert pending.status_code == 202
    assert pending.json()["status_url"] == pending.headers["location"]
    assert (found.json()["status"], found.json()["output"]) == ("completed", "Two locks.")


async def test_a_caller_that_leaves_frees_its_connection_and_finds_its_task_again(gateway: Gateway) -> None:
    async with caller(gateway) as http:
        headers = {"idempotency-key": "k"}
        leaving = asyncio.create_task(http.post("/delegate_task", json=TASK, headers=headers))
        (first,) = await accepted(gateway.services)
        leaving.cancel()

        async def nobody_waits() -> bool:
            return "nubabel_http_event_streams 0.0" in (await http.get("/metrics")).text

        await until(nobody_waits)
        again = asyncio.create_task(http.post("/delegate_task", json=TASK, headers=headers))
        await gateway.run_to_the_end()
        answer = await again

    assert (answer.status_code, answer.json()["execution_id"]) == (200, first)


async def test_a_wiped_cache_does_not_hide_the_end_from_who_waits(gateway: Gateway) -> None:
    async with caller(gateway) as http:
        waiting = asyncio.create_task(http.post("/delegate_task", json=TASK))
        await accepted(gateway.services)
        await gateway.run_to_the_end()
        await gateway.services.cache.flushdb()

        assert (await waiting).json()["result"] == "Two locks."


async def test_many_wait_at_once_without_a_worker(gateway: Gateway) -> None:
    """More than the cache pool of the process has connections."""
    async with caller(gateway) as http:
        tasks = [TASK | {"prompt": f"[[text=answer {number}]] go"} for number in range(40)]
        waiting = [asyncio.create_task(http.post("/delegate_task", json=task)) for task in tasks]
        await accepted(gateway.services, 40)

        async def all_ended() -> bool:
            await gateway.run_to_the_end()
            return all(one.done() for one in waiting)

        await until(all_ended, timeout_s=60)

    assert [one.result().json()["result"] for one in waiting] == [f"answer {number}" for number in range(40)]


async def test_a_killed_process_loses_only_the_connection(
    gateway: Gateway, settings: Settings, short_dir: Path
) -> None:
    """The request completes; the same one with the same key, at another process, is the same task."""
    token, port = await gateway.organization("org_one"), free_port()
    process = _web(settings, port, short_dir)
    headers = {"authorization": f"Bearer {token}", "idempotency-key": "k"}
    async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
        try:
            process.wait_until(lambda: is_healthy(f"http://127.0.0.1:{port}"), timeout_s=30)
            waiting = asyncio.create_task(http.post(f"http://127.0.0.1:{port}/delegate_task", json=TASK))
            (first,) = await accepted(gateway.services)
            process.send_signal(signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                await waiting
        finally:
            process.stop()
        again = asyncio.create_task(http.post(f"{gateway.url}/delegate_task", json=TASK))
        await gateway.run_to_the_end()
        answer = await again

    assert (answer.status_code, answer.json()["execution_id"]) == (200, first)
    assert await accepted(gateway.services) == [first]


async def test_a_process_that_is_stopped_tells_those_who_wait_where_to_look(
    gateway: Gateway, settings: Settings, short_dir: Path
) -> None:
    token, port = await gateway.organization("org_one"), free_port()
    process = _web(settings, port, short_dir)
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=30, trust_env=False) as http:
        try:
            process.wait_until(lambda: is_healthy(f"http://127.0.0.1:{port}"), timeout_s=30)
            waiting = asyncio.create_task(http.post(f"http://127.0.0.1:{port}/delegate_task", json=TASK))
            await accepted(gateway.services)
            process.send_signal(signal.SIGTERM)
            answer = await waiting
            assert process.wait(timeout_s=8)
        finally:
            process.stop()

    assert (answer.status_code, process.returncode) == (202, 0), process.log_tail()


async def test_the_private_address_serves_one_organization_without_a_token(
    gateway: Gateway, settings: Settings, short_dir: Path
) -> None:
    await gateway.organization("org_one")
    port, private = free_port(), free_port()
    process = _web(settings, port, short_dir, sidecar_listen=f"127.0.0.1:{private}", sidecar_organization="org_one")
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        try:
            process.wait_until(lambda: is_healthy(f"http://127.0.0.1:{private}"), timeout_s=30)
            body = TASK | {"session_id": "ses_123"}
            waiting = asyncio.create_task(http.post(f"http://127.0.0.1:{private}/delegate", json=body))
            await accepted(gateway.services)
            await gateway.run_to_the_end()
            inside = await waiting
            outside = await http.post(f"http://127.0.0.1:{port}/delegate", json=body)
            nothing_else = await http.get(f"http://127.0.0.1:{private}/v1/executions?idempotency_key=k")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout_s=8)
        finally:
            process.stop()

    assert (inside.status_code, inside.json()["output"]) == (200, "Two locks.")
    assert (outside.status_code, nothing_else.status_code) == (401, 404)
    assert process.returncode == 0, process.log_tail()


async def test_a_private_address_for_nobody_is_told_at_the_start_and_hinders_no_other(
    gateway: Gateway, settings: Settings, short_dir: Path
) -> None:
    port, private = free_port(), free_port()
    own = {"sidecar_listen": f"127.0.0.1:{private}", "sidecar_organization": "org_typo"}
    process = _web(settings, port, short_dir, http_host="::", **own)  # "::" is every address, IPv4's too
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        try:
            process.wait_until(lambda: is_healthy(f"http://127.0.0.1:{private}"), timeout_s=30)
            ready = (await http.get(f"http://127.0.0.1:{port}/ready")).json()
            refused = await http.post(f"http://127.0.0.1:{private}/delegate", json=TASK | {"session_id": "ses_123"})
        finally:
            process.stop()

    said = process.log_tail()
    assert "sidecar.nobody_served" in said
    assert "NUBABEL_SIDECAR_ORGANIZATION names org_typo, which does not exist" in said
    assert refused.status_code == 403
    assert ready["checks"]["database"]["state"] == "ok"
    assert not [name for name in ready["checks"] if "sidecar" in name]


async def test_a_public_address_is_no_private_one(settings: Settings, short_dir: Path) -> None:
    for address in ("0.0.0.0:3001", "8.8.8.8:3001"):
        process = _web(settings, free_port(), short_dir, sidecar_listen=address, sidecar_organization="org_one")
        try:
            assert process.wait(timeout_s=30)
        finally:
            process.stop()
        assert process.returncode not in {None, 0}
        assert "NUBABEL_SIDECAR_LISTEN" in process.log_tail()
        assert "Traceback" not in process.log_tail()


async def test_the_old_sidecars_caller_delegates_and_goes_on(services: Services, settings: Settings) -> None:
    """As the old bridge's documents show it: first /delegate with callbacks, then /sessions/{id}/prompt."""
    async with (
        callback_receiver() as receiver,
        _allowing(settings, receiver) as allowing,
        served(allowing, GatewayLimits(stream_row_check_s=0.2)) as gateway,
        caller(gateway, "org_123") as http,
    ):
        body = {
            "category": "ultrabrain",
            "load_skills": ["mcp-integration"],
            "prompt": "[[text=You have 5 active tasks...]] Summarize my Notion tasks",
            "session_id": "ses_123",
            "organizationId": "org_123",
            "userId": "user_456",
            "callbacks": {
                "sessionUpdate": f"{receiver.url}/api/sidecar/sessions/ses_123/update",
                "mcpInvoke": f"{receiver.url}/api/sidecar/mcp/invoke",
                "progress": f"{receiver.url}/api/sidecar/sessions/ses_123/progress",
            },
        }
        waiting = asyncio.create_task(http.post("/delegate", json=body))
        await accepted(services)
        await gateway.run_to_the_end()
        first = (await waiting).json()
        opencode_id = first["metadata"]["opencodeSessionId"]
        follow_up = {"prompt": "[[text=2 tasks are marked as urgent...]] How many are urgent?"}
        waiting = asyncio.create_task(http.post(f"/sessions/{opencode_id}/prompt", json=follow_up))
        await accepted(services, 2)
        await gateway.run_to_the_end()
        second = (await waiting).json()
        looked = (await http.get(f"/sessions/{opencode_id}")).json()
        await allowing.deliver_notifications.run(None)

    expected = {"model": first["metadata"]["model"], "opencodeSessionId": opencode_id, "nubabelSessionId": "ses_123"}
    assert first == {"output": "You have 5 active tasks...", "status": "success", "metadata": expected}
    assert second == {"output": "2 tasks are marked as urgent...", "status": "success", "metadata": expected}
    assert "/" not in expected["model"] != "unknown"
    assert (looked["state"], looked["result"]) == ("idle", second["output"])
    ((path, told),) = receiver.received
    assert path == "/api/sidecar/sessions/ses_123/update"
    assert told["state"] == {"opencodeSessionId": opencode_id, "status": "completed"}
    assert told["metadata"]["completedAt"].endswith("Z")


async def test_progress_is_told_to_its_callback_and_the_end_overtakes_it(
    services: Services, settings: Settings
) -> None:
    async with callback_receiver() as receiver, _allowing(settings, receiver) as allowing:
        execution_id, organization_id = await _running_with_callbacks(allowing, receiver.url)
        show = allowing.notifications.show_progress
        assert await show(organization_id, execution_id, "Processing...", pace_s=0) is not None
        await allowing.deliver_notifications.run(None)
        await show(organization_id, execution_id, "Nearly done", pace_s=0)
        await _end(allowing, execution_id)
        await allowing.deliver_notifications.run(None)
        left = await services.database.system().all("SELECT kind, status FROM notifications ORDER BY kind", {})

    (progress_path, progress), (end_path, end) = receiver.received
    assert (progress_path, end_path) == ("/progress", "/update")
    assert "webhook-signature" not in receiver.headers[0]  # the organization has no secret to sign with
    assert progress["progress"]["type"] == "message_updated"
    assert progress["progress"]["data"] == {"text": "Processing..."}
    assert end["state"]["status"] == "completed"
    assert [(row["kind"], row["status"]) for row in left] == [("progress", "dropped"), ("webhook", "sent")]


async def test_the_end_is_told_although_the_receiver_was_away(services: Services, settings: Settings) -> None:
    async with callback_receiver() as receiver, _allowing(settings, receiver) as allowing:
        execution_id, _ = await _running_with_callbacks(allowing, receiver.url)
        receiver.status = 503
        await _end(allowing, execution_id)
        await allowing.deliver_notifications.run(None)
        receiver.status = 204
        await services.database.system().execute("UPDATE notifications SET not_before = now()", {})
        await allowing.deliver_notifications.run(None)

    assert len(receiver.received) == 2
    assert len({headers["webhook-id"] for headers in receiver.headers}) == 1


async def test_a_callback_whose_name_leads_inside_becomes_a_dead_letter(services: Services) -> None:
    """The form of the address is judged at the door; where its name leads, when it is called."""
    execution_id, _ = await _running_with_callbacks(services, "https://localhost:1")
    await _end(services, execution_id)
    await services.deliver_notifications.run(None)

    (letter,) = await services.database.system().all("SELECT error, reason FROM dead_letters", {})
    assert letter["error"].startswith("egress_refused")
    assert letter["reason"] == "permanent-error"


async def test_conversations_are_found_by_every_name_and_by_their_own_organization_alone(gateway: Gateway) -> None:
    services = gateway.services
    for organization_id in ("org_one", "org_two"):
        await gateway.organization(organization_id)
    execution_id = await _submitted(services, "org_one", SubmitRequest(prompt="Hello", session_key="talk"))
    await gateway.run_to_the_end()
    execution = await services.executions.find("org_one", execution_id)
    assert execution is not None
    assert execution.opencode_session_id is not None
    later = await _submitted(services, "org_one", SubmitRequest(prompt="And?", session_key="talk"))
    conversations = PostgresConversations(services.database)

    names = ("talk", execution.session_id, execution.opencode_session_id)
    expected = Conversation(execution.session_id, "api:talk", later, execution_id)
    assert [await conversations.find("org_one", name) for name in names] == [expected] * 3
    assert [await conversations.find("org_two", name) for name in names] == [None] * 3
    run = await conversations.last_run("org_one", execution_id)
    assert run.opencode_session_id == execution.opencode_session_id
    assert run.model is not None
    assert (await conversations.last_run("org_two", execution_id)).model is None


async def test_a_mismatch_is_in_the_audit_log(gateway: Gateway) -> None:
    async with caller(gateway) as http:
        answer = await http.post("/delegate_task", json=TASK, headers={"x-organization-id": "org_two"})

    (entry,) = await PostgresAuditTrail(gateway.services.database).list(organization_id="org_one", limit=1)
    assert answer.status_code == 403
    assert (entry.action, entry.detail) == (
        "identity.refused",
        {"what": "organization", "place": "header X-Organization-ID"},
    )


async def test_capabilities_come_from_the_server_that_runs(gateway: Gateway) -> None:
    await gateway.services.database.system().execute(
        "INSERT INTO instances (id, url, version) VALUES ('ins_2', 'http://127.0.0.1:1', '0.9')", {}
    )
    async with caller(gateway) as http:
        found = (await http.get("/capabilities")).json()

    live, silent = found["servers"]
    assert (live["id"], live["answered"]) == ("ins_1", True)
    assert any(agent.startswith("Sisyphus - ") for agent in live["agents"])
    assert (silent["answered"], silent["version"]) == (False, "0.9")
    assert live["version"] in found["versions"]


def _web(settings: Settings, port: int, directory: Path, **changes: str) -> ChildProcess:
    environment = environment_of(settings, http_port=port)
    environment |= {f"NUBABEL_{name.upper()}": value for name, value in changes.items()}
    return ChildProcess(
        [sys.executable, "-m", "nubabel_workers.gateway"],
        cwd=Path.cwd(),
        log_path=directory / "web.log",
        env=environment,
    )


@asynccontextmanager
async def _allowing(settings: Settings, receiver: CallbackReceiver) -> AsyncIterator[Services]:
    """Services whose egress guard lets this receiver be called."""
    allow = (receiver.url.removeprefix("http://"),)
    async with open_services(settings.model_copy(update={"egress_allow": allow}), application_name="tests") as opened:
        yield opened


async def _submitted(services: Services, organization_id: str, request: SubmitRequest, **options: Any) -> str:
    organization = await services.tenants.organization(organization_id)
    assert organization is not None
    submitted = await services.submit_execution.submit(
        organization,
        request,
        source="api",
        correlation_id="tests",
        traceparent=services.chance.new_traceparent(),
        **options,
    )
    return submitted.execution_id


async def _running_with_callbacks(services: Services, url: str) -> tuple[str, str]:
    """(execution, organization) of one that runs and has callbacks there."""
    await services.database.system().execute("INSERT INTO organizations (id, name) VALUES ('org_cb', 'cb')", {})
    callbacks = CallbacksTarget(f"{url}/update", f"{url}/progress")
    execution_id = await _submitted(services, "org_cb", SubmitRequest(prompt="[[text=ok]] go"), callbacks=callbacks)
    await services.dispatch_executions.run()
    return execution_id, "org_cb"


async def _end(services: Services, execution_id: str) -> None:
    async def ended() -> bool:
        await services.database.system().execute("UPDATE executions SET check_at = now() WHERE status = 'running'", {})
        await services.complete_executions.run(None)
        found = await services.executions.find("org_cb", execution_id)
        return found is not None and found.status is Status.COMPLETED

    await until(ended)
