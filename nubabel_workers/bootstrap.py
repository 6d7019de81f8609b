"""The composition root: settings in, wired services out. The only place that knows which adapter serves which port."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from secrets import token_bytes

import redis.asyncio as redis

from config.celery_app import CONNECT_TIMEOUT_S, SOCKET_TIMEOUT_S
from config.metrics import ProcessMetrics
from config.queues import QUEUE_OF_TASK
from config.settings import PREFIX, Settings
from nubabel_workers.adapters.analysis_rules import load_rules
from nubabel_workers.adapters.broker import connection as broker_connection
from nubabel_workers.adapters.broker.hints import BrokerHintPublisher
from nubabel_workers.adapters.cache import connection
from nubabel_workers.adapters.cache.answers import RedisAnswerMemory
from nubabel_workers.adapters.cache.circuit_breakers import OF_ORCHESTRATORS, OF_TOOLS, Guarded, RedisCircuitBreakers
from nubabel_workers.adapters.cache.erasure import RedisOrganizationCache
from nubabel_workers.adapters.cache.mappings import CachedSessionMappings
from nubabel_workers.adapters.cache.progress import RedisProgress
from nubabel_workers.adapters.cache.throttle import RedisThrottle
from nubabel_workers.adapters.documents.reader import ProcessDocumentReader
from nubabel_workers.adapters.egress.guard import EgressGuard, EgressPolicy
from nubabel_workers.adapters.mcp.catalogue import load_catalogue
from nubabel_workers.adapters.model_prices import load_prices
from nubabel_workers.adapters.opencode.calls_seen import kind_of, outcome_of
from nubabel_workers.adapters.opencode.client import CallReport
from nubabel_workers.adapters.opencode.servers import (
    HttpOpenCodeDirectories,
    HttpOpenCodeEvents,
    HttpOpenCodeServers,
    HttpOpenCodeSessions,
    OnServersCall,
)
from nubabel_workers.adapters.opencode.transport import Timeouts, new_http_client, new_stream_session
from nubabel_workers.adapters.orchestrators.canned import CannedAnswer
from nubabel_workers.adapters.plans import load_plans
from nubabel_workers.adapters.process import SystemChance, SystemClock
from nubabel_workers.adapters.slack.messenger import SlackMessenger, slack_http_session
from nubabel_workers.adapters.slack.oauth_client import SlackOAuthClient, install_states
from nubabel_workers.adapters.storage.admission import PostgresAdmission
from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.adapters.storage.budgets import PostgresBudgets
from nubabel_workers.adapters.storage.calls import PostgresCalls
from nubabel_workers.adapters.storage.connection_credentials import PostgresConnectionCredentials
from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from nubabel_workers.adapters.storage.dead_letter_registry import PostgresDeadLetterRegistry
from nubabel_workers.adapters.storage.dead_letters import PostgresDeadLetters
from nubabel_workers.adapters.storage.directories import PostgresDirectories
from nubabel_workers.adapters.storage.encryption import TokenCipher
from nubabel_workers.adapters.storage.erasure import PostgresErasure
from nubabel_workers.adapters.storage.executions import PostgresExecutions
from nubabel_workers.adapters.storage.groups import PostgresGroups
from nubabel_workers.adapters.storage.inbound import PostgresInbound
from nubabel_workers.adapters.storage.instances import PostgresInstances
from nubabel_workers.adapters.storage.maintenance import PostgresMaintenance
from nubabel_workers.adapters.storage.notifications import PostgresNotifications
from nubabel_workers.adapters.storage.tenants import PostgresTenants
from nubabel_workers.adapters.storage.tool_calls import PostgresToolCalls
from nubabel_workers.adapters.storage.tool_connections import PostgresToolConnections
from nubabel_workers.adapters.storage.turns import FairPolicy, FairTurns
from nubabel_workers.adapters.storage.vitals import PostgresVitals
from nubabel_workers.adapters.storage.waiting import PostgresWaiting
from nubabel_workers.adapters.storage.workspaces import PostgresWorkspaces
from nubabel_workers.adapters.supervisor import CommandSupervisor
from nubabel_workers.adapters.webhooks.sender import StandardWebhookSender
from nubabel_workers.domain.analysis import Rules
from nubabel_workers.domain.budgets import Amount
from nubabel_workers.domain.circuit_breaker import BreakerPolicy
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.limits import Plans
from nubabel_workers.domain.placement import AWAY, PACE
from nubabel_workers.domain.ports.orchestrators import CallableOrchestrator
from nubabel_workers.domain.retry import RetryPolicy
from nubabel_workers.domain.rollout import Orchestrator, Rollout
from nubabel_workers.domain.server_vitals import EventLagLimits, MemoryLimits
from nubabel_workers.domain.tool_call_times import ToolCallTimes
from nubabel_workers.domain.tools import CommandServer
from nubabel_workers.services.accept_slack_event import AcceptSlackEvent
from nubabel_workers.services.accept_submission import AcceptSubmission
from nubabel_workers.services.admit_requests import AdmitRequests
from nubabel_workers.services.allow_by_button import AllowByButton
from nubabel_workers.services.answer_by_call import AnswerByCall, CallLimits
from nubabel_workers.services.apply_busy_policy import ApplyBusyPolicy
from nubabel_workers.services.apply_rollout import ApplyRollout
from nubabel_workers.services.ask_tool_servers import AskLimits, AskToolServers
from nubabel_workers.services.authorize_connection import AuthorizeConnection
from nubabel_workers.services.batches import BatchLimits
from nubabel_workers.services.call_orchestrator import CallOrchestrator, CallPace
from nubabel_workers.services.cancel_execution import CancelExecution
from nubabel_workers.services.cancel_group import CancelGroup
from nubabel_workers.services.complete_executions import CheckLimits, CompleteExecutions
from nubabel_workers.services.connections import Connections
from nubabel_workers.services.count_usage import CountUsage
from nubabel_workers.services.deliver_notifications import DeliverNotifications
from nubabel_workers.services.deliver_to_slack import DeliverToSlack
from nubabel_workers.services.dispatch_executions import DispatchExecutions
from nubabel_workers.services.end_execution import EndExecution
from nubabel_workers.services.erase_organization import EraseOrganization, ErasureTimes
from nubabel_workers.services.follow_instance import FollowInstance
from nubabel_workers.services.gather_context import ContextLimits, GatherContext
from nubabel_workers.services.grant_tool_access import GrantToolAccess, RefreshLimits
from nubabel_workers.services.heed_orchestrators import HeedOrchestrators
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.install_workspace import InstallWorkspace
from nubabel_workers.services.invoke_tool import InvokeLimits, InvokeTool
from nubabel_workers.services.keep_budgets import BudgetLimits, KeepBudgets
from nubabel_workers.services.keep_directories import DirectoryPace, KeepDirectories
from nubabel_workers.services.list_tools import ListTools
from nubabel_workers.services.maintain import Maintain, MaintenancePace
from nubabel_workers.services.manage_connections import ManageConnections
from nubabel_workers.services.manage_dead_letters import ManageDeadLetters
from nubabel_workers.services.manage_workspaces import ManageWorkspaces
from nubabel_workers.services.mask_prompt import MaskPrompt
from nubabel_workers.services.observe_runs import ObserveRuns
from nubabel_workers.services.plan_runs import PlanRuns
from nubabel_workers.services.process_slack_events import ProcessSlackEvents
from nubabel_workers.services.read_capabilities import ReadCapabilities
from nubabel_workers.services.read_execution import ReadExecution
from nubabel_workers.services.read_limits import ReadLimits
from nubabel_workers.services.read_waiting import ReadWaiting
from nubabel_workers.services.reconcile_instance import ReconcileInstance
from nubabel_workers.services.refuse_asks import RefuseAsks
from nubabel_workers.services.report_foreign_session import ReportForeignSession
from nubabel_workers.services.report_servers import ReportServers
from nubabel_workers.services.restart_servers import RestartPace, RestartServers
from nubabel_workers.services.reuse_answers import ReuseAnswers
from nubabel_workers.services.revoke_access import RevokeAccess
from nubabel_workers.services.run_deadlines import RunDeadlines
from nubabel_workers.services.settle_groups import SettleGroups
from nubabel_workers.services.stop_stray_runs import StopStrayRuns
from nubabel_workers.services.submit_execution import SubmitExecution
from nubabel_workers.services.submit_group import SubmitGroup
from nubabel_workers.services.submit_prompt import RunLimits, SubmitPrompt
from nubabel_workers.services.tool_calls import ToolCalls
from nubabel_workers.services.watch_servers import WatchServers

_DAY_S = 86_400.0
_RESTART_LIMIT_S = 45.0  # shorter than a scheduler's step may take
_RESTARTED_AGAIN = 5.0  # a server needs longer to come back than to be noticed as away
_STREAM_REST_S = 60.0  # sockets that rest in XREAD or a subscription: longer than any block of theirs


@dataclass(frozen=True)
class Adapters:
    """The outside, as the services know it."""

    settings: Settings
    clock: SystemClock
    chance: SystemChance
    metrics: ProcessMetrics
    cache: "redis.Redis"
    database: Database
    cipher: TokenCipher
    tenants: PostgresTenants
    instances: PostgresInstances
    directories: PostgresDirectories
    vitals: PostgresVitals
    executions: PostgresExecutions
    groups: PostgresGroups
    inbound: PostgresInbound
    notifications: PostgresNotifications
    dead_letters: PostgresDeadLetters
    maintenance: PostgresMaintenance
    mappings: CachedSessionMappings
    progress: RedisProgress
    admission: PostgresAdmission
    answers: RedisAnswerMemory
    throttle: RedisThrottle
    breakers: RedisCircuitBreakers
    waiting: PostgresWaiting
    calls: PostgresCalls
    orchestrators: Mapping[Orchestrator, CallableOrchestrator]
    rollout: Rollout
    hints: BrokerHintPublisher
    messenger: SlackMessenger
    webhooks: StandardWebhookSender
    servers: HttpOpenCodeServers
    events: HttpOpenCodeEvents
    egress: EgressGuard
    documents: ProcessDocumentReader
    plans: Plans


@dataclass(frozen=True)
class Services(Adapters):
    """Everything that the ways in use. Built once per process."""

    leases: LeaseHolder
    accept_slack_event: AcceptSlackEvent
    process_slack_events: ProcessSlackEvents
    submit_execution: SubmitExecution
    submit_group: SubmitGroup
    accept_submission: AcceptSubmission
    read_execution: ReadExecution
    read_waiting: ReadWaiting
    cancel_execution: CancelExecution
    cancel_group: CancelGroup
    settle_groups: SettleGroups
    read_capabilities: ReadCapabilities
    answer_by_call: AnswerByCall
    apply_rollout: ApplyRollout
    dispatch_executions: DispatchExecutions
    complete_executions: CompleteExecutions
    deliver_notifications: DeliverNotifications
    report_servers: ReportServers
    keep_budgets: KeepBudgets
    keep_directories: KeepDirectories
    reconcile_instance: ReconcileInstance
    follow_instance: FollowInstance
    watch_servers: WatchServers
    maintain: Maintain


@asynccontextmanager
async def open_services(
    settings: Settings, *, application_name: str, metrics: ProcessMetrics | None = None
) -> AsyncIterator[Services]:
    """Wire everything for one process and close it again. Connects to nothing that isn't used.

    application_name: how PostgreSQL shows this process's connections.
    """
    async with AsyncExitStack() as stack:
        adapters = await _open_adapters(settings, metrics or ProcessMetrics(), application_name, stack)
        services = _wire(adapters)
        services.leases.start()
        stack.push_async_callback(services.leases.stop)
        stack.push_async_callback(services.answer_by_call.close)
        yield services


async def _open_adapters(
    settings: Settings, metrics: ProcessMetrics, application_name: str, stack: AsyncExitStack
) -> Adapters:
    """stack: closes what was opened, in the opposite order."""
    with _naming("egress_allow"):
        exceptions = EgressPolicy.parse(settings.egress_allow)
    with _naming("plans_file"):
        plans = load_plans(settings.plans_file)
    clock, chance, cipher = SystemClock(), SystemChance(), TokenCipher(settings.encryption_keys)
    database = Database(
        settings.tenant_dsn, settings.system_dsn, _database_limits(settings), application_name=application_name
    )
    await database.open()
    stack.push_async_callback(database.close)
    cache, reading = _cache(settings, settings.cache_timeout_s), _cache(settings, _STREAM_REST_S)
    http, streams = new_http_client(), new_stream_session()
    messenger = SlackMessenger(base_url=settings.slack_api_base_url, timeout_s=settings.slack_timeout_s)
    guard = EgressGuard(exceptions)
    for close in (cache.aclose, reading.aclose, http.aclose, streams.close, messenger.close, guard.close):
        stack.push_async_callback(close)
    hints = _hint_publisher(settings, metrics)
    stack.callback(hints.close)
    lease_s, lone = settings.lease_s, settings.max_lone_deliveries
    turns = FairTurns(database, plans, _fair_policy(settings))
    rollout = Rollout.parse(settings.rollout)
    executions = PostgresExecutions(
        database, clock, chance, turns, lease_s=lease_s, lone_deliveries=lone, rollout=rollout
    )
    breakers = RedisCircuitBreakers(cache, chance, policy=_breaker_policy(settings), on_opened=metrics.breaker_opened)
    return Adapters(
        settings=settings,
        clock=clock,
        chance=chance,
        metrics=metrics,
        cache=cache,
        database=database,
        cipher=cipher,
        tenants=PostgresTenants(database, cipher),
        vitals=PostgresVitals(database),
        instances=PostgresInstances(database, cipher, give_up_after_s=settings.opencode_give_up_after_s),
        directories=PostgresDirectories(database),
        executions=executions,
        groups=PostgresGroups(database, clock, chance, rollout=rollout),
        inbound=PostgresInbound(database, chance, lease_s=lease_s, lone_deliveries=lone),
        notifications=PostgresNotifications(database, chance, lease_s=lease_s, lone_deliveries=lone),
        dead_letters=PostgresDeadLetters(database, chance),
        maintenance=PostgresMaintenance(database, chance),
        mappings=CachedSessionMappings(
            cache, executions, keep_s=settings.mapping_keep_h * 3600, seal_key=cipher.derived_key("session-mappings")
        ),
        progress=RedisProgress(cache, reading, keep_s=settings.progress_keep_s),
        admission=PostgresAdmission(database),
        answers=RedisAnswerMemory(cache, cipher, keep_s=settings.answer_reuse_s),
        throttle=RedisThrottle(cache),
        breakers=breakers,
        waiting=PostgresWaiting(database, away=AWAY, pace=PACE),
        calls=PostgresCalls(database),
        orchestrators=_open_orchestrators(settings, clock, stack),
        rollout=rollout,
        hints=hints,
        messenger=messenger,
        webhooks=StandardWebhookSender(guard, now=clock.now, timeout_s=settings.webhook_timeout_s),
        servers=HttpOpenCodeServers(http, timeouts=_opencode_timeouts(settings), on_call=_heeded_by(breakers)),
        events=HttpOpenCodeEvents(
            streams, silence_s=settings.opencode_stream_idle_s, lag_check_s=settings.opencode_event_lag_check_s
        ),
        egress=guard,
        documents=ProcessDocumentReader(),
        plans=plans,
    )


def _open_orchestrators(
    settings: Settings, clock: SystemClock, stack: AsyncExitStack
) -> Mapping[Orchestrator, CallableOrchestrator]:
    """Those that the settings describe. Their libraries, half a second and 30 MB, are for those who use them."""
    found: dict[Orchestrator, CallableOrchestrator] = {Orchestrator.FALLBACK: CannedAnswer()}
    if settings.delegate_url is not None:
        import httpx  # noqa: PLC0415

        from nubabel_workers.adapters.orchestrators.delegate import DelegateService  # noqa: PLC0415

        client = httpx.AsyncClient(follow_redirects=False)
        stack.push_async_callback(client.aclose)
        found[Orchestrator.DELEGATE] = DelegateService(
            client, url=settings.delegate_url, token=settings.delegate_token, now=clock.now
        )
    if settings.fallback_api is not None and settings.fallback_model and settings.fallback_api_key:
        from nubabel_workers.adapters.orchestrators.models import (  # noqa: PLC0415
            AnthropicModel,
            ModelAccess,
            OpenAIModel,
        )

        access = ModelAccess(
            settings.fallback_model,
            settings.fallback_api_key,
            settings.fallback_base_url,
            settings.fallback_max_tokens,
        )
        kind = AnthropicModel if settings.fallback_api == "anthropic" else OpenAIModel
        model = kind(access, now=clock.now)
        stack.push_async_callback(model.close)
        found[Orchestrator.FALLBACK] = model
    return found


@contextmanager
def _naming(setting: str) -> Iterator[None]:
    """What is wrong with a setting's value, or in the file that it names, is said with its variable."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{PREFIX}{setting.upper()}: {error}") from error


