"""What a Slack event means to us. Pure: bodies in, values out; tenants, threads and duplicates are looked up elsewhere.

Sources: https://docs.slack.dev/apis/events-api/ and https://docs.slack.dev/reference/events/message
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from nubabel_workers.domain.budget_button import ALLOW_MORE
from nubabel_workers.domain.errors import InvalidInputError


class SlackEventKind(StrEnum):
    MENTION = "mention"  # somebody addressed the bot in a channel, private channel or group direct message
    DIRECT_MESSAGE = "direct_message"  # a one-to-one conversation: everything in it is for the bot
    THREAD_REPLY = "thread_reply"  # no mention, but inside a thread: only relevant when that thread is ours
    DELETED = "deleted"  # a person's message is gone: stop working on it
    EDITED = "edited"  # a person changed the words; work that began goes on with the first ones, and that is said once
    BUTTON = "button"  # somebody pressed a button below one of our messages
    UNINSTALLED = "uninstalled"
    TOKENS_REVOKED = "tokens_revoked"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class SlackFile:
    """An attached file as announced; the content has to be fetched with the workspace's token."""

    id: str
    name: str
    mimetype: str
    size: int  # bytes; 0 when Slack did not say
    url_private: str  # empty when Slack gives no access (Slack Connect, deleted, plan limit)


@dataclass(frozen=True, slots=True)
class SlackEvent:
    """One event, reduced to what the system acts on. Fields that an event does not have are None or empty."""

    kind: SlackEventKind
    event_id: str  # the same on every redelivery
    team_id: str | None  # the installation's workspace; None only for an org-wide installation
    enterprise_id: str | None
    channel: str = ""
    channel_type: str = ""  # channel, group, im, mpim; empty when neither said nor derivable
    user: str = ""
    text: str = ""  # bot mention removed, Slack's escapes undone; still outside text
    ts: str = ""  # a string by contract: parsed as a float it loses digits
    thread_ts: str = ""  # the thread's root; the message's own ts when it is top-level
    is_reply_in_thread: bool = False
    files: tuple[SlackFile, ...] = ()
    client_msg_id: str | None = None
    deleted_ts: str | None = None
    button_value: str = ""  # of BUTTON: what our message gave it
    ignored_reason: str = ""  # for IGNORED: a stable word for logs and metrics

    @property
    def dedupe_key(self) -> str:
        """Unique per thing that happened within one installation.

        A mention in a channel arrives twice, as app_mention and as message, with different event ids; channel and ts
        join the two. Ignored events keep their own id, so that an ignored twin never hides the one that matters.
        """
        if self.kind in _MESSAGE_KINDS:
            return f"msg:{self.channel}:{self.ts}"
        if self.kind is SlackEventKind.DELETED:
            return f"del:{self.channel}:{self.deleted_ts}"
        if self.kind is SlackEventKind.EDITED:  # the first edit of a message stands for all
            return f"edit:{self.channel}:{self.ts}"
        return f"evt:{self.event_id}"

    @property
    def conversation_key(self) -> str:
        """The thread this belongs to, within one installation; empty for events outside any channel."""
        return f"{self.channel}:{self.thread_ts}" if self.channel else ""


@dataclass(frozen=True, slots=True)
class ThreadMessage:
    """One earlier message of a thread, as context for a request."""

    user: str  # user id, or the bot id of an app's message
    text: str  # Slack's escapes undone
    ts: str
    is_bot: bool
    files: tuple[SlackFile, ...] = ()


@dataclass(frozen=True, slots=True)
class ThreadExcerpt:
    """What one read of a thread brought, oldest first. next_cursor: where the newer ones begin, None at the end."""

    messages: tuple[ThreadMessage, ...]
    next_cursor: str | None = None


_MESSAGE_KINDS = frozenset({SlackEventKind.MENTION, SlackEventKind.DIRECT_MESSAGE, SlackEventKind.THREAD_REPLY})
_HUMAN_SUBTYPES = frozenset({"", "file_share", "thread_broadcast"})
_ASIDE_PREFIXES = ("(aside)", "!aside")
# Wider than Slack's own ids, so that other implementations of the protocol fit, yet safe as part of a key.
_ID = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_MAX_BUTTON_VALUE = 2000  # characters, as Slack allows
_TS = re.compile(r"[0-9]{1,16}\.[0-9]{1,9}")
_CHANNEL_TYPE_BY_PREFIX = {"D": "im", "C": "channel"}  # G may be a private channel or a group direct message


