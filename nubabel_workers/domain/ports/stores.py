"""PostgreSQL, the truth: one protocol per kind of row. Each method is one statement, hence one transaction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from pydantic import SecretStr

from nubabel_workers.domain.admission import Occupied
from nubabel_workers.domain.dead_letters import NewDeadLetter
from nubabel_workers.domain.directories import Directory, DirectoryState
from nubabel_workers.domain.earlier_turns import EarlierTurns
from nubabel_workers.domain.executions import (
    EventKind,
    Execution,
    ExecutionError,
    NewExecution,
    SessionLeft,
    Status,
    TimelineEvent,
    Usage,
)
from nubabel_workers.domain.groups import ExecutionGroup, GroupState, NewGroup
from nubabel_workers.domain.hints import Hint
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.masking import Cleaning, MaskingPolicy
from nubabel_workers.domain.notifications import NewNotification, Notification
from nubabel_workers.domain.placement import Pool
from nubabel_workers.domain.ports.budgets import Hold
from nubabel_workers.domain.rollout import Orchestrator
from nubabel_workers.domain.server_vitals import MemoryHistory, Vital
from nubabel_workers.domain.slack_events import SlackEvent
from nubabel_workers.domain.tenants import Instance, Organization, ServersPolicy, ServiceToken, SubmitKey, Workspace
from nubabel_workers.domain.verdict import Delegation
from nubabel_workers.domain.waiting import Line


@dataclass(frozen=True)
class Accepted:
    """What became of a request at the door. created is False when the same request had been accepted before."""

    execution_id: str
    session_id: str
    created: bool
    status: Status
    request_hash: str
    working_notification_id: str | None = None
    busy_execution_ids: Sequence[str] = ()  # earlier ones of the session that are not final yet
    is_last_event: bool = False  # no later event of the conversation waits for the one that it came from
    line_is_long: bool = False  # LONG_LINE of its organization wait already


@dataclass(frozen=True)
class AcceptedGroup:
    """What became of a batch at the door. created is False when it had been accepted before; then without items."""

    group_id: str
    request_hash: str
    created: bool
    items: Sequence[Accepted] = ()


@dataclass(frozen=True)
class SessionPlace:
    """Whose a session is, and where. opencode_session_id: the one that was asked for, else the present one, if any."""

    organization_id: str
    session_id: str
    instance_id: str | None
    opencode_session_id: str | None


@dataclass(frozen=True)
class Finish:
    """The end of an execution; everything here is written in one transaction with the state change.

    usage: of the last attempt; it is added to what earlier ones used.

    delegations: what the run handed on to sub-agents; each is an event of the timeline, before the end.

    abandon_session: the run may still go on, so its OpenCode session is left to it; the next turn gets a new one.
    """

    status: Status
    verdict: str
    output: str | None = None
    output_cut: bool = False
    usage: Usage | None = None
    usage_by_model: Mapping[str, Usage] = field(default_factory=dict)
    error: ExecutionError | None = None
    notes: Sequence[str] = ()
    notifications: Sequence[NewNotification] = ()
    dead_letter: NewDeadLetter | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    delegations: Sequence[Delegation] = ()
    abandon_session: bool = False


@dataclass(frozen=True)
class Finished:
    """notification_ids: rows to deliver now. next_execution_id: the session's next one, free to start."""

    notification_ids: Sequence[str] = ()
    next_execution_id: str | None = None


@dataclass(frozen=True)
class ClaimedCheck:
    """A running execution whose state on OpenCode is to be looked at."""

    execution: Execution
    cancel_requested: bool
    past_deadline: bool
    running_for_s: float = 0.0  # since its prompt was accepted, by the database's clock
    mark: str | None = None  # how far it had come at the last look
    unchanged_for_s: float = 0.0  # since a look first found that mark
    suspect: bool = False
    others_wait: bool = False
    lone_deliveries: int = 0


@dataclass(frozen=True)
class ClaimedDispatch:
    """A queued execution taken for dispatch."""

    execution: Execution
    cancel_requested: bool
    open_attempt: bool  # the last attempt's prompt may have arrived: look first
    masking: MaskingPolicy = MaskingPolicy.MASK  # of the organization, read along
    servers: ServersPolicy = ServersPolicy.SHARED  # the same
    suspect: bool = False
    others_wait: bool = False
    lone_deliveries: int = 0


