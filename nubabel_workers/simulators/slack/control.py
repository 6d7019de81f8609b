"""What a test, a demo or the page asks of the local Slack: write as a person, watch, wait, break things."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiohttp import web

from nubabel_workers.simulators.slack.delivery import SocketDelivery
from nubabel_workers.simulators.slack.faults import Fault, Faults
from nubabel_workers.simulators.slack.model import (
    ApiError,
    Channel,
    Json,
    Message,
    SlackWorld,
    Workspace,
    shown,
)
from nubabel_workers.simulators.slack.page import PAGE
from nubabel_workers.simulators.slack.web_api import WebApi

_MAX_WAIT_S: Final = 300.0
_STREAM_BACKLOG: Final = 1_000
_KEEPALIVE_S: Final = 15.0


class Control:
    """Serves /_sim/*, the files and the page."""

    def __init__(self, world: SlackWorld, *, faults: Faults, api: WebApi, sockets: SocketDelivery) -> None:
        self._world = world
        self._faults = faults
        self._api = api
        self._sockets = sockets
        self._base_url = ""
        self._streams: set[asyncio.Queue[str | None]] = set()
        world.watchers.append(self._broadcast)

    def serve_at(self, base_url: str) -> None:
        self._base_url = base_url

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/", self._page),
            web.get("/files/{id}/{name}", self._file),
            web.get("/_sim/workspaces", _json(self._workspaces)),
            web.post("/_sim/workspaces", _json(self._install)),
            web.post("/_sim/oauth_code", _json(self._oauth_code)),
            web.post("/_sim/uninstall", _json(self._uninstall)),
            web.post("/_sim/say", _json(self._say)),
            web.post("/_sim/press", _json(self._press)),
            web.post("/_sim/edit", _json(self._edit)),
            web.post("/_sim/delete", _json(self._delete)),
            web.post("/_sim/archive", _json(self._archive)),
            web.get("/_sim/messages", _json(self._messages)),
            web.get("/_sim/wait", self._wait),
            web.get("/_sim/log", _json(self._log)),
            web.post("/_sim/faults", _json(self._plan_faults)),
            web.delete("/_sim/faults", _json(self._clear_faults)),
            web.post("/_sim/disconnect", _json(self._disconnect)),
            web.get("/_sim/stream", self._stream),
        ]

    def close(self) -> None:
        """End the streams, which would otherwise hold the server open."""
        for queue in self._streams:
            queue.put_nowait(None)

    def add_file(self, workspace: Workspace, raw: Json) -> Json:
        """Store an attachment; returns what the message says about it."""
        name, mimetype = str(raw.get("name", "file.txt")), str(raw.get("mimetype", "text/plain"))
        content = (
            base64.b64decode(raw["content_base64"]) if "content_base64" in raw else str(raw.get("content", "")).encode()
        )
        file_id = f"F{len(self._world.files):08d}"
        self._world.files[file_id] = (workspace.team_id, mimetype, content)
        url = f"{self._base_url}/files/{file_id}/{name}"
        return {"id": file_id, "name": name, "mimetype": mimetype, "size": len(content), "url_private": url}

    # --- workspaces ------------------------------------------------------------------------------------------------

    async def _workspaces(self, _request: web.Request) -> Any:
        return [_workspace(workspace) for workspace in self._world.workspaces.values()]

    async def _install(self, request: web.Request) -> Any:
        body = await _body(request)
        enterprise_id = body.get("enterprise_id")
        return _workspace(
            self._world.add_workspace(body["team_id"], name=body.get("name"), enterprise_id=enterprise_id)
        )

    async def _oauth_code(self, request: web.Request) -> Any:
        return {"code": self._api.oauth_code((await _body(request))["team_id"])}

    async def _uninstall(self, request: web.Request) -> Any:
        self._world.uninstall((await _body(request))["team"])
        return {}

    # --- people ------------------------------------------------------------------------------------------------------

    async def _say(self, request: web.Request) -> Any:
        body = await _body(request)
        workspace = self._world.workspace(body["team"])
        files = [self.add_file(workspace, raw) for raw in body.get("files", ())]
        message, event_ids = self._world.say(
            workspace,
            body["channel"],
            body.get("user", "U0ALICE"),
            body["text"],
            thread_ts=body.get("thread_ts"),
            files=files,
        )
        return {"ts": message.ts, "thread_ts": message.root_ts, "event_ids": event_ids}

    async def _press(self, request: web.Request) -> Any:
        body = await _body(request)
        workspace = self._world.workspace(body["team"])
        pressed = self._world.press(
            workspace, body["channel"], body["ts"], body.get("user", "U0ALICE"), action_id=body.get("action_id")
        )
        return {"trigger_id": pressed["trigger_id"]}

    async def _edit(self, request: web.Request) -> Any:
        body = await _body(request)
        workspace = self._world.workspace(body["team"])
        self._world.edit_by_person(workspace, body["channel"], body["ts"], body["text"])
        return {}

    async def _delete(self, request: web.Request) -> Any:
        body = await _body(request)
        self._world.delete_by_person(self._world.workspace(body["team"]), body["channel"], body["ts"])
        return {}

    async def _archive(self, request: web.Request) -> Any:
        body = await _body(request)
        channel = self._world.channel(self._world.workspace(body["team"]), body["channel"], create=True)
        channel.archived = bool(body.get("archived", True))
        return {}

    # --- watching ----------------------------------------------------------------------------------------------------

    async def _messages(self, request: web.Request) -> Any:
        query = request.query
        found = [
            shown(workspace, channel, message)
            for workspace in self._world.workspaces.values()
            for channel in workspace.channels.values()
            for message in channel.messages.values()
            if query.get("team") in {None, workspace.team_id}
            and query.get("channel") in {None, channel.id}
            and query.get("thread") in {None, message.root_ts}
        ]
        return sorted(found, key=lambda message: message["ts"])

    async def _wait(self, request: web.Request) -> web.StreamResponse:
        """Until the thread has `count` messages of the bot, `contains` in their text if given; 408 after timeout_s."""
        query = request.query
        try:
            workspace, channel_id, thread = self._world.workspace(query["team"]), query["channel"], query["thread"]
            count, timeout_s = int(query.get("count", "1")), min(float(query.get("timeout_s", "30")), _MAX_WAIT_S)
        except (KeyError, ValueError, ApiError) as error:
            return web.json_response({"error": f"team, channel and thread are needed: {error}"}, status=400)
        contains = query.get("contains", "")

        def answered(messages: Sequence[Message]) -> bool:
            return sum(message.bot_id is not None and contains in message.body for message in messages) >= count

        try:
            async with asyncio.timeout(timeout_s):
                messages = await self._world.wait_until(workspace, channel_id, thread, answered)
            status = 200
        except TimeoutError:
            messages = list(self._world.channel(workspace, channel_id).thread(thread))
            status = 408
        channel = self._world.channel(workspace, channel_id)
        return web.json_response([shown(workspace, channel, message) for message in messages], status=status)

    async def _log(self, request: web.Request) -> Any:
        kind = request.query.get("kind")
        return [entry for entry in self._world.log if kind in {None, entry["kind"]}]

    # --- breaking ----------------------------------------------------------------------------------------------------

    async def _plan_faults(self, request: web.Request) -> Any:
        self._faults.plan(Fault.from_json(await _body(request)))
        return {}

    async def _clear_faults(self, _request: web.Request) -> Any:
        self._faults.clear()
        return {}

    async def _disconnect(self, request: web.Request) -> Any:
        reason = (await _body(request)).get("reason", "refresh_requested")
        await (self._sockets.drop() if reason == "cut" else self._sockets.disconnect(reason))
        return {}

    # --- page --------------------------------------------------------------------------------------------------------

    async def _page(self, _request: web.Request) -> web.StreamResponse:
        policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
        return web.Response(text=PAGE, content_type="text/html", headers={"Content-Security-Policy": policy})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        """Like Slack: without a token of the right workspace comes a sign-in page."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        entry = self._world.files.get(request.match_info["id"])
        try:
            workspace = self._world.authorized(token)
        except ApiError:
            entry = None
        if entry is None or entry[0] != workspace.team_id:
            return web.Response(text="<html><body>Sign in</body></html>", content_type="text/html")
        return web.Response(body=entry[2], content_type=entry[1])

    def _broadcast(self, workspace: Workspace, channel: Channel, message: Message | None) -> None:
        if not self._streams or message is None:
            return
        event = json.dumps(shown(workspace, channel, message), ensure_ascii=False)
        for queue in self._streams:
            if not queue.full():
                queue.put_nowait(event)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        queue: asyncio.Queue[str | None] = asyncio.Queue(_STREAM_BACKLOG)
        self._streams.add(queue)
        try:
            await response.write(b": here\n\n")
            while (event := await _next_or_none(queue)) is not None:
                await response.write(f"data: {event}\n\n".encode() if event else b": still here\n\n")
        except ConnectionError:
            pass
        finally:
            self._streams.discard(queue)
        return response


async def _next_or_none(queue: asyncio.Queue[str | None]) -> str | None:
    """The next event, an empty one after a while of silence, None at the end."""
    try:
        return await asyncio.wait_for(queue.get(), _KEEPALIVE_S)
    except TimeoutError:
        return ""


def _workspace(workspace: Workspace) -> Json:
    return {
        "team_id": workspace.team_id,
        "name": workspace.name,
        "bot_token": workspace.bot_token,
        "bot_user_id": workspace.bot_user_id,
        "bot_id": workspace.bot_id,
        "enterprise_id": workspace.enterprise_id,
        "revoked": workspace.revoked,
    }


async def _body(request: web.Request) -> Json:
    body = await request.json()
    if not isinstance(body, dict):
        raise ApiError("a JSON object is needed")
    return body


def _json(
    handler: Callable[[web.Request], Awaitable[Any]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Answer with the handler's value; what the caller got wrong becomes 400 and a sentence."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "POST" and request.content_type != "application/json":
            # A page of another origin can send forms without asking, but not this type.
            return web.json_response({"error": "send application/json"}, status=415)
        try:
            return web.json_response(await handler(request))
        except KeyError as error:
            return web.json_response({"error": f"{error.args[0]} is missing"}, status=400)
        except (ApiError, ValueError, TypeError) as error:
            return web.json_response({"error": str(error)}, status=400)

    return answer
