"""The tables (PostgreSQL). The schema's single source: migrations are checked against it.

Two roles use them: nubabel_tenant sees the rows of the organization its transaction is scoped to (row-level security
on `row_sets.TENANT_TABLES`), nubabel_system serves ingress, claims and the scheduler. Times are UTC, of the database.
"""

from datetime import date, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from nubabel_workers.adapters.storage.row_sets import OCCUPYING_SQL, OPEN_SQL

Json = dict[str, Any]

_NOW = text("now()")
_EMPTY_OBJECT = text("'{}'::jsonb")
_EMPTY_LIST = text("'[]'::jsonb")


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads this class attribute
        str: Text,
        datetime: DateTime(timezone=True),
        Json: JSONB,
        list[Any]: JSONB,
        int: Integer,
        float: Double,
        bool: Boolean,
        date: Date,
        Decimal: Numeric(18, 9),
        bytes: LargeBinary,
    }


def _tenant() -> Mapped[str]:
    return mapped_column(ForeignKey("organizations.id", ondelete="CASCADE"))


def _created() -> Mapped[datetime]:
    return mapped_column(server_default=_NOW)


class Leased:
    """Columns of a row that workers claim: lease, next time, deliveries without a result (DESIGN: poison rows).

    suspect: the last delivery ended without a result; the row is claimed alone and lone_deliveries counts those.
    """

    not_before: Mapped[datetime] = mapped_column(server_default=_NOW)
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(server_default=text("0"))  # since it was new; the retry policy counts these
    suspect: Mapped[bool] = mapped_column(server_default=text("false"))
    lone_deliveries: Mapped[int] = mapped_column(server_default=text("0"))


class OrganizationRow(Base):
    __tablename__ = "organizations"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    plan: Mapped[str] = mapped_column(server_default=text("'default'"))
    busy_policy: Mapped[str] = mapped_column(server_default=text("'queue'"))
    masking: Mapped[str] = mapped_column(server_default=text("'mask'"))  # of prompts: off, mask, refuse
    near_cap: Mapped[str] = mapped_column(server_default=text("'keep'"))  # keep, economize
    repeated_questions: Mapped[str] = mapped_column(server_default=text("'run'"))  # run, reuse
    servers: Mapped[str] = mapped_column(server_default=text("'shared'"))  # or dedicated
    budget_approvers: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    limits: Mapped[Json] = mapped_column(server_default=_EMPTY_OBJECT)
    webhook_secret: Mapped[bytes | None]  # encrypted
    previous_webhook_secret: Mapped[bytes | None]  # encrypted; signs as well, until the next column says
    previous_webhook_secret_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = _created()
    disabled_at: Mapped[datetime | None]
    erasing_at: Mapped[datetime | None]


class WorkspaceRow(Base):
    __tablename__ = "workspaces"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = _tenant()
    installation_key: Mapped[str] = mapped_column(unique=True)  # "<enterprise or ->:<team or ->"
    team_id: Mapped[str]
    enterprise_id: Mapped[str | None]
    team_name: Mapped[str] = mapped_column(server_default=text("''"))
    bot_user_id: Mapped[str]
    bot_id: Mapped[str | None]
    app_id: Mapped[str | None]
    scopes: Mapped[str] = mapped_column(server_default=text("''"))
    bot_token: Mapped[bytes]  # encrypted
    status: Mapped[str] = mapped_column(server_default=text("'active'"))  # active, revoked
    installed_at: Mapped[datetime] = _created()
    revoked_at: Mapped[datetime | None]


class ServiceTokenRow(Base):
    __tablename__ = "service_tokens"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = _tenant()
    name: Mapped[str]
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = _created()
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class SubmitKeyRow(Base):
    __tablename__ = "submit_keys"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = _tenant()
    name: Mapped[str]
    secret: Mapped[bytes]  # encrypted
    created_at: Mapped[datetime] = _created()
    revoked_at: Mapped[datetime | None]


