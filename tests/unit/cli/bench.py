"""The command line over fakes: what was typed in, what came out."""

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import orjson
from structlog.testing import capture_logs
from typer.testing import CliRunner, Result

from config.metrics import ProcessMetrics
from nubabel_workers.adapters.analysis_rules import load_rules
from nubabel_workers.adapters.plans import load_plans
from nubabel_workers.cli.administration import Administration, Defaults
from nubabel_workers.cli.invocation import Invocation
from nubabel_workers.cli.main import app
from nubabel_workers.domain.administration import Delivery, ExecutionSummary, RotationReport, SessionWait
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.executions import Status
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.ports import InstanceStore, OpenCodeServer
from nubabel_workers.domain.rollout import EVERYTHING_ON_OPENCODE
from nubabel_workers.domain.tenants import Instance, Organization
from nubabel_workers.services.admit_requests import AdmitRequests
from nubabel_workers.services.apply_busy_policy import ApplyBusyPolicy
from nubabel_workers.services.await_execution import AwaitExecution
from nubabel_workers.services.cancel_by_operator import CancelByOperator
from nubabel_workers.services.cancel_execution import CancelExecution
from nubabel_workers.services.cancel_group import CancelGroup
from nubabel_workers.services.check_health import CheckHealth, Probe
from nubabel_workers.services.connections import Connections
from nubabel_workers.services.end_execution import EndExecution
from nubabel_workers.services.erase_organization import EraseOrganization, ErasureTimes
from nubabel_workers.services.export_organization import ExportOrganization
from nubabel_workers.services.find_unserved import FindUnserved
from nubabel_workers.services.manage_callback_keys import ManageCallbackKeys
from nubabel_workers.services.manage_dead_letters import ManageDeadLetters
from nubabel_workers.services.manage_instances import ManageInstances
from nubabel_workers.services.manage_keys import ManageKeys
from nubabel_workers.services.manage_limits import ManageLimits
from nubabel_workers.services.manage_organizations import ManageOrganizations
from nubabel_workers.services.manage_tokens import ManageSubmitKeys, ManageTokens
from nubabel_workers.services.manage_workspaces import ManageWorkspaces
from nubabel_workers.services.read_execution import ReadExecution
from nubabel_workers.services.read_limits import ReadLimits
from nubabel_workers.services.read_tool_calls import ReadToolCalls
from nubabel_workers.services.read_usage import ReadUsage
from nubabel_workers.services.read_waiting import ReadWaiting
from nubabel_workers.services.reuse_answers import ReuseAnswers
from nubabel_workers.services.settle_groups import SettleGroups
from nubabel_workers.services.submit_execution import SubmitExecution
from tests.fakes.accepted_executions import AcceptedExecutions
from tests.fakes.administration import (
    FakeAccess,
    FakeAudit,
    FakeBot,
    FakeDeadLetterRegistry,
    FakeErasure,
    FakeInstances,
    FakeOpenCodeDirectories,
    FakeOpenCodeSessions,
    FakeOrganizationCache,
    FakeOrganizationRows,
    FakeOrganizations,
    FakeRestore,
    FakeRotation,
    FakeSlackIdentity,
    FakeToolCallReports,
    FakeUsageReports,
    FakeWorkspaceCanceller,
    FakeWorkspaces,
)
from tests.fakes.answers import FakeAnswerMemory
from tests.fakes.breakers import FakeBreakers
from tests.fakes.budgets import FakeBudgets
from tests.fakes.clock import FakeChance, FakeClock
from tests.fakes.connections import (
    FakeAuthorizationServers,
    FakeConnectionStore,
    FakeToolServers,
    connections_over,
)
from tests.fakes.foreign_ids import no_foreign_ids
from tests.fakes.groups import FakeGroups
from tests.fakes.hints import FakeHints
from tests.fakes.progress import FakeProgress
from tests.fakes.tenants import FakeTenants
from tests.fakes.throttle import FakeThrottle

ACME = Organization(OrganizationId("org_acme"), "Acme")


