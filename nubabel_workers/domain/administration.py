"""What operators create, list and end: values of administration. No secrets in here, except where handed out once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import SecretStr

from nubabel_workers.domain.dead_letters import DeadLetter, DeadLetterReason
from nubabel_workers.domain.executions import ExecutionError, Status, TimelineEvent
from nubabel_workers.domain.ids import ExecutionId, OrganizationId, SessionId, WorkspaceId
from nubabel_workers.domain.tenants import ServiceToken
from nubabel_workers.domain.tool_calls import CallStatus, ToolCallError


def server_actor(instance_id: str) -> str:
    """An OpenCode server, or its plugin, as the audit log calls it."""
    return f"instance:{instance_id}"


class AuditAction(StrEnum):
    """What was done, as stored in the audit log."""

    ORGANIZATION_CREATED = "organization.created"
    ORGANIZATION_DISABLED = "organization.disabled"
    ORGANIZATION_ENABLED = "organization.enabled"
    ORGANIZATION_ERASURE_BEGUN = "organization.erasure_begun"
    ORGANIZATION_ERASED = "organization.erased"
    ORGANIZATION_EXPORTED = "organization.exported"
    ORGANIZATION_POLICY_SET = "organization.policy_set"
    ORGANIZATION_LIMITS_SET = "organization.limits_set"
    WEBHOOK_SECRET_SET = "organization.webhook_secret_set"  # noqa: S105 - an action's name
    WEBHOOK_SECRET_ENDED = "organization.webhook_secret_ended"  # noqa: S105 - an action's name
    WORKSPACE_INSTALLED = "workspace.installed"
    WORKSPACE_ENDED = "workspace.ended"
    TOKEN_CREATED = "token.created"  # noqa: S105 - an action's name
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - an action's name
    SUBMIT_KEY_CREATED = "submit_key.created"
    SUBMIT_KEY_REVOKED = "submit_key.revoked"
    INSTANCE_ADDED = "instance.added"
    INSTANCE_CHANGED = "instance.changed"
    INSTANCE_DRAINED = "instance.drained"
    INSTANCE_ACTIVATED = "instance.activated"
    INSTANCE_REMOVED = "instance.removed"
    INSTANCE_RESTARTED = "instance.restarted"
    CALLBACK_KEY_CREATED = "callback_key.created"
    CALLBACK_KEY_ENDED = "callback_key.ended"
    CALLBACK_REFUSED = "callback.refused"
    FOREIGN_SESSION = "opencode.foreign_session"
    SECRETS_ROTATED = "secrets.rotated"
    EXECUTION_CANCELLED = "execution.cancelled"
    BATCH_CANCELLED = "batch.cancelled"
    EXECUTION_RESUMED = "execution.resumed"
    CONNECTION_ADDED = "connection.added"
    CONNECTION_TOOLS_ALLOWED = "connection.tools_allowed"
    CONNECTION_REPEATABLE_TOOLS_SET = "connection.repeatable_tools_set"
    CONNECTION_DEFAULT_SET = "connection.default_set"
    CONNECTION_CREDENTIALS_SET = "connection.credentials_set"
    CONNECTION_AUTHORIZATION_BEGUN = "connection.authorization_begun"
    CONNECTION_AUTHORIZED = "connection.authorized"
    CONNECTION_REFUSED = "connection.refused"
    CONNECTION_DISABLED = "connection.disabled"
    CONNECTION_ENABLED = "connection.enabled"
    CONNECTION_REMOVED = "connection.removed"
    RESTORED = "database.restored"
    IDENTITY_REFUSED = "identity.refused"
    FOREIGN_ID_NAMED = "foreign_id.named"
    FOREIGN_IDS_NOT_LISTED = "foreign_id.not_listed"
    REFUSALS_NOT_LISTED = "refusals.not_listed"
    DEAD_LETTER_SHOWN = "dead_letter.shown"
    DEAD_LETTER_REPLAYED = "dead_letter.replayed"
    DEAD_LETTER_DISCARDED = "dead_letter.discarded"
    TOOL_CALL_REFUSED = "tool_call.refused"
    TOOL_CALL_SHOWN = "tool_call.shown"


@dataclass(frozen=True)
class AuditEntry:
    """Who did what for which tenant."""

    actor: str  # "cli:anna", "slack", "token:tok_…"
    action: str  # one of AuditAction, or a later version's
    organization_id: str | None = None
    subject: str = ""  # id of what was changed
    detail: Mapping[str, Any] = field(default_factory=dict)
    at: datetime | None = None  # set by the database


@dataclass(frozen=True)
class Installation:
    """What a Slack installation says about itself (OAuth answer, or auth.test of a token)."""

    team_id: str | None  # None only for an org-wide installation
    enterprise_id: str | None
    team_name: str
    bot_user_id: str
    bot_token: SecretStr
    bot_id: str | None = None
    app_id: str | None = None
    scopes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return installation_key(self.enterprise_id, self.team_id)


def installation_key(enterprise_id: str | None, team_id: str | None) -> str:
    """One installation per (enterprise or none, team or none), as Slack's own installation stores key them."""
    return f"{enterprise_id or '-'}:{team_id or '-'}"