def classify(body: Mapping[str, Any], bot_user_id: str | None) -> SlackEvent:
    """Decide what an outer body means: an `event_callback`, or `block_actions` for a button of ours.

    bot_user_id: our bot's user id in that workspace; where it is None, the one that the envelope names is used.
    A group direct message (mpim) is treated like a channel: several people talk, so the bot answers when mentioned.
    Raises InvalidInputError for a body that no Slack would send; nothing else.
    """
    if not isinstance(body, Mapping):
        _refuse("the body must be a JSON object")
    if body.get("type") == "block_actions":
        return _classify_press(body)
    envelope = _Envelope.read(body)
    if envelope.outer_type != "event_callback":
        return envelope.ignored(f"outer type {envelope.outer_type[:40]}")
    event = _mapping(body, "event")
    event_type = _text(event, "type")
    bot_user = bot_user_id or envelope.bot_user_id
    if event_type == "app_uninstalled":
        return envelope.event(SlackEventKind.UNINSTALLED)
    if event_type == "tokens_revoked":
        return _classify_revocation(envelope, event)
    if event_type in {"app_mention", "message"}:
        return _classify_message(envelope, event, event_type, bot_user)
    return envelope.ignored("unhandled event type")


@dataclass(frozen=True, slots=True)
class _Envelope:
    """The tenant and the identity of an event; the same for every inner type."""

    outer_type: str
    event_id: str
    team_id: str | None
    enterprise_id: str | None
    bot_user_id: str | None

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> "_Envelope":
        """In Slack Connect channels the outer team may be the other company: the authorization's team comes first."""
        outer_type = _text(body, "type")
        authorization = _first_authorization(body)
        team_id = _optional_id(authorization, "team_id") or _optional_id(body, "team_id")
        enterprise_id = _optional_id(authorization, "enterprise_id") or _optional_id(body, "enterprise_id")
        if outer_type == "event_callback" and team_id is None and enterprise_id is None:
            _refuse("neither authorizations[0] nor the body names a team_id or enterprise_id")
        is_bot = authorization.get("is_bot") is True
        return cls(
            outer_type=outer_type,
            event_id=_id(body, "event_id") if outer_type == "event_callback" else "",
            team_id=team_id,
            enterprise_id=enterprise_id,
            bot_user_id=_optional_id(authorization, "user_id") if is_bot else None,
        )

    def event(self, kind: SlackEventKind, **fields: Any) -> SlackEvent:
        return SlackEvent(
            kind=kind,
            event_id=self.event_id,
            team_id=self.team_id,
            enterprise_id=self.enterprise_id,
            **fields,
        )

    def ignored(self, reason: str, **fields: Any) -> SlackEvent:
        return self.event(SlackEventKind.IGNORED, ignored_reason=reason, **fields)


def _classify_press(body: Mapping[str, Any]) -> SlackEvent:
    """Slack names no event: one press is told apart from another by who, where and when.

    Source: https://docs.slack.dev/reference/interaction-payloads/block_actions-payload/
    """
    actions = body.get("actions")
    action = actions[0] if isinstance(actions, Sequence) and actions and isinstance(actions[0], Mapping) else {}
    team, enterprise = (body.get(name) or {} for name in ("team", "enterprise"))
    user, channel = _mapping(body, "user"), body.get("channel") or {}
    if not all(isinstance(one, Mapping) for one in (team, enterprise, channel)):
        _refuse("team, enterprise and channel must be JSON objects")
    team_id = _optional_id(team, "id") or _optional_id(user, "team_id")
    enterprise_id = _optional_id(enterprise, "id")
    if team_id is None and enterprise_id is None:
        _refuse("neither team nor enterprise says whose it is")
    message = body.get("message")
    if action.get("action_id") != ALLOW_MORE or not isinstance(message, Mapping):
        reason = "a button that is not ours"
        return SlackEvent(SlackEventKind.IGNORED, "", team_id, enterprise_id, ignored_reason=reason)
    ts, user_id, channel_id = _id(message, "ts", _TS), _id(user, "id"), _id(channel, "id")
    thread_ts = _optional_id(message, "thread_ts", _TS) or ts
    return SlackEvent(
        SlackEventKind.BUTTON,
        event_id=f"press:{channel_id}:{ts}:{user_id}:{_id(action, 'action_ts', _TS)}",
        team_id=team_id,
        enterprise_id=enterprise_id,
        channel=channel_id,
        user=user_id,
        ts=ts,
        thread_ts=thread_ts,
        is_reply_in_thread=thread_ts != ts,
        button_value=_clean(_text(action, "value", default=""))[:_MAX_BUTTON_VALUE],
    )


