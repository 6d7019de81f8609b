"""What the operators' services need from the outside; the ports of everything else are in `ports`.

Every change names its actor and is written to the audit log in the same transaction.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pydantic import SecretStr

from nubabel_workers.domain.administration import (
    AuditEntry,
    DeadLetterGroup,
    DeadLetterHistory,
    Delivery,
    ExecutionSummary,
    Installation,
    RestoreReport,
    RotationReport,
    SessionWait,
    SubmitKeySummary,
    ToolCallDetails,
    ToolCallFilter,
    ToolCallSummary,
    WorkspaceSummary,
)
from nubabel_workers.domain.dead_letters import DeadLetter, DeadLetterFilter, DeadLetterStatus, ReplayCandidate
from nubabel_workers.domain.directories import Directory
from nubabel_workers.domain.executions import Status
from nubabel_workers.domain.foreign_ids import IdKind
from nubabel_workers.domain.groups import GroupSummary
from nubabel_workers.domain.hints import Hint
from nubabel_workers.domain.limits import LimitChange
from nubabel_workers.domain.tenants import Instance, InstanceChange, Organization, PolicyChange, ServiceToken
from nubabel_workers.domain.usage_report import UsageLine, UsageQuery


class OrganizationRegistry(Protocol):
    async def create(self, organization: Organization, *, actor: str) -> Organization | None:
        """None when another organization has that name already (ignoring case)."""
        ...

    async def named(self, id_or_name: str) -> list[Organization]:
        """The one with that id, or all with that name (ignoring case)."""
        ...

    async def set_policy(
        self,
        organization_id: str,
        change: PolicyChange,
        *,
        actor: str,
    ) -> Organization | None:
        """Change what is given, leave the rest; None when there is no such organization."""
        ...

    async def set_limits(self, organization_id: str, change: LimitChange, *, actor: str) -> Organization | None:
        """Change the organization's own limits; None when there is no such organization."""
        ...

    async def set_disabled(self, organization_id: str, *, disabled: bool, actor: str) -> Organization | None: ...

    async def set_webhook_secret(
        self, organization_id: str, secret: SecretStr, *, overlap_s: float, actor: str
    ) -> Organization | None:
        """The one before signs as well for overlap_s; with 0 every other ends at once.

        None, and nothing changes, also while an older one still signs: unless overlap_s is 0.
        """
        ...

    async def replace_newest_webhook_secret(
        self, organization_id: str, secret: SecretStr, *, actor: str
    ) -> Organization | None:
        """The newest ends at once, the older one signs on as it was to; without one None, and nothing changes."""
        ...

    async def old_webhook_secret_until(self, organization_id: str) -> datetime | None:
        """How long the one before the newest signs as well; None when no other signs."""
        ...

    async def end_previous_webhook_secret(self, organization_id: str, *, actor: str) -> bool:
        """Only the newest signs from now on. False when no other did."""
        ...

    async def list(self) -> list[Organization]: ...


class OrganizationSnapshot(Protocol):
    """What is stored of one organization at one moment. left_out: columns that hold secrets, by table."""

    @property
    def tables(self) -> Sequence[str]: ...

    @property
    def left_out(self) -> Mapping[str, Sequence[str]]: ...

    def rows(self, table: str) -> AsyncIterator[str]:
        """Each row as one line of JSON, a few of them in memory at a time."""
        ...


class OrganizationRows(Protocol):
    def snapshot(self, organization_id: str) -> AbstractAsyncContextManager[OrganizationSnapshot]: ...


class Archive(Protocol):
    """Where an export goes."""

    async def add_lines(self, name: str, lines: AsyncIterator[str]) -> int:
        """One line at a time; how many there were."""
        ...

    def add(self, name: str, text: str) -> None: ...


@dataclass(frozen=True)
class ErasureBegun:
    """for_s: seconds since it was begun, at first."""

    for_s: float


