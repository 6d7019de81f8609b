"""The simulated server as a whole: entry, credentials, faults, and the controls under /_sim."""

import asyncio
import base64
import binascii
import hmac
import time
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from nubabel_workers.simulators.opencode.answers import GoneError, RefusedError, json_answer, read_body, server_error
from nubabel_workers.simulators.opencode.api import Api, Handler
from nubabel_workers.simulators.opencode.config import Faults, SimulatorConfig
from nubabel_workers.simulators.opencode.disk import Disk
from nubabel_workers.simulators.opencode.engine import Engine
from nubabel_workers.simulators.opencode.identifiers import IdSource
from nubabel_workers.simulators.opencode.prompts import PromptDesk
from nubabel_workers.simulators.opencode.state import Store
from nubabel_workers.simulators.opencode.streams import Streams
from nubabel_workers.simulators.opencode.telling import Teller
from nubabel_workers.simulators.opencode.vitals import ServersMemory, SimulatedMemory

_MAX_BODY_BYTES = 64 * 1024 * 1024
_WEB_PAGE = b'<!doctype html>\n<html lang="en"><head><title>OpenCode</title></head><body></body></html>\n'


class OpenCodeSimulator:
    """One simulated server: what it remembers, its run loop, its routes. `running.simulator` gives it a port."""

    def __init__(self, config: SimulatorConfig | None = None, memory: ServersMemory | None = None) -> None:
        self.config = config or SimulatorConfig()
        ids = IdSource()
        self.store = Store(keep_sessions=self.config.keep_sessions)
        self.disk = Disk(self.config.directory, tended=self.config.directories)
        self.streams = Streams(ids)
        tell = Teller(self.store, self.streams, ids)
        self.engine = Engine(self.config, self.store, tell, ids)
        self._desk = PromptDesk(self.config, self.store, tell, ids, self.engine, self.disk)
        self._api = Api(self.config, self.store, self.streams, ids, self.engine, tell, self._desk, self.disk)
        self._routes: dict[tuple[str, str], Handler] = self._api.routes() | {
            ("GET", "_sim/stats"): self._get_stats,
            ("POST", "_sim/faults"): self._set_faults,
            ("DELETE", "_sim/faults"): self._clear_faults,
            ("POST", "_sim/crash"): self._crash,
        }
        self.memory: ServersMemory = memory or SimulatedMemory()
        self._down_until = 0.0
        self._http: web.Server | None = None
        password = self.config.password
        pair = f"{self.config.username}:{password.get_secret_value()}" if password is not None else None
        self._credentials = base64.b64encode(pair.encode()) if pair is not None else None

    # --- entry ------------------------------------------------------------------------------------------------------

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request as the real server would."""
        try:
            return await self._route(request)
        except RefusedError as refused:
            return json_answer(refused.body, status=refused.status)
        except GoneError:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if not self.is_up:
            raise GoneError
        if not path.startswith("/_sim/"):
            if not self._is_authorized(request):
                return web.Response(status=401, headers={"www-authenticate": 'Basic realm="Secure Area"'})
            await self._suffer(path)
        segments = path.strip("/").split("/")
        handler, ids = self._find(request.method, segments)
        return await handler(request, ids)

    def _is_authorized(self, request: web.BaseRequest) -> bool:
        if self._credentials is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        given = given if scheme.lower() == "basic" else request.query.get("auth_token", "")
        try:
            pair = base64.b64decode(given, validate=True)
        except binascii.Error:
            return False
        return hmac.compare_digest(base64.b64encode(pair), self._credentials)

    async def _suffer(self, path: str) -> None:
        """Faults that befall any request."""
        faults = self.engine.faults
        if faults.slow_s:
            await asyncio.sleep(faults.slow_s)
        if faults.refuse and faults.refuse_path in path:
            self.engine.take_fault("refuse")
            raise RefusedError(faults.refuse_status, server_error())

    def _find(self, method: str, segments: list[str]) -> tuple[Handler, list[str]]:
        """The handler and the ids in the path: every second segment is one. Anything unknown gets the web page."""
        handler = self._routes.get((method, "/".join(segments)))
        if handler is not None:
            return handler, []
        pattern = "/".join("*" if at % 2 else segment for at, segment in enumerate(segments))
        return self._routes.get((method, pattern), _web_page), segments[1::2]

    async def send_heartbeats(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(self.config.heartbeat_s)
            self.streams.tell_all("server.heartbeat", {})

    # --- controls ---------------------------------------------------------------------------------------------------

    async def _get_stats(self, request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        runs = self.store.model_runs
        if (message_id := request.query.get("message_id")) is not None:
            runs = {message_id: runs.get(message_id, 0)}
        return json_answer(
            {
                "sessions": len(self.store.sessions),
                "prompts": self._desk.accepted,
                "model_calls": self.engine.model_calls,
                "helper_calls": self.engine.helper_calls,
                "aborts": self.engine.aborts,
                "traceparents": list(self.engine.traceparents),
                "active": self.engine.active,
                "peak": self.engine.peak,
                "streams": len(self.streams.readers),
                "frames": self.streams.frames,
                "model_runs": runs,
            }
        )

    async def _set_faults(self, request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        given = await read_body(request, bad={"error": "a JSON object is needed"})
        if given.pop("disconnect_streams", False):
            self.streams.disconnect()
        try:
            self.set_faults(**given)
        except ValidationError as error:
            raise RefusedError(422, {"error": str(error)}) from error
        return json_answer(self.engine.faults.model_dump())

    async def _clear_faults(self, _request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        self.set_faults(**Faults().model_dump())
        return json_answer(self.engine.faults.model_dump())

    @property
    def is_up(self) -> bool:
        return time.monotonic() >= self._down_until

    def set_faults(self, **values: Any) -> None:
        self.engine.faults = self.engine.faults.changed(values)
        self.streams.muted = self.engine.faults.mute_events
        self.streams.delay_s = self.engine.faults.event_delay_s
        self.memory.leak(self.engine.faults.leak_bytes_per_s)

    async def _crash(self, request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        given = await read_body(request, bad={}) if request.can_read_body else {}
        self.crash(down_s=float(given.get("down_s", 0)), spared=request.transport)
        return json_answer(data=True)

    def crash(self, *, down_s: float = 0.0, spared: asyncio.Transport | None = None) -> None:
        """As SIGKILL and a restart down_s seconds later: connections break, memory is gone, stored things stay.

        spared: the connection over which the crash was ordered.
        """
        self._down_until = time.monotonic() + down_s
        self.set_faults(leak_bytes_per_s=0.0)
        self.memory.restart()
        self.engine.crash()
        self.disk.unload_all()
        self.streams.disconnect()
        for connection in self._http.connections if self._http is not None else []:
            if connection.transport is not None and connection.transport is not spared:
                connection.transport.abort()

    def wipe(self, *, down_s: float = 0.0) -> None:
        """As a crash after which the server starts without its data."""
        self.crash(down_s=down_s)
        for session in list(self.store.sessions.values()):
            self.store.remove(session)

    def serve(self) -> web.Server:
        """The aiohttp server, without a router: one dictionary look-up per request."""
        loop = asyncio.get_running_loop()

        def new_request(
            message: Any, payload: Any, protocol: Any, writer: Any, task: "asyncio.Task[None]"
        ) -> web.BaseRequest:
            return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=_MAX_BODY_BYTES)

        self._http = web.Server(self.handle, request_factory=new_request, access_log=None)
        return self._http

    async def close(self) -> None:
        """Stop every run and every stream."""
        self.engine.crash()
        self.streams.disconnect()


async def _web_page(_request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
    return web.Response(body=_WEB_PAGE, content_type="text/html")
