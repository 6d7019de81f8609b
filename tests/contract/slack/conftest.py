"""A local Slack over real HTTP and WebSockets, and our side of it."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.routing import Route

from nubabel_workers.adapters.slack.ingress import EventsApiHandler, InstalledBot
from nubabel_workers.adapters.slack.messenger import SlackMessenger
from nubabel_workers.simulators.slack import SlackSimulator, SlackSimulatorOptions

SIGNING_SECRET = "contract-signing-secret"
APP_TOKEN = "xapp-contract"


@asynccontextmanager
async def events_endpoint(handler: EventsApiHandler) -> AsyncIterator[str]:
    """Serve an Events API handler on a free port; its URL."""
    app = Starlette(routes=[Route("/slack/events", handler, methods=["POST"])])
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()  # from here on connections wait for the server
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/slack/events"
    finally:
        server.should_exit = True
        await serving
        listening.close()


class Inbox:
    """What our side accepted, and what it should do first: `failures` left to raise."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.calls = 0
        self.failures: list[Exception] = []
        self.hold: asyncio.Event | None = None
        self._news = asyncio.Event()

    async def accept(self, body: dict[str, Any]) -> None:
        self.calls += 1
        self._news.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.failures:
            raise self.failures.pop(0)
        self.bodies.append(body)
        self._news.set()

    async def wait_for(self, condition: Callable[["Inbox"], bool], timeout_s: float = 10) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition(self):
                self._news.clear()
                await self._news.wait()

    @property
    def event_ids(self) -> list[str]:
        return [body["event_id"] for body in self.bodies]


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
async def slack() -> AsyncIterator[SlackSimulator]:
    options = SlackSimulatorOptions(
        signing_secret=SIGNING_SECRET, app_token=APP_TOKEN, teams=("T0ONE", "T0TWO"), time_scale=0.001
    )
    async with SlackSimulator(options) as simulator:
        yield simulator


@pytest.fixture
async def messenger(slack: SlackSimulator) -> AsyncIterator[SlackMessenger]:
    client = SlackMessenger(base_url=slack.api_url, timeout_s=5)
    yield client
    await client.close()


@pytest.fixture
def token(slack: SlackSimulator) -> SecretStr:
    return SecretStr(slack.workspace().bot_token)


def find_bot_in(slack: SlackSimulator) -> Callable[[str | None, str | None], Awaitable[InstalledBot | None]]:
    async def find_bot(enterprise_id: str | None, team_id: str | None) -> InstalledBot | None:
        workspace = slack.world.workspaces.get(team_id or "")
        return InstalledBot(workspace.bot_user_id, workspace.bot_id) if workspace is not None else None

    return find_bot