@dataclass(frozen=True)
class Started:
    """What `mark_running` found: news that arrived while the prompt was being submitted."""

    check_now: bool


@dataclass(frozen=True)
class CancelWish:
    """What became of the wish to cancel an execution."""

    execution: Execution  # as it is now
    is_new: bool  # marked by this very call: it was open, and nobody had wished it before


class ExecutionStore(Protocol):
    """Executions with their sessions, attempts and timeline. Each method is one statement, hence one transaction."""

    async def accept(
        self,
        new: NewExecution,
        *,
        working: NewNotification | None,
        answer_by_s: float,
        inbound_event: tuple[str, Lease] | None = None,
    ) -> Accepted:
        """Create session (or continue it), execution, timeline and working sign; finish the inbound event with it.

        Idempotent by (organization, idempotency_key). Raises LeaseLostError when the inbound event is not ours.
        """
        ...

    async def lines(self) -> Sequence[str | None]:
        """Of which pools something may be ready: None, the shared one, and organizations with servers of their own."""
        ...

    async def claim_queued(
        self, *, pool: Pool | None, limit: int, lease: Lease, orchestrator: Orchestrator = Orchestrator.OPENCODE
    ) -> list[ClaimedDispatch]:
        """Take queued executions that wait for this orchestrator, whose session is free and whose time has come.

        In fair turns of the organizations whose line leads to this pool; None: of all.

        The next is of the organization that has lately used the least, by run-seconds and its weight; organizations at
        their limit of executions in flight are passed over. Within one: what has waited for too long,
        interactive requests, batch ones, each in the order they came.

        Claims of the same moment do not exceed what the pool's servers take, all in all. Batch requests occupy a share
        of it at most, and whoever has its share leaves some of it free for others. Where nobody knows what they take
        nothing is kept.

        A suspect row is taken only when it alone is returned; others_wait: for its sake ready rows were left.
        """
        ...

    async def begin_attempt(
        self,
        execution: Execution,
        lease: Lease,
        *,
        instance_id: str,
        opencode_session_id: str,
        opencode_directory: str | None,
        message_id: str,
        known_assistant_ids: Sequence[str],
        analysis: Mapping[str, Any],
        context: Mapping[str, Any] | None,
        notes: Sequence[str],
        cleaning: Cleaning,
        run_deadline_s: float,
        hold: Hold | None = None,
    ) -> int:
        """Write down what is about to be submitted, before it is; return the attempt's number.

        cleaning: of what leaves, for the timeline. hold: of money and tokens, placed with it; raises
        BudgetReachedError where there is no room: then nothing was written.

        An attempt that is still open (its outcome is unknown) is continued, not counted again.
        """
        ...

    async def mark_running(self, execution: Execution, lease: Lease, *, check_after_s: float) -> Started: ...

    async def requeue(
        self,
        execution: Execution,
        lease: Lease,
        *,
        wait_s: float,
        kind: EventKind,
        detail: Mapping[str, Any],
        failed: bool,
        attempt_verdict: str | None,
        usage: Usage | None = None,
        usage_by_model: Mapping[str, Usage] | None = None,
        counted_ids: Collection[str] = (),
    ) -> None:
        """Back to queued, not before wait_s seconds from now; gives the lease back and clears suspicion.

        failed: counts against the retry policy. attempt_verdict ends the current attempt; None leaves it open: its
        prompt may have arrived, the next dispatch looks first. usage: of the current attempt, added to the execution's.
        counted_ids: assistant messages that it counts; should the attempt go on after all, they count no more.
        """
        ...

    async def claim_checks(self, *, execution_id: str | None, limit: int, lease: Lease) -> list[ClaimedCheck]: ...

    async def release_check(
        self, execution: Execution, lease: Lease, *, check_after_s: float, mark: str | None = None
    ) -> None:
        """Still running: look again after check_after_s seconds, sooner if the listener says so.

        mark: how far it has come (Verdict.mark); None when nobody saw.
        """
        ...

    async def finish(self, execution: Execution, lease: Lease, finish: Finish) -> Finished:
        """Final state, usage, notifications, dead letter and the attempt's end, at once. Raises LeaseLostError."""
        ...

    async def wake_by_sessions(self, instance_id: str, opencode_session_ids: Sequence[str]) -> list[str]:
        """The listener's news: look at these sessions' executions now. Returns the ids of those that are running."""
        ...

    async def request_cancel(
        self, organization_id: str, execution_id: str, *, reason: str, operator: str | None = None
    ) -> CancelWish | None:
        """Mark for cancellation, whatever its state (final ones stay unchanged); None if there is none.

        operator: who wishes it, for the audit log, which has it together with the mark.
        """
        ...

    async def cancel_queued(self, execution: Execution, finish: Finish) -> Finished | None:
        """End an execution that no worker holds yet; None if it is not queued any more."""
        ...

    async def open_in_session(self, organization_id: str, session_key: str) -> list[str]:
        """Ids of the session's executions that are not final, oldest first."""
        ...

    async def open_of_workspace(self, organization_id: str, workspace_id: str) -> list[str]:
        """Ids of those that are not final, oldest first; without what the present installation asked for."""
        ...

    async def by_key(self, organization_id: str, idempotency_key: str) -> str | None:
        """The execution that was accepted under this idempotency key."""
        ...

    async def session_key(self, organization_id: str, session_id: str) -> str | None:
        """The key of a session of this organization; None if it has no such session."""
        ...

    async def place_of(self, execution_id: str) -> tuple[str, str] | None:
        """(server, OpenCode session) of an execution that runs now, whatever its organization."""
        ...

    async def session_anywhere(self, session_id: str) -> SessionPlace | None:
        """A session by our id, or by the id of any OpenCode session that it ever had; on whichever server."""
        ...

    async def owned_by_another(self, execution: Execution, instance_id: str, opencode_session_id: str) -> bool:
        """Whether that session, on that server, is or was another organization's than the execution's."""
        ...

    async def has_submitted_to(self, execution: Execution, opencode_session_id: str) -> bool:
        """Whether a prompt of the execution's organization is known to have arrived in that session."""
        ...

    async def newest_in_session(self, organization_id: str, session_id: str) -> str | None:
        """The execution that occupies the session, else its newest; named as in session_anywhere."""
        ...

    async def running_by_opencode_session(self, instance_id: str, opencode_session_id: str) -> Execution | None: ...

    async def find(self, organization_id: str, execution_id: str) -> Execution | None: ...

    async def timeline(self, organization_id: str, execution_id: str) -> list[TimelineEvent]: ...

    async def earlier_turns(self, execution: Execution, *, limit: int, max_bytes: int) -> EarlierTurns:
        """What was answered in the same session before this execution: the first and the newest, as many as limit.

        Of each text what can be told in max_bytes; see read_in_part.
        """
        ...

    async def note_event(self, execution: Execution, kind: EventKind, detail: Mapping[str, Any]) -> None: ...

    async def running_on(self, instance_id: str) -> list[tuple[str, str, str | None]]:
        """(execution id, OpenCode session id, directory) of what runs there since more than a moment."""
        ...

    async def stray_runs(self, instance_id: str, opencode_session_ids: Collection[str]) -> Mapping[str, Execution]:
        """Which of these sessions had runs of ours and have none now, nor a moment ago: session -> last execution."""
        ...

    async def forget_opencode_session(
        self, execution: Execution, lease: Lease, *, because: SessionLeft | None, away_since: datetime | None = None
    ) -> None:
        """It is not gone on with: the next dispatch makes a new one. because: for the timeline; None: nobody knows.

        away_since: of the server of a run, which nobody worked on since then.
        """
        ...


