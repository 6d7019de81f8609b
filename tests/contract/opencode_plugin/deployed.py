"""The deployed server under test, and what one may do with it: ask in a session, and look at what came of it."""

import json
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from nubabel_workers.embedded.opencode_server import DeployedOpenCode, deployed_opencode
from nubabel_workers.simulators.stub_llm import StubLlm, stub_llm
from tests.contract.opencode_plugin.receiver import INSTANCE, Receiver, receiving

_RUN_S = 60.0
ENVIRONMENT_CANARY = "canary-of-the-environment"


@dataclass(frozen=True)
class Call:
    """Of a tool, by the model."""

    tool: str
    arguments: dict[str, Any]


def directive(tool: str, arguments: dict[str, Any]) -> str:
    return f"[[tool={tool} {json.dumps(arguments)}]]"


def at_once(calls: Sequence[Call]) -> str:
    """All these calls in one step of the model: a step each would take ten times as long."""
    by_tool: dict[str, list[dict[str, Any]]] = {}
    for call in calls:
        by_tool.setdefault(call.tool, []).append(call.arguments)
    return f"[[tools {json.dumps(by_tool)}]]"


def delegation(prompt: str, **changes: Any) -> str:
    call = delegated(prompt, **changes)
    return directive(call.tool, call.arguments)


def delegated(prompt: str, **changes: Any) -> Call:
    arguments = {
        "category": "quick",
        "load_skills": [],
        "description": "part of it",
        "prompt": prompt,
        "run_in_background": False,
    }
    return Call("task", arguments | changes)


@dataclass(frozen=True)
class Run:
    """A run that has ended. parts: of all assistant messages, in order."""

    session_id: str
    parts: list[dict[str, Any]]

    @property
    def answer(self) -> str:
        return "".join(part["text"] for part in self.parts if part["type"] == "text")

    @property
    def tools(self) -> list[dict[str, Any]]:
        return [part for part in self.parts if part["type"] == "tool"]

    def outcome(self, tool: str) -> tuple[str, str]:
        """Status and text of the first call of that tool."""
        state = next(part["state"] for part in self.tools if part["tool"] == tool)
        return state["status"], state.get("error") or state.get("output") or ""


@dataclass(frozen=True)
class Deployed:
    """bridge_key, password: canaries too. sent: the body of every request to the model."""

    server: DeployedOpenCode
    http: httpx.AsyncClient
    llm: StubLlm
    receiver: Receiver
    bridge_key: str
    sent: list[dict[str, Any]] = field(default_factory=list)

    async def session(
        self, *, organization: str | None = "org_a", directory: Path | None = None, title: str = "test"
    ) -> str:
        """In the server's own directory unless another is named. No organization: a session of somebody else's."""
        metadata = {"organization_id": organization, "session_id": "ses_ours"} if organization else {}
        answer = await self.http.post(
            "/session",
            params={"directory": str(directory)} if directory else {},
            json={"title": title, "metadata": metadata},
        )
        session_id: str = answer.raise_for_status().json()["id"]
        return session_id

    async def ask(self, text: str, *, session_id: str | None = None, agent: str | None = None) -> Run:
        session_id = session_id or await self.session()
        body = {"parts": [{"type": "text", "text": text}]} | ({"agent": agent} if agent else {})
        known = {message["info"]["id"] for message in await self.messages(session_id)}
        (await self.http.post(f"/session/{session_id}/message", json=body)).raise_for_status()
        new = [message for message in await self.messages(session_id) if message["info"]["id"] not in known]
        replies = [message for message in new if message["info"]["role"] == "assistant"]
        return Run(session_id, [part for message in replies for part in message["parts"]])

    async def messages(self, session_id: str) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = (await self.http.get(f"/session/{session_id}/message")).json()
        return messages

    async def children(self, session_id: str) -> list[str]:
        return [child["id"] for child in (await self.http.get(f"/session/{session_id}/children")).json()]

    def tools_offered(self, since: int = 0) -> list[set[str]]:
        """Of each request to the model since the n-th, helpers' requests left out."""
        return [{tool["function"]["name"] for tool in body["tools"]} for body in self.sent[since:] if body.get("tools")]


@asynccontextmanager
async def deployed(directory: Path, *, kind: str) -> AsyncIterator[Deployed]:
    async with AsyncExitStack() as stack:
        key = f"nck_{secrets.token_urlsafe(32)}"
        llm, llm_url = await stack.enter_async_context(stub_llm())
        receiver, receiver_url = await stack.enter_async_context(receiving(key))
        environment = {
            "NUBABEL_SERVER_KIND": kind,
            "NUBABEL_BRIDGE_URL": receiver_url,
            "NUBABEL_BRIDGE_INSTANCE": INSTANCE,
            "NUBABEL_BRIDGE_KEY": key,
            "ANTHROPIC_API_KEY": ENVIRONMENT_CANARY,
        }
        server = await stack.enter_async_context(deployed_opencode(directory, llm_url=llm_url, environment=environment))
        http = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=server.url,
                auth=(server.username, server.password.get_secret_value()),
                timeout=_RUN_S,
                trust_env=False,
            )
        )
        running = Deployed(server, http, llm, receiver, key)
        llm.on_request = running.sent.append
        await running.ask("warm up")  # loads the directory
        yield running
