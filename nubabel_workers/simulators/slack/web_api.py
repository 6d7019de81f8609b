"""The Web API methods that a bot like ours calls, as functions over the world; HTTP and faults around them."""

import asyncio
import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from nubabel_workers.simulators.slack.delivery import SocketDelivery
from nubabel_workers.simulators.slack.faults import Fault, FaultKind, Faults
from nubabel_workers.simulators.slack.limits import (
    RateLimitedCall,
    RateLimiter,
    RateLimits,
    check_post,
    check_update,
)
from nubabel_workers.simulators.slack.model import ApiError, Channel, Json, Message, SlackWorld, Workspace

_HTML: Final = "<html><body><h1>Something went wrong</h1></body></html>"
_DEFAULT_PAGE: Final = 1_000


class WebApi:
    """Serves /api/{method}."""

    def __init__(
        self,
        world: SlackWorld,
        *,
        limits: RateLimits,
        faults: Faults,
        sockets: SocketDelivery,
        app_token: str,
        client_credentials: tuple[str, str],
    ) -> None:
        self._world = world
        self._limits = limits
        self._limiter = RateLimiter()
        self._faults = faults
        self._sockets = sockets
        self._app_token = app_token
        self._client_credentials = client_credentials
        self._codes: dict[str, str] = {}  # OAuth code -> team
        self._methods: dict[str, Callable[[Workspace, Json], Json]] = {
            "auth.test": self._auth_test,
            "chat.postMessage": self._post,
            "chat.update": self._update,
            "chat.delete": self._delete,
            "reactions.add": self._add_reaction,
            "reactions.remove": self._remove_reaction,
            "conversations.replies": self._replies,
            "conversations.history": self._history,
        }

    def oauth_code(self, team_id: str) -> str:
        """What the browser would bring back after somebody allowed the app in that workspace."""
        code = f"code-{team_id}-{len(self._codes)}"
        self._codes[code] = team_id
        return code

    async def serve(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        args = await _arguments(request)
        token = _token(request, args)
        workspace = self._world.workspaces.get(_team_of(self._world, token))
        fault = self._faults.take(method, workspace.team_id if workspace else None, args.get("channel"))
        if fault is not None and (early := _before(fault, request)) is not None:
            self._world.note("call", method=method, channel=args.get("channel"), fault=fault.kind)
            return early
        if fault is not None and fault.kind is FaultKind.TAKEN_LATE:
            await asyncio.sleep(fault.seconds)
        status, headers, answer = self._answer(request, method, args, token)
        self._world.note(
            "call",
            method=method,
            channel=args.get("channel"),
            thread_ts=args.get("thread_ts") or args.get("ts"),
            ok=answer["ok"],
            error=answer.get("error"),
            fault=fault.kind if fault is not None else None,
            peer_port=_peer_port(request),
        )
        if fault is not None and fault.kind is not FaultKind.TAKEN_LATE:
            return await _after(fault, request, answer)
        return web.json_response(answer, status=status, headers=headers)

    def _answer(
        self, request: web.Request, method: str, args: Json, token: str | None
    ) -> tuple[int, dict[str, str], Json]:
        try:
            return 200, {}, {"ok": True, **self._handled(request, method, args, token)}
        except ApiError as error:
            return 200, {}, {"ok": False, "error": error.code, **error.details}
        except RateLimitedCall as limited:
            return 429, {"Retry-After": str(limited.retry_after_s)}, {"ok": False, "error": "ratelimited"}

    def _handled(self, request: web.Request, method: str, args: Json, token: str | None) -> Json:
        if method == "apps.connections.open":
            return self._open_connection(request, token)
        if method == "oauth.v2.access":
            return self._grant(request, args)
        handler = self._methods.get(method)
        if handler is None:
            raise ApiError("unknown_method")
        return handler(self._world.authorized(token), args)

    # --- methods -------------------------------------------------------------------------------------------------

    def _auth_test(self, workspace: Workspace, _args: Json) -> Json:
        return {
            "url": f"https://{workspace.team_id.lower()}.slack.example/",
            "team": workspace.name,
            "team_id": workspace.team_id,
            "user": "nubabel",
            "user_id": workspace.bot_user_id,
            "bot_id": workspace.bot_id,
            "enterprise_id": workspace.enterprise_id,
            "is_enterprise_install": False,
        }

    def _post(self, workspace: Workspace, args: Json) -> Json:
        channel = self._writable(workspace, args)
        text, blocks = check_post(args)
        wait_s = self._limiter.take(("post", workspace.team_id, channel.id), self._limits.posts_per_channel_per_s)
        if wait_s is not None:
            raise RateLimitedCall(wait_s)
        message = Message(
            ts=self._world.next_ts(),
            user=workspace.bot_user_id,
            bot_id=workspace.bot_id,
            text=text,
            blocks=blocks,
            thread_ts=args.get("thread_ts") or None,
            metadata=args.get("metadata") if isinstance(args.get("metadata"), dict) else None,
            client_msg_id=args.get("client_msg_id"),
        )
        self._world.post(workspace, channel, message)
        return {"channel": channel.id, "ts": message.ts, "message": message.wire(workspace.team_id)}

    def _update(self, workspace: Workspace, args: Json) -> Json:
        channel = self._writable(workspace, args)
        message = self._world.message(channel, str(args.get("ts")))
        if message.bot_id != workspace.bot_id:
            raise ApiError("cant_update_message")
        text, blocks = check_update(args)
        self._world.change(workspace, channel, message, text=text, blocks=blocks)
        return {"channel": channel.id, "ts": message.ts, "text": message.text}

    def _delete(self, workspace: Workspace, args: Json) -> Json:
        channel = self._world.channel(workspace, str(args.get("channel")))
        message = self._world.message(channel, str(args.get("ts")))
        if message.bot_id != workspace.bot_id:
            raise ApiError("cant_delete_message")
        self._world.remove(workspace, channel, message)
        return {"channel": channel.id, "ts": message.ts}

    def _add_reaction(self, workspace: Workspace, args: Json) -> Json:
        return self._react(workspace, args, present=True)

    def _remove_reaction(self, workspace: Workspace, args: Json) -> Json:
        return self._react(workspace, args, present=False)

    def _react(self, workspace: Workspace, args: Json, *, present: bool) -> Json:
        channel = self._writable(workspace, args)
        message = self._world.message(channel, str(args.get("timestamp")))
        name = args.get("name")
        if not isinstance(name, str) or not name:
            raise ApiError("invalid_name")
        self._world.react(workspace, channel, message, name, present=present)
        return {}

    def _replies(self, workspace: Workspace, args: Json) -> Json:
        """Oldest first, a page at a time. The root comes first on every page, whatever `oldest` and `cursor` say.

        Source: https://docs.slack.dev/reference/methods/conversations.replies; of the root, what exporters of whole
        threads found.
        """
        channel = self._world.channel(workspace, str(args.get("channel")))
        wait_s = self._limiter.take(("read", workspace.team_id), _per_second(self._limits.reads_per_minute))
        if wait_s is not None:
            raise RateLimitedCall(wait_s)
        thread = list(channel.thread(str(args.get("ts"))))
        if not thread:
            raise ApiError("thread_not_found")
        oldest, latest = str(args.get("oldest") or ""), str(args.get("latest") or "~")
        inclusive = _true(args.get("inclusive"))
        chosen = [
            message
            for position, message in enumerate(thread)
            if (position == 0 or _after_ts(message.ts, oldest, inclusive=inclusive))
            and (message.ts < latest or (inclusive and message.ts == latest))
        ]
        limit = max(2, min(int(args.get("limit") or _DEFAULT_PAGE), self._limits.max_messages_per_read))
        page, rest = _page(chosen, limit=limit, cursor=args.get("cursor"))
        with_metadata = _true(args.get("include_all_metadata"))
        shown = [
            message.wire(workspace.team_id)
            | ({"metadata": message.metadata} if with_metadata and message.metadata else {})
            for message in page
        ]
        if page[0].ts == str(args.get("ts")):
            shown[0] |= _reply_count(len(thread) - 1)
        more = {"response_metadata": {"next_cursor": _cursor(rest[0].ts)}} if rest else {}
        return {"messages": shown, "has_more": bool(rest)} | more

    def _history(self, workspace: Workspace, args: Json) -> Json:
        """A channel's own messages, newest first; what stands in threads is only counted. Without paging.

        Source: https://docs.slack.dev/reference/methods/conversations.history
        """
        channel = self._world.channel(workspace, str(args.get("channel")))
        wait_s = self._limiter.take(("history", workspace.team_id), _per_second(self._limits.reads_per_minute))
        if wait_s is not None:
            raise RateLimitedCall(wait_s)
        oldest, latest = str(args.get("oldest") or ""), str(args.get("latest") or "~")
        inclusive = _true(args.get("inclusive"))
        roots = [
            message
            for message in channel.messages.values()
            if message.root_ts == message.ts
            and _after_ts(message.ts, oldest, inclusive=inclusive)
            and (message.ts < latest or (inclusive and message.ts == latest))
        ]
        limit = min(int(args.get("limit") or _DEFAULT_PAGE), self._limits.max_messages_per_read)
        shown = [
            root.wire(workspace.team_id) | _reply_count(len(list(channel.thread(root.ts))) - 1)
            for root in roots[: -limit - 1 : -1]
        ]
        return {"messages": shown, "has_more": len(roots) > limit}

    def _open_connection(self, request: web.Request, token: str | None) -> Json:
        if token != self._app_token:
            raise ApiError("invalid_auth" if token else "not_authed")
        return {"url": f"ws://{request.host}/link?ticket={self._sockets.new_ticket()}"}

    def _grant(self, request: web.Request, args: Json) -> Json:
        if _basic_auth(request) != self._client_credentials:
            raise ApiError("bad_client_secret")
        team_id = self._codes.pop(str(args.get("code")), None)
        if team_id is None:
            raise ApiError("invalid_code")
        workspace = self._world.add_workspace(team_id)
        return {
            "access_token": workspace.bot_token,
            "token_type": "bot",
            "scope": "app_mentions:read,chat:write",
            "bot_user_id": workspace.bot_user_id,
            "app_id": workspace.app_id,
            "team": {"id": team_id, "name": workspace.name},
            "enterprise": None,
            "is_enterprise_install": False,
            "authed_user": {"id": "UINSTALLER"},
        }

    def _writable(self, workspace: Workspace, args: Json) -> Channel:
        channel = self._world.channel(workspace, str(args.get("channel")))
        if channel.archived:
            raise ApiError("is_archived")
        return channel


def _peer_port(request: web.Request) -> int | None:
    """Where the caller's connection comes from: tells which process called."""
    peer = request.transport.get_extra_info("peername") if request.transport is not None else None
    return peer[1] if peer else None


def _before(fault: Fault, request: web.Request) -> web.StreamResponse | None:
    """Faults that keep the call from happening."""
    match fault.kind:
        case FaultKind.RATE_LIMITED:
            headers = {"Retry-After": str(int(fault.seconds))}
            return web.json_response({"ok": False, "error": "ratelimited"}, status=429, headers=headers)
        case FaultKind.HTTP_STATUS:
            return web.Response(status=fault.status, text=_HTML, content_type="text/html")
        case FaultKind.ERROR:
            return web.json_response({"ok": False, "error": fault.code})
        case FaultKind.CLOSED:
            return _cut(request)
        case _:
            return None


async def _after(fault: Fault, request: web.Request, answer: Json) -> web.StreamResponse:
    """Faults that only spoil the answer."""
    match fault.kind:
        case FaultKind.LOST_ANSWER:
            return _cut(request)
        case FaultKind.HTML:
            return web.Response(text=_HTML, content_type="text/html")
        case FaultKind.NOT_JSON:
            return web.Response(text=_HTML, content_type="application/json")
        case FaultKind.ERROR_AFTER:
            return web.json_response({"ok": False, "error": fault.code})
        case _:
            await asyncio.sleep(fault.seconds)
            return web.json_response(answer)


def _cut(request: web.Request) -> web.Response:
    """Close the connection; what is returned never gets out."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _arguments(request: web.Request) -> Json:
    if request.method == "GET":
        return dict(request.query)
    if request.content_type == "application/json":
        try:
            body = json.loads(await request.read())
        except ValueError:
            return {}
        return body if isinstance(body, dict) else {}
    form: Json = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
    if isinstance(form.get("metadata"), str):
        form["metadata"] = json.loads(form["metadata"])
    return dict(request.query) | form


def _token(request: web.Request, args: Mapping[str, Any]) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token
    given = args.get("token")
    return given if isinstance(given, str) else None


def _basic_auth(request: web.Request) -> tuple[str, str] | None:
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    try:
        login, colon, password = base64.b64decode(encoded).decode().partition(":")
    except ValueError:
        return None
    return (login, password) if scheme.lower() == "basic" and colon else None


def _team_of(world: SlackWorld, token: str | None) -> str:
    try:
        return world.authorized(token).team_id
    except ApiError:
        return ""


def _page(chosen: Sequence[Message], *, limit: int, cursor: str | None) -> tuple[Sequence[Message], Sequence[Message]]:
    """What one answer shows, and what is left for those after it."""
    root, replies = chosen[:1], chosen[1:]
    if cursor:
        begins = [position for position, message in enumerate(replies) if _cursor(message.ts) == cursor]
        if not begins:
            raise ApiError("invalid_cursor")
        replies = replies[begins[0] :]
    return [*root, *replies[: limit - 1]], replies[limit - 1 :]


def _reply_count(replies: int) -> Json:
    return {"reply_count": replies} if replies else {}


def _cursor(ts: str) -> str:
    return base64.b64encode(f"next_ts:{ts}".encode()).decode()


def _after_ts(ts: str, oldest: str, *, inclusive: bool) -> bool:
    return ts > oldest or (inclusive and ts == oldest)


def _true(value: Any) -> bool:
    return value in {True, "1", "true", "True"}


def _per_second(per_minute: float | None) -> float | None:
    return per_minute / 60 if per_minute is not None else None