def _classify_revocation(envelope: _Envelope, event: Mapping[str, Any]) -> SlackEvent:
    """The event lists user tokens and bot tokens; this app holds bot tokens only."""
    tokens = event.get("tokens")
    if isinstance(tokens, Mapping) and not tokens.get("bot"):
        return envelope.ignored("only user tokens were revoked")
    return envelope.event(SlackEventKind.TOKENS_REVOKED)


def _classify_message(
    envelope: _Envelope, event: Mapping[str, Any], event_type: str, bot_user: str | None
) -> SlackEvent:
    subtype = _text(event, "subtype", default="")
    if subtype == "message_deleted":
        return _classify_deletion(envelope, event, _id(event, "deleted_ts", _TS), "previous_message", bot_user)
    if subtype == "message_changed":
        return _classify_change(envelope, event, bot_user)
    if _is_from_bot(event, bot_user) or subtype == "bot_message":
        return envelope.ignored("written by a bot")
    if subtype not in _HUMAN_SUBTYPES:
        return envelope.ignored("message subtype")
    if event.get("hidden") is True:
        return envelope.ignored("hidden message")
    return _classify_human_message(envelope, event, event_type, bot_user)


def _classify_change(envelope: _Envelope, event: Mapping[str, Any], bot_user: str | None) -> SlackEvent:
    """An edit, an unfurl, our own update; or a deleted root whose replies stay, which Slack turns into a tombstone."""
    message = _mapping(event, "message")
    if message.get("subtype") == "tombstone":
        return _classify_deletion(envelope, event, _id(message, "ts", _TS), "previous_message", bot_user)
    if _is_from_bot(message, bot_user):
        return envelope.ignored("a bot's message was changed")
    previous = event.get("previous_message")
    text = _text(message, "text", default="")
    if isinstance(previous, Mapping) and previous.get("text") == text:
        return envelope.ignored("the words are the same")
    return envelope.event(
        SlackEventKind.EDITED,
        channel=_id(event, "channel"),
        channel_type=_channel_type(event),
        user=_text(message, "user", default=""),
        text=plain_text(text, bot_user),
        ts=_id(message, "ts", _TS),
        thread_ts=_optional_id(message, "thread_ts", _TS) or _id(message, "ts", _TS),
    )


def _classify_deletion(
    envelope: _Envelope, event: Mapping[str, Any], deleted_ts: str, previous_key: str, bot_user: str | None
) -> SlackEvent:
    previous = event.get(previous_key)
    previous = previous if isinstance(previous, Mapping) else {}
    if _is_from_bot(previous, bot_user):
        return envelope.ignored("a bot's message was deleted")
    thread_ts = _optional_id(previous, "thread_ts", _TS) or deleted_ts
    return envelope.event(
        SlackEventKind.DELETED,
        channel=_id(event, "channel"),
        channel_type=_channel_type(event),
        user=_optional_id(previous, "user") or "",
        ts=deleted_ts,
        thread_ts=thread_ts,
        is_reply_in_thread=thread_ts != deleted_ts,
        deleted_ts=deleted_ts,
    )


def _classify_human_message(
    envelope: _Envelope, event: Mapping[str, Any], event_type: str, bot_user: str | None
) -> SlackEvent:
    raw_text = _text(event, "text", default="")
    ts = _id(event, "ts", _TS)
    thread_ts = _optional_id(event, "thread_ts", _TS) or ts
    channel_type = _channel_type(event)
    is_reply = thread_ts != ts
    mentioned = event_type == "app_mention" or (bot_user is not None and _mention_of(bot_user).search(raw_text))
    fields: dict[str, Any] = {
        "channel": _id(event, "channel"),
        "channel_type": channel_type,
        "user": _id(event, "user"),
        "text": plain_text(raw_text, bot_user),
        "ts": ts,
        "thread_ts": thread_ts,
        "is_reply_in_thread": is_reply,
        "files": files_of(event),
        "client_msg_id": _optional_id(event, "client_msg_id"),
    }
    if fields["text"].lower().startswith(_ASIDE_PREFIXES):
        return envelope.ignored("aside", **fields)
    if channel_type == "im":
        return envelope.event(SlackEventKind.DIRECT_MESSAGE, **fields)
    if mentioned:
        return envelope.event(SlackEventKind.MENTION, **fields)
    if is_reply:
        return envelope.event(SlackEventKind.THREAD_REPLY, **fields)
    return envelope.ignored("not addressed", **fields)


def is_from_bot(message: Mapping[str, Any]) -> bool:
    """Whether an app wrote this message; two bots that answer each other would never stop."""
    return bool(message.get("bot_id") or message.get("bot_profile") or message.get("subtype") == "bot_message")


def _is_from_bot(message: Mapping[str, Any], bot_user: str | None) -> bool:
    return is_from_bot(message) or (bot_user is not None and message.get("user") == bot_user)