class SubmitNonceRow(Base):
    """Nonces seen within the signature's window; what is replayed is refused.

    key_id: a submit key, or the OpenCode server whose plugin calls. A row, not a key in the cache: that may be wiped,
    and what was recorded before could be played again.
    """

    __tablename__ = "submit_nonces"
    key_id: Mapped[str] = mapped_column(primary_key=True)
    nonce: Mapped[str] = mapped_column(primary_key=True)
    seen_at: Mapped[datetime] = _created()


class InstanceRow(Base):
    __tablename__ = "instances"
    id: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str] = mapped_column(unique=True)
    username: Mapped[str] = mapped_column(server_default=text("'opencode'"))
    password: Mapped[bytes | None]  # encrypted
    callback_key: Mapped[bytes | None]  # encrypted; its plugin signs with it
    previous_callback_key: Mapped[bytes | None]  # encrypted; good as well, until the next one or until it is ended
    directory: Mapped[str | None]
    organization_id: Mapped[str | None] = mapped_column(ForeignKey("organizations.id", ondelete="SET NULL"))
    status: Mapped[str] = mapped_column(server_default=text("'active'"))  # active, draining, removed
    capacity_runs: Mapped[int] = mapped_column(server_default=text("50"))
    submits_per_second: Mapped[int] = mapped_column(server_default=text("20"))
    max_directories: Mapped[int] = mapped_column(server_default=text("20"))  # of organizations, loaded at once
    directories_path: Mapped[str | None]  # where it makes them; null: it makes none
    agents: Mapped[list[Any]] = mapped_column(server_default=_EMPTY_LIST)
    version: Mapped[str] = mapped_column(server_default=text("''"))
    healthy: Mapped[bool] = mapped_column(server_default=text("true"))
    health_detail: Mapped[str] = mapped_column(server_default=text("''"))
    refused: Mapped[bool] = mapped_column(server_default=text("false"))  # it answers, and we cannot work with it
    checked_at: Mapped[datetime | None]  # when it was last heard of, or looked at in vain; half a minute late at most
    unhealthy_since: Mapped[datetime | None]
    recovered_at: Mapped[datetime | None]  # when it was last back after more than a moment away
    restarted_at: Mapped[datetime | None]  # when the operators' command was last asked to start it anew
    memory_process: Mapped[str] = mapped_column(server_default=text("''"))  # a name of its own at each start
    memory_samples: Mapped[list[Any]] = mapped_column(server_default=_EMPTY_LIST)  # [Unix seconds, bytes], oldest first
    memory_bytes: Mapped[int | None] = mapped_column(BigInteger)  # the last of them: read at every dispatch
    memory_at: Mapped[datetime | None]  # when its plugin last told
    event_lag_s: Mapped[float | None]  # how late the latest event of the listener's last check was
    strains: Mapped[Json] = mapped_column(server_default=_EMPTY_OBJECT)  # what is looked at -> what is wrong with it
    strained_since: Mapped[datetime | None]
    reconcile_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    created_at: Mapped[datetime] = _created()


