"""What a prompt needs besides the question: the Slack thread it stands in and the files that came with it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
from pydantic import SecretStr

from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.executions import Attachment, Execution
from nubabel_workers.domain.notifications import SlackTarget, reply_target, slack_history_quota, slack_read_quota
from nubabel_workers.domain.ports import Messenger, TenantStore, Throttle
from nubabel_workers.domain.prompts import PromptFile, thread_context
from nubabel_workers.domain.slack_events import ThreadExcerpt, ThreadMessage
from nubabel_workers.domain.tenants import Workspace
from nubabel_workers.domain.thread_tail import tail_begins
from nubabel_workers.domain.wording import Language, language_of, say

log = structlog.get_logger(__name__)

_MAX_PAGES = 10  # of one thread: calls of a quota that everybody in the workspace shares


@dataclass(frozen=True)
class ContextLimits:
    """read_quota_per_minute, read_page: Slack's limit for reading threads, per workspace. Files: number, bytes each."""

    read_quota_per_minute: int = 50
    read_page: int = 100
    max_files: int = 5
    max_file_bytes: int = 5_242_880


@dataclass(frozen=True)
class Gathered:
    """thread: text to put before the question. about_thread: what of it was not read, said where it goes along.
    notes: what else is said beside the answer.
    """

    thread: str = ""
    files: Sequence[PromptFile] = ()
    notes: Sequence[str] = ()
    about_thread: Sequence[str] = ()

    @property
    def remembered(self) -> Mapping[str, Any] | None:
        """What the next attempt need not read again. None: nothing."""
        if not (self.thread or self.about_thread or self.notes):
            return None
        return {"thread": self.thread, "about_thread": list(self.about_thread), "notes": list(self.notes)}

    def noting(self, notes: Sequence[str]) -> "Gathered":
        """With these, but for those that an earlier attempt has noted already."""
        return replace(self, notes=[*self.notes, *(note for note in notes if note not in self.notes)])


