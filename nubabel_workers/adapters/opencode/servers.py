"""The ports that the services know OpenCode by, on top of the client."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import PurePosixPath

import aiohttp

from nubabel_workers.adapters.opencode import endpoints
from nubabel_workers.adapters.opencode.arrivals import ArrivalWatch
from nubabel_workers.adapters.opencode.categories import DELEGATING_TOOL, categories_in
from nubabel_workers.adapters.opencode.client import CallReport, OpenCodeClient
from nubabel_workers.adapters.opencode.decoding import UnexpectedAnswerError
from nubabel_workers.adapters.opencode.event_stream import events
from nubabel_workers.adapters.opencode.sse import EventDecoder
from nubabel_workers.adapters.opencode.transport import DEFAULT_TIMEOUTS, AsyncHttp, Timeouts
from nubabel_workers.domain.errors import ForeignSessionError, NotFoundError, TransientError
from nubabel_workers.domain.opencode_events import PermissionAsked, QuestionAsked, ServerEvent
from nubabel_workers.domain.ports import PromptPart
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.domain.verdict import RunMessage, SessionState

_PAGE = 100
_MAX_PAGES = 50
_MAX_PATH = 1024
_DIRECTORIES, _DELETED = "directories", "deleted"  # as in opencode-server/config/bridge/directories.ts

OnServersCall = Callable[[str, CallReport], None]
"""Told (server, report) for each call."""


class HttpOpenCodeServer:
    """Implements ports.OpenCodeServer."""

    def __init__(self, client: OpenCodeClient) -> None:
        self._client = client

    async def create_session(self, *, title: str, metadata: Mapping[str, str], directory: str | None) -> str:
        return (await self._client.create_session(title=title, metadata=metadata, directory=directory)).id

    async def submit(
        self,
        opencode_session_id: str,
        *,
        message_id: str,
        parts: Sequence[PromptPart],
        agent: str | None,
        model: str | None,
        system: str | None,
        timeout_s: float,
    ) -> None:
        prompt = endpoints.submit_prompt(
            opencode_session_id, message_id=message_id, parts=parts, agent=agent, model=model, system=system
        )
        await self._client.call(prompt, timeout_s=timeout_s)

    async def run_messages(self, opencode_session_id: str, *, since: str) -> list[RunMessage]:
        """Page by page: a run has a message per model step, and there may be hundreds."""
        messages: list[RunMessage] = []
        before: str | None = None
        for _ in range(_MAX_PAGES):
            page = await self._client.list_messages(opencode_session_id, limit=_PAGE, before=before)
            if any(message.session_id not in {None, opencode_session_id} for message in page.messages):
                raise ForeignSessionError("among the session's messages are those of another session")
            messages = page.messages + messages
            before = page.next_cursor
            if before is None or any(message.id == since for message in page.messages):
                break
        return messages

    async def has_message(self, opencode_session_id: str, message_id: str) -> bool:
        try:
            await self._client.get_message(opencode_session_id, message_id)
        except NotFoundError:
            return False
        return True

    async def sub_agents(self, opencode_session_id: str) -> list[str]:
        children = await self._client.children(opencode_session_id)
        if any(child.parent_id != opencode_session_id for child in children):
            raise ForeignSessionError("among the session's sub-agents are those of another session")
        return [child.id for child in children]

    async def parent_of(self, opencode_session_id: str) -> str | None:
        session = await self._client.get_session(opencode_session_id)
        if session.id != opencode_session_id:
            raise ForeignSessionError("asked about a session, the server described another one")
        return session.parent_id

    async def busy_sessions(self, directory: str | None) -> Mapping[str, SessionState]:
        return await self._client.session_status(directory)

    async def abort(self, opencode_session_id: str) -> None:
        await self._client.abort(opencode_session_id)

    async def delete_session(self, opencode_session_id: str) -> None:
        """Aborted first: deleting alone stops no run (measured on opencode 1.18.33). One that is not there is fine."""
        await self._client.abort(opencode_session_id)
        with suppress(NotFoundError):
            await self._client.delete_session(opencode_session_id)

    async def reject_permission(self, request_id: str, *, directory: str | None, message: str) -> None:
        await self._client.reply_permission(request_id, allow=False, message=message, directory=directory)

    async def reject_question(self, request_id: str, *, directory: str | None) -> None:
        await self._client.reject_question(request_id, directory=directory)

    async def pending_asks(self, directory: str | None) -> list[PermissionAsked | QuestionAsked]:
        permissions, questions = await asyncio.gather(
            self._client.list_permissions(directory), self._client.list_questions(directory)
        )
        return [
            *(
                PermissionAsked(ask.id, ask.session_id, ask.permission, tuple(ask.patterns), directory)
                for ask in permissions
            ),
            *(QuestionAsked(ask.id, ask.session_id, ask.questions, directory) for ask in questions),
        ]

    async def agents(self, directory: str | None) -> list[str]:
        return [agent.name for agent in await self._client.agents(directory)]

    async def categories(self, directory: str | None) -> list[str] | None:
        """Only the words of the delegating tool tell them (categories.py)."""
        models = await self.models(directory)
        if not models:
            return None
        tools = await self._client.call(endpoints.offered_tools(models[0], directory))
        return categories_in(tools.get(DELEGATING_TOOL, ()))

    async def models(self, directory: str | None) -> list[str]:
        providers = await self._client.providers(directory)
        return [f"{provider.id}/{model}" for provider in providers for model in provider.models]

    async def directories_path(self) -> str | None:
        """Our plugin on a shared server makes this folder when the server's own directory is loaded."""
        found = await self._client.call(endpoints.list_folder("."))
        path = next((entry.path for entry in found if entry.is_folder and entry.name == _DIRECTORIES), None)
        if path is not None and not (path.startswith("/") and path.isprintable() and len(path) <= _MAX_PATH):
            raise UnexpectedAnswerError("OpenCode told a folder's path that is none")
        return path

    async def prepare_directory(self, path: str) -> None:
        """Whoever asks for its agents has it loaded, and the plugin makes it first. What was missing then stays missing
        for OpenCode until the directory is unloaded.
        """
        await self._client.agents(path)
        if not await self._is_there(path):
            await self._client.dispose(path)
            raise TransientError("an organization's directory was not made")

    async def dispose_directory(self, path: str) -> None:
        await self._client.dispose(path)

    async def delete_directory(self, path: str, *, settle_s: float) -> None:
        """Whoever asks for the agents of the place that stands for it as deleted has it deleted, by the plugin, if that
        place was not loaded: a second time for one that was.

        settle_s: until a directory that was loaded just now can be unloaded, and nothing is written any more about a
        session that was deleted just now. For up to half a second (measured on opencode 1.18.33 with oh-my-opencode
        4.19.4) plugins call the server, which loads it again, and write their notes into it.
        """
        place = PurePosixPath(path)
        deleted = str(place.parent.parent / _DELETED / place.name)
        if not await self._is_there(path):
            return
        await asyncio.sleep(settle_s)
        await self._client.dispose(path)
        for _ in range(2):
            await self._client.agents(deleted)
            await asyncio.sleep(settle_s)
            await self._client.dispose(deleted)
            if not await self._is_there(path):
                return
        raise TransientError("an organization's directory was not deleted")

    async def _is_there(self, path: str) -> bool:
        return any(entry.path == path for entry in await self._client.call(endpoints.list_folder(_DIRECTORIES)))

    async def version(self) -> str:
        return (await self._client.health()).version