def _wire(a: Adapters) -> Services:
    """Adapters in, services out. Nothing is started or connected here."""
    settings = a.settings
    leases = LeaseHolder(a.maintenance, a.clock, a.chance, lease_s=settings.lease_s)
    settle = SettleGroups(a.groups, a.hints)
    reuse = ReuseAnswers(a.answers, a.tenants, a.clock)
    end = EndExecution(a.executions, a.hints, a.progress, settle, reuse, a.metrics, a.clock)
    cancel = CancelExecution(a.executions, end, a.hints)
    busy_policy = ApplyBusyPolicy(a.executions, cancel, end)
    with _naming("analysis_rules_file"):
        rules = load_rules(settings.analysis_rules_file, main_agent=settings.opencode_agent_prefix)
    organization_limits = ReadLimits(a.tenants, a.plans)
    admission = AdmitRequests(organization_limits, a.admission, a.throttle, a.clock)
    submit = _submit_execution(a, admission, busy_policy, rules)
    asks = RefuseAsks(a.executions, a.servers)
    strays = StopStrayRuns(a.executions, a.servers, a.metrics)
    report = ReportServers(a.breakers, a.waiting, a.hints)
    foreign = ReportForeignSession(PostgresAuditTrail(a.database), a.metrics)
    with _naming("model_prices_file"):
        count_usage = CountUsage(load_prices(settings.model_prices_file))
    budgets = _keep_budgets(a, organization_limits, count_usage)
    deadlines = RunDeadlines(organization_limits, rules, default_s=settings.run_deadline_s)
    plan_runs = PlanRuns(budgets, deadlines, rules)
    masking = MaskPrompt(a.cipher.derived_key("prompt-masking"), a.documents)
    context = GatherContext(a.messenger, a.tenants, a.throttle, limits=_context_limits(settings))
    calls = _answer_by_call(a, end, budgets, count_usage, plan_runs, reuse, leases, context, masking)
    waiting = ReadWaiting(a.admission, a.instances, organization_limits)
    watch = _watch_servers(a)
    directories = _keep_directories(a)
    reconcile = ReconcileInstance(a.executions, a.instances, a.servers, asks, strays, directories, report, a.hints)
    return Services(
        **vars(a),
        leases=leases,
        accept_slack_event=AcceptSlackEvent(a.tenants, a.inbound, a.hints, a.chance),
        process_slack_events=_process_slack_events(a, admission, leases, cancel, busy_policy, budgets),
        submit_execution=submit,
        submit_group=_submit_group(a, submit, admission, busy_policy),
        accept_submission=_accept_submission(a, submit),
        read_execution=ReadExecution(a.executions),
        read_waiting=waiting,
        cancel_execution=cancel,
        cancel_group=CancelGroup(a.groups, cancel, settle),
        settle_groups=settle,
        read_capabilities=ReadCapabilities(a.instances, a.servers, rules, a.clock),
        answer_by_call=calls,
        apply_rollout=ApplyRollout(a.calls, a.rollout),
        dispatch_executions=_dispatch_executions(
            a, end, foreign, report, budgets, directories, calls, reuse, plan_runs, leases, strays, context, masking
        ),
        complete_executions=_complete_executions(a, end, foreign, report, budgets, count_usage, leases),
        deliver_notifications=_deliver_notifications(a, leases, cancel),
        report_servers=report,
        keep_budgets=budgets,
        keep_directories=directories,
        reconcile_instance=reconcile,
        follow_instance=_follow_instance(a, reconcile, asks, report, budgets, watch),
        watch_servers=watch,
        maintain=Maintain(
            a.maintenance, a.executions, end, reconcile, waiting, a.breakers, a.hints, a.metrics, pace=_pace(settings)
        ),
    )


