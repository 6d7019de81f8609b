"""What the plugin asks for, signed, at our web, becomes a call of a real MCP server, and its answer comes back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.bootstrap import open_connections
from nubabel_workers.domain.tool_connections import Authentication, NewConnection
from nubabel_workers.simulators.slack.server import SlackSimulator
from tests.conftest import RedisServer
from tests.everything_server.door import Door, ToolCall, door_before
from tests.everything_server.server import everything_server
from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline, pipeline_settings
from tests.integration.pipeline.plugin import Plugin, calling
from tests.needing_node import needing

pytestmark = [pytest.mark.integration, pytest.mark.node, pytest.mark.timeout(240)]

TOKEN = "t0ken-of-the-tenant"
CALL_S = 2.0  # what a tool may take
_SUM = {"tool_name": "get-sum", "arguments": {"a": 19, "b": 23}}
_LONG = "trigger-long-running-operation"


@pytest.fixture(scope="module")
def server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with needing("a real MCP server"), everything_server(tmp_path_factory.mktemp("everything")) as url:
        yield url


@pytest.fixture
async def door(server_url: str) -> AsyncIterator[Door]:
    async with door_before(server_url) as door:
        door.tokens.add(TOKEN)
        yield door


@pytest.fixture
def settings(slack: SlackSimulator, database_url: str, clean_redis: RedisServer) -> Settings:
    return pipeline_settings(slack, database_url, clean_redis, tool_call_timeout_s=CALL_S)


class Agent:
    """In a session whose run goes on; its organization has one connection."""

    def __init__(self, plugin: Plugin, session_id: str) -> None:
        self._plugin = plugin
        self._session_id = session_id

    async def lists(self) -> list[dict[str, Any]]:
        answer = await self._plugin.says("/api/sidecar/mcp/tools", {"session_id": self._session_id})
        assert answer.status_code == 200, answer.text
        providers: list[dict[str, Any]] = answer.json()["providers"]
        return providers

    async def invokes(self, call_id: str, **call: Any) -> dict[str, Any]:
        body = {"session_id": self._session_id, "call_id": call_id, **call}
        answer = await self._plugin.says("/api/sidecar/mcp/invoke", body)
        assert answer.status_code == 200, answer.text
        outcome: dict[str, Any] = answer.json()
        return outcome

    async def is_refused(self, call_id: str, **call: Any) -> tuple[str, str]:
        """Code and message."""
        outcome = await self.invokes(call_id, **call)
        assert not outcome["ok"]
        return outcome["error"]["code"], outcome["error"]["message"]


@pytest.fixture
async def agent(pipeline: Pipeline, door: Door) -> AsyncIterator[Agent]:
    async with AsyncExitStack() as stack:
        connections = open_connections(pipeline.services, stack)
        secret = {"token": SecretStr(TOKEN)}
        new = NewConnection(url=door.url, provider="everything", authentication=Authentication.TOKEN, secrets=secret)
        await connections.manage.add(ORGANIZATION, new, actor="tests")
        await pipeline.mention("[[delay=600]] work on it")
        await pipeline.take_events()
        await pipeline.dispatch()
        plugin = await stack.enter_async_context(calling(pipeline))
        yield Agent(plugin, await plugin.session())


async def test_the_servers_tools_are_listed_with_their_arguments(agent: Agent) -> None:
    (provider,) = await agent.lists()

    tools = {tool["name"]: tool for tool in provider["tools"]}
    assert (provider["name"], provider["error"]) == ("everything", None)
    assert {"echo", "get-sum", _LONG} <= tools.keys()
    assert tools["get-sum"]["input_schema"]["required"] == ["a", "b"]


async def test_a_call_reaches_the_server_once_with_the_tenants_credentials(agent: Agent, door: Door) -> None:
    first = await agent.invokes("call_1", **_SUM)
    again = await agent.invokes("call_1", **_SUM)

    assert (first["ok"], first["content"]) == (True, "The sum of 19 and 23 is 42.")
    assert again == first
    assert door.calls == [ToolCall(TOKEN, "get-sum", {"a": 19, "b": 23})]


async def test_a_structured_answer_comes_back_as_such(agent: Agent) -> None:
    outcome = await agent.invokes("call_1", tool_name="get-structured-content", arguments={"location": "Chicago"})

    assert outcome["structured"] == {"temperature": 36, "conditions": "Light rain / drizzle", "humidity": 82}


async def test_an_unknown_tool_is_answered_with_those_that_there_are(agent: Agent, door: Door) -> None:
    code, message = await agent.is_refused("call_1", tool_name="get-sums", arguments={})

    assert code == "unknown_tool"
    assert "get-sum" in message
    assert door.calls == []


async def test_wrong_arguments_are_explained_and_nothing_is_called(agent: Agent, door: Door) -> None:
    code, message = await agent.is_refused("call_1", tool_name="get-sum", arguments={"a": 19, "b": "many"})

    assert code == "invalid_arguments"
    assert "many" in message
    assert door.calls == []


async def test_a_tool_that_takes_its_time_is_waited_for_while_others_answer(agent: Agent) -> None:
    slow = asyncio.create_task(agent.invokes("call_1", tool_name=_LONG, arguments={"duration": 1, "steps": 2}))
    quick = await agent.invokes("call_2", **_SUM)

    assert quick["ok"]
    assert not slow.done()
    assert "Long running operation completed" in (await slow)["content"]


async def test_a_tool_that_takes_too_long_is_told_as_unknown_and_the_next_call_is_served(agent: Agent) -> None:
    code, _ = await agent.is_refused("call_1", tool_name=_LONG, arguments={"duration": 30, "steps": 1})

    assert code == "outcome_unknown"
    assert (await agent.invokes("call_2", **_SUM))["ok"]