@dataclass(frozen=True)
class Conversation:
    """A session as a caller finds it. last_ended_id: the newest execution of it that is final."""

    session_id: str
    session_key: str
    last_execution_id: str
    last_ended_id: str | None = None


@dataclass(frozen=True)
class LastRun:
    """model: "provider/model" that wrote most of the answer. Both None before anything ran."""

    model: str | None = None
    opencode_session_id: str | None = None


class ConversationStore(Protocol):
    """Sessions of one organization, by whatever name a caller knows them."""

    async def find(self, organization_id: str, name: str) -> Conversation | None:
        """name: our session id, the caller's own name, or the id of any OpenCode session that it ran in."""
        ...

    async def last_run(self, organization_id: str, execution_id: str) -> LastRun: ...


class GroupStore(Protocol):
    """Executions that were accepted together and are told in one reply."""

    async def accept(self, group: NewGroup, executions: Sequence[NewExecution], *, answer_by_s: float) -> AcceptedGroup:
        """Store all of it in one transaction, or find the group that was accepted under the same key."""
        ...

    async def find(self, organization_id: str, group_id: str) -> ExecutionGroup | None: ...

    async def standing(self, organization_id: str, group_id: str) -> ExecutionGroup | None:
        """The group with its executions' states alone, without what they said."""
        ...

    async def request_cancel(self, organization_id: str, group_id: str, *, reason: str) -> bool:
        """Write down the wish; False for one that has ended or has that wish already."""
        ...

    async def stop_rest(self, organization_id: str, group_id: str, *, reason: str) -> list[tuple[str, Status]]:
        """Wish the end of every execution that is open; those that got the wish now, the newest first."""
        ...

    async def finish(
        self, group: ExecutionGroup, state: GroupState, *, reply: Mapping[str, Any]
    ) -> tuple[str, ...] | None:
        """End it; the ids of the notifications to deliver. None: it has ended before, or something of it is open."""
        ...

    async def due(self, *, limit: int) -> list[tuple[str, str]]:
        """(organization, group) of those that are over and untold, or whose rest has to be stopped."""
        ...


