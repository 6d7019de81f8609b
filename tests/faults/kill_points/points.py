"""Which calls are kill points: every method of every port, and every commit inside of one that makes several."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import ModuleType
from typing import Any

from nubabel_workers.adapters.broker.hints import BrokerHintPublisher
from nubabel_workers.adapters.cache.circuit_breakers import RedisCircuitBreakers
from nubabel_workers.adapters.cache.leadership import RedisLeadership
from nubabel_workers.adapters.cache.mappings import CachedSessionMappings
from nubabel_workers.adapters.cache.progress import RedisProgress
from nubabel_workers.adapters.cache.throttle import RedisThrottle
from nubabel_workers.adapters.opencode.servers import HttpOpenCodeEvents, HttpOpenCodeServer
from nubabel_workers.adapters.slack.messenger import SlackMessenger
from nubabel_workers.adapters.storage.access import PostgresAccess
from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.adapters.storage.conversations import PostgresConversations
from nubabel_workers.adapters.storage.dead_letter_registry import PostgresDeadLetterRegistry
from nubabel_workers.adapters.storage.dead_letters import PostgresDeadLetters
from nubabel_workers.adapters.storage.execution_reports import PostgresExecutionReports
from nubabel_workers.adapters.storage.executions import PostgresExecutions
from nubabel_workers.adapters.storage.inbound import PostgresInbound
from nubabel_workers.adapters.storage.instances import PostgresInstances
from nubabel_workers.adapters.storage.key_rotation import PostgresKeyRotation
from nubabel_workers.adapters.storage.maintenance import PostgresMaintenance
from nubabel_workers.adapters.storage.notifications import PostgresNotifications
from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.adapters.storage.restore import PostgresRestore
from nubabel_workers.adapters.storage.tenants import PostgresTenants
from nubabel_workers.adapters.storage.tool_connections import PostgresToolConnections
from nubabel_workers.adapters.storage.waiting import PostgresWaiting
from nubabel_workers.adapters.storage.workspaces import PostgresWorkspaces
from nubabel_workers.adapters.supervisor import CommandSupervisor
from nubabel_workers.adapters.webhooks.sender import StandardWebhookSender
from nubabel_workers.domain import ports
from nubabel_workers.domain.ports import administration, budgets, orchestrators, tool_calls, tools

# Name in the table of results -> the adapter that serves it, and the ports that it implements.
ADAPTERS: Mapping[str, tuple[type, tuple[type, ...]]] = {
    "executions": (PostgresExecutions, (ports.ExecutionStore,)),
    "conversations": (PostgresConversations, (ports.ConversationStore,)),
    "inbound": (PostgresInbound, (ports.InboundStore,)),
    "notifications": (PostgresNotifications, (ports.NotificationStore,)),
    "dead_letters": (PostgresDeadLetters, (ports.DeadLetterStore,)),
    "maintenance": (PostgresMaintenance, (ports.MaintenanceStore,)),
    "waiting": (PostgresWaiting, (ports.WaitingStore,)),
    "tenants": (PostgresTenants, (ports.TenantStore,)),
    "instances": (
        PostgresInstances,
        (ports.InstanceStore, ports.RestartStore, administration.InstanceRegistry, administration.CallbackKeyRegistry),
    ),
    "mappings": (CachedSessionMappings, (ports.SessionMappings,)),
    "progress": (RedisProgress, (ports.ProgressStream,)),
    "throttle": (RedisThrottle, (ports.Throttle,)),
    "breakers": (RedisCircuitBreakers, (ports.CircuitBreakers,)),
    "hints": (BrokerHintPublisher, (ports.HintPublisher,)),
    "leadership": (RedisLeadership, ()),
    "messenger": (SlackMessenger, (ports.Messenger, administration.SlackIdentity)),
    "supervisor": (CommandSupervisor, (ports.Supervisor,)),
    "webhooks": (StandardWebhookSender, (ports.WebhookSender,)),
    "opencode": (HttpOpenCodeServer, (ports.OpenCodeServer,)),
    "opencode_events": (HttpOpenCodeEvents, (ports.OpenCodeEvents,)),
    "organizations": (PostgresOrganizations, (administration.OrganizationRegistry,)),
    "workspaces": (PostgresWorkspaces, (administration.WorkspaceRegistry,)),
    "access": (PostgresAccess, (administration.AccessRegistry,)),
    "key_rotation": (PostgresKeyRotation, (administration.KeyRotation,)),
    "restore": (PostgresRestore, (administration.RestoreMarks,)),
    "audit": (PostgresAuditTrail, (administration.AuditTrail,)),
    "execution_reports": (PostgresExecutionReports, (administration.ExecutionReports,)),
    "dead_letter_registry": (PostgresDeadLetterRegistry, (administration.DeadLetterRegistry,)),
    "tool_connections": (PostgresToolConnections, (tools.ConnectionStore,)),
}

# Ports behind which nothing outside of the process is called.
WITHIN_THE_PROCESS: Mapping[type, str] = {
    ports.Clock: "reads this process's own clock",
    ports.Chance: "rolls this process's own dice",
    ports.Ends: "counts in this process's own metrics",
    ports.Incidents: "counts in this process's own metrics",
    ports.OpenCodeServers: "names a server; the calls to it are OpenCodeServer's",
    administration.BotIdentity: "a value that auth_test returned",
    administration.WorkspaceCanceller: "a service; the ports that it calls are kill points",
    tools.ToolConnections: "a service; the ports that it calls are kill points, or played elsewhere",
}

# Ports whose deaths are played elsewhere: these scenarios have no provider with an authorization server.
PLAYED_ELSEWHERE: Mapping[type, str] = {
    tools.CredentialStore: "tests/integration/connections/test_deaths.py",
    tools.AuthorizationServers: "tests/integration/connections/test_deaths.py",
    tools.ToolServers: "asks and changes nothing; what it found is written by ConnectionStore",
    tool_calls.ToolServers: "tests/integration/mcp/test_calls.py: deaths on both sides of the call",
    tool_calls.ToolCallLedger: "tests/integration/mcp/test_calls.py",
    budgets.BudgetStore: "tests/integration/pipeline/test_budgets.py and tests/integration/storage/test_budgets.py",
    administration.UsageReports: "reads and changes nothing",
    ports.DocumentReader: "reads and changes nothing; its process ends by itself when nobody waits for it",
    ports.VitalsStore: "tests/integration/storage/test_vitals.py: each call is one statement on one row",
    ports.AdmissionStore: "reads and changes nothing",
    administration.Erasure: "tests/integration/pipeline/test_erasure.py: dies before each of its calls in turn",
    administration.OrganizationCache: "tests/integration/pipeline/test_erasure.py",
    administration.OpenCodeSessions: "tests/integration/pipeline/test_erasure.py",
    administration.OrganizationRows: "reads and changes nothing; that somebody looked is written by AuditTrail",
    administration.OrganizationSnapshot: "reads and changes nothing",
    ports.DirectoryStore: "tests/integration/pipeline/test_directories.py: dies before and after each of its calls",
    ports.OpenCodeDirectories: "tests/integration/pipeline/test_directories.py and test_erasure.py",
    administration.Archive: "a file that gets its name when it is whole: tests/integration/storage/test_export.py",
    orchestrators.CallStore: "tests/integration/pipeline/test_calls.py: dies before and after each of its calls",
    orchestrators.CallableOrchestrator: "tests/integration/pipeline/test_calls.py: asked again under the same key",
    ports.AnswerMemory: "a cache, which may forget: tests/integration/pipeline/test_reuse.py",
    ports.GroupStore: "tests/integration/pipeline/test_dispatched_batches.py: dies before and after each of its calls",
    administration.GroupReports: "reads and changes nothing",
    administration.StoredSecrets: "reads and changes nothing",
    administration.IdOwners: "reads and changes nothing; what was found out is written by AuditTrail",
    administration.ToolCallReports: "reads and changes nothing; that somebody looked is written by AuditTrail",
}

# What commits when a measured value has changed by then, or when a count is a moment too old at that very call: not in
# each run of a scenario.
UNSTEADY: Mapping[str, str] = {
    "PostgresVitals": "tests/integration/storage/test_vitals.py",
    "claim_queued#2": "after the count, which changes nothing: tests/integration/storage/test_fair_turns.py",
}

# Written for a caller that does not exist yet, or for settings that these scenarios do not have: what is called one day
# is taken off here, or the test fails.
NOT_CALLED: Mapping[str, str] = {
    "mappings.find": "sessions are found in the claimed row",
    "messenger.count_replies": "asked where one page a minute may be read of threads; it changes nothing",
    "opencode.categories": "asked for GET /capabilities, which changes nothing",
}


class Moment(StrEnum):
    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, order=True)
class KillPoint:
    """A call that one of the processes makes, and on which side of it the process is killed."""

    process: str
    call: str  # "port.method", or "port.method#2": the second commit inside of it
    moment: Moment

    def __str__(self) -> str:
        return f"{self.process} {self.moment} {self.call}"


def every_call() -> frozenset[str]:
    """`port.method` of everything that the ports promise, whether somebody calls it or not."""
    return frozenset(
        f"{name}.{method}"
        for name, (_, protocols) in ADAPTERS.items()
        for protocol in protocols
        for method in methods_of(protocol)
    )


def ports_without_an_adapter_here() -> set[str]:
    """Ports that nobody wraps: a new one has to be added above."""
    known = {protocol for _, protocols in ADAPTERS.values() for protocol in protocols}
    known |= WITHIN_THE_PROCESS.keys() | PLAYED_ELSEWHERE.keys()
    return {
        protocol.__name__
        for module in (ports, administration, budgets, orchestrators, tool_calls, tools)
        for protocol in _protocols(module)
    } - {protocol.__name__ for protocol in known}


def methods_of(kind: type) -> list[str]:
    """Its public ones; closing happens when a process ends anyway."""
    return [
        name
        for name, value in vars(kind).items()
        if not name.startswith("_") and name != "close" and inspect.isfunction(value)
    ]


def _protocols(module: ModuleType) -> Iterator[type]:
    for value in vars(module).values():
        if inspect.isclass(value) and _is_protocol(value) and value.__module__ != "typing":
            yield value


def _is_protocol(kind: Any) -> bool:
    return bool(getattr(kind, "_is_protocol", False))