class GatherContext:
    """Failing to read is said, never a reason not to answer."""

    def __init__(
        self,
        messenger: Messenger,
        tenants: TenantStore,
        throttle: Throttle,
        *,
        limits: ContextLimits,
    ) -> None:
        self._messenger = messenger
        self._tenants = tenants
        self._throttle = throttle
        self._limits = limits

    async def gather(self, execution: Execution, *, ends_at: float) -> Gathered:
        """ends_at: of the loop's clock; what is there by then goes along, the rest is said to be missing."""
        target = reply_target(execution.reply)
        known = execution.context is not None
        wants_thread = execution.wants_thread_context and not execution.opencode_session_id and not known
        if not isinstance(target, SlackTarget) or not (wants_thread or execution.attachments or known):
            return Gathered()
        workspace = await self._tenants.workspace(execution.organization_id, target.workspace_id)
        if workspace is None:
            return Gathered()
        language = language_of(execution.prompt)
        remembered = _remembered(execution)
        thread, about_thread = remembered.thread, remembered.about_thread
        reading_files = self._read_files(workspace.bot_token, execution.attachments, language, ends_at)
        if wants_thread:  # at once, so that neither takes the other's time
            (thread, about_thread), (files, file_notes) = await asyncio.gather(
                self._read_thread(workspace, target, language, ends_at), reading_files
            )
        else:
            files, file_notes = await reading_files
        return Gathered(thread, files, remembered.notes, about_thread).noting(file_notes)

    async def _read_thread(
        self, workspace: Workspace, target: SlackTarget, language: Language, ends_at: float
    ) -> tuple[str, list[str]]:
        """Pages come oldest first, and the newest matter most: read to the end, or say that they are missing."""
        replies, after_ts = await self._tail(workspace, target, ends_at)
        messages: list[ThreadMessage] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page = await self._page(workspace, target, after_ts, cursor, ends_at)
            if page is None:
                break
            messages += page.messages
            cursor = page.next_cursor
            if cursor is None:
                return _to_its_end(messages, _unread(messages, replies, after_ts), language)
        if not messages:
            return "", [say("context_unread", language)]
        note = say("context_newest_unread", language, read=str(len(messages)))
        unread = _unread(messages, replies, after_ts)
        return thread_context(messages, unread_between=unread, newest_unread=True).text, [note]

    async def _tail(self, workspace: Workspace, target: SlackTarget, ends_at: float) -> tuple[int, str | None]:
        """Where a single page is all that may be read: of how many replies, and from where on. Else from the root."""
        quota = slack_history_quota(workspace.organization_id, target)
        if self._limits.read_quota_per_minute > 1 or not await self._throttle.take(quota, per_s=60, limit=1):
            return 0, None
        try:
            async with asyncio.timeout_at(ends_at):
                replies = await self._messenger.count_replies(
                    workspace.bot_token, channel=target.channel, thread_ts=target.thread_ts
                )
        except (NubabelError, TimeoutError) as error:
            log.info("slack.replies_not_counted", reason=str(error))
            return 0, None
        begin = tail_begins(target.thread_ts, target.message_ts, replies=replies, page=self._limits.read_page)
        return replies, begin

    async def _page(
        self, workspace: Workspace, target: SlackTarget, after_ts: str | None, cursor: str | None, ends_at: float
    ) -> ThreadExcerpt | None:
        if _is_over(ends_at):
            return None
        quota = slack_read_quota(workspace.organization_id, target)
        if not await self._throttle.take(quota, per_s=60, limit=self._limits.read_quota_per_minute):
            log.info("slack.thread_not_read", reason="quota")
            return None
        try:
            async with asyncio.timeout_at(ends_at):
                return await self._messenger.thread_messages(
                    workspace.bot_token,
                    channel=target.channel,
                    thread_ts=target.thread_ts,
                    before_ts=target.message_ts,
                    limit=self._limits.read_page,
                    after_ts=after_ts,
                    cursor=cursor,
                )
        except (NubabelError, TimeoutError) as error:
            log.info("slack.thread_not_read", reason=str(error))
            return None

    async def _read_files(
        self, token: SecretStr, attachments: Sequence[Attachment], language: Language, ends_at: float
    ) -> tuple[list[PromptFile], list[str]]:
        files, left_out = [], [attachment.name for attachment in attachments[self._limits.max_files :]]
        for attachment in attachments[: self._limits.max_files]:
            file = await self._read_file(token, attachment, ends_at)
            if file is None:
                left_out.append(attachment.name)
            else:
                files.append(file)
        notes = [say("files_left_out", language, names=", ".join(left_out))] if left_out else []
        return files, notes

    async def _read_file(self, token: SecretStr, attachment: Attachment, ends_at: float) -> PromptFile | None:
        max_bytes = self._limits.max_file_bytes
        if attachment.size_bytes > max_bytes or not attachment.url or _is_over(ends_at):
            return None
        try:
            async with asyncio.timeout_at(ends_at):
                content = await self._messenger.download_file(token, attachment.url, max_bytes=max_bytes)
        except (NubabelError, TimeoutError) as error:
            log.info("slack.file_not_read", reason=str(error))
            return None
        return PromptFile(attachment.name, attachment.mime_type or "application/octet-stream", content)


def _is_over(ends_at: float) -> bool:
    return asyncio.get_running_loop().time() >= ends_at


def _unread(messages: Sequence[ThreadMessage], replies: int, after_ts: str | None) -> int:
    """Of a thread that was not read from its root on. The root stands for the message that asks."""
    return max(0, replies - len(messages)) if after_ts else 0


def _to_its_end(messages: Sequence[ThreadMessage], unread: int, language: Language) -> tuple[str, list[str]]:
    context = thread_context(messages, unread_between=unread)
    if not context.left_out:
        return context.text, []
    counts = {"newest": str(context.newest), "left_out": str(context.left_out)}
    return context.text, [say("context_left_out", language, **counts)]


def _remembered(execution: Execution) -> Gathered:
    """What an earlier attempt read: the quota is not spent twice on one request."""
    context = execution.context or {}
    about_thread = list(context.get("about_thread", ()))  # one that an earlier release wrote down has it in the notes
    return Gathered(str(context.get("thread", "")), notes=list(context.get("notes", ())), about_thread=about_thread)