def _keep_budgets(a: Adapters, organization_limits: ReadLimits, count_usage: CountUsage) -> KeepBudgets:
    settings = a.settings
    limits = BudgetLimits(
        first_hold=Amount(settings.budget_first_hold_usd, settings.budget_first_hold_tokens),
        keep_s=settings.budget_pause_h * 3600.0,
        answer_by_s=settings.answer_by_s,
        economy_from=settings.economy_from,
        economy_category=settings.economy_category,
        economy_run_s=settings.economy_run_s,
        button_cost=settings.budget_button_usd,
    )
    return KeepBudgets(
        PostgresBudgets(a.database),
        a.executions,
        organization_limits,
        count_usage,
        a.progress,
        a.hints,
        a.clock,
        a.chance,
        limits=limits,
    )


def _keep_directories(a: Adapters) -> KeepDirectories:
    pace = DirectoryPace(a.settings.opencode_directories_per_second, a.settings.opencode_directory_idle_s)
    return KeepDirectories(a.directories, HttpOpenCodeDirectories(a.servers), a.instances, a.throttle, pace=pace)


def _submit_execution(
    a: Adapters, admission: AdmitRequests, busy_policy: ApplyBusyPolicy, rules: Rules
) -> SubmitExecution:
    return SubmitExecution(
        a.executions,
        a.tenants,
        admission,
        busy_policy,
        a.hints,
        a.chance,
        rules,
        a.instances,
        a.egress.check_url,
        answer_by_s=a.settings.answer_by_s,
        max_prompt_bytes=a.settings.max_prompt_bytes,
    )