def files_of(message: Mapping[str, Any]) -> tuple[SlackFile, ...]:
    """The attached files; an entry without an id is left out, missing details become empty."""
    entries = message.get("files")
    if not isinstance(entries, Sequence) or isinstance(entries, str | bytes):
        return ()
    return tuple(
        SlackFile(
            id=entry["id"],
            name=_clean(_or_empty(entry.get("name")) or _or_empty(entry.get("title")) or entry["id"]),
            mimetype=_clean(_or_empty(entry.get("mimetype"))),
            size=_size(entry.get("size")),
            url_private=_clean(_or_empty(entry.get("url_private"))),
        )
        for entry in entries
        if isinstance(entry, Mapping) and isinstance(entry.get("id"), str) and _ID.fullmatch(entry["id"])
    )


_CONTROL_SEQUENCE = re.compile(r"<([^<>\n]+)>")


def plain_text(text: str, bot_user_id: str | None = None) -> str:
    """Slack's wire form of a message as a person reads it: mentions of our bot gone, links and escapes written out.

    Source: https://docs.slack.dev/messaging/formatting-message-text#retrieving-messages
    """
    text = _clean(text)
    if bot_user_id is not None:
        text = _mention_of(bot_user_id).sub("", text)
    text = _CONTROL_SEQUENCE.sub(lambda match: _spell_out(match.group(1)), text)
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").strip()


def _spell_out(sequence: str) -> str:
    target, _, label = sequence.partition("|")
    if target.startswith("@"):
        return f"@{label.lstrip('@') or target[1:]}"
    if target.startswith("#"):
        return f"#{label.lstrip('#') or target[1:]}"
    if target.startswith("!"):
        return label or f"@{target[1:].partition('^')[0]}"
    target = target.removeprefix("mailto:").removeprefix("tel:")
    return f"{label} ({target})" if label and label not in target else target


def _mention_of(user_id: str) -> re.Pattern[str]:
    """The mention with the one space after it, so that removing it leaves no gap."""
    return re.compile(rf"<@{re.escape(user_id)}(?:\|[^<>]*)?>[ \t]?")


_STOP_WORDS = frozenset(
    {
        *("stop", "cancel", "abort", "halt", "please stop", "stop please", "stop it", "cancel that", "never mind"),
        *("중지", "중지해", "중지해줘", "중단", "중단해", "중단해줘", "그만", "그만해", "그만해줘", "그만둬", "취소"),
        *("취소해", "취소해줘", "멈춰", "멈춰줘", "스톱", "스탑", "정지"),
    }
)
_AROUND_A_WORD = re.compile(r"^[\W_]+|[\W_]+$")


def is_stop_word(text: str) -> bool:
    """Whether the whole message asks to stop: `Stop!` does, `stop the server` does not."""
    bare = _AROUND_A_WORD.sub("", text)
    return " ".join(bare.lower().split()) in _STOP_WORDS


def _channel_type(event: Mapping[str, Any]) -> str:
    """app_mention does not say its channel's type; the id's first letter does, except for G."""
    said = event.get("channel_type")
    if isinstance(said, str) and said in {"channel", "group", "im", "mpim"}:
        return said
    channel = event.get("channel")
    return _CHANNEL_TYPE_BY_PREFIX.get(channel[:1], "") if isinstance(channel, str) else ""


def _first_authorization(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Slack sends at most one installation here, whoever else can see the event."""
    authorizations = body.get("authorizations")
    if isinstance(authorizations, Sequence) and authorizations and isinstance(authorizations[0], Mapping):
        return authorizations[0]
    return {}


def _mapping(source: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = source.get(key)
    return value if isinstance(value, Mapping) else _refuse(f"{key} must be a JSON object")


def _text(source: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = source.get(key)
    if value is None and default is not None:
        return default
    return value if isinstance(value, str) else _refuse(f"{key} must be a string")


def _id(source: Mapping[str, Any], key: str, shape: re.Pattern[str] = _ID) -> str:
    return _optional_id(source, key, shape) or _refuse(f"{key} is missing")


def _optional_id(source: Mapping[str, Any], key: str, shape: re.Pattern[str] = _ID) -> str | None:
    value = source.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, str) and shape.fullmatch(value):
        return value
    return _refuse(f"{key} is not a Slack {'timestamp' if shape is _TS else 'id'}")


def _or_empty(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _size(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _clean(text: str) -> str:
    """Without NUL and lone surrogates, which PostgreSQL and UTF-8 refuse."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def _refuse(what: str) -> NoReturn:
    raise InvalidInputError(f"malformed Slack event: {what}", code="malformed_slack_event")