class HttpOpenCodeServers:
    """Implements ports.OpenCodeServers over one HTTP client; a server's client is kept until its access changes."""

    def __init__(
        self, http: AsyncHttp, *, timeouts: Timeouts = DEFAULT_TIMEOUTS, on_call: OnServersCall | None = None
    ) -> None:
        self._http = http
        self._timeouts = timeouts
        self._on_call = on_call
        self._servers: dict[str, tuple[tuple[str, str, str], HttpOpenCodeServer]] = {}

    def server(self, instance: Instance) -> HttpOpenCodeServer:
        """The one place that says how a server is spoken to: an adapter for OpenCode's v2 API comes in here, chosen by
        instance.version; servers of a version that no adapter knows get no work (domain/opencode_compatibility.py).
        """
        password = instance.password.get_secret_value() if instance.password is not None else ""
        access = (instance.url, instance.username, password)
        known = self._servers.get(instance.id)
        if known is None or known[0] != access:
            client = OpenCodeClient(
                self._http,
                instance.url,
                username=instance.username,
                password=instance.password,
                timeouts=self._timeouts,
                on_call=functools.partial(self._on_call, instance.id) if self._on_call is not None else None,
            )
            known = (access, HttpOpenCodeServer(client))
            self._servers[instance.id] = known
        return known[1]


class HttpOpenCodeSessions:
    """Implements ports.administration.OpenCodeSessions."""

    def __init__(self, servers: HttpOpenCodeServers) -> None:
        self._servers = servers

    async def delete(self, instance: Instance, opencode_session_id: str) -> None:
        await self._servers.server(instance).delete_session(opencode_session_id)


class HttpOpenCodeDirectories:
    """Implements ports.OpenCodeDirectories. settle_s: see HttpOpenCodeServer.delete_directory."""

    def __init__(self, servers: HttpOpenCodeServers, *, settle_s: float = 1.0) -> None:
        self._servers = servers
        self._settle_s = settle_s

    async def prepare(self, instance: Instance, path: str) -> None:
        await self._servers.server(instance).prepare_directory(path)

    async def dispose(self, instance: Instance, path: str) -> None:
        await self._servers.server(instance).dispose_directory(path)

    async def delete(self, instance: Instance, path: str) -> None:
        await self._servers.server(instance).delete_directory(path, settle_s=self._settle_s)


class HttpOpenCodeEvents:
    """Implements ports.OpenCodeEvents over one streaming session."""

    def __init__(self, session: aiohttp.ClientSession, *, silence_s: float, lag_check_s: float) -> None:
        """lag_check_s: seconds of one check of how late events come."""
        self._session = session
        self._silence_s = silence_s
        self._lag_check_s = lag_check_s

    def stream(self, instance: Instance, watched: AbstractSet[str]) -> AsyncGenerator[Sequence[ServerEvent], None]:
        return events(
            self._session,
            instance.url,
            username=instance.username,
            password=instance.password,
            decoder=EventDecoder(watched=watched),
            arrivals=ArrivalWatch(check_s=self._lag_check_s),
            silence_s=self._silence_s,
        )