def _submit_group(
    a: Adapters, one: SubmitExecution, admission: AdmitRequests, busy_policy: ApplyBusyPolicy
) -> SubmitGroup:
    return SubmitGroup(
        a.groups,
        one,
        admission,
        busy_policy,
        a.hints,
        a.chance,
        answer_by_s=a.settings.answer_by_s,
        max_requests=a.settings.max_batch_requests,
    )


def _accept_submission(a: Adapters, submit: SubmitExecution) -> AcceptSubmission:
    return AcceptSubmission(
        a.tenants,
        a.dead_letters,
        submit,
        a.clock,
        a.chance,
        trusted_organization_id=a.settings.trusted_broker_organization,
    )


def _process_slack_events(
    a: Adapters,
    admission: AdmitRequests,
    leases: LeaseHolder,
    cancel: CancelExecution,
    busy_policy: ApplyBusyPolicy,
    budgets: KeepBudgets,
) -> ProcessSlackEvents:
    return ProcessSlackEvents(
        a.inbound,
        a.executions,
        a.tenants,
        admission,
        cancel,
        busy_policy,
        AllowByButton(a.executions, a.tenants, budgets),
        leases,
        a.hints,
        a.chance,
        retry=_retry(a.settings, "slack_events"),
        limits=_batch_limits(a.settings),
        answer_by_s=a.settings.answer_by_s,
    )


