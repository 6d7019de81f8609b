"""The ports that the services know OpenCode by, on top of the client."""

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress

import aiohttp

from nubabel_workers.adapters.opencode import endpoints
from nubabel_workers.adapters.opencode.client import CallReport, OpenCodeClient
from nubabel_workers.adapters.opencode.event_stream import events
from nubabel_workers.adapters.opencode.sse import EventDecoder
from nubabel_workers.adapters.opencode.transport import DEFAULT_TIMEOUTS, AsyncHttp, Timeouts
from nubabel_workers.domain.errors import ForeignSessionError, NotFoundError
from nubabel_workers.domain.opencode_events import PermissionAsked, QuestionAsked, ServerEvent
from nubabel_workers.domain.ports import PromptPart
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.domain.verdict import RunMessage, SessionState

_PAGE = 100
_MAX_PAGES = 50

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
        """The one place that says how a server is spoken to: an adapter for OpenCode's next API comes in here, chosen
        by instance.version; servers of a version that no adapter knows get no work (domain/opencode_compatibility.py).
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


class HttpOpenCodeEvents:
    """Implements ports.OpenCodeEvents over one streaming session."""

    def __init__(self, session: aiohttp.ClientSession, *, silence_s: float) -> None:
        self._session = session
        self._silence_s = silence_s

    def stream(self, instance: Instance, watched: AbstractSet[str]) -> AsyncGenerator[Sequence[ServerEvent], None]:
        return events(
            self._session,
            instance.url,
            username=instance.username,
            password=instance.password,
            decoder=EventDecoder(watched=watched),
            silence_s=self._silence_s,
        )