@dataclass(frozen=True)
class WorkspaceSummary:
    """A Slack workspace without its token."""

    id: WorkspaceId
    organization_id: OrganizationId
    team_id: str
    enterprise_id: str | None
    team_name: str
    bot_user_id: str
    active: bool
    installed_at: datetime
    revoked_at: datetime | None
    ended_reason: str | None = None  # of one that is over: Slack's own word, or what an operator gave


@dataclass(frozen=True)
class SubmitKeySummary:
    id: str
    organization_id: OrganizationId
    name: str
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True)
class IssuedToken:
    """A new service token; text can be shown this once."""

    token: ServiceToken
    text: SecretStr


@dataclass(frozen=True)
class IssuedSubmitKey:
    """A new submit key; text can be shown this once."""

    key: SubmitKeySummary
    text: SecretStr


@dataclass(frozen=True)
class ExecutionSummary:
    """One line of a list of executions."""

    id: ExecutionId
    organization_id: OrganizationId
    session_id: SessionId
    source: str
    status: Status
    created_at: datetime
    waiting_for: str | None
    instance_id: str | None
    attempt: int
    started_at: datetime | None
    finished_at: datetime | None
    error: ExecutionError | None
    prompt_start: str = field(repr=False)  # its first characters; outside text


@dataclass(frozen=True)
class Delivery:
    """How far the telling of an outcome is."""

    kind: str
    status: str
    failures: int
    created_at: datetime
    sent_at: datetime | None
    error: str | None
    possibly_repeated: bool


@dataclass(frozen=True)
class SessionWait:
    """What kept a session busy when a request came into it. until: None while it still does."""

    execution_id: ExecutionId
    until: datetime | None


@dataclass(frozen=True)
class DeadLetterGroup:
    """Dead letters of one queue that were set aside for the same cause. organization_ids: some of them."""

    reason: DeadLetterReason
    cause: str  # the stable word that their errors begin with; empty where they have none
    queue: str
    task: str
    count: int
    raw: int  # of those, messages without a row behind them: they cannot be replayed
    oldest: datetime
    newest: datetime
    organizations: int
    organization_ids: tuple[str, ...]
    sample_id: str  # the newest one
    sample_error: str


@dataclass(frozen=True)
class DeadLetterPage:
    """Newest first. after: names the next page; None on the last one."""

    letters: tuple[DeadLetter, ...]
    after: str | None


@dataclass(frozen=True)
class AttemptSummary:
    """One run on OpenCode."""

    number: int
    instance_id: str
    opencode_session_id: str
    message_id: str
    started_at: datetime
    submitted_at: datetime | None
    ended_at: datetime | None
    verdict: str | None


@dataclass(frozen=True)
class DeadLetterHistory:
    """One dead letter with what stands behind it. subject: what the row holds; None for a raw message.

    others: dead letters of the same row, oldest first.
    """

    letter: DeadLetter
    subject_status: str | None = None
    subject: Mapping[str, Any] | None = None
    execution_id: str | None = None
    timeline: tuple[TimelineEvent, ...] = ()
    attempts: tuple[AttemptSummary, ...] = ()
    others: tuple[DeadLetter, ...] = ()


@dataclass(frozen=True)
class ToolCallFilter:
    """Which calls of the ledger; None: any. session_id: ours, or OpenCode's in which it was called."""

    organization_id: str | None = None
    execution_id: str | None = None
    session_id: str | None = None
    provider: str | None = None
    tool_name: str | None = None
    statuses: frozenset[CallStatus] | None = None


@dataclass(frozen=True)
class ToolCallSummary:
    """One line of a list of tool calls. tries: how often it was sent, or was about to be."""

    id: str
    organization_id: OrganizationId
    execution_id: ExecutionId
    session_id: SessionId
    opencode_session_id: str  # a sub-agent's own
    provider: str
    tool: str
    status: CallStatus
    tries: int
    repeatable: bool
    started_at: datetime
    ended_at: datetime | None
    error_code: str | None


@dataclass(frozen=True)
class ToolCallDetails:
    """A call with what the ledger keeps of it: secrets masked, long values cut. altered: the result was more."""

    call: ToolCallSummary
    connection_id: str
    opencode_call_id: str
    opencode_message_id: str | None
    arguments: Any = field(repr=False)
    result: Mapping[str, Any] | None = field(repr=False)
    error: ToolCallError | None
    altered: bool


@dataclass(frozen=True)
class RestoreReport:
    """How many rows are in doubt after a restore: their outcome is looked up before it is told."""

    executions: int = 0
    notifications: int = 0


@dataclass(frozen=True)
class RotationReport:
    """What `keys rotate` did. unreadable: (table, row id) that no configured key decrypts; they were left alone."""

    rotated: int = 0
    current: int = 0  # under the first key already
    unreadable: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: "RotationReport") -> "RotationReport":
        return RotationReport(
            self.rotated + other.rotated, self.current + other.current, self.unreadable + other.unreadable
        )