def _answer_by_call(
    a: Adapters,
    end: EndExecution,
    budgets: KeepBudgets,
    count_usage: CountUsage,
    plan_runs: PlanRuns,
    reuse: ReuseAnswers,
    leases: LeaseHolder,
    context: GatherContext,
    masking: MaskPrompt,
) -> AnswerByCall:
    heed = HeedOrchestrators(_breakers_of(a, OF_ORCHESTRATORS), a.calls, a.hints)
    call = CallOrchestrator(
        a.executions,
        a.calls,
        a.orchestrators,
        context,
        masking,
        budgets,
        count_usage,
        plan_runs,
        reuse,
        heed,
        end,
        a.mappings,
        a.progress,
        a.chance,
        a.clock,
        retry=_retry(a.settings, "orchestration"),
        pace=CallPace(lone_deliveries=a.settings.max_lone_deliveries),
    )
    limits = CallLimits(places=a.settings.orchestrator_calls)
    return AnswerByCall(a.executions, a.calls, call, heed, a.rollout, leases, a.hints, limits=limits)


def _dispatch_executions(
    a: Adapters,
    end: EndExecution,
    foreign: ReportForeignSession,
    report: ReportServers,
    budgets: KeepBudgets,
    directories: KeepDirectories,
    calls: AnswerByCall,
    reuse: ReuseAnswers,
    plan_runs: PlanRuns,
    leases: LeaseHolder,
    strays: StopStrayRuns,
    context: GatherContext,
    masking: MaskPrompt,
) -> DispatchExecutions:
    settings = a.settings
    limits = RunLimits(
        submit_timeout_s=min(settings.opencode_read_timeout_s, settings.lease_s),
        default_model=settings.opencode_default_model,
    )
    return DispatchExecutions(
        a.executions,
        end,
        a.instances,
        SubmitPrompt(
            a.executions,
            a.servers,
            a.mappings,
            context,
            leases,
            strays,
            a.metrics,
            foreign,
            masking,
            budgets,
            directories,
            plan_runs,
            limits=limits,
        ),
        a.progress,
        a.throttle,
        a.breakers,
        report,
        a.waiting,
        budgets,
        calls,
        reuse,
        leases,
        a.hints,
        a.chance,
        a.clock,
        retry=_retry(settings, "orchestration"),
        limits=_batch_limits(settings),
    )


