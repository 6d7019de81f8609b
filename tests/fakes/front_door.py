"""The gateway over fakes: what its own tests and the client's tests talk to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastapi import FastAPI

from config.metrics import ProcessMetrics
from nubabel_workers.adapters.analysis_rules import load_rules
from nubabel_workers.adapters.egress.guard import EgressGuard, EgressPolicy
from nubabel_workers.adapters.plans import load_plans
from nubabel_workers.domain.circuit_breaker import BreakerState
from nubabel_workers.domain.credentials import operator_setting, operator_token_text, operator_tokens
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.ports import MaintenanceStore, OpenExecutions
from nubabel_workers.domain.tenants import BusyPolicy, Organization
from nubabel_workers.gateway.app import create_app
from nubabel_workers.gateway.dependencies import GatewayLimits, GatewayParts
from nubabel_workers.gateway.readiness import Check
from nubabel_workers.services.admit_requests import AdmitRequests
from nubabel_workers.services.apply_busy_policy import ApplyBusyPolicy
from nubabel_workers.services.cancel_execution import CancelExecution
from nubabel_workers.services.cancel_group import CancelGroup
from nubabel_workers.services.end_execution import EndExecution
from nubabel_workers.services.manage_dead_letters import ManageDeadLetters
from nubabel_workers.services.manage_limits import ManageLimits
from nubabel_workers.services.manage_organizations import ManageOrganizations
from nubabel_workers.services.read_capabilities import ReadCapabilities
from nubabel_workers.services.read_execution import ReadExecution
from nubabel_workers.services.read_limits import ReadLimits
from nubabel_workers.services.read_usage import ReadUsage
from nubabel_workers.services.read_waiting import ReadWaiting
from nubabel_workers.services.reuse_answers import ReuseAnswers
from nubabel_workers.services.settle_groups import SettleGroups
from nubabel_workers.services.submit_execution import SubmitExecution
from nubabel_workers.services.submit_group import SubmitGroup
from tests.fakes.accepted_executions import AcceptedExecutions
from tests.fakes.administration import FakeAudit, FakeDeadLetterRegistry, FakeOrganizations, FakeUsageReports
from tests.fakes.answers import FakeAnswerMemory
from tests.fakes.bridge import FakeConversations, FakeServers
from tests.fakes.budgets import FakeBudgets
from tests.fakes.callbacks import FakeCallbacks
from tests.fakes.clock import FakeChance, FakeClock
from tests.fakes.connections import (
    FakeAuthorizationServers,
    FakeConnectionStore,
    FakeToolServers,
    connections_over,
)
from tests.fakes.groups import FakeGroups
from tests.fakes.hints import FakeHints
from tests.fakes.progress import FakeProgress
from tests.fakes.tenants import FakeTenants
from tests.fakes.throttle import FakeThrottle

ACME = Organization(OrganizationId("org_acme"), "Acme")
OTHER = Organization(OrganizationId("org_other"), "Other")
IMPATIENT = Organization(OrganizationId("org_impatient"), "Impatient", busy_policy=BusyPolicy.INTERRUPT)
STRICT = Organization(OrganizationId("org_strict"), "Strict", busy_policy=BusyPolicy.REJECT)

OPERATORS = {name: operator_token_text(name.encode() * 32) for name in ("night", "night-new")}

QUICK = GatewayLimits(
    max_body_bytes=4096,
    body_timeout_s=0.2,
    stream_heartbeat_s=5,
    stream_row_check_s=0.05,
    stream_max_s=60,
    delegate_wait_s=5,
    sidecar_wait_s=5,
)


@dataclass
class FakeMaintenance:
    values: Mapping[str, float] = field(default_factory=dict)
    open: list[OpenExecutions] = field(default_factory=list)
    always: Sequence[str] = ()
    error: Exception | None = None
    reads: int = 0

    async def gauges(self) -> Mapping[str, float]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return self.values

    async def busiest(self, *, limit: int, always: Sequence[str] = ()) -> list[OpenExecutions]:
        self.always = always
        return self.open[:limit]


@dataclass
class FakeQueueLengths:
    values: Mapping[str, int] = field(default_factory=dict)

    async def lengths(self) -> Mapping[str, int]:
        return self.values


class FrontDoor:
    """Everything that the gateway needs, faked, and the application over it."""

    def __init__(self, *, checks: Mapping[str, Check] | None = None, limits: GatewayLimits = QUICK) -> None:
        self.clock = FakeClock()
        self.chance = FakeChance()
        self.executions = AcceptedExecutions(self.clock, self.chance)
        self.tenants = FakeTenants()
        self.throttle = FakeThrottle(self.clock)
        self.hints = FakeHints()
        self.progress = FakeProgress()
        self.dead_letters = FakeDeadLetterRegistry()
        self.audit = FakeAudit()
        self.usage = FakeUsageReports()
        self.organizations = FakeOrganizations({ACME.id: ACME})
        self.budgets = FakeBudgets()
        self.instances = FakeServers()
        self.maintenance = FakeMaintenance()
        self.queues = FakeQueueLengths()
        self.breakers: dict[str, BreakerState] = {}
        for organization in (ACME, OTHER, IMPATIENT, STRICT):
            self.tenants.add_organization(organization)
        store = self.executions.store()
        self.groups = FakeGroups(self.executions)
        settle = SettleGroups(self.groups, self.hints)
        reuse = ReuseAnswers(FakeAnswerMemory(), self.tenants, self.clock)
        end = EndExecution(store, self.hints, self.progress, settle, reuse, ProcessMetrics(), self.clock)
        self.cancel = CancelExecution(store, end, self.hints)
        busy_policy = ApplyBusyPolicy(store, self.cancel, end)
        self.admission = AdmitRequests(
            ReadLimits(self.tenants, load_plans()), self.executions, self.throttle, self.clock
        )
        self.submit = SubmitExecution(
            store,
            self.tenants,
            self.admission,
            busy_policy,
            self.hints,
            self.chance,
            load_rules(),
            self.instances.store(),
            lambda _url: None,
            answer_by_s=3600,
            max_prompt_bytes=2000,
        )
        self.tool_connections = FakeConnectionStore()
        self.authorization_servers = FakeAuthorizationServers()
        self.tool_servers = FakeToolServers()
        self.callbacks = FakeCallbacks(self.tenants, self.audit, self.progress, self.hints, self.clock)
        self.id_owners, self.foreign_ids = self.callbacks.id_owners, self.callbacks.foreign_ids
        budgets = self.budgets.kept(store, self.tenants, self.progress, self.hints, self.clock, self.chance)
        self.parts = GatewayParts(
            submit=self.submit,
            read=ReadExecution(store),
            waiting=ReadWaiting(self.executions, self.instances.store(), ReadLimits(self.tenants, load_plans())),
            cancel=self.cancel,
            submit_group=SubmitGroup(
                self.groups,
                self.submit,
                self.admission,
                busy_policy,
                self.hints,
                self.chance,
                answer_by_s=3600,
                max_requests=3,
            ),
            cancel_group=CancelGroup(self.groups, self.cancel, settle),
            tenants=self.tenants,
            progress=self.progress,
            maintenance=self._maintenance_store(),
            queues=self.queues,
            breakers=self._breaker_states,
            servers=self.callbacks.instances.loads,
            clock=self.clock,
            chance=self.chance,
            conversations=FakeConversations(self.executions),
            capabilities=ReadCapabilities(self.instances.store(), self.instances, load_rules(), self.clock, ask_s=0.05),
            usage=ReadUsage(self.usage, self.clock),
            manage_limits=ManageLimits(self.organizations, load_plans(), budgets),
            manage_organizations=ManageOrganizations(self.organizations, self.chance, bytes),
            budgets=budgets,
            foreign_ids=self.foreign_ids,
            check_callback=EgressGuard(EgressPolicy.parse(["hooks.internal"])).check_url,
            dead_letters=ManageDeadLetters(self.dead_letters, self.hints, self.audit, answer_by_s=3600),
            connections=connections_over(self.tool_connections, self.authorization_servers, self.tool_servers),
            callbacks=self.callbacks.parts,
            operator_tokens=operator_tokens(operator_setting(name, text) for name, text in OPERATORS.items()),
            readiness_checks=checks or {},
            limits=limits,
        )
        self.app: FastAPI = create_app(self.parts)

    async def _breaker_states(self) -> Mapping[str, BreakerState]:
        return self.breakers

    def _maintenance_store(self) -> MaintenanceStore:
        return self.maintenance  # type: ignore[return-value] # the gateway reads the gauges alone

    def token(self, organization: Organization = ACME) -> str:
        return self.tenants.add_token(len(self.tenants.tokens) + 1, organization.id)
