"""What the routes need, handed to `create_app` in one piece; nothing in here is built by the gateway itself."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request, Response
from prometheus_client import CollectorRegistry

from nubabel_workers.domain.credentials import OperatorToken
from nubabel_workers.domain.ports import (
    Chance,
    Clock,
    ConversationStore,
    MaintenanceStore,
    ProgressStream,
    TenantStore,
)
from nubabel_workers.gateway.metrics import BreakerStates, QueueLengths, RegisteredServers
from nubabel_workers.gateway.readiness import Check
from nubabel_workers.services.authenticate_callback import AuthenticateCallback
from nubabel_workers.services.call_tools_for_session import CallToolsForSession
from nubabel_workers.services.cancel_execution import CancelExecution
from nubabel_workers.services.cancel_group import CancelGroup
from nubabel_workers.services.connections import Connections
from nubabel_workers.services.find_callback_session import FindCallbackSession
from nubabel_workers.services.hear_callbacks import HearCallbacks
from nubabel_workers.services.install_workspace import InstallWorkspace
from nubabel_workers.services.keep_budgets import KeepBudgets
from nubabel_workers.services.manage_dead_letters import ManageDeadLetters
from nubabel_workers.services.manage_limits import ManageLimits
from nubabel_workers.services.manage_organizations import ManageOrganizations
from nubabel_workers.services.read_capabilities import ReadCapabilities
from nubabel_workers.services.read_execution import ReadExecution
from nubabel_workers.services.read_usage import ReadUsage
from nubabel_workers.services.read_waiting import ReadWaiting
from nubabel_workers.services.report_foreign_ids import ReportForeignIds
from nubabel_workers.services.submit_execution import SubmitExecution
from nubabel_workers.services.submit_group import SubmitGroup
from nubabel_workers.services.watch_servers import WatchServers


@dataclass(frozen=True)
class SlackParts:
    """events: the Events API's handler, None in Socket Mode. install: None without OAuth credentials."""

    events: Callable[[Request], Awaitable[Response]] | None = None
    install: InstallWorkspace | None = None


@dataclass(frozen=True)
class CallbackParts:
    """For the plugins of OpenCode servers. reach: version of a server, or a NubabelError that says what is wrong."""

    authenticate: AuthenticateCallback
    find: FindCallbackSession
    hear: HearCallbacks
    tools: CallToolsForSession
    reach: Callable[[str], Awaitable[str]]
    watch: WatchServers


@dataclass(frozen=True)
class GatewayLimits:
    """Bounds of what callers may take, and the pace of event streams. Times in seconds."""

    max_body_bytes: int = 1_048_576
    body_timeout_s: float = 30.0
    stream_heartbeat_s: float = 15.0
    stream_row_check_s: float = 5.0  # how long a stream may be wrong about the end when the cache says nothing
    stream_max_s: float = 3600.0
    stream_send_timeout_s: float = 20.0  # a reader that takes nothing for so long is cut off
    streams_per_organization: int = 200  # at once, per gateway process
    streams_at_once: int = 1000  # of all organizations; each holds one connection to the cache
    delegate_wait_s: float = 100.0
    sidecar_wait_s: float = 120.0
    metrics_organizations: tuple[str, ...] = ()  # that /metrics names always


@dataclass(frozen=True)
class GatewayParts:
    """Stores and services that the routes use."""

    submit: SubmitExecution
    read: ReadExecution
    waiting: ReadWaiting
    cancel: CancelExecution
    submit_group: SubmitGroup
    cancel_group: CancelGroup
    tenants: TenantStore
    progress: ProgressStream
    maintenance: MaintenanceStore
    queues: QueueLengths
    breakers: BreakerStates
    servers: RegisteredServers
    clock: Clock
    chance: Chance
    dead_letters: ManageDeadLetters
    callbacks: CallbackParts
    connections: Connections
    conversations: ConversationStore
    capabilities: ReadCapabilities
    usage: ReadUsage
    manage_limits: ManageLimits
    manage_organizations: ManageOrganizations
    budgets: KeepBudgets
    foreign_ids: ReportForeignIds
    check_callback: Callable[[str], object]  # the egress guard: raises InvalidInputError for a URL that it refuses
    operator_tokens: Sequence[OperatorToken] = ()
    readiness_checks: Mapping[str, Check] = field(default_factory=dict)
    slack: SlackParts = field(default_factory=SlackParts)
    secure_cookies: bool = True  # browsers reach us by https, whatever a proxy makes of it
    limits: GatewayLimits = field(default_factory=GatewayLimits)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)  # where the process counts


async def parts_of(request: Request) -> GatewayParts:  # async: FastAPI runs plain functions in a thread
    parts = request.app.state.parts
    assert isinstance(parts, GatewayParts)  # noqa: S101 - put there by create_app
    return parts


Parts = Annotated[GatewayParts, Depends(parts_of)]