def _complete_executions(
    a: Adapters,
    end: EndExecution,
    foreign: ReportForeignSession,
    report: ReportServers,
    budgets: KeepBudgets,
    count_usage: CountUsage,
    leases: LeaseHolder,
) -> CompleteExecutions:
    return CompleteExecutions(
        a.executions,
        end,
        foreign,
        ObserveRuns(
            a.executions,
            a.instances,
            a.servers,
            leases,
            a.metrics,
            a.breakers,
            report,
            count_usage,
        ),
        budgets,
        a.mappings,
        a.waiting,
        a.progress,
        leases,
        a.hints,
        a.chance,
        retry=_retry(a.settings, "orchestration"),
        limits=_batch_limits(a.settings),
        checks=CheckLimits(model_retries=a.settings.opencode_model_retries, stalled_s=a.settings.run_stalled_s),
        default_model=a.settings.opencode_default_model,
    )


def _deliver_notifications(a: Adapters, leases: LeaseHolder, cancel: CancelExecution) -> DeliverNotifications:
    slack = DeliverToSlack(
        a.messenger,
        a.tenants,
        a.notifications,
        a.throttle,
        leases,
        a.metrics,
        read_quota_per_minute=a.settings.slack_read_quota_per_minute,
    )
    return DeliverNotifications(
        a.notifications,
        a.tenants,
        slack,
        a.webhooks,
        cancel,
        leases,
        a.hints,
        a.chance,
        a.clock,
        retry=_retry(a.settings, "notifications"),
        limits=_batch_limits(a.settings),
    )


def _follow_instance(
    a: Adapters,
    reconcile: ReconcileInstance,
    asks: RefuseAsks,
    report: ReportServers,
    budgets: KeepBudgets,
    watch: WatchServers,
) -> FollowInstance:
    return FollowInstance(
        a.events,
        a.servers,
        a.instances,
        a.executions,
        a.notifications,
        a.progress,
        reconcile,
        asks,
        a.breakers,
        report,
        budgets,
        watch,
        a.hints,
        main_agent=a.settings.opencode_agent_prefix,
        progress_pace_s=a.settings.slack_progress_interval_s,
    )


def _watch_servers(a: Adapters) -> WatchServers:
    settings = a.settings
    memory = MemoryLimits(
        bound_bytes=settings.opencode_memory_bound_bytes,
        within_s=settings.opencode_memory_within_s,
        window_s=settings.opencode_memory_window_s,
    )
    events = EventLagLimits(limit_s=settings.opencode_event_lag_s, checks=settings.opencode_event_lag_checks)
    return WatchServers(a.vitals, memory=memory, events=events)


def _breakers_of(a: "Adapters | Services", guarded: Guarded) -> RedisCircuitBreakers:
    return RedisCircuitBreakers(a.cache, a.chance, policy=_breaker_policy(a.settings), guarded=guarded)


def _heeded_by(breakers: RedisCircuitBreakers) -> OnServersCall:
    def on_call(instance_id: str, report: CallReport) -> None:
        breakers.saw(instance_id, kind_of(report), outcome_of(report), began_ago_s=report.seconds)

    return on_call


