"""What an upstream service experiences, on the whole system: submit, follow, wait, cancel, be called back."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field

import httpx
import pytest
import pytest_asyncio
from aiohttp import web
from standardwebhooks import Webhook

from nubabel_workers.client import AsyncNubabelClient, DelegateRequest, Status, SubmitRequest
from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.stack import Stack, StackOptions
from nubabel_workers.embedded.stack_environment import HOST
from nubabel_workers.embedded.stack_tenants import create_tenant
from tests.e2e.conversation import TIMEOUT_S, Conversation, until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

_CALLBACK_PORT = free_port()
STACK = StackOptions(slack="events", settings={"egress_allow": f"{HOST}:{_CALLBACK_PORT}"})


@dataclass
class Upstream:
    """A service that takes our webhooks. fail_times: how many of the next calls it answers with 503."""

    url: str
    fail_times: int = 0
    calls: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        self.calls.append((dict(request.headers), await request.read()))
        if self.fail_times > 0:
            self.fail_times -= 1
            return web.Response(status=503)
        return web.Response(status=204)

    async def called(self, times: int) -> None:
        async def enough() -> bool:
            return len(self.calls) >= times

        await until(enough, what=f"{times} calls of the webhook")


@pytest_asyncio.fixture(loop_scope="module")
async def upstream() -> AsyncIterator[Upstream]:
    receiver = Upstream(f"http://{HOST}:{_CALLBACK_PORT}/nubabel")
    app = web.Application()
    app.router.add_post("/nubabel", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, HOST, _CALLBACK_PORT).start()
    yield receiver
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="module")
async def client(stack: Stack) -> AsyncIterator[AsyncNubabelClient]:
    async with AsyncNubabelClient(stack.api_url, stack.tenants[0].token) as client:
        yield client


async def test_a_submitted_request_can_be_waited_for(client: AsyncNubabelClient) -> None:
    submitted = await client.submit("Which tests are missing?")

    execution = await client.wait(submitted.id, timeout_s=TIMEOUT_S)

    assert execution.succeeded
    assert execution.output is not None
    assert "Which tests are missing?" in execution.output


async def test_a_task_is_handed_over_and_answered(client: AsyncNubabelClient) -> None:
    task = DelegateRequest(category="quick", load_skills=[], prompt="Which tests are missing?", metadata={"a": 1})

    done = await client.delegate(task, timeout_s=TIMEOUT_S)

    assert done.succeeded
    assert "Which tests are missing?" in done.result
    assert done.usage is not None


async def test_an_old_caller_of_the_sidecar_is_answered_and_called_back(stack: Stack, upstream: Upstream) -> None:
    calls = len(upstream.calls)
    body = {
        "category": "ultrabrain",
        "load_skills": ["mcp-integration"],
        "prompt": "[[text=You have 5 active tasks...]] Summarize my Notion tasks",
        "session_id": "ses_123",
        "organizationId": stack.tenants[0].organization.id,
        "callbacks": {"sessionUpdate": upstream.url},
    }
    headers = {"authorization": f"Bearer {stack.tenants[0].token.get_secret_value()}"}
    async with httpx.AsyncClient(base_url=stack.api_url, headers=headers, timeout=TIMEOUT_S, trust_env=False) as http:
        first = (await http.post("/delegate", json=body)).json()
        session = first["metadata"]["opencodeSessionId"]
        second = (await http.post(f"/sessions/{session}/prompt", json={"prompt": "[[text=2 urgent]] How many?"})).json()
    await upstream.called(calls + 1)

    assert (first["output"], second["output"]) == ("You have 5 active tasks...", "2 urgent")
    assert second["metadata"]["nubabelSessionId"] == "ses_123"
    told = json.loads(upstream.calls[calls][1])
    assert told["state"] == {"opencodeSessionId": session, "status": "completed"}


async def test_the_events_tell_states_tools_and_the_end(client: AsyncNubabelClient) -> None:
    prompt = '[[delay=0.5]] [[tool=bash {"command":"echo hi","description":"Say hi"}]] [[text=done]] go'
    submitted = await client.submit(prompt)

    async with aclosing(client.events(submitted.id)) as stream:
        events = [event async for event in stream]

    assert events[0].type == "state"
    assert {event.data.get("tool") for event in events if event.type == "tool"} == {"bash"}
    assert events[-1].execution is not None
    assert events[-1].execution.output == "done"


async def test_the_same_key_is_the_same_request(client: AsyncNubabelClient) -> None:
    request = SubmitRequest(prompt="only once", idempotency_key="key-1")

    first, second = await client.submit(request), await client.submit(request)

    assert first.id == second.id
    assert (await client.wait(first.id, timeout_s=TIMEOUT_S)).attempt == 1


async def test_requests_with_one_session_key_continue_each_other(client: AsyncNubabelClient) -> None:
    first = await client.submit(SubmitRequest(prompt="remember seven", session_key="talk"))
    second = await client.submit(SubmitRequest(prompt="which number?", session_key="talk"))

    answer = await client.wait(second.id, timeout_s=TIMEOUT_S)

    assert first.session_id == second.session_id
    assert answer.output is not None
    assert answer.output.startswith("ECHO[4]")


async def test_a_running_request_can_be_cancelled_down_to_opencode(stack: Stack, client: AsyncNubabelClient) -> None:
    submitted = await client.submit("think for ever [[hang]]")

    async def running() -> bool:
        return (await client.get(submitted.id)).status is Status.RUNNING

    await until(running, what="it runs")
    await client.cancel(submitted.id, reason="changed my mind")

    assert (await client.wait(submitted.id, timeout_s=TIMEOUT_S)).status is Status.CANCELLED

    async def idle() -> bool:
        return not any(stack.opencode.simulators[0].insides.store.busy.values())

    await until(idle, what="OpenCode has stopped working")


async def test_the_outcome_is_sent_to_the_callback_signed(
    stack: Stack, client: AsyncNubabelClient, upstream: Upstream
) -> None:
    submitted = await client.submit(
        SubmitRequest(prompt="[[text=fine]]", callback_url=upstream.url, metadata={"invoice": "4711"})
    )

    await upstream.called(1)

    headers, body = upstream.calls[0]
    secret = stack.tenants[0].webhook_secret.get_secret_value()
    told = Webhook(secret).verify(body, {name.lower(): value for name, value in headers.items()})
    assert told["type"] == "execution.completed"
    assert told["data"]["execution_id"] == submitted.id
    assert told["data"]["output"] == "fine"
    assert told["data"]["metadata"] == {"invoice": "4711"}


async def test_a_callers_trace_goes_through_every_process_to_opencode_and_back_to_the_callback(
    stack: Stack, client: AsyncNubabelClient, upstream: Upstream
) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    await client.submit(
        SubmitRequest(
            prompt="[[text=fine]]", callback_url=upstream.url, traceparent=f"00-{trace_id}-00f067aa0ba902b7-01"
        )
    )

    await upstream.called(1)

    prompts = stack.opencode.simulators[0].insides.engine.traceparents
    of_the_prompt = next(one for one in reversed(prompts) if one is not None and trace_id in one)
    of_the_callback = upstream.calls[0][0]["traceparent"]
    assert of_the_callback == of_the_prompt
    assert of_the_callback.split("-")[1] == trace_id
    assert of_the_callback.split("-")[2] != "00f067aa0ba902b7"  # a span of ours, under the caller's


async def test_a_callback_that_fails_is_called_again_with_the_same_id(
    client: AsyncNubabelClient, upstream: Upstream
) -> None:
    upstream.fail_times = 2
    await client.submit(SubmitRequest(prompt="again", callback_url=upstream.url))

    await upstream.called(3)

    assert len({headers["webhook-id"] for headers, _ in upstream.calls}) == 1


async def test_slack_events_over_http_are_answered_too(stack: Stack) -> None:
    tenant = stack.tenants[1]
    question = stack.slack.say("@nubabel over http", team=tenant.team)

    messages = await stack.slack.wait_for(
        question, lambda thread: any(one.bot_id for one in thread), team=tenant.team, timeout_s=TIMEOUT_S
    )

    assert "over http" in messages[-1].body


async def test_a_request_at_its_cap_goes_on_when_an_approver_presses_the_button(stack: Stack) -> None:
    installed = stack.slack.world.add_workspace("T0SPARING")
    tenant = await create_tenant(stack.services, "Sparing", [installed])
    await stack.services.database.system().execute(
        """UPDATE organizations SET limits = '{"cost_per_execution": 0.12}', budget_approvers = ARRAY['U0ANNA']
           WHERE id = %(id)s""",
        {"id": tenant.id},
    )
    conversation = Conversation(stack, tenant, "C0SPARING")
    step = '[[tool=bash {"command":"sleep 0.3"}]]'
    question = conversation.say(f"@nubabel [[goes_on]] {step * 6} [[usage=50000,0]] [[text=All seven steps.]]")
    notice = await conversation.reply(question, "I have paused")

    for user in ("U0STRANGER", "U0ANNA", "U0ANNA"):
        stack.slack.press(notice, team=tenant.team, channel=conversation.channel, user=user)
    execution = await conversation.settled(question)

    assert (execution.status, execution.output) == (Status.COMPLETED, "All seven steps.")
    said = [message.body for message in conversation.bot_messages(question)]
    assert (len(said), said.count("$1 more was allowed: it goes on."), said[-1]) == (4, 1, "All seven steps.")


async def test_many_at_once_are_all_answered(client: AsyncNubabelClient) -> None:
    submitted = await asyncio.gather(*(client.submit(f"question {number}") for number in range(60)))

    executions = await asyncio.gather(*(client.wait(one.id, timeout_s=TIMEOUT_S) for one in submitted))

    assert all(execution.succeeded for execution in executions)
