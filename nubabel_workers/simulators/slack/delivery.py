"""How the local Slack delivers events: signed HTTP requests or WebSocket envelopes, again when nobody acknowledges."""

import asyncio
import hashlib
import hmac
import itertools
import json
import secrets
import time
import urllib.parse
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import aiohttp
from aiohttp import web

from nubabel_workers.simulators.slack.model import Json, Workspace

# After the first failed delivery Slack tries at once, then after a minute, then after five.
RETRY_DELAYS_S: Final = (0.5, 60.0, 300.0)
ACK_TIMEOUT_S: Final = 3.0
_MAX_CONNECTIONS: Final = 100
_SHUTDOWN_S: Final = 1.0


class Note(Protocol):
    def __call__(self, kind: str, **fields: Any) -> None: ...


def envelope(workspace: Workspace, event: Json, event_id: str) -> Json:
    return {
        "type": "event_callback",
        "event_id": event_id,
        "event_time": int(time.time()),
        "api_app_id": workspace.app_id,
        "team_id": workspace.team_id,
        "context_team_id": workspace.team_id,
        "is_ext_shared_channel": False,
        "event_context": f"4-{event_id}",
        "authorizations": [
            {
                "enterprise_id": workspace.enterprise_id,
                "team_id": workspace.team_id,
                "user_id": workspace.bot_user_id,
                "is_bot": True,
                "is_enterprise_install": False,
            }
        ],
        "event": event,
    }


def signature_headers(signing_secret: str, body: bytes, *, now: float | None = None) -> dict[str, str]:
    """Source: https://docs.slack.dev/authentication/verifying-requests-from-slack/"""
    timestamp = str(int(time.time() if now is None else now))
    base = b"v0:" + timestamp.encode() + b":" + body
    digest = hmac.new(signing_secret.encode(), base, hashlib.sha256).hexdigest()
    return {
        "Content-Type": "application/json",
        "X-Slack-Request-Timestamp": timestamp,
        "X-Slack-Signature": f"v0={digest}",
    }


class HttpDelivery:
    """The Events API: one POST per event, repeated on anything but 2xx within three seconds."""

    def __init__(self, url: str, signing_secret: str, *, time_scale: float, note: Note) -> None:
        """time_scale: multiplies the waits between deliveries; 0.001 makes an hour of patience fit into a test."""
        self._url = url
        self._signing_secret = signing_secret
        self._time_scale = time_scale
        self._note = note
        self._session: aiohttp.ClientSession | None = None
        self._running: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def deliver(self, body: Json) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(body))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def post(self, body: Json, headers: Mapping[str, str] | None = None) -> int:
        """One signed POST; its status. Raises aiohttp's errors and TimeoutError."""
        return await self._send(json.dumps(body, ensure_ascii=False).encode(), headers)

    def press(self, body: Json) -> None:
        """A button was pressed: a form, sent once."""
        task = asyncio.get_running_loop().create_task(self._press(body))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _press(self, body: Json) -> None:
        form = urllib.parse.urlencode({"payload": json.dumps(body, ensure_ascii=False)}).encode()
        try:
            status = await self._send(form, {"Content-Type": "application/x-www-form-urlencoded"})
        except (aiohttp.ClientError, TimeoutError, _GiveUpError):
            status = 0
        delivered = 200 <= status < 300  # noqa: PLR2004 - 2xx
        self._note("press_delivered" if delivered else "press_failed", event_id=body["trigger_id"], status=status)

    async def _send(self, raw: bytes, headers: Mapping[str, str] | None) -> int:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=_MAX_CONNECTIONS)
            # Waiting for one of our own connections is not the receiver's delay.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=ACK_TIMEOUT_S, sock_read=ACK_TIMEOUT_S)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        signed = signature_headers(self._signing_secret, raw) | dict(headers or {})
        async with self._session.post(self._url, data=raw, headers=signed, allow_redirects=False) as response:
            await response.read()
            if response.headers.get("x-slack-no-retry") == "1" and response.status >= 300:  # noqa: PLR2004 - not 2xx
                raise _GiveUpError
            return response.status

    async def _deliver(self, body: Json) -> None:
        reason = ""
        for attempt, delay_s in enumerate((0.0, *RETRY_DELAYS_S)):
            if delay_s:
                await asyncio.sleep(delay_s * self._time_scale)
            retry = {"x-slack-retry-num": str(attempt), "x-slack-retry-reason": reason} if attempt else {}
            started = time.monotonic()
            try:
                status = await self.post(body, retry)
                reason = "" if 200 <= status < 300 else "http_error"  # noqa: PLR2004 - 2xx
            except _GiveUpError:
                status, reason = 0, "no_retry"
            except TimeoutError:
                status, reason = 0, "http_timeout"
            except aiohttp.ClientError:
                status, reason = 0, "connection_failed"
            self._note(
                "delivered" if not reason else "delivery_failed",
                event_id=body["event_id"],
                attempt=attempt,
                status=status,
                reason=reason,
                seconds=time.monotonic() - started,
            )
            if reason in {"", "no_retry"}:
                return
        self._note("event_lost", event_id=body["event_id"])


class _GiveUpError(Exception):
    """The receiver asked not to be tried again."""


@dataclass(slots=True)
class _Envelope:
    """An event, or the press of a button, on its way through a socket."""

    body: Json
    attempt: int = 0
    reason: str = ""

    @property
    def is_press(self) -> bool:
        return bool(self.body["type"] == "block_actions")

    @property
    def event_id(self) -> str:
        return str(self.body["trigger_id" if self.is_press else "event_id"])