class InboundStore(Protocol):
    """What came in from Slack."""

    async def add(
        self, workspace: Workspace, event: SlackEvent, *, correlation_id: str, traceparent: str
    ) -> str | None:
        """Store an event; None when it is a duplicate, or a thread message in a thread that is not ours."""
        ...

    async def claim(self, *, event_id: str | None, limit: int, lease: Lease) -> list["ClaimedInbound"]: ...

    async def done(
        self, event: "ClaimedInbound", lease: Lease, *, outcome: str, reply: NewNotification | None = None
    ) -> str | None:
        """Nothing more to do for it; the id of the reply's row, if one line is to be said."""
        ...

    async def retry(self, event: "ClaimedInbound", lease: Lease, *, wait_s: float) -> None: ...

    async def fail(
        self, event: "ClaimedInbound", lease: Lease, dead_letter: NewDeadLetter, *, apology: NewNotification | None
    ) -> str | None:
        """Set aside with a dead letter; the id of the apology's row, if there is one to tell."""
        ...


@dataclass(frozen=True)
class ClaimedInbound:
    id: str
    organization_id: str
    workspace_id: str
    event: SlackEvent
    failures: int
    busy_policy: str
    correlation_id: str
    traceparent: str
    suspect: bool = False
    others_wait: bool = False
    lone_deliveries: int = 0
    workspace_ended: bool = False  # nobody there can be told anything any more
    installed_at: datetime | None = None  # the workspace's last installation
    installed_since: bool = False  # it came after the event


@dataclass(frozen=True)
class ClaimedNotification:
    notification: Notification
    suspect: bool = False
    others_wait: bool = False
    lone_deliveries: int = 0
    revision: int = 1


class NotificationStore(Protocol):
    async def claim(self, *, notification_id: str | None, limit: int, lease: Lease) -> list[ClaimedNotification]: ...

    async def part_sent(self, notification: Notification, lease: Lease, part_id: str) -> None:
        """One part is told; more follow under the same lease."""
        ...

    async def mark_repeated(self, notification: Notification, lease: Lease) -> None:
        """What follows is a marked repeat of a post whose outcome stayed unknown; written down before it is sent."""
        ...

    async def sent(
        self, claimed: ClaimedNotification, lease: Lease, part_ids: Sequence[str], *, sign_left: bool = False
    ) -> bool:
        """Done; whether there is more to tell now: its own newer revision, or an outcome that waited for this one.

        sign_left: the working sign still stands; its own row is made ready to take it away.
        """
        ...

    async def retry(
        self,
        notification: Notification,
        lease: Lease,
        *,
        wait_s: float,
        error: str,
        uncertain: bool,
        unanswered: bool = False,
        failed: bool = True,
    ) -> None:
        """Ready again after wait_s. unanswered: the last post may still arrive; the doubt about it begins now.

        Any other doubt counts as a minute old: what Slack has answered, or hung up on, does not arrive later.
        """
        ...

    async def fail(
        self, notification: Notification, lease: Lease, *, error: str, dead_letter: NewDeadLetter
    ) -> None: ...

    async def drop(self, notification: Notification, lease: Lease, *, reason: str) -> None: ...

    async def show_progress(self, organization_id: str, execution_id: str, text: str, *, pace_s: float) -> str | None:
        """Set the text of an execution's progress message; the id of the row, None where nobody wants one."""
        ...