class InstanceDirectoryRow(Base):
    """An organization's own directory on a shared server. used_at: when it was last about to get a prompt."""

    __tablename__ = "instance_directories"
    instance_id: Mapped[str] = mapped_column(primary_key=True)  # as in attempts: rows of servers are never deleted
    organization_id: Mapped[str] = mapped_column(ForeignKey("organizations.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str]
    state: Mapped[str]  # domain/directories.py; all but `disposed` hold one of the server's places
    used_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    changed_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    __table_args__ = (
        UniqueConstraint("instance_id", "path"),
        Index("ix_instance_directories_organization", "organization_id"),
    )


class SessionRow(Base):
    __tablename__ = "sessions"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = _tenant()
    session_key: Mapped[str]
    source: Mapped[str]
    user_id: Mapped[str | None]
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id", ondelete="SET NULL"))
    instance_id: Mapped[str | None] = mapped_column(ForeignKey("instances.id", ondelete="SET NULL"))
    opencode_session_id: Mapped[str | None]
    opencode_directory: Mapped[str | None]
    created_at: Mapped[datetime] = _created()
    last_active_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    __table_args__ = (
        UniqueConstraint("organization_id", "session_key"),
        Index("ix_sessions_opencode", "instance_id", "opencode_session_id"),
        Index("ix_sessions_last_active", "last_active_at"),
    )


class ExecutionGroupRow(Base):
    """A dispatched batch: executions that were accepted together and are told in one reply."""

    __tablename__ = "execution_groups"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = _tenant()
    state: Mapped[str] = mapped_column(server_default=text("'running'"))
    on_failure: Mapped[str] = mapped_column(server_default=text("'report'"))
    reply: Mapped[Json]
    idempotency_key: Mapped[str]
    request_hash: Mapped[str]
    cancel_requested_at: Mapped[datetime | None]
    cancel_reason: Mapped[str | None]
    correlation_id: Mapped[str] = mapped_column(server_default=text("''"))
    traceparent: Mapped[str] = mapped_column(server_default=text("''"))
    created_at: Mapped[datetime] = _created()
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        UniqueConstraint("organization_id", "idempotency_key"),
        Index("ix_execution_groups_running", "id", postgresql_where=text("state = 'running'")),
        Index("ix_execution_groups_by_organization", "organization_id", "created_at"),
        Index("ix_execution_groups_callers_keys", "created_at", postgresql_where=text("idempotency_key LIKE 'key:%'")),
        Index("ix_execution_groups_finished", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    )


class ExecutionRow(Leased, Base):
    __tablename__ = "executions"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = _tenant()
    session_id: Mapped[str] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    position: Mapped[int] = mapped_column(BigInteger, Identity(always=True))  # order within the session
    source: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=text("'queued'"))
    attempt: Mapped[int] = mapped_column(server_default=text("0"))  # number of the last run on OpenCode
    replays: Mapped[int] = mapped_column(server_default=text("0"))  # each replay has an outcome of its own
    pauses: Mapped[int] = mapped_column(server_default=text("0"))  # each is followed by a prompt of its own
    cost_ceiling: Mapped[Decimal | None]  # US dollars in all; an operator's word, instead of the organization's caps
    prompt: Mapped[str]
    user_id: Mapped[str | None]
    workspace_id: Mapped[str | None] = mapped_column(ForeignKey("workspaces.id", ondelete="SET NULL"))
    reply: Mapped[Json]
    overrides: Mapped[Json] = mapped_column(server_default=_EMPTY_OBJECT)
    analysis: Mapped[Json] = mapped_column(server_default=_EMPTY_OBJECT)
    attachments: Mapped[list[Any]] = mapped_column(server_default=_EMPTY_LIST)
    wants_thread_context: Mapped[bool] = mapped_column(server_default=text("false"))
    context: Mapped[Json | None]  # what was read for it: thread messages, earlier turns
    notes: Mapped[list[Any]] = mapped_column(server_default=_EMPTY_LIST)  # said beside the answer
    request_metadata: Mapped[Json] = mapped_column(server_default=_EMPTY_OBJECT)
    idempotency_key: Mapped[str]
    request_hash: Mapped[str]
    check_at: Mapped[datetime | None]  # running: when to look at OpenCode next; news of the listener moves it to now
    waiting_for: Mapped[str | None]
    instance_id: Mapped[str | None] = mapped_column(ForeignKey("instances.id", ondelete="SET NULL"))
    opencode_session_id: Mapped[str | None]
    message_created_ms: Mapped[int] = mapped_column(BigInteger)
    answer_by: Mapped[datetime]
    told_late: Mapped[bool] = mapped_column(server_default=text("false"))
    # After a restore: its outcome may have been told already, look before telling.
    outcome_in_doubt: Mapped[bool] = mapped_column(server_default=text("false"))
    batch: Mapped[bool] = mapped_column(server_default=text("false"))  # may wait behind interactive requests
    orchestrator: Mapped[str] = mapped_column(server_default=text("'opencode'"))  # who answers it
    deadline_s: Mapped[int | None]
    deadline_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    cancel_reason: Mapped[str | None]
    output: Mapped[str | None]
    output_cut: Mapped[bool] = mapped_column(server_default=text("false"))
    usage: Mapped[Json | None]
    error: Mapped[Json | None]
    correlation_id: Mapped[str] = mapped_column(server_default=text("''"))
    traceparent: Mapped[str] = mapped_column(server_default=text("''"))
    created_at: Mapped[datetime] = _created()
    started_at: Mapped[datetime | None]
    running_since: Mapped[datetime | None]
    progress_mark: Mapped[str | None]  # how far the run had come at the last look
    progress_at: Mapped[datetime | None]  # when a look first found that
    finished_at: Mapped[datetime | None]
    # Of a dispatched batch. No foreign key: a group outlives its executions, and the table is too busy to be locked.
    group_id: Mapped[str | None]
    __table_args__ = (
        UniqueConstraint("organization_id", "idempotency_key"),
        # One run at a time in a session (DESIGN invariant 5), whatever the code believes.
        Index("uq_executions_one_per_session", "session_id", unique=True, postgresql_where=text(OCCUPYING_SQL)),
        Index("ix_executions_by_session", "session_id", "position"),  # a session's turns; and its deletion asks
        Index("ix_executions_open_by_session", "session_id", "position", postgresql_where=text(OPEN_SQL)),
        Index("ix_executions_queued", "position", postgresql_where=text("status = 'queued'")),
        Index(  # what of an organization waits, at whichever orchestrator
            "ix_executions_turns", "organization_id", "batch", "position", postgresql_where=text("status = 'queued'")
        ),
        Index(
            "ix_executions_turns_of",
            "orchestrator",
            "organization_id",
            "batch",
            "position",
            postgresql_where=text("status = 'queued'"),
        ),
        Index("ix_executions_due", "orchestrator", "not_before", postgresql_where=text("status = 'queued'")),
        Index(
            "ix_executions_put_off",
            "waiting_for",
            "position",
            postgresql_where=text("status = 'queued' AND waiting_for IS NOT NULL"),
        ),
        Index("ix_executions_batch_queued", "position", postgresql_where=text("batch AND status = 'queued'")),
        Index("ix_executions_taken_over", "position", postgresql_where=text("status = 'queued' AND suspect")),
        Index("ix_executions_in_flight", "organization_id", postgresql_where=text(OCCUPYING_SQL)),
        Index("ix_executions_batch_in_flight", "batch", postgresql_where=text(f"batch AND {OCCUPYING_SQL}")),
        Index("ix_executions_check", "check_at", postgresql_where=text("status = 'running'")),
        Index("ix_executions_occupying", "instance_id", postgresql_where=text(OCCUPYING_SQL)),
        Index(  # what ran on a server, or found no place on it: little of a long queue
            "ix_executions_queued_for",
            "instance_id",
            postgresql_where=text("status = 'queued' AND instance_id IS NOT NULL"),
        ),
        Index("ix_executions_leased", "lease_until", postgresql_where=text("lease_owner IS NOT NULL")),
        Index(
            "ix_executions_opencode",
            "opencode_session_id",
            postgresql_where=text("status IN ('dispatching', 'running')"),
        ),
        Index("ix_executions_by_organization", "organization_id", "created_at"),
        Index("ix_executions_callers_keys", "created_at", postgresql_where=text("idempotency_key LIKE 'key:%'")),
        Index("ix_executions_by_group", "group_id", "position", postgresql_where=text("group_id IS NOT NULL")),
        Index("ix_executions_finished", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    )


class AttemptRow(Base):
    __tablename__ = "attempts"
    execution_id: Mapped[str] = mapped_column(ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = _tenant()
    orchestrator: Mapped[str] = mapped_column(server_default=text("'opencode'"))
    instance_id: Mapped[str | None]  # this one and the next two: on OpenCode
    opencode_session_id: Mapped[str | None]
    message_id: Mapped[str | None]
    remote_session_id: Mapped[str | None]  # what another orchestrator calls the conversation
    known_assistant_ids: Mapped[list[Any]] = mapped_column(server_default=_EMPTY_LIST)
    started_at: Mapped[datetime] = _created()
    submitted_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    verdict: Mapped[str | None]
    usage: Mapped[Json | None]
    __table_args__ = (Index("ix_attempts_opencode", "opencode_session_id"),)


class ExecutionEventRow(Base):
    __tablename__ = "execution_events"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    organization_id: Mapped[str] = _tenant()
    execution_id: Mapped[str] = mapped_column(ForeignKey("executions.id", ondelete="CASCADE"))
    at: Mapped[datetime] = mapped_column(server_default=text("clock_timestamp()"))
    kind: Mapped[str]
    detail: Mapped[Json] = mapped_column(server_default=_EMPTY_OBJECT)
    __table_args__ = (Index("ix_execution_events_execution", "execution_id", "id"),)


class NotificationRow(Leased, Base):
    __tablename__ = "notifications"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = _tenant()
    execution_id: Mapped[str | None] = mapped_column(ForeignKey("executions.id", ondelete="CASCADE"))
    session_id: Mapped[str | None]  # outcomes' order; goes with its execution
    kind: Mapped[str]
    dedupe: Mapped[str] = mapped_column(server_default=text("''"))
    destination: Mapped[Json]
    payload: Mapped[Json]
    # ready, sending (a lease is held), sent, failed (there is a dead letter), dropped (not needed any more)
    status: Mapped[str] = mapped_column(server_default=text("'ready'"))
    revision: Mapped[int] = mapped_column(server_default=text("1"))  # of the payload; a newer one makes it ready again
    sent_revision: Mapped[int] = mapped_column(server_default=text("0"))
    sent_parts: Mapped[list[Any]] = mapped_column(server_default=_EMPTY_LIST)  # the provider's message ids
    uncertain: Mapped[bool] = mapped_column(server_default=text("false"))
    uncertain_since: Mapped[datetime | None]
    repeated: Mapped[bool] = mapped_column(server_default=text("false"))
    error: Mapped[str | None]
    correlation_id: Mapped[str] = mapped_column(server_default=text("''"))
    traceparent: Mapped[str] = mapped_column(server_default=text("''"))
    created_at: Mapped[datetime] = _created()
    sent_at: Mapped[datetime | None]
    __table_args__ = (
        UniqueConstraint("execution_id", "kind", "dedupe"),
        Index(
            "ix_notifications_outcomes_to_tell",
            "session_id",
            "created_at",
            postgresql_where=text("kind = 'outcome' AND status IN ('ready', 'sending')"),
        ),
        Index("ix_notifications_alone", "created_at", postgresql_where=text("execution_id IS NULL")),
        Index("ix_notifications_ready", "not_before", postgresql_where=text("status = 'ready'")),
        Index("ix_notifications_leased", "lease_until", postgresql_where=text("lease_owner IS NOT NULL")),
    )


class InboundEventRow(Leased, Base):
    __tablename__ = "inbound_events"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = _tenant()
    workspace_id: Mapped[str] = mapped_column(ForeignKey("workspaces.id", ondelete="CASCADE"))
    position: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    provider_event_id: Mapped[str]
    dedupe_key: Mapped[str]
    conversation_key: Mapped[str]
    kind: Mapped[str]
    event: Mapped[Json]
    status: Mapped[str] = mapped_column(server_default=text("'ready'"))  # ready, done, failed
    outcome: Mapped[str | None]
    correlation_id: Mapped[str] = mapped_column(server_default=text("''"))
    traceparent: Mapped[str] = mapped_column(server_default=text("''"))
    received_at: Mapped[datetime] = _created()
    done_at: Mapped[datetime | None]
    __table_args__ = (
        UniqueConstraint("workspace_id", "provider_event_id"),
        UniqueConstraint("workspace_id", "dedupe_key"),
        Index("ix_inbound_events_ready", "position", postgresql_where=text("status = 'ready'")),
        Index(
            "ix_inbound_events_conversation",
            "workspace_id",
            "conversation_key",
            "position",
            postgresql_where=text("status = 'ready'"),
        ),
        Index("ix_inbound_events_leased", "lease_until", postgresql_where=text("lease_owner IS NOT NULL")),
        Index("ix_inbound_events_received", "received_at"),
    )


class DeadLetterRow(Base):
    __tablename__ = "dead_letters"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str | None] = mapped_column(ForeignKey("organizations.id", ondelete="CASCADE"))
    queue: Mapped[str]
    task: Mapped[str]
    reason: Mapped[str]
    error: Mapped[str]
    subject_kind: Mapped[str]
    subject_id: Mapped[str | None]
    payload: Mapped[str | None]
    headers: Mapped[Json] = mapped_column(server_default=_EMPTY_OBJECT)
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    status: Mapped[str] = mapped_column(server_default=text("'open'"))
    created_at: Mapped[datetime] = _created()
    resolved_at: Mapped[datetime | None]
    resolved_by: Mapped[str | None]
    note: Mapped[str | None]
    __table_args__ = (
        Index("ix_dead_letters_status", "status", "created_at"),
        Index("ix_dead_letters_subject", "subject_id"),
    )


class UsageRow(Base):
    __tablename__ = "usage"
    execution_id: Mapped[str] = mapped_column(ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True)
    model: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = _tenant()
    day: Mapped[date]
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    reasoning_tokens: Mapped[int] = mapped_column(BigInteger)
    cache_read_tokens: Mapped[int] = mapped_column(BigInteger)
    cache_write_tokens: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[Decimal]
    lower_bound: Mapped[bool] = mapped_column(server_default=text("false"))  # it was more, nobody told how much
    cost_computed: Mapped[bool] = mapped_column(server_default=text("false"))  # from prices of ours, not OpenCode's own
    __table_args__ = (Index("ix_usage_by_day", "organization_id", "day"),)


class BudgetHoldRow(Base):
    """What a run may use until it is looked at again: counted as used while the run's attempt is open. Only of
    executions that occupy their session in organizations with caps: a small table.
    """

    __tablename__ = "budget_holds"
    execution_id: Mapped[str] = mapped_column(ForeignKey("executions.id", ondelete="CASCADE"), primary_key=True)
    organization_id: Mapped[str] = _tenant()
    user_id: Mapped[str | None]
    cost: Mapped[Decimal]
    tokens: Mapped[int] = mapped_column(BigInteger)
    placed_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    look_at: Mapped[datetime | None]  # of a paused one, which holds nothing: when to look for room
    __table_args__ = (Index("ix_budget_holds_organization", "organization_id"),)


class ToolCallRow(Base):
    """The ledger of tool calls. arguments, result: redacted and bounded."""

    __tablename__ = "tool_calls"
    id: Mapped[str] = mapped_column(primary_key=True)  # derived: the same call has the same id
    organization_id: Mapped[str] = _tenant()
    execution_id: Mapped[str] = mapped_column(ForeignKey("executions.id", ondelete="CASCADE"))
    opencode_session_id: Mapped[str]
    call_id: Mapped[str]
    message_id: Mapped[str | None]
    connection_id: Mapped[str]  # outlives the connection
    provider: Mapped[str]
    tool_name: Mapped[str]
    fingerprint: Mapped[str]
    arguments: Mapped[Json]
    repeatable: Mapped[bool]
    status: Mapped[str] = mapped_column(server_default=text("'started'"))  # started, succeeded, failed, unknown
    try_number: Mapped[int] = mapped_column(server_default=text("1"))
    lease_owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    result: Mapped[Json | None]
    error: Mapped[Json | None]
    altered: Mapped[bool] = mapped_column(server_default=text("false"))  # the result is less than what came
    started_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    ended_at: Mapped[datetime | None]
    __table_args__ = (
        Index("ix_tool_calls_execution", "execution_id", "started_at"),
        Index("ix_tool_calls_organization", "organization_id", "started_at"),
        Index("ix_tool_calls_started", "started_at"),
        Index("ix_tool_calls_leased", "lease_until", postgresql_where=text("lease_owner IS NOT NULL")),
    )


class ToolConnectionRow(Base):
    """One organization's connection to one MCP server."""

    __tablename__ = "mcp_connections"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = _tenant()
    provider: Mapped[str]  # its name within the organization
    kind: Mapped[str]  # http, command
    url: Mapped[str | None]
    command_name: Mapped[str | None]
    authentication: Mapped[str]  # oauth, token, none, environment
    status: Mapped[str]  # pending_authorization, active, refused, disabled
    status_detail: Mapped[str] = mapped_column(server_default=text("''"))
    allowed_tools: Mapped[list[Any] | None]  # null allows all
    repeatable_tools: Mapped[list[Any] | None]  # null: those of which its server says so
    token_header: Mapped[str | None]  # where a given token goes; null: Authorization, as Bearer
    is_default: Mapped[bool] = mapped_column(server_default=text("false"))
    scope: Mapped[str | None]  # to ask for; null: what the server says
    client: Mapped[Json | None]  # OAuth: as whom to begin an authorization
    client_secret: Mapped[bytes | None]  # encrypted
    terms: Mapped[Json | None]  # OAuth: where, as whom and for what the present tokens were granted
    credentials: Mapped[bytes | None]  # encrypted
    revision: Mapped[int] = mapped_column(server_default=text("0"))  # of the credentials
    expires_at: Mapped[datetime | None]
    refresh_owner: Mapped[str | None]  # who refreshes; kept when it did not end in order: then it is in doubt
    refresh_until: Mapped[datetime | None]
    healthy: Mapped[bool | None]
    health_detail: Mapped[str] = mapped_column(server_default=text("''"))
    checked_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _created()
    __table_args__ = (
        UniqueConstraint("organization_id", "provider"),
        Index("uq_mcp_connections_one_default", "organization_id", unique=True, postgresql_where=text("is_default")),
    )


class ToolAuthorizationRow(Base):
    """Somebody was sent to a provider to agree. Deleted when they are back: a state is good once."""

    __tablename__ = "mcp_authorizations"
    id: Mapped[str] = mapped_column(primary_key=True)
    organization_id: Mapped[str] = _tenant()
    connection_id: Mapped[str] = mapped_column(ForeignKey("mcp_connections.id", ondelete="CASCADE"))
    state_hash: Mapped[bytes] = mapped_column(unique=True)
    terms: Mapped[Json]
    secrets: Mapped[bytes]  # encrypted: code verifier and the client's secret
    actor: Mapped[str]
    created_at: Mapped[datetime] = _created()
    expires_at: Mapped[datetime]
    __table_args__ = (
        Index("ix_mcp_authorizations_connection", "connection_id"),
        Index("ix_mcp_authorizations_expires", "expires_at"),
    )


class AuditLogRow(Base):
    __tablename__ = "audit_log"
    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=_NOW)
    organization_id: Mapped[str | None]
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str] = mapped_column(server_default=text("''"))
    detail: Mapped[Json] = mapped_column(server_default=_EMPTY_OBJECT)