class Erasure(Protocol):
    """Each method may be called again, and by two at once. tables: in the order in which their rows are deleted."""

    @property
    def tables(self) -> Sequence[str]: ...

    async def begin(self, organization_id: str, *, actor: str) -> ErasureBegun | None:
        """Refuse everything new of it, for good. None: there is no such organization, or it has own servers."""
        ...

    async def own_servers(self, organization_id: str) -> list[str]: ...

    async def end_open(self, organization_id: str) -> None:
        """What is queued is cancelled, what runs is to be."""
        ...

    async def held(self, organization_id: str) -> int:
        """How many of its executions may still get a session on a server."""
        ...

    async def opencode_sessions(self, organization_id: str) -> list[tuple[str, str]]:
        """(server, OpenCode session) of every one that it ever had."""
        ...

    async def directories(self, organization_id: str) -> list[Directory]:
        """Its own on shared servers, wherever it ever had one."""
        ...

    async def has_connections(self, organization_id: str) -> bool: ...

    async def names(self, organization_id: str) -> set[str]:
        """Ids under which something of it may stand in the cache."""
        ...

    async def delete_some(self, organization_id: str, table: str) -> Mapping[str, int]:
        """How many rows, by table: with those of other tables that went along. Empty: there are none any more."""
        ...

    async def finish(self, organization_id: str, counts: Mapping[str, int], *, actor: str) -> bool:
        """The organization itself, with the tombstone in the audit log; False when somebody else did."""
        ...


class OrganizationCache(Protocol):
    async def forget(self, names: AbstractSet[str]) -> int:
        """Everything whose key holds one of these names; how many."""
        ...


class OpenCodeSessions(Protocol):
    async def delete(self, instance: Instance, opencode_session_id: str) -> None:
        """Stop it and delete it with all that was said in it; one that is not there is fine."""
        ...


class WorkspaceRegistry(Protocol):
    async def installed(self, installation_key: str) -> WorkspaceSummary | None:
        """Whoever it belongs to."""
        ...

    async def save(
        self, organization_id: str, workspace_id: str, installation: Installation, *, actor: str
    ) -> WorkspaceSummary | None:
        """Install, or install again; None when the installation is not this organization's workspace of that id."""
        ...

    async def find(self, workspace_id: str) -> WorkspaceSummary | None: ...

    async def end(
        self,
        organization_id: str,
        workspace_id: str,
        *,
        actor: str,
        reason: str,
        installed_at: datetime | None = None,
    ) -> bool:
        """installed_at: only if that installation is still the last one. False when nothing changed."""
        ...

    async def list(self, organization_id: str | None) -> list[WorkspaceSummary]: ...


class AccessRegistry(Protocol):
    async def add_token(
        self,
        token_id: str,
        token_hash: bytes,
        *,
        organization_id: str,
        name: str,
        expires_in_s: float | None,
        actor: str,
    ) -> ServiceToken: ...

    async def tokens(self, organization_id: str | None) -> list[ServiceToken]: ...

    async def revoke_token(self, token_id: str, *, actor: str) -> datetime | None:
        """When it was revoked (at first); None when there is no such token."""
        ...

    async def add_submit_key(
        self, key_id: str, secret: SecretStr, *, organization_id: str, name: str, actor: str
    ) -> SubmitKeySummary: ...

    async def submit_keys(self, organization_id: str | None) -> list[SubmitKeySummary]: ...

    async def revoke_submit_key(self, key_id: str, *, actor: str) -> datetime | None: ...


class InstanceRegistry(Protocol):
    async def find(self, instance_id: str) -> Instance | None: ...

    async def by_url(self, url: str) -> Instance | None: ...

    async def add(self, instance: Instance, *, actor: str) -> Instance | None:
        """Add a server, or bring a removed one of the same id back; None when the URL is in use under another id."""
        ...

    async def change(self, instance_id: str, change: InstanceChange, *, actor: str) -> bool:
        """False: there is no such server any more."""
        ...

    async def set_status(self, instance_id: str, status: str, *, only_if_idle: bool, actor: str) -> bool:
        """Return whether it changed. only_if_idle: not while an execution occupies it."""
        ...


class CallbackKeyRegistry(Protocol):
    """The keys with which the plugins of OpenCode servers sign: two of a server are good at a time."""

    async def add_callback_key(self, instance_id: str, key: SecretStr, *, actor: str) -> bool:
        """The newest stays good beside it, the one before that ends. False: there is no such server any more."""
        ...

    async def end_previous_callback_key(self, instance_id: str, *, actor: str) -> bool:
        """Only the newest stays good. False when there was no other."""
        ...


class KeyRotation(Protocol):
    async def rotate(self) -> RotationReport: ...


class StoredSecrets(Protocol):
    async def readable(self) -> tuple[int, int]:
        """How many stored secrets the configured keys decrypt, of how many looked at: the newest of each kind."""
        ...


class RestoreMarks(Protocol):
    async def mark(self, *, actor: str) -> RestoreReport:
        """Put what the restored rows would tell in doubt: it may have been told after the backup."""
        ...