class DeadLetterStore(Protocol):
    """Where workers set aside what they cannot finish. What operators do with it: `ports.administration`."""

    async def add(self, new: NewDeadLetter) -> str: ...


@dataclass(frozen=True)
class KnownRequest:
    """What is there already of a request that a limit would refuse. request: accepted before, under its key.

    session_is_open: its conversation has an execution that is not over.
    """

    request: bool
    session_is_open: bool


class AdmissionStore(Protocol):
    """What an organization's limits for new requests are compared with."""

    async def occupied(self, organization_id: str) -> Occupied: ...

    async def known(self, organization_id: str, *, idempotency_key: str, session_key: str) -> KnownRequest: ...

    async def knows_group(self, organization_id: str, *, idempotency_key: str) -> bool:
        """Whether a batch was accepted under that key."""
        ...

    async def line(self, organization_id: str, execution_id: str) -> Line | None:
        """Where it stands in the queue; None: it is not there."""
        ...


class WaitingStore(Protocol):
    """Queued executions whose OpenCode servers are away, or take no more prompts in this second.

    pool: the organization whose own servers these are; None: the shared ones.
    """

    async def put_off(self, pool: str | None, *, wait_s: float) -> int:
        """Every execution whose turn it is waits that long; how many. Nothing is counted against them."""
        ...

    async def space_out(self, pool: str | None, *, per_s: float) -> int:
        """Every execution whose turn it is gets a moment of its own, so many a second, behind those that have one."""
        ...

    async def wake(self, instance_id: str) -> list[str]:
        """Those that wait for this server, or for any, wait no longer: the first 500 of them; their ids."""
        ...

    async def next_in_line(self) -> str | None:
        """One that would start if there were a place for it, of any organization; None when nobody waits."""
        ...


@dataclass(frozen=True)
class OpenExecutions:
    """How many of an organization wait, and how many occupy their session.

    oldest_queued_s: how long the oldest that could start has been waiting. cost_today in USD, tokens_today of every
    kind: of what ended since midnight UTC.
    """

    organization_id: str
    queued: int
    in_flight: int
    oldest_queued_s: float = 0.0
    cost_today: float = 0.0
    tokens_today: int = 0


class MaintenanceStore(Protocol):
    """The scheduler's statements over all tenants."""

    async def overdue_hints(self, *, older_than_s: float) -> list[Hint]:
        """One hint per kind of row that is ready and that nobody has taken for that long."""
        ...

    async def release_expired_leases(self) -> int:
        """Rows whose worker is gone become ready again, as suspects."""
        ...

    async def running_past_deadline(self) -> list[str]:
        """Make executions past their run's deadline due for a look; return their ids."""
        ...

    async def queued_to_end(self) -> list[tuple[str, str]]:
        """(organization, execution) of those queued that are past answer_by, or that somebody cancelled."""
        ...

    async def late(self, *, after_s: float, away: Sequence[str] = ()) -> list[tuple[str, str]]:
        """(organization, execution) of Slack threads that have waited that long and were not told so, the oldest.

        away: servers that cannot be reached; what runs there waits as well.
        """
        ...

    async def tell_late(self, organization_id: str, execution_id: str, *, text: str) -> str | None:
        """Queue the one notice of that thread; id of the notification, None when it was told, or has ended."""
        ...

    async def instances_to_reconcile(self, *, every_s: float) -> list[str]:
        """Take the OpenCode servers that are due for a comparison; each caller gets different ones."""
        ...

    async def expire(self, *, retention_s: Mapping[str, float], batch: int) -> Mapping[str, int]:
        """Delete what is older than allowed, at most `batch` rows per table; table -> rows deleted."""
        ...

    async def forget_idempotency_keys(self, *, after_s: float, batch: int) -> int:
        """Callers' keys older than that name new requests from now on; how many were forgotten."""
        ...

    async def renew(self, tokens: Sequence[str], *, lease_s: float) -> set[str]:
        """Renew leases in one statement; returns the tokens that still hold a row."""
        ...

    async def gauges(self) -> Mapping[str, float]: ...

    async def busiest(self, *, limit: int, always: Sequence[str] = ()) -> list[OpenExecutions]:
        """Organizations with the most executions that are not over, and those of `always` that exist."""
        ...