def _breaker_policy(settings: Settings) -> BreakerPolicy:
    return BreakerPolicy(
        failures_in_a_row=settings.breaker_failures,
        failing_share=settings.breaker_failing_share,
        window_s=settings.breaker_window_s,
        first_wait_s=settings.breaker_first_wait_s,
        max_wait_s=settings.breaker_max_wait_s,
        # As long as one call may take: whoever holds the probe may have been killed, and all others wait for it.
        probe_s=settings.opencode_connect_timeout_s + settings.opencode_read_timeout_s,
    )


def _hint_publisher(settings: Settings, metrics: ProcessMetrics) -> BrokerHintPublisher:
    return BrokerHintPublisher(
        broker_connection.connect(
            settings.broker_url.get_secret_value(),
            timeout_s=SOCKET_TIMEOUT_S,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            ca_file=settings.redis_ca_file,
            again=1,
        ),
        {str(task): str(queue) for task, queue in QUEUE_OF_TASK.items()},
        flag_ms=settings.hint_flag_ms,
        on_outcome=metrics.hint,
    )


def _batch_limits(settings: Settings) -> BatchLimits:
    return BatchLimits(batch=settings.claim_batch, lone_deliveries=settings.max_lone_deliveries)


def erase_organization(
    services: Services, connections: Callable[[], ManageConnections], *, times: ErasureTimes | None = None
) -> EraseOrganization:
    times = times or ErasureTimes()
    return EraseOrganization(
        PostgresErasure(services.database),
        RedisOrganizationCache(services.cache),
        HttpOpenCodeSessions(services.servers),
        HttpOpenCodeDirectories(services.servers, settle_s=times.unload_s),
        services.instances,
        connections,
        times=times,
    )


def manage_workspaces(services: Services) -> ManageWorkspaces:
    return ManageWorkspaces(
        PostgresWorkspaces(services.database, services.cipher),
        services.messenger,
        services.cancel_execution,
        services.chance,
    )


def manage_dead_letters(services: Services) -> ManageDeadLetters:
    return ManageDeadLetters(
        PostgresDeadLetterRegistry(services.database),
        services.hints,
        PostgresAuditTrail(services.database),
        answer_by_s=services.settings.answer_by_s,
    )


def restart_servers(services: Services) -> RestartServers | None:
    """None where the settings have no command for it."""
    settings = services.settings
    if settings.opencode_restart_command is None:
        return None
    after_s = settings.opencode_restart_after_s
    return RestartServers(
        services.instances,
        CommandSupervisor(settings.opencode_restart_command, limit_s=_RESTART_LIMIT_S),
        pace=RestartPace(after_s, every_s=_RESTARTED_AGAIN * after_s, drain_s=settings.opencode_drain_s),
    )


def open_installation(services: Services, stack: AsyncExitStack) -> InstallWorkspace | None:
    """Slack's OAuth installation; None where the settings have no client of Slack's or no public address."""
    settings = services.settings
    if settings.slack_client_id is None or settings.slack_client_secret is None or settings.public_url is None:
        return None
    session = slack_http_session(settings.slack_timeout_s)
    stack.push_async_callback(session.close)
    oauth = SlackOAuthClient(
        session,
        settings.slack_client_id,
        settings.slack_client_secret,
        redirect_uri=f"{settings.public_url}/slack/oauth_redirect",
        api_base_url=settings.slack_api_base_url,
    )
    links, states = install_states(settings.encryption_keys[0])
    workspaces = manage_workspaces(services)
    return InstallWorkspace(links, states, oauth, services.tenants, workspaces, services.clock, services.chance)


def tool_catalogue(settings: Settings) -> Mapping[str, CommandServer]:
    """The servers that may be started by a command."""
    with _naming("tool_commands_file"):
        return load_catalogue(settings.tool_commands_file)


def open_connections(services: Services, stack: AsyncExitStack) -> Connections:
    """Connections to MCP servers: for the processes that manage or use them."""
    # Imported here: the SDK takes a second and 60 MB, which workers, listener and scheduler need not pay.
    from nubabel_workers.adapters.mcp.authorization import HttpAuthorizationServers  # noqa: PLC0415
    from nubabel_workers.adapters.mcp.probe import McpProbe  # noqa: PLC0415

    settings = services.settings
    catalogue = tool_catalogue(settings)
    store = PostgresToolConnections(services.database, services.cipher)
    credentials = PostgresConnectionCredentials(services.database, services.cipher)
    servers = HttpAuthorizationServers(services.egress, timeout_s=settings.tool_oauth_timeout_s)
    limits = RefreshLimits(call_s=settings.tool_oauth_timeout_s, lease_s=2 * settings.tool_oauth_timeout_s)
    access = GrantToolAccess(store, credentials, servers, services.clock, services.chance, limits=limits)
    stack.push_async_callback(access.close)
    manage = ManageConnections(
        store,
        access,
        McpProbe(services.egress, catalogue, timeout_s=settings.tool_check_timeout_s),
        services.egress.check_url,
        RevokeAccess(credentials, servers, within_s=settings.tool_oauth_timeout_s),
        services.chance,
        catalogue=catalogue,
        check_s=settings.tool_check_timeout_s,
    )
    authorize = AuthorizeConnection(
        store, credentials, servers, services.chance, token_bytes, public_url=settings.public_url
    )
    return Connections(manage, authorize, access, catalogue)


