"""Fakes of the operators' ports: plain lists and dictionaries, with the actor of every change."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, cast

from pydantic import SecretStr

from nubabel_workers.domain.administration import (
    AuditEntry,
    DeadLetterGroup,
    DeadLetterHistory,
    Installation,
    RestoreReport,
    RotationReport,
    SubmitKeySummary,
    ToolCallDetails,
    ToolCallFilter,
    ToolCallSummary,
    WorkspaceSummary,
)
from nubabel_workers.domain.dead_letters import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterStatus,
    ReplayCandidate,
    SubjectKind,
)
from nubabel_workers.domain.directories import Directory
from nubabel_workers.domain.errors import CredentialsError
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.ids import OrganizationId, ServiceTokenId, WorkspaceId
from nubabel_workers.domain.limits import LimitChange
from nubabel_workers.domain.ports.administration import ErasureBegun, Woken
from nubabel_workers.domain.tenants import Instance, InstanceChange, Organization, PolicyChange, ServiceToken
from nubabel_workers.domain.usage_report import UsageLine, UsageQuery

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class FakeOrganizations:
    rows: dict[str, Organization] = field(default_factory=dict)
    secrets: dict[str, SecretStr] = field(default_factory=dict)
    previous_secrets: dict[str, SecretStr] = field(default_factory=dict)
    overlaps_s: dict[str, float] = field(default_factory=dict)
    actors: list[str] = field(default_factory=list)

    def put(self, organization: Organization) -> Organization:
        self.rows[organization.id] = organization
        return organization

    async def create(self, organization: Organization, *, actor: str) -> Organization | None:
        if await self.named(organization.name):
            return None
        self.actors.append(actor)
        return self.put(replace(organization, created_at=NOW))

    async def named(self, id_or_name: str) -> list[Organization]:
        return [o for o in self.rows.values() if o.id == id_or_name or o.name.lower() == id_or_name.lower()]

    async def set_policy(
        self,
        organization_id: str,
        change: PolicyChange,
        *,
        actor: str,
    ) -> Organization | None:
        before = self.rows.get(organization_id)
        if before is None:
            return None
        self.actors.append(actor)
        given = {name: getattr(change, name) for name in change.changes()}
        return self.put(replace(before, **given))

    async def set_limits(self, organization_id: str, change: LimitChange, *, actor: str) -> Organization | None:
        before = self.rows.get(organization_id)
        if before is None:
            return None
        self.actors.append(actor)
        own = {**before.limits, **change.set}
        return self.put(replace(before, limits={name: own[name] for name in own if name not in change.unset}))

    async def set_disabled(self, organization_id: str, *, disabled: bool, actor: str) -> Organization | None:
        before = self.rows.get(organization_id)
        if before is None:
            return None
        self.actors.append(actor)
        return self.put(replace(before, disabled_at=NOW if disabled else None))

    async def set_webhook_secret(
        self, organization_id: str, secret: SecretStr, *, overlap_s: float, actor: str
    ) -> Organization | None:
        if organization_id not in self.rows:
            return None
        if organization_id in self.previous_secrets and overlap_s:
            return None
        self.actors.append(actor)
        before = self.secrets.get(organization_id)
        if before is not None and overlap_s:
            self.previous_secrets[organization_id] = before
        else:
            self.previous_secrets.pop(organization_id, None)
        self.overlaps_s[organization_id] = overlap_s
        self.secrets[organization_id] = secret
        return self.rows[organization_id]

    async def replace_newest_webhook_secret(
        self, organization_id: str, secret: SecretStr, *, actor: str
    ) -> Organization | None:
        if organization_id not in self.previous_secrets:
            return None
        self.actors.append(actor)
        self.secrets[organization_id] = secret
        return self.rows[organization_id]

    async def old_webhook_secret_until(self, organization_id: str) -> datetime | None:
        return NOW if organization_id in self.previous_secrets else None

    async def end_previous_webhook_secret(self, organization_id: str, *, actor: str) -> bool:
        self.actors.append(actor)
        return self.previous_secrets.pop(organization_id, None) is not None

    async def list(self) -> list[Organization]:
        return list(self.rows.values())


class FakeOrganizationRows:
    """Two tables with a row each."""

    tables = ("organizations", "executions")
    left_out: ClassVar[Mapping[str, Sequence[str]]] = {"organizations": ("webhook_secret",)}

    @asynccontextmanager
    async def snapshot(self, organization_id: str) -> AsyncIterator["FakeOrganizationRows"]:
        self._organization_id = organization_id
        yield self

    async def rows(self, table: str) -> AsyncIterator[str]:
        yield f'{{"table": "{table}", "organization": "{self._organization_id}"}}'


@dataclass
class FakeErasure:
    """One execution, which a worker never lets go of where held says so. servers: dedicated ones."""

    organizations: FakeOrganizations
    servers: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, int]] = field(default_factory=lambda: {"executions": {"executions": 1, "attempts": 2}})
    is_held: bool = False
    tables = ("executions", "audit_log")

    async def begin(self, organization_id: str, *, actor: str) -> ErasureBegun | None:
        return ErasureBegun(0.0) if organization_id in self.organizations.rows and not self.servers else None

    async def own_servers(self, organization_id: str) -> list[str]:
        return self.servers

    async def end_open(self, organization_id: str) -> None:
        return None

    async def held(self, organization_id: str) -> int:
        return int(self.is_held)

    async def opencode_sessions(self, organization_id: str) -> list[tuple[str, str]]:
        return []

    async def directories(self, organization_id: str) -> list[Directory]:
        return []

    async def has_connections(self, organization_id: str) -> bool:
        return False

    async def names(self, organization_id: str) -> set[str]:
        return {organization_id}

    async def delete_some(self, organization_id: str, table: str) -> dict[str, int]:
        return self.rows.pop(table, {})

    async def finish(self, organization_id: str, counts: Mapping[str, int], *, actor: str) -> bool:
        return self.organizations.rows.pop(organization_id, None) is not None


class FakeOrganizationCache:
    async def forget(self, names: AbstractSet[str]) -> int:
        return 0


class FakeOpenCodeDirectories:
    async def prepare(self, instance: Instance, path: str) -> None:
        return None

    async def dispose(self, instance: Instance, path: str) -> None:
        return None

    async def delete(self, instance: Instance, path: str) -> None:
        return None


class FakeOpenCodeSessions:
    async def delete(self, instance: Instance, opencode_session_id: str) -> None:
        return None


@dataclass
class FakeWorkspaces:
    rows: dict[str, WorkspaceSummary] = field(default_factory=dict)
    tokens: dict[str, SecretStr] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)  # installation key -> workspace id
    actors: list[str] = field(default_factory=list)

    async def installed(self, installation_key: str) -> WorkspaceSummary | None:
        return self.rows.get(self.keys.get(installation_key, ""))

    async def save(
        self, organization_id: str, workspace_id: str, installation: Installation, *, actor: str
    ) -> WorkspaceSummary | None:
        if self.keys.setdefault(installation.key, workspace_id) != workspace_id:
            return None
        self.actors.append(actor)
        self.tokens[workspace_id] = installation.bot_token
        self.rows[workspace_id] = WorkspaceSummary(
            id=WorkspaceId(workspace_id),
            organization_id=OrganizationId(organization_id),
            team_id=installation.team_id or "",
            enterprise_id=installation.enterprise_id,
            team_name=installation.team_name,
            bot_user_id=installation.bot_user_id,
            active=True,
            installed_at=NOW,
            revoked_at=None,
        )
        return self.rows[workspace_id]

    async def find(self, workspace_id: str) -> WorkspaceSummary | None:
        return self.rows.get(workspace_id)

    async def end(
        self,
        organization_id: str,
        workspace_id: str,
        *,
        actor: str,
        reason: str,
        installed_at: datetime | None = None,
    ) -> bool:
        before = self.rows[workspace_id]
        if installed_at not in (None, before.installed_at):
            return False
        self.rows[workspace_id] = replace(before, active=False, revoked_at=NOW, ended_reason=reason)
        self.actors.append(actor)
        return before.active

    async def list(self, organization_id: str | None) -> list[WorkspaceSummary]:
        return [one for one in self.rows.values() if organization_id in (None, one.organization_id)]


@dataclass
class FakeAccess:
    token_rows: dict[str, ServiceToken] = field(default_factory=dict)
    hashes: dict[str, bytes] = field(default_factory=dict)
    lifetimes: dict[str, float | None] = field(default_factory=dict)
    key_rows: dict[str, SubmitKeySummary] = field(default_factory=dict)
    key_secrets: dict[str, SecretStr] = field(default_factory=dict)
    actors: list[str] = field(default_factory=list)

    async def add_token(
        self,
        token_id: str,
        token_hash: bytes,
        *,
        organization_id: str,
        name: str,
        expires_in_s: float | None,
        actor: str,
    ) -> ServiceToken:
        owner = OrganizationId(organization_id)
        self.token_rows[token_id] = ServiceToken(ServiceTokenId(token_id), owner, name, NOW)
        self.hashes[token_id] = token_hash
        self.lifetimes[token_id] = expires_in_s
        self.actors.append(actor)
        return self.token_rows[token_id]

    async def tokens(self, organization_id: str | None) -> list[ServiceToken]:
        return [one for one in self.token_rows.values() if organization_id in (None, one.organization_id)]

    async def revoke_token(self, token_id: str, *, actor: str) -> datetime | None:
        self.actors.append(actor)
        return NOW if token_id in self.token_rows else None

    async def add_submit_key(
        self, key_id: str, secret: SecretStr, *, organization_id: str, name: str, actor: str
    ) -> SubmitKeySummary:
        self.key_rows[key_id] = SubmitKeySummary(key_id, OrganizationId(organization_id), name, NOW, None)
        self.key_secrets[key_id] = secret
        self.actors.append(actor)
        return self.key_rows[key_id]

    async def submit_keys(self, organization_id: str | None) -> list[SubmitKeySummary]:
        return [one for one in self.key_rows.values() if organization_id in (None, one.organization_id)]

    async def revoke_submit_key(self, key_id: str, *, actor: str) -> datetime | None:
        self.actors.append(actor)
        return NOW if key_id in self.key_rows else None


@dataclass
class FakeInstances:
    """Both the registry and the store of OpenCode servers."""

    rows: dict[str, Instance] = field(default_factory=dict)
    actors: list[str] = field(default_factory=list)
    keys: dict[str, tuple[SecretStr, ...]] = field(default_factory=dict)  # callback keys, newest first

    async def loads(self, *, besides: Collection[str] = ()) -> list[Instance]:
        return [one for one in self.rows.values() if one.status != "removed"]

    async def find(self, instance_id: str) -> Instance | None:
        return self.rows.get(instance_id)

    async def lately(self, instance_id: str) -> Instance | None:
        return self.rows.get(instance_id)

    async def by_url(self, url: str) -> Instance | None:
        return next((one for one in self.rows.values() if one.url == url), None)

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
        before = self.rows[instance_id]
        self.rows[instance_id] = replace(
            before,
            healthy=healthy,
            health_detail=detail,
            version=version,
            agents=tuple(agents),
            directories_path=directories_path,
            checked_at=NOW,
        )

    async def change(self, instance_id: str, change: InstanceChange, *, actor: str) -> bool:
        before = self.rows[instance_id]
        if before.status == "removed":
            return False
        password = change.password or before.password
        self.rows[instance_id] = replace(before, password=password, **cast("dict[str, Any]", change.values()))
        self.actors.append(actor)
        return True

    async def add(self, instance: Instance, *, actor: str) -> Instance | None:
        self.rows[instance.id] = instance
        self.actors.append(actor)
        return instance

    async def add_callback_key(self, instance_id: str, key: SecretStr, *, actor: str) -> bool:
        if instance_id not in self.rows or self.rows[instance_id].status == "removed":
            return False
        self.keys[instance_id] = (key, *self.keys.get(instance_id, ()))[:2]
        self.actors.append(actor)
        return True

    async def end_previous_callback_key(self, instance_id: str, *, actor: str) -> bool:
        before = self.keys.get(instance_id, ())
        self.keys[instance_id] = before[:1]
        return len(before) > 1

    async def callback_keys(self, instance_id: str) -> Sequence[SecretStr]:
        return self.keys.get(instance_id, ())

    async def set_status(self, instance_id: str, status: str, *, only_if_idle: bool, actor: str) -> bool:
        before = self.rows[instance_id]
        if before.status in {status, "removed"} or (only_if_idle and before.in_flight):
            return False
        self.rows[instance_id] = replace(before, status=status)
        self.actors.append(actor)
        return True


@dataclass(frozen=True)
class FakeBot:
    team_id: str = "T1"
    team_name: str = "Acme"
    bot_user_id: str = "UBOT"
    bot_id: str = "BBOT"
    enterprise_id: str | None = None


@dataclass
class FakeSlackIdentity:
    bots: dict[str, FakeBot] = field(default_factory=dict)  # by token; any other is refused
    refusal: str = "invalid_auth"
    on_refusal: Callable[[], None] = lambda: None  # what happens elsewhere in that moment

    async def auth_test(self, token: SecretStr) -> FakeBot:
        bot = self.bots.get(token.get_secret_value())
        if bot is None:
            self.on_refusal()
            raise CredentialsError(f"auth.test: Slack answered {self.refusal}", code=self.refusal)
        return bot


@dataclass
class FakeAudit:
    entries: list[AuditEntry] = field(default_factory=list)

    async def add(self, entry: AuditEntry) -> None:
        self.entries.append(entry)

    async def list(self, *, organization_id: str | None, limit: int) -> list[AuditEntry]:
        return [one for one in reversed(self.entries) if organization_id in (None, one.organization_id)][:limit]


class FakeRestore:
    async def mark(self, *, actor: str) -> RestoreReport:
        return RestoreReport(executions=2, notifications=3)


@dataclass
class FakeRotation:
    report: RotationReport

    async def rotate(self) -> RotationReport:
        return self.report

    async def readable(self) -> tuple[int, int]:
        good = self.report.rotated + self.report.current
        return good, good + len(self.report.unreadable)


@dataclass
class FakeDeadLetterRegistry:
    """Dead letters in a dict. subjects: status of the row behind one; "failed" where nothing else is said."""

    rows: dict[str, DeadLetter] = field(default_factory=dict)
    subjects: dict[str, str] = field(default_factory=dict)
    found_groups: list[DeadLetterGroup] = field(default_factory=list)
    starts_s: dict[str, float] = field(default_factory=dict)  # dead letter -> seconds until its row's turn
    histories: dict[str, DeadLetterHistory] = field(default_factory=dict)

    def put(self, *letters: DeadLetter) -> None:
        self.rows.update({letter.id: letter for letter in letters})

    async def groups(self, *, organization_id: str | None, status: DeadLetterStatus) -> list[DeadLetterGroup]:
        return self.found_groups

    async def list(
        self, chosen: DeadLetterFilter, *, status: DeadLetterStatus | None, limit: int, after: str | None
    ) -> list[DeadLetter]:
        found = [one for one in self.rows.values() if _fits(one, chosen) and status in (None, one.status)]
        newest_first = sorted(found, key=lambda one: one.id, reverse=True)
        return [one for one in newest_first if after is None or one.id < after][:limit]

    async def find(self, dead_letter_id: str) -> DeadLetter | None:
        return self.rows.get(dead_letter_id)

    async def history(self, letter: DeadLetter) -> DeadLetterHistory:
        return self.histories.get(letter.id, DeadLetterHistory(letter))

    async def candidate(self, dead_letter_id: str) -> ReplayCandidate | None:
        letter = self.rows[dead_letter_id]
        if letter.status is not DeadLetterStatus.OPEN:
            return None
        status = None if letter.subject_kind is SubjectKind.MESSAGE else self._subject_status(letter.id)
        return ReplayCandidate(letter.id, letter.subject_kind, status)

    async def candidates(self, chosen: DeadLetterFilter, *, limit: int) -> Sequence[ReplayCandidate]:
        found = [one for one in self._open(chosen) if one.subject_kind is not SubjectKind.MESSAGE]
        return [ReplayCandidate(one.id, one.subject_kind, self._subject_status(one.id)) for one in found[:limit]]

    async def count_open(self, chosen: DeadLetterFilter, *, raw_only: bool) -> int:
        return sum(not raw_only or one.subject_kind is SubjectKind.MESSAGE for one in self._open(chosen))

    async def replay(
        self, dead_letter_ids: Sequence[str], *, actor: str, first_after_s: float, every_s: float, answer_by_s: float
    ) -> Sequence[Woken]:
        woken = []
        for place, dead_letter_id in enumerate(dead_letter_ids):
            letter = self.rows[dead_letter_id]
            if letter.status is not DeadLetterStatus.OPEN:
                continue
            ready = self._subject_status(letter.id) == "failed"
            status = DeadLetterStatus.REPLAYED if ready else DeadLetterStatus.DISCARDED
            self._resolve(letter.id, status, actor)
            self.starts_s[letter.id] = first_after_s + place * every_s
            hint = Hint(HintTask.DISPATCH, letter.subject_id or "", "org_a") if ready else None
            woken.append(Woken(letter.id, hint, None))
        return woken

    async def discard(self, dead_letter_ids: Sequence[str], *, note: str, actor: str) -> int:
        still_open = [one for one in dead_letter_ids if self.rows[one].status is DeadLetterStatus.OPEN]
        for dead_letter_id in still_open:
            self._resolve(dead_letter_id, DeadLetterStatus.DISCARDED, actor)
        return len(still_open)

    async def discard_matching(self, chosen: DeadLetterFilter, *, note: str, actor: str, limit: int) -> int:
        return await self.discard([one.id for one in self._open(chosen)[:limit]], note=note, actor=actor)

    def _open(self, chosen: DeadLetterFilter) -> Sequence[DeadLetter]:
        found = [one for one in self.rows.values() if _fits(one, chosen) and one.status is DeadLetterStatus.OPEN]
        return sorted(found, key=lambda one: one.id)

    def _subject_status(self, dead_letter_id: str) -> str:
        return self.subjects.get(dead_letter_id, "failed")

    def _resolve(self, dead_letter_id: str, status: DeadLetterStatus, actor: str) -> None:
        self.rows[dead_letter_id] = replace(
            self.rows[dead_letter_id], status=status, resolved_at=NOW, resolved_by=actor
        )


def _fits(letter: DeadLetter, chosen: DeadLetterFilter) -> bool:
    return (
        chosen.organization_id in {None, letter.organization_id}
        and chosen.reason in {None, letter.reason}
        and chosen.cause in {None, letter.cause}
        and chosen.queue in {None, letter.queue}
        and chosen.task in {None, letter.task}
        and (chosen.created_from is None or letter.created_at >= chosen.created_from)
        and (chosen.created_before is None or letter.created_at < chosen.created_before)
    )


@dataclass
class FakeToolCallReports:
    rows: dict[str, ToolCallDetails] = field(default_factory=dict)  # newest first
    asked: list[ToolCallFilter] = field(default_factory=list)

    async def organization_of(self, tool_call_id: str) -> str | None:
        found = self.rows.get(tool_call_id)
        return found.call.organization_id if found else None

    async def list(self, chosen: ToolCallFilter, *, limit: int) -> list[ToolCallSummary]:
        self.asked.append(chosen)
        calls = [one.call for one in self.rows.values()]
        return [one for one in calls if chosen.organization_id in {None, one.organization_id}][:limit]

    async def find(self, organization_id: str, tool_call_id: str) -> ToolCallDetails | None:
        found = self.rows.get(tool_call_id)
        return found if found and found.call.organization_id == organization_id else None


@dataclass
class FakeUsageReports:
    found: list[UsageLine] = field(default_factory=list)
    asked: list[UsageQuery] = field(default_factory=list)

    async def lines(self, query: UsageQuery, *, limit: int) -> list[UsageLine]:
        self.asked.append(query)
        return self.found[:limit]


@dataclass
class FakeWorkspaceCanceller:
    open_executions: dict[str, list[str]] = field(default_factory=dict)  # by workspace
    reasons: list[str] = field(default_factory=list)

    async def cancel_workspace(self, organization_id: str, workspace_id: str, *, reason: str) -> list[str]:
        self.reasons.append(reason)
        return self.open_executions.pop(workspace_id, [])