class SocketDelivery:
    """Socket Mode: each event goes to one of the open sockets; not acknowledged it comes again, as over HTTP."""

    def __init__(self, *, note: Note, ack_timeout_s: float = ACK_TIMEOUT_S, time_scale: float = 1.0) -> None:
        """time_scale: multiplies the waits between deliveries."""
        self._note = note
        self._ack_timeout_s = ack_timeout_s
        self._time_scale = time_scale
        self._later: set[asyncio.TimerHandle] = set()
        self._sockets: list[web.WebSocketResponse] = []
        self._turn = itertools.count()
        self._waiting: deque[_Envelope] = deque()  # nobody is connected
        self._pending: dict[str, tuple[_Envelope, web.WebSocketResponse, asyncio.TimerHandle]] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._tickets: set[str] = set()
        self._connection_changed = asyncio.Event()

    @property
    def connections(self) -> int:
        return len(self._sockets)

    async def wait_for_connections(self, count: int) -> None:
        while len(self._sockets) != count:
            self._connection_changed.clear()
            await self._connection_changed.wait()

    async def close(self) -> None:
        for timer in (*self._later, *(timer for _, _, timer in self._pending.values())):
            timer.cancel()
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        for socket in list(self._sockets):
            await socket.close()

    def new_ticket(self) -> str:
        """Good for one connection."""
        ticket = secrets.token_urlsafe(12)
        self._tickets.add(ticket)
        return ticket

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """The WebSocket endpoint."""
        ticket = request.query.get("ticket", "")
        if ticket not in self._tickets:
            return web.Response(status=403, text="the ticket is unknown or was used")
        self._tickets.discard(ticket)
        socket = web.WebSocketResponse(autoping=True, timeout=_SHUTDOWN_S)
        await socket.prepare(request)
        self._sockets.append(socket)
        self._connection_changed.set()
        await socket.send_json({"type": "hello", "num_connections": len(self._sockets), "connection_info": {}})
        self._note("socket_opened", connections=len(self._sockets))
        self._flush()
        try:
            async for frame in socket:
                if frame.type is aiohttp.WSMsgType.TEXT:
                    self._acknowledged(frame.data)
        finally:
            self._dropped(socket)
        return socket

    async def disconnect(self, reason: str) -> None:
        """Tell every socket that its end is near; new events wait for the next connection."""
        leaving, self._sockets = self._sockets, []
        self._connection_changed.set()
        for socket in leaving:
            await socket.send_json({"type": "disconnect", "reason": reason, "debug_info": {}})

    async def drop(self) -> None:
        """Cut every connection without a word."""
        for socket in list(self._sockets):
            if (transport := socket._req.transport if socket._req is not None else None) is not None:  # noqa: SLF001 - aiohttp has no public way to cut a socket
                transport.abort()

    def deliver(self, body: Json) -> None:
        self._send(_Envelope(body))

    def _send(self, item: _Envelope) -> None:
        if not self._sockets:
            self._waiting.append(item)
            return
        socket = self._sockets[next(self._turn) % len(self._sockets)]
        envelope_id = secrets.token_hex(16)
        timer = asyncio.get_running_loop().call_later(self._ack_timeout_s, self._again, envelope_id, "timeout")
        self._pending[envelope_id] = (item, socket, timer)
        retry = {} if item.is_press else {"retry_attempt": item.attempt, "retry_reason": item.reason}
        frame = {
            "envelope_id": envelope_id,
            "type": "interactive" if item.is_press else "events_api",
            "accepts_response_payload": item.is_press,
            "payload": item.body,
            **retry,
        }
        task = asyncio.get_running_loop().create_task(self._write(socket, frame, envelope_id))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _write(self, socket: web.WebSocketResponse, frame: Json, envelope_id: str) -> None:
        try:
            await socket.send_json(frame)
        except (ConnectionError, RuntimeError):
            self._again(envelope_id, "connection_failed")

    def _acknowledged(self, raw: str) -> None:
        try:
            envelope_id = json.loads(raw).get("envelope_id")
        except (ValueError, AttributeError):
            return
        if (pending := self._pending.pop(envelope_id, None)) is not None:
            item, _, timer = pending
            timer.cancel()
            kind = "press_delivered" if item.is_press else "delivered"
            self._note(kind, event_id=item.event_id, attempt=item.attempt, reason="")

    def _again(self, envelope_id: str, reason: str) -> None:
        pending = self._pending.pop(envelope_id, None)
        if pending is None:
            return
        item, _, timer = pending
        timer.cancel()
        event_id = item.event_id
        if item.is_press:
            self._note("press_failed", event_id=event_id, reason=reason)
            return
        self._note("delivery_failed", event_id=event_id, attempt=item.attempt, reason=reason)
        if item.attempt >= len(RETRY_DELAYS_S):
            self._note("event_lost", event_id=event_id)
            return
        self._send_later(_Envelope(item.body, item.attempt + 1, reason), RETRY_DELAYS_S[item.attempt])

    def _send_later(self, item: _Envelope, delay_s: float) -> None:
        def send() -> None:
            self._later.discard(handle)
            self._send(item)

        handle = asyncio.get_running_loop().call_later(delay_s * self._time_scale, send)
        self._later.add(handle)

    def _dropped(self, socket: web.WebSocketResponse) -> None:
        if socket in self._sockets:
            self._sockets.remove(socket)
        self._connection_changed.set()
        self._note("socket_closed", connections=len(self._sockets))
        for envelope_id, (_, owner, _) in list(self._pending.items()):
            if owner is socket:
                self._again(envelope_id, "connection_failed")

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for item in waiting:
            self._send(item)
