"""The local Slack as one server: in-process for tests, or `python -m nubabel_workers.simulators.slack`."""

import asyncio
import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web

from nubabel_workers.simulators.slack.control import Control
from nubabel_workers.simulators.slack.delivery import ACK_TIMEOUT_S, HttpDelivery, SocketDelivery, envelope
from nubabel_workers.simulators.slack.faults import Faults
from nubabel_workers.simulators.slack.limits import RateLimits
from nubabel_workers.simulators.slack.model import Json, Message, SlackWorld, Workspace
from nubabel_workers.simulators.slack.web_api import WebApi

_SHUTDOWN_S = 1.0
_MAX_BODY_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SlackSimulatorOptions:
    """events_url: where events are POSTed; None delivers through Socket Mode, and so do socket_teams."""

    host: str = "127.0.0.1"
    port: int = 0  # any free one
    events_url: str | None = None
    socket_teams: Collection[str] = ()
    signing_secret: str = field(default="local-signing-secret", repr=False)
    app_token: str = field(default="xapp-local", repr=False)
    client_id: str = "local-client"
    client_secret: str = field(default="local-client-secret", repr=False)
    teams: Sequence[str] = ("T0ONE",)
    limits: RateLimits = field(default_factory=RateLimits)
    time_scale: float = 1.0  # of the waits between deliveries of an event
    ack_timeout_s: float = ACK_TIMEOUT_S  # in Socket Mode
    echo_own_messages: bool = True


class SlackSimulator:
    """Use as an async context manager, or start() and close()."""

    def __init__(self, options: SlackSimulatorOptions | None = None) -> None:
        self.options = options or SlackSimulatorOptions()
        self.faults = Faults()
        self.world = SlackWorld(emit=self._emit, echo_own_messages=self.options.echo_own_messages)
        self.sockets = SocketDelivery(
            note=self.world.note, ack_timeout_s=self.options.ack_timeout_s, time_scale=self.options.time_scale
        )
        self.http: HttpDelivery | None = None
        self.base_url = ""
        self._event_numbers = itertools.count(1)
        self._runner: web.AppRunner | None = None
        self._api = WebApi(
            self.world,
            limits=self.options.limits,
            faults=self.faults,
            sockets=self.sockets,
            app_token=self.options.app_token,
            client_credentials=(self.options.client_id, self.options.client_secret),
        )
        self._control = Control(self.world, faults=self.faults, api=self._api, sockets=self.sockets)
        for team_id in self.options.teams:
            self.world.add_workspace(team_id)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def api_url(self) -> str:
        """What a client takes as its base URL."""
        return f"{self.base_url}/api/"

    async def start(self) -> None:
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.add_routes(
            [
                web.post("/api/{method}", self._api.serve),
                web.get("/api/{method}", self._api.serve),
                web.get("/link", self.sockets.serve),
                *self._control.routes(),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.options.host, self.options.port)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.base_url = f"http://{host}:{port}"
        self._control.serve_at(self.base_url)
        if self.options.events_url is not None:
            self.send_events_to(self.options.events_url)

    async def close(self) -> None:
        self._control.close()
        if self.http is not None:
            await self.http.close()
        await self.sockets.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def send_events_to(self, url: str) -> None:
        """From now on deliver over HTTP, e.g. when the receiver's port became known."""
        self.http = HttpDelivery(
            url, self.options.signing_secret, time_scale=self.options.time_scale, note=self.world.note
        )

    def workspace(self, team_id: str = "T0ONE") -> Workspace:
        return self.world.workspace(team_id)

    def say(
        self,
        text: str,
        *,
        team: str = "T0ONE",
        channel: str = "C0GENERAL",
        user: str = "U0ALICE",
        thread_ts: str | None = None,
        files: Sequence[Json] = (),
    ) -> Message:
        """A person writes. files: `{"name", "mimetype", "content"}`."""
        workspace = self.world.workspace(team)
        stored = [self._control.add_file(workspace, raw) for raw in files]
        message, _ = self.world.say(workspace, channel, user, text, thread_ts=thread_ts, files=stored)
        return message

    def press(
        self, message: Message, *, team: str = "T0ONE", channel: str = "C0GENERAL", user: str = "U0ALICE"
    ) -> Json:
        """A person presses the first button below a message. Returns what the app is sent."""
        return self.world.press(self.world.workspace(team), channel, message.ts, user)

    async def wait_for(
        self,
        root: Message,
        condition: Callable[[Sequence[Message]], bool],
        *,
        team: str = "T0ONE",
        channel: str = "C0GENERAL",
        timeout_s: float = 30.0,
    ) -> list[Message]:
        """The messages of root's thread once the condition holds; TimeoutError otherwise."""
        async with asyncio.timeout(timeout_s):
            return await self.world.wait_until(self.world.workspace(team), channel, root.root_ts, condition)

    def deliver(self, workspace: Workspace, event: Json, event_id: str) -> None:
        """Send an event as it is; the way to deliver one twice, or garbage."""
        body = envelope(workspace, event, event_id)
        if self.http is None or workspace.team_id in self.options.socket_teams:
            self.sockets.deliver(body)
        else:
            self.http.deliver(body)

    def _emit(self, workspace: Workspace, event: Json) -> str:
        event_id = f"Ev{next(self._event_numbers):010d}"
        channel = event.get("channel")
        channel_id = channel["id"] if isinstance(channel, dict) else channel
        self.world.note("event", event_id=event_id, type=event["type"], channel=channel_id)
        if event["type"] == "block_actions":
            self._deliver_press(workspace, event | {"trigger_id": event_id})
        else:
            self.deliver(workspace, event, event_id)
        return event_id

    def _deliver_press(self, workspace: Workspace, body: Json) -> None:
        if self.http is None or workspace.team_id in self.options.socket_teams:
            self.sockets.deliver(body)
        else:
            self.http.press(body)
