"""OpenCode, Slack and webhooks, as the services speak to them."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import SecretStr

from nubabel_workers.domain.documents import DocumentForm, DocumentText, Unread
from nubabel_workers.domain.notifications import Button
from nubabel_workers.domain.opencode_events import PermissionAsked, QuestionAsked, ServerEvent
from nubabel_workers.domain.slack_events import ThreadExcerpt
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.domain.verdict import RunMessage, SessionState


@dataclass(frozen=True)
class PromptPart:
    """One part of a prompt. id is derived, so that a repeat replaces instead of appending."""

    id: str
    text: str | None = None
    file_url: str | None = field(default=None, repr=False)  # a data: URL
    mime_type: str | None = None
    filename: str | None = None


class OpenCodeServer(Protocol):
    """One OpenCode server. A POST whose answer was lost raises UncertainError; an unknown session NotFoundError."""

    async def create_session(self, *, title: str, metadata: Mapping[str, str], directory: str | None) -> str: ...

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
    ) -> None: ...

    async def run_messages(self, opencode_session_id: str, *, since: str) -> list[RunMessage]:
        """The session's newest messages, oldest first, back to the message `since`; far enough if that is missing."""
        ...

    async def has_message(self, opencode_session_id: str, message_id: str) -> bool: ...

    async def sub_agents(self, opencode_session_id: str) -> list[str]:
        """The sessions of the sub-agents that a session has started itself, in all of its runs."""
        ...

    async def parent_of(self, opencode_session_id: str) -> str | None:
        """The session that a sub-agent's session belongs to; None for a root."""
        ...

    async def busy_sessions(self, directory: str | None) -> Mapping[str, SessionState]:
        """Sessions of the directory that work or wait for a retry; an absent one is idle."""
        ...

    async def abort(self, opencode_session_id: str) -> None: ...

    async def reject_permission(self, request_id: str, *, directory: str | None, message: str) -> None: ...

    async def reject_question(self, request_id: str, *, directory: str | None) -> None: ...

    async def pending_asks(self, directory: str | None) -> list[PermissionAsked | QuestionAsked]:
        """Permission asks and questions of the directory that nobody has answered, also those of aborted runs."""
        ...

    async def agents(self, directory: str | None) -> list[str]: ...

    async def categories(self, directory: str | None) -> list[str] | None:
        """That its agents can delegate by. None: it does not tell, which does not mean that it has none."""
        ...

    async def models(self, directory: str | None) -> list[str]:
        """As prompts name them, `provider/model`."""
        ...

    async def directories_path(self) -> str | None:
        """Where it makes a directory for each organization; None: it makes none."""
        ...

    async def version(self) -> str: ...


class OpenCodeServers(Protocol):
    def server(self, instance: Instance) -> OpenCodeServer: ...


class OpenCodeDirectories(Protocol):
    """Organizations' own directories on a server that makes them. Calls may be repeated, also by two at once."""

    async def prepare(self, instance: Instance, path: str) -> None:
        """Make it where it is missing, and load it. Raises TransientError when it is not there afterwards."""
        ...

    async def dispose(self, instance: Instance, path: str) -> None:
        """Unload it, stopping what runs in it; its files and sessions stay."""
        ...

    async def delete(self, instance: Instance, path: str) -> None:
        """Unload it and delete its files, for good. Raises TransientError when it is still there afterwards."""
        ...


class OpenCodeEvents(Protocol):
    def stream(self, instance: Instance, watched: AbstractSet[str]) -> AsyncGenerator[Sequence[ServerEvent], None]:
        """A server's events in bursts, the first being ServerConnected; raises UnavailableError when it breaks."""
        ...


class Messenger(Protocol):
    """Slack's Web API. Tokens are handed in per call; limits are told as RateLimitedError, never slept on."""

    async def add_reaction(self, token: SecretStr, *, channel: str, ts: str, name: str) -> None: ...
    async def remove_reaction(self, token: SecretStr, *, channel: str, ts: str, name: str) -> None: ...

    async def post(
        self,
        token: SecretStr,
        *,
        channel: str,
        thread_ts: str,
        markdown: str,
        delivery_id: str,
        button: Button | None = None,
    ) -> str:
        """Post one part in the thread; return its ts. Not idempotent: UncertainError when the outcome is unknown."""
        ...

    async def update(self, token: SecretStr, *, channel: str, ts: str, text: str) -> None: ...
    async def delete(self, token: SecretStr, *, channel: str, ts: str) -> None: ...

    async def find_by_delivery_id(
        self, token: SecretStr, *, channel: str, thread_ts: str, delivery_id: str, oldest: str
    ) -> str | None: ...

    async def thread_messages(
        self,
        token: SecretStr,
        *,
        channel: str,
        thread_ts: str,
        limit: int,
        before_ts: str | None = None,
        after_ts: str | None = None,
        cursor: str | None = None,
    ) -> ThreadExcerpt:
        """One page of a thread: the oldest, its root first, or the one at the cursor. One call of the read quota."""
        ...

    async def count_replies(self, token: SecretStr, *, channel: str, thread_ts: str) -> int:
        """How many messages follow the root. One call of another quota than that of `thread_messages`."""
        ...

    async def download_file(self, token: SecretStr, url: str, *, max_bytes: int) -> bytes: ...


class DocumentReader(Protocol):
    async def read(self, content: bytes, form: DocumentForm, *, timeout_s: float) -> DocumentText | Unread:
        """Its text, or why nobody can tell. Whatever the document is made of, it is over after timeout_s: raises
        OutOfTimeError, since by then nobody knows whether anybody could; so it is where the reader itself fails.
        """
        ...


class Supervisor(Protocol):
    """Whatever keeps OpenCode servers running."""

    async def restart(self, instance: Instance) -> None:
        """Start it anew. Raises TransientError when that could not be begun; that it is back shows in its health."""
        ...


class WebhookSender(Protocol):
    async def send(self, *, url: str, secrets: Sequence[str], message_id: str, payload: Mapping[str, Any]) -> None:
        """secrets: one signature with each; with none it is not signed."""
        ...
