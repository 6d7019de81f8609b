"""From Slack to the reply with the real server as it is deployed: only its plugin tells that a run has ended."""

import json
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from nubabel_workers.domain.executions import EventKind, Status
from nubabel_workers.embedded.opencode_server import MODEL, OpenCodeNotInstallableError, deployed_opencode
from nubabel_workers.embedded.stack import Stack, StackOptions
from nubabel_workers.services.manage_callback_keys import ManageCallbackKeys
from nubabel_workers.simulators.stub_llm import stub_llm
from tests.contract.opencode_plugin.deployed import delegation, directive
from tests.e2e.conversation import Conversation

pytestmark = [
    pytest.mark.integration,
    pytest.mark.node,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240),
]

SHOWN_TO_THE_MODEL: list[dict[str, Any]] = []
_WITHIN_S = 90.0  # a cold server loads for seconds before its first answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    """Without listener and scheduler: a run that nobody reports stays running for ever."""
    async with AsyncExitStack() as parts:
        llm, llm_url = await parts.enter_async_context(stub_llm())
        llm.on_request = SHOWN_TO_THE_MODEL.append
        of_the_server: dict[str, str] = {}
        try:
            server = await parts.enter_async_context(
                deployed_opencode(tmp_path_factory.mktemp("deployed"), llm_url=llm_url, environment=of_the_server)
            )
        except OpenCodeNotInstallableError as error:
            if os.environ.get("CI"):
                pytest.fail(f"the real OpenCode is needed here: {error}")
            pytest.skip(f"NOT CHECKED against the real OpenCode: {error}")
        options = StackOptions(
            opencode_servers=0,
            servers_elsewhere=[server],
            copies={"listener": 0, "scheduler": 0, "flower": 0},
            settings={"opencode_default_model": MODEL},
        )
        running = await parts.enter_async_context(Stack(options))
        (instance,) = await running.services.instances.loads()
        keys = ManageCallbackKeys(running.services.instances, secrets.token_bytes)
        key = await keys.create(instance.id, actor="test")
        of_the_server["NUBABEL_BRIDGE_URL"] = running.api_url
        of_the_server["NUBABEL_BRIDGE_INSTANCE"] = instance.id
        of_the_server["NUBABEL_BRIDGE_KEY"] = key.get_secret_value()
        await server.stop()
        await server.start()
        yield running


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
