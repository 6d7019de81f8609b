"""From Slack to the reply with the real server as it is deployed: only its plugin tells that a run has ended."""

import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from nubabel_workers.domain.executions import EventKind, Status
from nubabel_workers.embedded.opencode_server import MODEL, DeployedOpenCode, deployed_opencode
from nubabel_workers.embedded.stack import Stack, StackOptions
from nubabel_workers.embedded.stack_tenants import Tenant
from nubabel_workers.services.manage_callback_keys import ManageCallbackKeys
from nubabel_workers.simulators.stub_llm import stub_llm
from tests.contract.opencode_plugin.deployed import delegation, directive
from tests.e2e.conversation import Conversation
from tests.everything_server.door import Door, ToolCall, door_before
from tests.everything_server.server import everything_server
from tests.forking import ForkedProcess
from tests.needing_node import needing

pytestmark = [
    pytest.mark.integration,
    pytest.mark.node,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240),
]

SHOWN_TO_THE_MODEL: list[dict[str, Any]] = []
_WITHIN_S = 90.0  # a cold server loads for seconds before its first answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Door]:
    """Before a real MCP server that every organization can reach."""
    with (
        needing("a real MCP server"),
        everything_server(tmp_path_factory.mktemp("everything")) as url,
    ):
        async with door_before(url) as opened:
            yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory, door: Door) -> AsyncIterator[Stack]:
    """Without listener and scheduler: a run that nobody reports stays running for ever."""
    async with AsyncExitStack() as parts:
        llm, llm_url = await parts.enter_async_context(stub_llm())
        llm.on_request = SHOWN_TO_THE_MODEL.append
        of_the_server: dict[str, str] = {}
        with needing("the real OpenCode"):
            server = await parts.enter_async_context(
                deployed_opencode(tmp_path_factory.mktemp("deployed"), llm_url=llm_url, environment=of_the_server)
            )
        await loads_everything(server)
        options = StackOptions(
            opencode_servers=0,
            servers_elsewhere=[server],
            copies={"listener": 0, "scheduler": 0, "flower": 0},
            settings={"opencode_default_model": MODEL, "egress_allow": urlsplit(door.url).netloc},
        )
        running = await parts.enter_async_context(Stack(options, start_process=ForkedProcess))
        (instance,) = await running.services.instances.loads()
        keys = ManageCallbackKeys(running.services.instances, secrets.token_bytes)
        key = await keys.create(instance.id, actor="test")
        of_the_server["NUBABEL_BRIDGE_URL"] = running.api_url
        of_the_server["NUBABEL_BRIDGE_INSTANCE"] = instance.id
        of_the_server["NUBABEL_BRIDGE_KEY"] = key.get_secret_value()
        await server.stop()
        await server.start()
        await loads_everything(server)
        yield running


async def loads_everything(server: DeployedOpenCode) -> None:
    """On a busy machine a cold server answers late: it would count as away, and nobody here would look at it again."""
    login = (server.username, server.password.get_secret_value())
    async with httpx.AsyncClient(base_url=server.url, auth=login, timeout=_WITHIN_S, trust_env=False) as http:
        session = (await http.post("/session", json={"title": "first"})).raise_for_status().json()
        first = {"parts": [{"type": "text", "text": "[[text=ready]]"}]}
        (await http.post(f"/session/{session['id']}/message", json=first)).raise_for_status()


async def test_an_answer_arrives_by_the_plugins_report_alone(stack: Stack, conversation: Conversation) -> None:
    assert not {"listener", "scheduler"} & set(stack.processes.names())

    question = conversation.say("@nubabel [[text=told by the plugin]]")

    await conversation.reply(question, "told by the plugin", timeout_s=_WITHIN_S)
    assert (await conversation.settled(question)).status is Status.COMPLETED


async def test_a_delegated_answer_arrives_too_and_the_timeline_tells_of_it(conversation: Conversation) -> None:
    list_them = directive("nubabel_mcp_list", {})
    part = delegation(f"{list_them} [[text=the part]]", category="deep")

    question = conversation.say(f"@nubabel {part} [[text=the whole]]")

    await conversation.reply(question, "the whole", timeout_s=_WITHIN_S)
    execution = await conversation.settled(question)
    delegated = [event.detail for event in await conversation.timeline(execution) if event.kind is EventKind.DELEGATED]
    assert [detail["category"] for detail in delegated] == ["deep"]
    assert "This organization has no connected providers." in json.dumps(SHOWN_TO_THE_MODEL)  # the sub-agent asked us


async def test_a_tool_of_the_organizations_server_answers_in_the_thread_and_nobody_elses_credentials_are_used(
    stack: Stack, new_conversation: Callable[..., Conversation], door: Door
) -> None:
    """Both organizations ask at the same server; one calls it "everything", the other "elsewhere"."""
    ours, theirs = new_conversation(tenant=0), new_conversation(tenant=1)
    await connect(stack, ours.tenant, door, "everything", token="t0ken-of-ours")
    await connect(stack, theirs.tenant, door, "elsewhere", token="t0ken-of-theirs")
    sum_of_ours = invocation("get-sum", {"a": 19, "b": 23}, provider="everything")
    echo_of_theirs = invocation("echo", {"message": "theirs"})

    question = ours.say(f"@nubabel {sum_of_ours} [[result]]")
    refused = theirs.say(f"@nubabel {sum_of_ours} [[result]]")
    served = theirs.say(f"@nubabel {echo_of_theirs} [[result]]")

    await ours.reply(question, "The sum of 19 and 23 is 42.", timeout_s=_WITHIN_S)
    assert "unknown_provider" in (await theirs.reply(refused, timeout_s=_WITHIN_S)).body
    await theirs.reply(served, "Echo: theirs", timeout_s=_WITHIN_S)
    assert sorted(door.calls, key=lambda call: call.tool) == [
        ToolCall("t0ken-of-theirs", "echo", {"message": "theirs"}),
        ToolCall("t0ken-of-ours", "get-sum", {"a": 19, "b": 23}),
    ]
    execution = await ours.settled(question)
    kinds = [event.kind for event in await ours.timeline(execution)]
    assert kinds.count(EventKind.TOOL_CALL_STARTED) == kinds.count(EventKind.TOOL_CALL_ENDED) == 1
    assert "t0ken" not in json.dumps(SHOWN_TO_THE_MODEL)


def invocation(tool: str, arguments: dict[str, Any], **more: str) -> str:
    return directive("nubabel_mcp_invoke", {"toolName": tool, "args": arguments, **more})


async def connect(stack: Stack, tenant: Tenant, door: Door, provider: str, *, token: str) -> None:
    """As an administrator of that organization would, by the API."""
    door.tokens.add(token)
    asked = {"url": door.url, "provider": provider, "authentication": "token", "token": token}
    async with stack.client(tenant) as api:
        (await api.post("/v1/connections", json=asked)).raise_for_status()
