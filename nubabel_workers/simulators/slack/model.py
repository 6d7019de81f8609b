"""What the local Slack knows: workspaces, channels, messages. No HTTP in here."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_LOG_ENTRIES: Final = 100_000
_MICROSECONDS: Final = 1_000_000

Json = dict[str, Any]


class ApiError(Exception):
    """Becomes `{"ok": false, "error": code}`."""

    def __init__(self, code: str, **details: Any) -> None:
        super().__init__(code)
        self.code = code
        self.details = details


@dataclass(slots=True)
class Message:
    ts: str
    user: str
    text: str
    thread_ts: str | None = None  # the root, for replies
    bot_id: str | None = None
    blocks: list[Json] = field(default_factory=list)
    metadata: Json | None = None
    files: list[Json] = field(default_factory=list)
    client_msg_id: str | None = None
    edited: bool = False
    tombstone: bool = False  # a deleted root whose replies stay
    reactions: dict[str, list[str]] = field(default_factory=dict)
    posted_at: float = 0.0  # seconds, monotonic within the simulator

    @property
    def root_ts(self) -> str:
        return self.thread_ts or self.ts

    @property
    def body(self) -> str:
        """What a person reads: the markdown blocks where there are some, else the text."""
        markdown = [block["text"] for block in self.blocks if block.get("type") == "markdown"]
        return "\n".join(markdown) or self.text

    @property
    def buttons(self) -> list[Json]:
        """As they were posted: `action_id`, `value`, `text`."""
        elements = (one for block in self.blocks if block.get("type") == "actions" for one in block["elements"])
        return [element for element in elements if element.get("type") == "button"]

    def wire(self, team_id: str) -> Json:
        """As Slack shows it in events and in conversations.replies."""
        wire: Json = {"type": "message", "user": self.user, "text": self.text, "ts": self.ts, "team": team_id}
        if self.tombstone:
            wire |= {"subtype": "tombstone", "hidden": True}
        if self.thread_ts is not None:
            wire["thread_ts"] = self.thread_ts
        for name in ("bot_id", "blocks", "files", "client_msg_id"):
            if value := getattr(self, name):
                wire[name] = value
        if self.edited:
            wire["edited"] = {"user": self.user, "ts": self.ts}
        return wire


@dataclass(slots=True)
class Channel:
    id: str
    type: str  # channel, group, im, mpim
    messages: dict[str, Message] = field(default_factory=dict)  # ts -> message, in order
    replies: dict[str, list[str]] = field(default_factory=dict)  # root ts -> ts of its replies
    archived: bool = False

    def thread(self, root_ts: str) -> Iterator[Message]:
        """Root and replies that still exist, oldest first."""
        for ts in (root_ts, *self.replies.get(root_ts, ())):
            if (message := self.messages.get(ts)) is not None:
                yield message


@dataclass(slots=True)
class Workspace:
    team_id: str
    name: str
    bot_token: str = field(repr=False)
    bot_user_id: str
    bot_id: str
    app_id: str
    enterprise_id: str | None = None
    revoked: bool = False
    installs: int = 1
    channels: dict[str, Channel] = field(default_factory=dict)


Emit = Callable[[Workspace, Json], str]  # workspace and inner event in, event id out
Watch = Callable[[Workspace, Channel, Message | None], None]


class SlackWorld:
    """State and its changes. Every change wakes who waits for that thread, and is shown to the watchers."""

    def __init__(self, *, emit: Emit, echo_own_messages: bool) -> None:
        """echo_own_messages: as in Slack, what the bot posts, edits and deletes comes back to it as events."""
        self.workspaces: dict[str, Workspace] = {}
        self.files: dict[str, tuple[str, str, bytes]] = {}  # id -> (team, mimetype, content)
        self.log: deque[Json] = deque(maxlen=_LOG_ENTRIES)
        self.watchers: list[Watch] = []
        self._by_token: dict[str, Workspace] = {}
        self._emit = emit
        self._echo = echo_own_messages
        self._last_ts = 0
        self._numbers = itertools.count(1)
        self._waiting: dict[tuple[str, str, str], list[asyncio.Future[None]]] = {}
        self._log_waiting: list[asyncio.Future[None]] = []

    # --- workspaces ----------------------------------------------------------------------------------------------

    def add_workspace(self, team_id: str, *, name: str | None = None, enterprise_id: str | None = None) -> Workspace:
        """Install the app in a workspace; installing again gives a new token, as in Slack."""
        known = self.workspaces.get(team_id)
        suffix = team_id.removeprefix("T")
        workspace = Workspace(
            team_id=team_id,
            name=name or team_id,
            bot_token=f"xoxb-{suffix}-{known.installs + 1 if known is not None else 1}",
            bot_user_id=f"UBOT{suffix}",
            bot_id=f"BBOT{suffix}",
            app_id="A0NUBABEL",
            enterprise_id=enterprise_id,
            channels=known.channels if known is not None else {},
            installs=known.installs + 1 if known is not None else 1,
        )
        if known is not None:
            known.revoked = True
        self.workspaces[team_id] = self._by_token[workspace.bot_token] = workspace
        return workspace

    def workspace(self, team_id: str) -> Workspace:
        try:
            return self.workspaces[team_id]
        except KeyError:
            raise ApiError("team_not_found") from None

    def authorized(self, token: str | None) -> Workspace:
        if not token:
            raise ApiError("not_authed")
        workspace = self._by_token.get(token)
        if workspace is None:
            raise ApiError("invalid_auth")
        if workspace.revoked:
            raise ApiError("token_revoked")
        return workspace

    def uninstall(self, team_id: str) -> None:
        workspace = self.workspace(team_id)
        workspace.revoked = True
        self._emit(workspace, {"type": "tokens_revoked", "tokens": {"oauth": [], "bot": [workspace.bot_user_id]}})
        self._emit(workspace, {"type": "app_uninstalled"})

    # --- people --------------------------------------------------------------------------------------------------

    def say(
        self,
        workspace: Workspace,
        channel_id: str,
        user: str,
        text: str,
        *,
        thread_ts: str | None = None,
        files: Sequence[Json] = (),
    ) -> tuple[Message, list[str]]:
        """A person writes; returns the message and the ids of its events. `@nubabel` mentions the bot.

        In channels a mention yields app_mention and its message twin, with different event ids; a direct message only
        message; a group direct message likewise.
        """
        channel = self.channel(workspace, channel_id, create=True)
        mention = f"<@{workspace.bot_user_id}>"
        message = Message(
            ts=self.next_ts(),
            user=user,
            text=text.replace("@nubabel", mention),
            thread_ts=thread_ts or None,
            files=list(files),
            client_msg_id=f"00000000-0000-4000-8000-{next(self._numbers):012d}",
        )
        self._add(workspace, channel, message)
        events: list[Json] = []
        fields = message.wire(workspace.team_id) | {"channel": channel.id, "event_ts": message.ts}
        if mention in message.text and channel.type in {"channel", "group"}:
            events.append(fields | {"type": "app_mention"})
        subtype = {"subtype": "file_share"} if files else {}
        events.append(fields | subtype | {"channel_type": channel.type})
        return message, [self._emit(workspace, event) for event in events]

    def press(self, workspace: Workspace, channel_id: str, ts: str, user: str, *, action_id: str | None = None) -> Json:
        """A person presses a button below a message, the first one if none is named. Returns what the app is sent.

        Source: https://docs.slack.dev/reference/interaction-payloads/block_actions-payload/
        """
        channel = self.channel(workspace, channel_id)
        message = self.message(channel, ts)
        button = next((one for one in message.buttons if action_id in {None, one["action_id"]}), None)
        if button is None:
            raise ApiError("button_not_found")
        enterprise_id = workspace.enterprise_id
        payload: Json = {
            "type": "block_actions",
            "user": {"id": user, "username": user.lower(), "team_id": workspace.team_id},
            "api_app_id": workspace.app_id,
            "team": {"id": workspace.team_id, "domain": workspace.name},
            "enterprise": None if enterprise_id is None else {"id": enterprise_id, "name": enterprise_id},
            "is_enterprise_install": False,
            "channel": {"id": channel.id, "name": channel.id.lower()},
            "container": {"type": "message", "message_ts": ts, "channel_id": channel.id, "is_ephemeral": False},
            "message": message.wire(workspace.team_id),
            "state": {"values": {}},
            "actions": [{**button, "block_id": "1", "action_ts": self.next_ts()}],
        }
        return payload | {"trigger_id": self._emit(workspace, payload)}

    def edit_by_person(self, workspace: Workspace, channel_id: str, ts: str, text: str) -> Message:
        channel = self.channel(workspace, channel_id)
        message = self.message(channel, ts)
        self.change(workspace, channel, message, text=text, blocks=[])
        return message

    def delete_by_person(self, workspace: Workspace, channel_id: str, ts: str) -> None:
        channel = self.channel(workspace, channel_id)
        self.remove(workspace, channel, self.message(channel, ts))

    # --- messages ------------------------------------------------------------------------------------------------

    def channel(self, workspace: Workspace, channel_id: str, *, create: bool = False) -> Channel:
        channel = workspace.channels.get(channel_id)
        if channel is None:
            if not create:
                raise ApiError("channel_not_found")
            kinds = {"D": "im", "G": "group", "M": "mpim"}
            channel = workspace.channels[channel_id] = Channel(channel_id, kinds.get(channel_id[:1], "channel"))
        return channel

    @staticmethod
    def message(channel: Channel, ts: str) -> Message:
        message = channel.messages.get(ts)
        if message is None or message.tombstone:
            raise ApiError("message_not_found")
        return message

    def post(self, workspace: Workspace, channel: Channel, message: Message) -> None:
        """The bot posts."""
        if message.thread_ts is not None and message.thread_ts not in channel.messages:
            raise ApiError("thread_not_found")
        self._add(workspace, channel, message)
        if self._echo:
            echo = {"channel": channel.id, "channel_type": channel.type, "event_ts": message.ts}
            self._emit(workspace, message.wire(workspace.team_id) | echo)

    def change(
        self, workspace: Workspace, channel: Channel, message: Message, *, text: str, blocks: list[Json]
    ) -> None:
        previous = message.wire(workspace.team_id)
        message.text, message.blocks, message.edited = text, blocks, True
        self._changed(workspace, channel, message)
        if message.bot_id is None or self._echo:
            self._emit_change(workspace, channel, "message_changed", message, previous)

    def remove(self, workspace: Workspace, channel: Channel, message: Message) -> None:
        """Delete; a root with replies leaves a tombstone, which Slack announces as a change."""
        previous = message.wire(workspace.team_id)
        has_replies = any(ts in channel.messages for ts in channel.replies.get(message.ts, ()))
        if has_replies:
            message.tombstone, message.text, message.blocks = True, "This message was deleted.", []
        else:
            del channel.messages[message.ts]
        self._changed(workspace, channel, message)
        if message.bot_id is None or self._echo:
            subtype = "message_changed" if has_replies else "message_deleted"
            self._emit_change(workspace, channel, subtype, message, previous)

    def react(self, workspace: Workspace, channel: Channel, message: Message, name: str, *, present: bool) -> None:
        users = message.reactions.get(name, [])
        if present and workspace.bot_user_id in users:
            raise ApiError("already_reacted")
        if not present and workspace.bot_user_id not in users:
            raise ApiError("no_reaction")
        (users.append if present else users.remove)(workspace.bot_user_id)
        message.reactions[name] = users
        if not users:
            del message.reactions[name]
        self._changed(workspace, channel, message)

    def _add(self, workspace: Workspace, channel: Channel, message: Message) -> None:
        message.posted_at = time.monotonic()
        channel.messages[message.ts] = message
        if message.thread_ts is not None and message.thread_ts != message.ts:
            channel.replies.setdefault(message.thread_ts, []).append(message.ts)
        self._changed(workspace, channel, message)

    def _emit_change(
        self, workspace: Workspace, channel: Channel, subtype: str, message: Message, previous: Json
    ) -> None:
        ts = self.next_ts()
        event: Json = {
            "type": "message",
            "subtype": subtype,
            "hidden": True,
            "channel": channel.id,
            "channel_type": channel.type,
            "ts": ts,
            "event_ts": ts,
            "previous_message": previous,
        }
        if subtype == "message_deleted":
            event["deleted_ts"] = message.ts
        else:
            event["message"] = message.wire(workspace.team_id)
        self._emit(workspace, event)

    def next_ts(self) -> str:
        """Unique and rising, as real time stamps are."""
        self._last_ts = max(time.time_ns() // 1_000, self._last_ts + 1)
        seconds, microseconds = divmod(self._last_ts, _MICROSECONDS)
        return f"{seconds}.{microseconds:06d}"

    # --- watching ------------------------------------------------------------------------------------------------

    def note(self, kind: str, **fields: Any) -> None:
        """One line of the log; `at` is monotonic, in seconds."""
        self.log.append({"at": time.monotonic(), "kind": kind, **fields})
        if self._log_waiting:
            _wake(self._log_waiting)

    def logged(self, kind: str) -> list[Json]:
        return [entry for entry in self.log if entry["kind"] == kind]

    async def wait_for_log(self, kind: str, count: int = 1) -> list[Json]:
        """The log's entries of a kind once there are that many; the caller sets the time limit."""
        while len(found := self.logged(kind)) < count:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._log_waiting.append(future)
            await future
        return found

    async def wait_until(
        self, workspace: Workspace, channel_id: str, thread_ts: str, condition: Callable[[Sequence[Message]], bool]
    ) -> list[Message]:
        """The thread's messages as soon as the condition holds for them; the caller sets the time limit."""
        channel = self.channel(workspace, channel_id, create=True)
        while True:
            messages = list(channel.thread(thread_ts))
            if condition(messages):
                return messages
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault((workspace.team_id, channel_id, thread_ts), []).append(future)
            await future

    def _changed(self, workspace: Workspace, channel: Channel, message: Message) -> None:
        if self._waiting:
            _wake(self._waiting.pop((workspace.team_id, channel.id, message.root_ts), []))
        for watch in self.watchers:
            watch(workspace, channel, message)


def _wake(futures: list[asyncio.Future[None]]) -> None:
    woken, futures[:] = futures[:], []
    for future in woken:
        if not future.done():
            future.set_result(None)


def shown(workspace: Workspace, channel: Channel, message: Message) -> Json:
    """A message for the control API and the page."""
    return {
        "team": workspace.team_id,
        "channel": channel.id,
        "ts": message.ts,
        "thread_ts": message.root_ts,
        "user": message.user,
        "is_bot": message.bot_id is not None,
        "text": message.body,
        "fallback": message.text,
        "reactions": sorted(message.reactions),
        "files": [file["name"] for file in message.files],
        "buttons": [{"action_id": one["action_id"], "label": one["text"]["text"]} for one in message.buttons],
        "edited": message.edited,
        "deleted": message.tombstone,
        "gone": message.ts not in channel.messages,
        "metadata": message.metadata,
        "posted_at": message.posted_at,
    }