class TenantStore(Protocol):
    async def organization(self, organization_id: str) -> Organization | None: ...
    async def workspace(self, organization_id: str, workspace_id: str, *, afresh: bool = False) -> Workspace | None:
        """As it was some seconds ago at most; afresh: as it is now."""
        ...

    async def workspace_by_installation(self, enterprise_id: str | None, team_id: str | None) -> Workspace | None: ...
    async def end_workspace(
        self, organization_id: str, workspace_id: str, *, reason: str, installed_at: datetime | None = None
    ) -> None:
        """installed_at: only if that installation is still the last one."""
        ...

    async def token(self, token_hash: bytes) -> ServiceToken | None: ...
    async def submit_key(self, key_id: str) -> SubmitKey | None: ...
    async def use_nonce(self, key_id: str, nonce: str) -> bool:
        """False when the nonce was used before."""
        ...

    async def webhook_secrets(self, organization_id: str) -> Sequence[str]:
        """With all of which a webhook is signed, the newest first; none: it has no secret."""
        ...


class RestartStore(Protocol):
    async def take_restarts(self, *, after_s: float, every_s: float, drain_s: float) -> list[Instance]:
        """Servers that were not started anew within every_s, noted as being so now: those that have been away for
        after_s, and one of those that have been strained for as long and have nothing to do, or still do after drain_s.
        """
        ...


class VitalsStore(Protocol):
    """How OpenCode servers that answer are doing. A server that is not registered is passed over."""

    async def add_memory(self, instance_id: str, *, process: str, resident_bytes: int, keep_s: float) -> MemoryHistory:
        """Write down what a server told just now; process: another one than before forgets what that one had."""
        ...

    async def set_strain(self, instance_id: str, vital: Vital, reason: str | None) -> None:
        """None: it is well. One that is well again altogether is taken back slowly."""
        ...

    async def set_event_lag(self, instance_id: str, lag_s: float) -> None: ...


class InstanceStore(Protocol):
    async def loads(self, *, besides: Collection[str] = ()) -> list[Instance]:
        """Every server that is not removed, with the executions now occupying it. besides: ids of some not to count."""
        ...

    async def find(self, instance_id: str) -> Instance | None: ...

    async def lately(self, instance_id: str) -> Instance | None:
        """As it was some moments ago at most: where it is and how to enter, which hardly ever changes."""
        ...

    async def callback_keys(self, instance_id: str) -> Sequence[SecretStr]:
        """Those that its plugin may sign with, as they were some moments ago at most; none of a removed server."""
        ...

    async def report_health(
        self,
        instance_id: str,
        *,
        healthy: bool,
        detail: str,
        version: str,
        agents: Sequence[str],
        directories_path: str | None = None,
    ) -> None:
        """directories_path: where it makes organizations' directories; None: it makes none.

        One that did so once keeps its path: where its plugin did not load, new sessions wait instead of sharing a
        directory. Removing and adding it lets it begin without.
        """
        ...


class DirectoryStore(Protocol):
    """Which organizations' directories hold a place on which server."""

    async def take(self, directory: Directory) -> DirectoryState | None:
        """Take a place for it, or use the one that it has; what it is then. None: all places are taken.

        However many do so at once, a server never has more than its max_directories.
        """
        ...

    async def made(self, directory: Directory) -> None:
        """It is there and loaded."""
        ...

    async def displace(self, instance_id: str) -> Directory | None:
        """Begin to unload the one that has been idle the longest, to make room; None: none is idle."""
        ...

    async def take_idle(self, *, idle_s: float, limit: int) -> list[Directory]:
        """Begin to unload those that are idle for so long, and those whose unloading was begun and never ended."""
        ...

    async def disposed(self, directory: Directory) -> None:
        """It is unloaded: its place is free."""
        ...

    async def ready_on(self, instance_id: str) -> list[str]:
        """Paths of those that are loaded there."""
        ...
