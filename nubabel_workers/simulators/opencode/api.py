"""OpenCode's own routes, as opencode 1.18.33 answers them."""

import asyncio
import base64
import posixpath
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from nubabel_workers.simulators.opencode import wire_forms
from nubabel_workers.simulators.opencode.answers import (
    GoneError,
    RefusedError,
    bad_request,
    json_answer,
    read_body,
    server_error,
    wrong_id,
)
from nubabel_workers.simulators.opencode.catalogue import Catalogue
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.disk import Disk
from nubabel_workers.simulators.opencode.engine import Engine
from nubabel_workers.simulators.opencode.forks import Forks
from nubabel_workers.simulators.opencode.identifiers import IdSource
from nubabel_workers.simulators.opencode.prompts import BadRequestError, PromptDesk, read_prompt
from nubabel_workers.simulators.opencode.state import Json, SimulatedSession, Store
from nubabel_workers.simulators.opencode.streams import Reader, Streams
from nubabel_workers.simulators.opencode.telling import Teller

_DEFAULT_LIST_LIMIT = 100
_ASKS = {"permission": "per", "question": "que"}

# The second argument: the ids in the path, in order.
Handler = Callable[[web.BaseRequest, list[str]], Awaitable[web.StreamResponse]]


class Api:
    """Handlers of the routes. Blocking on nothing but asked-for waits."""

    def __init__(
        self,
        settings: SimulatorConfig,
        store: Store,
        streams: Streams,
        ids: IdSource,
        engine: Engine,
        tell: Teller,
        desk: PromptDesk,
        disk: Disk,
    ) -> None:
        self._settings = settings
        self._catalogue = Catalogue(settings)
        self._forks = Forks(store, ids, tell)
        self._store = store
        self._streams = streams
        self._ids = ids
        self._engine = engine
        self._tell = tell
        self._desk = desk
        self._disk = disk

    def routes(self) -> dict[tuple[str, str], Handler]:
        """Method and path, `*` for an id, -> handler."""
        return {
            ("GET", "global/health"): self._catalogue.health,
            ("GET", "agent"): self._agents,
            ("GET", "config"): self._catalogue.config,
            ("GET", "config/providers"): self._catalogue.configured_providers,
            ("GET", "provider"): self._catalogue.all_providers,
            ("GET", "provider/auth"): self._catalogue.auth_methods,
            ("PUT", "auth/*"): self._catalogue.set_auth,
            ("DELETE", "auth/*"): self._catalogue.remove_auth,
            ("GET", "skill"): self._catalogue.skills,
            ("GET", "mcp"): self._catalogue.mcp_status,
            ("GET", "path"): self._path,
            ("GET", "file"): self._files,
            ("POST", "instance/dispose"): self._dispose,
            ("POST", "session"): self._create_session,
            ("GET", "session"): self._list_sessions,
            ("GET", "experimental/tool"): self._catalogue.offered_tools,
            ("GET", "experimental/session"): self._page_of_sessions,
            ("GET", "session/status"): self._status,
            ("GET", "session/*"): self._get_session,
            ("PATCH", "session/*"): self._update_session,
            ("DELETE", "session/*"): self._delete_session,
            ("GET", "session/*/children"): self._children,
            ("POST", "session/*/fork"): self._fork,
            ("POST", "session/*/summarize"): self._summarize,
            ("POST", "session/*/abort"): self._abort,
            ("POST", "session/*/prompt_async"): self._prompt_async,
            ("POST", "session/*/message"): self._prompt,
            ("GET", "session/*/message"): self._messages,
            ("GET", "session/*/message/*"): self._message,
            ("GET", "permission"): self._list_asks,
            ("GET", "question"): self._list_asks,
            ("POST", "permission/*/reply"): self._reply_permission,
            ("POST", "question/*/reply"): self._reply_question,
            ("POST", "question/*/reject"): self._reject_question,
            ("GET", "event"): self._events,
            ("GET", "global/event"): self._events,
        }

    def _session(self, session_id: str) -> SimulatedSession:
        session = self._store.sessions.get(session_id)
        if session is not None:
            return session
        if not session_id.startswith("ses"):
            raise RefusedError(500, server_error())
        raise RefusedError(404, wire_forms.named_error("NotFoundError", f"Session not found: {session_id}"))

    def _directory(self, request: web.BaseRequest) -> str:
        """Named by the request, and loaded by that."""
        named = request.query.get("directory") or request.headers.get("x-opencode-directory")
        directory = named or self._settings.directory
        self._disk.load(directory)
        return directory

    async def _agents(self, request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        self._directory(request)
        return await self._catalogue.agents(request, ids)

    async def _files(self, request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        """Folders only: files are what models write, and a simulated one writes none."""
        if (path := request.query.get("path")) is None:
            raise RefusedError(400, bad_request('Missing key\n  at ["path"]', "Query"))
        directory = self._directory(request)
        found = self._disk.entries(posixpath.normpath(posixpath.join(directory, path)))
        if found is None:
            raise RefusedError(500, server_error())
        return json_answer(
            [
                {
                    "name": posixpath.basename(one),
                    "path": f"{posixpath.relpath(one, directory)}/",
                    "absolute": one,
                    "type": "directory",
                    "ignored": False,
                }
                for one in found
            ]
        )

    async def _path(self, request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        return json_answer({"directory": self._directory(request), "worktree": "/"})

    async def _dispose(self, request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        directory = self._directory(request)
        for session in [s for s in self._store.sessions.values() if s.directory == directory and s.run is not None]:
            self._engine.abort(session)
        self._disk.unload(directory)
        self._streams.tell_all("server.instance.disposed", {"directory": directory})
        for reader in self._streams.readers:
            if reader.directory == directory:
                reader.close()
        return json_answer(data=True)

    async def _create_session(self, request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        given = await read_body(request, bad={"_tag": "BadRequest"}) if request.can_read_body else {}
        title = given.get("title")
        model = given.get("model")
        if not isinstance(title, str | None) or not isinstance(model, dict | None):
            raise RefusedError(400, {"_tag": "BadRequest"})
        info = wire_forms.session_info(
            self._ids.new("ses"), directory=self._directory(request), title=title, given=given
        )
        session = self._store.add(SimulatedSession(info))
        self._tell.session_created(session)
        return json_answer(info)

    async def _list_sessions(self, request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        chosen = self._chosen_sessions(request)
        return json_answer(chosen[: int(request.query.get("limit", _DEFAULT_LIST_LIMIT))])

    async def _page_of_sessions(self, request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        """The list that has pages. Its cursor is the time of a page's last session, so equal times may fall out."""
        chosen = self._chosen_sessions(request)
        if (cursor := request.query.get("cursor")) is not None:
            chosen = [info for info in chosen if info["time"]["updated"] < int(cursor)]
        page = chosen[: int(request.query.get("limit", _DEFAULT_LIST_LIMIT))]
        headers = {"x-next-cursor": str(page[-1]["time"]["updated"])} if page and len(page) < len(chosen) else {}
        return json_answer(page, headers=headers)

    def _chosen_sessions(self, request: web.BaseRequest) -> list[Json]:
        """Those that the query asks for, the last changed first."""
        query = request.query
        if query.get("roots", "true") not in {"true", "false"}:
            text = 'Expected "true" | "false"\n  at ["roots"]'
            raise RefusedError(400, bad_request(text, "Query"))
        directory, search, roots = query.get("directory"), query.get("search", "").lower(), query.get("roots") == "true"
        chosen = [
            s.info
            for s in self._store.sessions.values()
            if directory in {None, s.directory}
            and search in s.info["title"].lower()
            and not (roots and "parentID" in s.info)
        ]
        return sorted(chosen, key=lambda info: (-info["time"]["updated"], info["id"]))

    async def _get_session(self, _request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        return json_answer(self._session(ids[0]).info)

    async def _update_session(self, request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        session = self._session(ids[0])
        given = await read_body(request, bad={"_tag": "BadRequest"})
        session.info |= {name: given[name] for name in ("title", "metadata", "permission") if name in given}
        self._store.touch(session)
        self._tell.session(session)
        return json_answer(session.info)

    async def _delete_session(self, _request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        session = self._session(ids[0])
        self._disk.load(session.directory)
        self._store.remove(session)
        self._tell.event(session, "session.deleted", info=session.info)
        return json_answer(data=True)

    async def _children(self, _request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        return json_answer([child.info for child in self._store.children(self._session(ids[0]).id)])

    async def _fork(self, request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        origin = self._session(ids[0])
        given = await read_body(request, bad={"_tag": "BadRequest"}) if request.can_read_body else {}
        before = given.get("messageID")
        if before is not None and not str(before).startswith("msg"):
            raise RefusedError(400, {"_tag": "BadRequest"})
        return json_answer(self._forks.fork(origin, before=before).info)

    async def _summarize(self, request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        session = self._session(ids[0])
        given = await read_body(request, bad=server_error(), status=500)
        if missing := [name for name in ("providerID", "modelID") if name not in given]:
            raise RefusedError(400, bad_request(f'Missing key\n  at ["{missing[0]}"]', "Payload"))
        while session.run is not None and session.run.task is not None:
            await asyncio.wait({session.run.task})
        model = {name: given[name] for name in ("providerID", "modelID")}
        if not self._engine.knows_model(model):
            raise RefusedError(500, server_error())
        task = self._engine.summarize(session, model=model)
        await asyncio.wait({task})
        return json_answer(data=True)

    async def _status(self, request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        return json_answer(self._store.busy.get(self._directory(request), {}))

    async def _abort(self, _request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        session = self._store.sessions.get(ids[0])
        if session is not None:
            self._engine.abort(session)
        return json_answer(data=True)

    async def _prompt_async(self, request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        await self._accept(request, ids[0])
        return web.Response(status=204)

    async def _prompt(self, request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        """Keeps the connection open until the run has ended."""
        session = await self._accept(request, ids[0])
        if session.run is None or session.run.task is None:
            raise RefusedError(500, server_error())
        await asyncio.wait({session.run.task})
        last, asked = session.last_assistant(), session.newest_user()
        if last is None or asked is None or last.info["parentID"] != asked.id:
            raise RefusedError(500, server_error())
        return json_answer(last.wire)

    async def _accept(self, request: web.BaseRequest, session_id: str) -> SimulatedSession:
        try:
            prompt = read_prompt(await read_body(request, bad=server_error(), status=500))
        except BadRequestError as error:
            raise RefusedError(400, bad_request(str(error), "Payload")) from error
        session = self._session(session_id)
        self._engine.traceparents.append(request.headers.get("traceparent"))
        if self._engine.faults.slow_accept_s:
            await asyncio.sleep(self._engine.faults.slow_accept_s)
        self._desk.accept(session, prompt)
        if self._engine.take_fault("lose_answers"):
            raise GoneError
        return session

    async def _messages(self, request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        messages = list(self._session(ids[0]).messages.values())
        if (before := request.query.get("before")) is not None:
            end = base64.urlsafe_b64decode(before).decode()
            messages = messages[: next((at for at, m in enumerate(messages) if m.id == end), 0)]
        limit = int(request.query.get("limit", len(messages)))
        page = messages[-limit:] if limit else []
        headers = {}
        if page and len(page) < len(messages):
            headers["x-next-cursor"] = base64.urlsafe_b64encode(page[0].id.encode()).decode()
        return json_answer([message.wire for message in page], headers=headers)

    async def _message(self, _request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        session_id, message_id = ids
        session = self._session(session_id)
        if not message_id.startswith("msg"):
            raise wrong_id("msg", message_id, "messageID")
        message = session.messages.get(message_id)
        if message is None:
            raise RefusedError(404, wire_forms.named_error("NotFoundError", f"Message not found: {message_id}"))
        return json_answer(message.wire)

    async def _list_asks(self, request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        prefix, directory = _ASKS[request.path.strip("/")], self._directory(request)
        asks = self._store.asks.values()
        return json_answer([a.request for a in asks if a.id.startswith(prefix) and a.session.directory == directory])

    async def _reply_permission(self, request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        given = await read_body(request, bad=server_error())
        reply = given.get("reply")
        message = given.get("message") if reply == "reject" else None
        self._answer_ask(request, ids[0], "Permission", granted=reply != "reject", message=message, reply=reply)
        return json_answer(data=True)

    async def _reply_question(self, request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        answers = (await read_body(request, bad=server_error())).get("answers", [])
        if not isinstance(answers, list):
            raise RefusedError(400, bad_request('Expected array\n  at ["answers"]', "Payload"))
        ask = self._store.asks.get(ids[0])
        questions = ask.request.get("questions", []) if ask is not None else []
        told = "; ".join(
            f'"{question["question"]}"="{", ".join(chosen)}"'
            for question, chosen in zip(questions, answers, strict=False)
        )
        message = f"User has answered your questions: {told}. You can now continue with the user's answers in mind."
        self._answer_ask(request, ids[0], "Question", granted=True, message=message, reply="replied")
        return json_answer(data=True)

    async def _reject_question(self, request: web.BaseRequest, ids: list[str]) -> web.StreamResponse:
        self._answer_ask(request, ids[0], "Question", granted=False, message=None, reply="rejected")
        return json_answer(data=True)

    def _answer_ask(
        self, request: web.BaseRequest, ask_id: str, kind: str, *, granted: bool, message: str | None, reply: Any
    ) -> None:
        if not ask_id.startswith(_ASKS[kind.lower()]):
            raise wrong_id(_ASKS[kind.lower()], ask_id, "requestID")
        ask = self._store.asks.get(ask_id)
        if ask is None or ask.session.directory != self._directory(request) or ask.answer.done():
            text = f"{kind} request not found: {ask_id}"
            raise RefusedError(404, {"_tag": f"{kind}NotFoundError", "requestID": ask_id, "message": text})
        event = "permission.replied" if kind == "Permission" else f"question.{reply}"
        self._tell.event(ask.session, event, requestID=ask_id, reply=reply)
        ask.answer.set_result((granted, message))

    async def _events(self, request: web.BaseRequest, _ids: list[str]) -> web.StreamResponse:
        is_global = request.path.startswith("/global/")
        reader = Reader(None if is_global else self._directory(request))
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        await response.prepare(request)
        self._streams.tell(reader, self._streams.connected())
        joining = asyncio.get_running_loop().call_later(self._engine.faults.deaf_s, self._streams.readers.add, reader)
        try:
            await reader.write_to(response)
        except ConnectionError:
            pass  # the reader went away
        finally:
            joining.cancel()
            self._streams.readers.discard(reader)
        return response