def open_tool_calls(services: Services, connections: Connections, stack: AsyncExitStack) -> ToolCalls:
    """Calls of organizations' tools: for the process that agents reach."""
    from nubabel_workers.adapters.mcp.pool import SessionLimits  # noqa: PLC0415 - as above
    from nubabel_workers.adapters.mcp.servers import McpToolServers, ServerLimits  # noqa: PLC0415 - as above

    settings = services.settings
    times = ToolCallTimes(answer_s=settings.tool_call_timeout_s)
    exchange = ServerLimits(
        connect_s=times.connect_s,
        call_s=times.answer_s,
        wait_s=times.place_s,
        sessions=SessionLimits(
            sessions=settings.tool_sessions,
            sessions_of_one=settings.tool_sessions_per_organization,
            processes=settings.tool_processes,
            processes_of_one=settings.tool_processes_per_organization,
            wait_s=times.room_s,
        ),
    )
    breakers = _breakers_of(services, OF_TOOLS)
    servers = McpToolServers(services.egress, connections.catalogue, breakers, exchange)
    stack.push_async_callback(servers.close)
    ask = AskToolServers(connections.access, servers, AskLimits(list_s=times.list_s, call_s=times.call_s))
    invoke = InvokeTool(
        connections.access,
        ask,
        PostgresToolCalls(services.database, lease_s=settings.lease_s),
        services.leases,
        services.clock,
        services.chance,
        InvokeLimits(wait_s=times.whole_s, write_s=times.write_s),
    )
    stack.push_async_callback(invoke.close)
    return ToolCalls(invoke, ListTools(connections.access, ask))


def _database_limits(settings: Settings) -> DatabaseLimits:
    return DatabaseLimits(
        pool_min=settings.database_pool_min,
        pool_max=settings.database_pool_max,
        connect_timeout_s=settings.database_connect_timeout_s,
        acquire_timeout_s=settings.database_acquire_timeout_s,
        statement_timeout_s=settings.database_statement_timeout_s,
        lock_timeout_s=settings.database_lock_timeout_s,
        idle_in_transaction_timeout_s=settings.database_idle_in_transaction_timeout_s,
    )


def _cache(settings: Settings, timeout_s: float) -> "redis.Redis":
    return connection.connect(
        settings.cache_url.get_secret_value(),
        timeout_s=timeout_s,
        max_connections=settings.cache_pool_max,
        ca_file=str(settings.redis_ca_file) if settings.redis_ca_file else None,
    )


def _opencode_timeouts(settings: Settings) -> Timeouts:
    read_s = settings.opencode_read_timeout_s
    return Timeouts(connect_s=settings.opencode_connect_timeout_s, read_s=read_s, total_s=2 * read_s)


def _context_limits(settings: Settings) -> ContextLimits:
    return ContextLimits(
        read_quota_per_minute=settings.slack_read_quota_per_minute,
        read_page=settings.slack_read_page_size,
        max_files=settings.max_files,
        max_file_bytes=settings.max_file_bytes,
    )


def _retry(settings: Settings, queue: str) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=getattr(settings, f"retry_{queue}_max_attempts"),
        first_wait_s=getattr(settings, f"retry_{queue}_first_wait_s"),
        max_wait_s=getattr(settings, f"retry_{queue}_max_wait_s"),
    )


def _pace(settings: Settings) -> MaintenancePace:
    return MaintenancePace(
        hint_after_s=settings.scheduler_hint_after_s,
        reconcile_s=settings.scheduler_reconcile_s,
        late_notice_s=settings.late_notice_s,
        keep_idempotency_keys_s=settings.idempotency_keep_h * 3600.0,
        retention_s={
            "inbound_events": settings.retention_inbound_days * _DAY_S,
            "notifications": settings.retention_inbound_days * _DAY_S,
            "executions": settings.retention_executions_days * _DAY_S,
            "execution_groups": settings.retention_executions_days * _DAY_S,
            "sessions": settings.retention_executions_days * _DAY_S,
            "tool_calls": settings.retention_tool_calls_days * _DAY_S,
            "dead_letters": settings.retention_dead_letters_days * _DAY_S,
            "audit_log": settings.retention_audit_days * _DAY_S,
        },
    )


def _fair_policy(settings: Settings) -> FairPolicy:
    return FairPolicy(
        half_life_s=settings.fair_half_life_s,
        expected_run_s=settings.fair_expected_run_s,
        aged_after_s=settings.fair_aged_after_s,
        kept_free=settings.fair_kept_free,
        batch_share=settings.batch_share,
    )