@dataclass
class FakeMigrations:
    revision: str | None = None
    error: Exception | None = None

    def head(self) -> str:
        return "0002"

    def current(self) -> str | None:
        if self.error is not None:
            raise self.error
        return self.revision

    def up(self, revision: str) -> None:
        self.revision = "0002" if revision == "head" else revision

    def down(self, revision: str) -> None:
        self.revision = None if revision == "base" else revision

    def set_role_passwords(self) -> list[str]:
        return ["nubabel_tenant"]


@dataclass
class FakeReports:
    executions: AcceptedExecutions
    told: list[Delivery] = field(default_factory=list)
    busy: SessionWait | None = None

    async def organization_of(self, execution_id: str) -> str | None:
        row = self.executions.rows.get(execution_id)
        return row.organization_id if row else None

    async def deliveries(self, organization_id: str, execution_id: str) -> list[Delivery]:
        return self.told

    async def session_wait(self, organization_id: str, execution_id: str) -> SessionWait | None:
        return self.busy

    async def list(
        self, *, organization_id: str | None, statuses: frozenset[Status] | None, limit: int
    ) -> list[ExecutionSummary]:
        fitting = [
            row
            for row in self.executions.rows.values()
            if organization_id in (None, row.organization_id) and (statuses is None or row.status in statuses)
        ]
        return [
            ExecutionSummary(
                row.id,
                row.organization_id,
                row.session_id,
                row.source,
                row.status,
                row.created_at,
                None,
                row.instance_id,
                row.attempt,
                row.started_at,
                row.finished_at,
                row.error,
                row.prompt[:200],
            )
            for row in fitting[:limit]
        ]


@dataclass
class FakeServer:
    problem: str | None = None

    def server(self, instance: Instance) -> OpenCodeServer:
        return cast("OpenCodeServer", self)

    async def version(self) -> str:
        if self.problem is not None:
            raise UnavailableError(self.problem)
        return "1.18.33"

    async def directories_path(self) -> str | None:
        return "/srv/opencode/directories"

    async def agents(self, directory: str | None) -> list[str]:
        return ["Sisyphus - ultraworker"]


