"""Socket Mode: events over a WebSocket that we open, for networks that Slack can't reach.

Written on aiohttp instead of slack_sdk's client, which keeps trying a one-time address after a failed connect, closes
the old socket before the new one stands, and gives running handlers no time to acknowledge when it stops.
Source: https://docs.slack.dev/apis/events-api/using-socket-mode/
"""

import asyncio
import random
from typing import Any, Final

import aiohttp
import orjson
import structlog
from pydantic import SecretStr
from slack_bolt.async_app import AsyncApp, AsyncBoltRequest

from nubabel_workers.adapters.slack import errors
from nubabel_workers.adapters.slack.ingress import dispatch
from nubabel_workers.adapters.slack.messenger import SLACK_API_URL, slack_http_session, web_client
from nubabel_workers.domain.errors import TransientError, UnavailableError

log = structlog.get_logger(__name__)

_MAX_BACKOFF_S: Final = 30.0
_DISABLED_WAIT_S: Final = 60.0
_MAX_FRAME_BYTES: Final = 4 * 1024 * 1024


class SocketModeReceiver:
    """Keeps one socket open and gives its events to a Bolt app; an event that the app refuses is not acknowledged."""

    def __init__(
        self,
        app: AsyncApp,
        app_token: SecretStr,
        *,
        base_url: str = SLACK_API_URL,
        timeout_s: float = 10.0,
        ping_interval_s: float = 5.0,
        max_in_hand: int = 32,
        drain_s: float = 5.0,
    ) -> None:
        """max_in_hand: events handled at once; beyond it frames wait in the socket. drain_s: for handlers to finish."""
        self._app = app
        self._app_token = app_token
        self._base_url = base_url
        self._timeout_s = timeout_s
        self._ping_interval_s = ping_interval_s
        self._drain_s = drain_s
        self._room = asyncio.Semaphore(max_in_hand)
        self._handling: set[asyncio.Task[None]] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._connected = asyncio.Event()

    @property
    def is_connected(self) -> bool:
        """Whether Slack spoke to us on a socket that answers our pings; a deaf process must not look healthy."""
        return self._connected.is_set()

    async def wait_connected(self) -> None:
        await self._connected.wait()

    async def run(self, stop: asyncio.Event) -> None:
        """Receive until stop is set, then let running handlers finish and close the socket.

        Raises CredentialsError or another PermanentError when Slack refuses the app token; outages are waited out.
        """
        async with slack_http_session(self._timeout_s) as session:
            receiving = asyncio.create_task(self._receive_for_ever(session), name="slack-socket")
            stopping = asyncio.create_task(stop.wait(), name="slack-socket-stop")
            try:
                await asyncio.wait({receiving, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if receiving.done():
                    receiving.result()
            finally:
                receiving.cancel()
                stopping.cancel()
                await asyncio.gather(receiving, stopping, return_exceptions=True)
                await asyncio.gather(*self._retiring, return_exceptions=True)

    async def _receive_for_ever(self, session: aiohttp.ClientSession) -> None:
        failures = 0
        while True:
            try:
                socket = await self._open_socket(session)
            except TransientError as error:
                failures += 1
                wait_s = error.retry_after_s or random.uniform(0.5, 1) * min(2.0**failures, _MAX_BACKOFF_S)  # noqa: S311 - spreads reconnects
                log.warning("slack.socket_unavailable", error=str(error), wait_s=round(wait_s, 1))
                await asyncio.sleep(wait_s)
                continue
            failures = 0
            try:
                reason = await self._receive(socket)
            finally:
                self._connected.clear()
                self._retire(socket)
            log.info("slack.socket_ended", reason=reason)
            if reason == "link_disabled":
                log.error("slack.socket_mode_disabled")
                await asyncio.sleep(_DISABLED_WAIT_S)

    async def _open_socket(self, session: aiohttp.ClientSession) -> aiohttp.ClientWebSocketResponse:
        """Every connection needs a fresh address: it is good for one use."""
        try:
            answer = await web_client(self._base_url, session).apps_connections_open(
                app_token=self._app_token.get_secret_value()
            )
            url = str(answer.get("url"))
            return await session.ws_connect(url, heartbeat=self._ping_interval_s, max_msg_size=_MAX_FRAME_BYTES)
        except aiohttp.WSServerHandshakeError as error:
            raise UnavailableError(f"Socket Mode: handshake refused with HTTP {error.status}") from None
        except Exception as error:  # noqa: BLE001 - the SDK leaks whatever its parsing raises
            raise errors.translate(error, method="apps.connections.open", repeatable=True) from None

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> str:
        """Read frames until the connection ends or Slack announces its end; return why."""
        async for frame in socket:
            if frame.type is not aiohttp.WSMsgType.TEXT:
                continue
            self._connected.set()
            message = _parsed(frame.data)
            if message.get("type") == "hello":
                log.info("slack.socket_connected", num_connections=message.get("num_connections"))
            elif message.get("type") == "disconnect":
                return str(message.get("reason"))[:40]
            elif isinstance(message.get("envelope_id"), str) and isinstance(message.get("payload"), dict):
                await self._room.acquire()
                task = asyncio.create_task(self._handle(socket, message))
                self._handling.add(task)
                task.add_done_callback(self._handled)
        return f"closed with code {socket.close_code}"

    async def _handle(self, socket: aiohttp.ClientWebSocketResponse, message: dict[str, Any]) -> None:
        """Acknowledge on the socket that brought the event, and only when it was accepted."""
        try:
            request = AsyncBoltRequest(mode="socket_mode", body=message["payload"])
        except Exception as error:  # noqa: BLE001 - as over HTTP: whatever garbage raises, it is no request
            log.warning("slack.unreadable_envelope", error=type(error).__name__)
            return
        response = await dispatch(self._app, request)
        if response.status != 200:  # noqa: PLR2004 - HTTP OK
            return
        try:
            await socket.send_str(orjson.dumps({"envelope_id": message["envelope_id"]}).decode())
        except (ConnectionError, aiohttp.ClientError):
            log.info("slack.ack_lost")  # the event is stored; its redelivery will be recognised

    def _handled(self, task: asyncio.Task[None]) -> None:
        self._handling.discard(task)
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("slack.envelope_failed", exc_info=error)

    def _retire(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Close a socket once the handlers of its events had time to acknowledge on it."""
        task = asyncio.create_task(self._close_when_handled(socket, frozenset(self._handling)))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _close_when_handled(
        self, socket: aiohttp.ClientWebSocketResponse, handlers: frozenset[asyncio.Task[None]]
    ) -> None:
        if handlers:
            await asyncio.wait(handlers, timeout=self._drain_s)
        await socket.close()


def _parsed(frame: str) -> dict[str, Any]:
    try:
        message = orjson.loads(frame)
    except orjson.JSONDecodeError:
        log.warning("slack.unreadable_frame", chars=len(frame))
        return {}
    return message if isinstance(message, dict) else {}