class AuditTrail(Protocol):
    async def add(self, entry: AuditEntry) -> None:
        """Not kept where the organization is erased, or just being: nobody would delete it any more."""
        ...

    async def list(self, *, organization_id: str | None, limit: int) -> list[AuditEntry]: ...


class IdOwners(Protocol):
    async def owners(self, kind: IdKind, name: str) -> frozenset[str]:
        """The organizations that have what is called so: several only where two OpenCode servers agree on a name."""
        ...


class WorkspaceCanceller(Protocol):
    async def cancel_workspace(self, organization_id: str, workspace_id: str, *, reason: str) -> list[str]:
        """Cancel everything that a Slack workspace asked for; return the ids."""
        ...


class BotIdentity(Protocol):
    """Whose token it is. Values that Slack left out are empty."""

    @property
    def team_id(self) -> str: ...
    @property
    def team_name(self) -> str: ...
    @property
    def bot_user_id(self) -> str: ...
    @property
    def bot_id(self) -> str: ...
    @property
    def enterprise_id(self) -> str | None: ...


class SlackIdentity(Protocol):
    async def auth_test(self, token: SecretStr) -> BotIdentity:
        """Raises CredentialsError when Slack refuses the token."""
        ...


class ExecutionReports(Protocol):
    async def organization_of(self, execution_id: str) -> str | None: ...

    async def deliveries(self, organization_id: str, execution_id: str) -> list[Delivery]: ...

    async def session_wait(self, organization_id: str, execution_id: str) -> SessionWait | None:
        """The last earlier execution of the session that was not over when this one came; None if there was none."""
        ...

    async def list(
        self, *, organization_id: str | None, statuses: frozenset[Status] | None, limit: int
    ) -> list[ExecutionSummary]: ...


class GroupReports(Protocol):
    """Dispatched batches in operators' hands."""

    async def organization_of(self, group_id: str) -> str | None: ...

    async def list(self, *, organization_id: str | None, limit: int) -> list[GroupSummary]:
        """Newest first; of one organization, or of all of them."""
        ...


class ToolCallReports(Protocol):
    """The ledger of tool calls in operators' hands. Its writing side is `ports.tool_calls.ToolCallLedger`."""

    async def organization_of(self, tool_call_id: str) -> str | None: ...

    async def list(self, chosen: ToolCallFilter, *, limit: int) -> list[ToolCallSummary]:
        """Newest first."""
        ...

    async def find(self, organization_id: str, tool_call_id: str) -> ToolCallDetails | None: ...


class UsageReports(Protocol):
    async def lines(self, query: UsageQuery, *, limit: int) -> list[UsageLine]:
        """Sums over what was used, at most `limit` lines."""
        ...


@dataclass(frozen=True)
class Woken:
    """What a replay made ready: the row's hint (None: it had not failed any more), the notice to its thread."""

    dead_letter_id: str
    hint: Hint | None
    notice_id: str | None


class DeadLetterRegistry(Protocol):
    """Dead letters in operators' hands: across organizations. The workers' side is `ports.DeadLetterStore`."""

    async def groups(self, *, organization_id: str | None, status: DeadLetterStatus) -> Sequence[DeadLetterGroup]:
        """Largest group first."""
        ...

    async def list(
        self, chosen: DeadLetterFilter, *, status: DeadLetterStatus | None, limit: int, after: str | None
    ) -> list[DeadLetter]:
        """Newest first; after: the last id of the page before."""
        ...

    async def find(self, dead_letter_id: str) -> DeadLetter | None: ...

    async def history(self, letter: DeadLetter) -> DeadLetterHistory: ...

    async def candidates(self, chosen: DeadLetterFilter, *, limit: int) -> Sequence[ReplayCandidate]:
        """Open ones with a row behind them, oldest first."""
        ...

    async def candidate(self, dead_letter_id: str) -> ReplayCandidate | None:
        """None when it is not open."""
        ...

    async def count_open(self, chosen: DeadLetterFilter, *, raw_only: bool) -> int: ...

    async def replay(
        self, dead_letter_ids: Sequence[str], *, actor: str, first_after_s: float, every_s: float, answer_by_s: float
    ) -> Sequence[Woken]:
        """Settle those that are open and make their failed rows ready: the first after so many seconds, the others
        one by one. Threads are told with their row. One whose row had not failed any more is put away with a note.
        """
        ...

    async def discard(self, dead_letter_ids: Sequence[str], *, note: str, actor: str) -> int:
        """How many of them were open."""
        ...

    async def discard_matching(self, chosen: DeadLetterFilter, *, note: str, actor: str, limit: int) -> int: ...
