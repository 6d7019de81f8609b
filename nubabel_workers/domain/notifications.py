"""What must be told to whom: one row per thing told, which survives every crash."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from nubabel_workers.domain.ids import ExecutionId, NotificationId, OrganizationId


class NotificationKind(StrEnum):
    """Kinds differ in what a repeat does, hence in how they are delivered."""

    WORKING = "working"  # a reaction on the question: repeating it does no harm
    PROGRESS = "progress"  # one message, edited while the run goes on, removed at its end
    OUTCOME = "outcome"  # the one visible outcome in the thread: never twice unmarked
    NOTICE = "notice"  # one line in the thread ("it takes longer", "replayed")
    WEBHOOK = "webhook"  # the outcome to an upstream service, after the Standard Webhooks spec


@dataclass(frozen=True)
class SlackTarget:
    """Where a Slack answer goes. thread_ts: the root of the thread; message_ts: the question itself."""

    workspace_id: str
    channel: str
    thread_ts: str
    message_ts: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "kind": "slack",
            "workspace_id": self.workspace_id,
            "channel": self.channel,
            "thread_ts": self.thread_ts,
            "message_ts": self.message_ts,
        }


def slack_read_quota(organization_id: str, target: SlackTarget) -> str:
    """The throttle's name for what a workspace's history may be read: everybody who reads it draws on the same."""
    return f"slack-read:{organization_id}:{target.workspace_id}"


def slack_history_quota(organization_id: str, target: SlackTarget) -> str:
    """The same for a channel's own messages: another method of Slack's, so counted apart."""
    return f"slack-history:{organization_id}:{target.workspace_id}"


@dataclass(frozen=True)
class WebhookTarget:
    """An upstream URL; signed with the organization's webhook secret, looked up when sending."""

    url: str

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "webhook", "url": self.url}


@dataclass(frozen=True)
class CallbacksTarget:
    """Addresses that a caller of the sidecar form named; signed where the organization has a webhook secret."""

    session_update: str | None
    progress: str | None

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "callbacks", "session_update": self.session_update, "progress": self.progress}


@dataclass(frozen=True)
class NoTarget:
    """Nobody is told; the caller asks for the outcome."""

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "none"}


ReplyTarget = SlackTarget | WebhookTarget | CallbacksTarget | NoTarget


def reply_target(raw: Mapping[str, Any]) -> ReplyTarget:
    """Read a stored reply target; an unknown kind means nobody is told."""
    if raw.get("kind") == "slack":
        return SlackTarget(raw["workspace_id"], raw["channel"], raw["thread_ts"], raw["message_ts"])
    if raw.get("kind") == "webhook":
        return WebhookTarget(raw["url"])
    if raw.get("kind") == "callbacks":
        return CallbacksTarget(raw["session_update"], raw["progress"])
    return NoTarget()


@dataclass(frozen=True)
class Button:
    """Below a message in Slack. action_id: what is to be done; value: with what. Both come back when it is pressed."""

    action_id: str
    value: str
    label: str

    def as_dict(self) -> dict[str, str]:
        return {"action_id": self.action_id, "value": self.value, "label": self.label}


def button_of(payload: Mapping[str, Any]) -> Button | None:
    """The button that a stored notification has."""
    stored = payload.get("button")
    return None if stored is None else Button(stored["action_id"], stored["value"], stored["label"])


@dataclass(frozen=True)
class NewNotification:
    """dedupe tells apart several of one kind for one execution; the same one again is nothing new."""

    kind: NotificationKind
    destination: Mapping[str, Any]
    payload: Mapping[str, Any]
    dedupe: str = ""


@dataclass(frozen=True)
class Notification:
    """A claimed row.

    sent_parts: the provider's message ids of the parts already told, in order. uncertain: an earlier delivery ended
    without a result after it may have been sent: look before sending. repeated: looking was given up and one
    marked repeat was sent.
    """

    id: NotificationId
    organization_id: OrganizationId
    execution_id: ExecutionId | None
    kind: NotificationKind
    destination: Mapping[str, Any]
    payload: Mapping[str, Any]
    failures: int  # deliveries that failed before this one
    created_at: datetime
    sent_parts: Sequence[str] = field(default_factory=tuple)
    session_id: str | None = None
    uncertain: bool = False
    repeated: bool = False
    uncertain_for_s: float | None = None  # by the database's clock
    correlation_id: str = ""
    traceparent: str = ""

    @property
    def is_edit(self) -> bool:
        """It was told, in its one part, and says something else by now."""
        return bool(self.payload.get("edited") and self.sent_parts)