class Bench:
    """Fakes, and commands typed at them. Acme exists."""

    def __init__(self) -> None:
        self.clock, self.chance = FakeClock(), FakeChance()
        self.organizations = FakeOrganizations({ACME.id: ACME})
        self.workspaces = FakeWorkspaces()
        self.access = FakeAccess()
        self.instances = FakeInstances()
        self.breakers = FakeBreakers()
        self.servers = FakeServer()
        self.slack = FakeSlackIdentity({"xoxb-1": FakeBot()})
        self.canceller = FakeWorkspaceCanceller()
        self.audit = FakeAudit()
        self.rotation = FakeRotation(RotationReport(rotated=3, current=4))
        self.dead_letters = FakeDeadLetterRegistry()
        self.tool_calls = FakeToolCallReports()
        self.usage = FakeUsageReports()
        self.budgets = FakeBudgets()
        self.hints = FakeHints()
        self.progress = FakeProgress()
        self.tenants = FakeTenants()
        self.executions = AcceptedExecutions(self.clock, self.chance, audited=self.audit.entries)
        self.groups = FakeGroups(self.executions)
        self.reports = FakeReports(self.executions)
        self.migrations = FakeMigrations()
        self.tool_connections = FakeConnectionStore()
        self.tool_servers = FakeToolServers()
        self.public_url: str | None = "https://nubabel.example"
        self.probes: list[Probe] = []
        self.rollout = EVERYTHING_ON_OPENCODE
        self.opening_fails: Exception | None = None
        self.defaults = Defaults()

    def type(self, *words: str, typed: str | None = None, env: dict[str, str] | None = None) -> Result:
        invocation = Invocation(self._open, lambda: self.migrations, "cli:anna")
        with capture_logs():  # the real command sends them elsewhere
            return CliRunner().invoke(app, list(words), input=typed, env=env, obj=invocation, prog_name="nubabel")

    def json(self, *words: str, typed: str | None = None) -> Any:
        """The output of a command that succeeds, with --json."""
        result = self.type(*words, "--json", typed=typed)
        assert result.exit_code == 0, result.output
        return orjson.loads(result.stdout)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Administration]:
        if self.opening_fails is not None:
            raise self.opening_fails
        yield self._administration()

    def _connections(self) -> Connections:
        return connections_over(
            self.tool_connections, FakeAuthorizationServers(), self.tool_servers, public_url=self.public_url
        )

    def _administration(self) -> Administration:
        store = self.executions.store()
        settle = SettleGroups(self.groups, self.hints)
        reuse = ReuseAnswers(FakeAnswerMemory(), self.tenants, self.clock)
        end = EndExecution(store, self.hints, self.progress, settle, reuse, ProcessMetrics(), self.clock)
        cancel = CancelExecution(store, end, self.hints)
        busy_policy = ApplyBusyPolicy(store, cancel, end)
        instances = ManageInstances(
            self.instances, self.instances, self.servers, self.breakers, self.chance, main_agent="Sisyphus - "
        )
        find_unserved = FindUnserved(self.organizations, cast("InstanceStore", self.instances), self.rollout)
        budgets = self.budgets.kept(store, self.tenants, self.progress, self.hints, self.clock, self.chance)
        return Administration(
            organizations=ManageOrganizations(self.organizations, self.chance, bytes),
            export=ExportOrganization(FakeOrganizationRows(), self.audit, self.clock, schema_revision=lambda: "1"),
            limits=ManageLimits(self.organizations, load_plans(), budgets),
            erase=EraseOrganization(
                FakeErasure(self.organizations),
                FakeOrganizationCache(),
                FakeOpenCodeSessions(),
                FakeOpenCodeDirectories(),
                self.instances,
                lambda: self._connections().manage,
                times=ErasureTimes(settle_s=0),
            ),
            workspaces=ManageWorkspaces(self.workspaces, self.slack, self.canceller, self.chance),
            tokens=ManageTokens(self.access, self.chance, bytes),
            submit_keys=ManageSubmitKeys(self.access, self.chance, bytes),
            keys=ManageKeys(self.rotation, self.rotation, self.audit),
            instances=instances,
            unserved=find_unserved,
            callback_keys=ManageCallbackKeys(self.instances, secrets.token_bytes),
            dead_letters=ManageDeadLetters(self.dead_letters, self.hints, self.audit, answer_by_s=3600),
            tool_calls=ReadToolCalls(self.tool_calls, self.audit),
            usage=ReadUsage(self.usage, self.clock),
            budgets=budgets,
            health=CheckHealth(
                self.probes,
                frozenset(),
                self.instances,
                instances,
                find_unserved,
                self.workspaces,
                ManageWorkspaces(self.workspaces, self.slack, self.canceller, self.chance),
                self.tenants,
                self.slack,
                self.rollout,
                self.clock,
            ),
            audit=self.audit,
            restore=FakeRestore(),
            reports=self.reports,
            groups=self.groups,
            cancel_group=CancelGroup(self.groups, cancel, settle),
            submit=SubmitExecution(
                store,
                self.tenants,
                AdmitRequests(
                    ReadLimits(self.tenants, load_plans()), self.executions, FakeThrottle(self.clock), self.clock
                ),
                busy_policy,
                self.hints,
                self.chance,
                load_rules(),
                cast("InstanceStore", self.instances),
                lambda _url: None,
                answer_by_s=3600,
                max_prompt_bytes=2000,
            ),
            read=ReadExecution(store),
            waiting=ReadWaiting(
                self.executions, cast("InstanceStore", self.instances), ReadLimits(self.tenants, load_plans())
            ),
            cancel_by_operator=CancelByOperator(cancel, self.reports),
            wait=AwaitExecution(ReadExecution(store), self.progress, self.clock, row_check_s=0.01),
            foreign_ids=no_foreign_ids(),
            clock=self.clock,
            chance=self.chance,
            connections=self._connections,
            defaults=self.defaults,
        )


def fails_with(result: Result, code: int, *says: str) -> None:
    """One line on stderr, nothing on stdout, that exit code."""
    assert result.exit_code == code, result.output
    lines: Sequence[str] = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for words in says:
        assert words in lines[0]
    assert result.stdout == ""
