"""The composition root: settings in, wired services out. The only place that knows which adapter serves which port."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import redis.asyncio as redis
from celery import Celery

from config.celery_app import create_celery_app
from config.metrics import ProcessMetrics
from config.queues import QUEUE_OF_TASK
from config.settings import Settings
from nubabel_workers.adapters.analysis_rules import load_rules
from nubabel_workers.adapters.broker.hints import CeleryHintPublisher, RedisHintFlags
from nubabel_workers.adapters.cache import connection
from nubabel_workers.adapters.cache.mappings import CachedSessionMappings
from nubabel_workers.adapters.cache.progress import RedisProgress
from nubabel_workers.adapters.cache.throttle import RedisThrottle
from nubabel_workers.adapters.opencode.servers import HttpOpenCodeEvents, HttpOpenCodeServers
from nubabel_workers.adapters.opencode.transport import Timeouts, new_http_client, new_stream_session
from nubabel_workers.adapters.process import SystemChance, SystemClock
from nubabel_workers.adapters.slack.messenger import SlackMessenger
from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from nubabel_workers.adapters.storage.dead_letters import PostgresDeadLetters
from nubabel_workers.adapters.storage.encryption import TokenCipher
from nubabel_workers.adapters.storage.executions import PostgresExecutions
from nubabel_workers.adapters.storage.inbound import PostgresInbound
from nubabel_workers.adapters.storage.instances import PostgresInstances
from nubabel_workers.adapters.storage.maintenance import PostgresMaintenance
from nubabel_workers.adapters.storage.notifications import PostgresNotifications
from nubabel_workers.adapters.storage.tenants import PostgresTenants
from nubabel_workers.adapters.webhooks.egress import EgressGuard, EgressPolicy
from nubabel_workers.adapters.webhooks.sender import StandardWebhookSender
from nubabel_workers.domain.retry import RetryPolicy
from nubabel_workers.services.accept_slack_event import AcceptSlackEvent
from nubabel_workers.services.accept_submission import AcceptSubmission
from nubabel_workers.services.apply_busy_policy import ApplyBusyPolicy
from nubabel_workers.services.batches import BatchLimits
from nubabel_workers.services.cancel_execution import CancelExecution
from nubabel_workers.services.complete_executions import CheckLimits, CompleteExecutions
from nubabel_workers.services.deliver_notifications import DeliverNotifications
from nubabel_workers.services.deliver_to_slack import DeliverToSlack
from nubabel_workers.services.dispatch_executions import DispatchExecutions
from nubabel_workers.services.follow_instance import FollowInstance
from nubabel_workers.services.gather_context import ContextLimits, GatherContext
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.maintain import Maintain, MaintenancePace
from nubabel_workers.services.process_slack_events import ProcessSlackEvents
from nubabel_workers.services.read_execution import ReadExecution
from nubabel_workers.services.reconcile_instance import ReconcileInstance
from nubabel_workers.services.refuse_asks import RefuseAsks
from nubabel_workers.services.submit_execution import SubmitExecution
from nubabel_workers.services.submit_prompt import RunLimits, SubmitPrompt

_DAY_S = 86_400.0
_STREAM_REST_S = 60.0  # sockets that rest in XREAD or a subscription: longer than any block of theirs


@dataclass(frozen=True)
class Services:
    """Everything that the ways in use. Built once per process."""

    settings: Settings
    clock: SystemClock
    chance: SystemChance
    metrics: ProcessMetrics
    celery: Celery
    cache: "redis.Redis"
    database: Database
    cipher: TokenCipher
    tenants: PostgresTenants
    instances: PostgresInstances
    executions: PostgresExecutions
    inbound: PostgresInbound
    notifications: PostgresNotifications
    dead_letters: PostgresDeadLetters
    maintenance: PostgresMaintenance
    mappings: CachedSessionMappings
    progress: RedisProgress
    hints: CeleryHintPublisher
    messenger: SlackMessenger
    servers: HttpOpenCodeServers
    leases: LeaseHolder
    accept_slack_event: AcceptSlackEvent
    process_slack_events: ProcessSlackEvents
    submit_execution: SubmitExecution
    accept_submission: AcceptSubmission
    read_execution: ReadExecution
    cancel_execution: CancelExecution
    dispatch_executions: DispatchExecutions
    complete_executions: CompleteExecutions
    deliver_notifications: DeliverNotifications
    reconcile_instance: ReconcileInstance
    follow_instance: FollowInstance
    maintain: Maintain


@asynccontextmanager
async def open_services(
    settings: Settings, *, application_name: str, metrics: ProcessMetrics | None = None
) -> AsyncIterator[Services]:
    """Wire everything for one process and close it again. Connects to nothing that isn't used.

    application_name: how PostgreSQL shows this process's connections.
    """
    metrics = metrics or ProcessMetrics()
    clock, chance = SystemClock(), SystemChance()
    limits = BatchLimits(batch=settings.claim_batch, lone_deliveries=settings.max_lone_deliveries)
    async with AsyncExitStack() as stack:
        database = Database(
            settings.tenant_dsn, settings.system_dsn, _database_limits(settings), application_name=application_name
        )
        await database.open()
        stack.push_async_callback(database.close)
        cache, reading = _cache(settings, settings.cache_timeout_s), _cache(settings, _STREAM_REST_S)
        stack.push_async_callback(cache.aclose)
        stack.push_async_callback(reading.aclose)
        http = new_http_client()
        stack.push_async_callback(http.aclose)
        streams = new_stream_session()
        stack.push_async_callback(streams.close)
        messenger = SlackMessenger(base_url=settings.slack_api_base_url, timeout_s=settings.slack_timeout_s)
        stack.push_async_callback(messenger.close)
        guard = EgressGuard(EgressPolicy.parse(settings.egress_allow))
        stack.push_async_callback(guard.close)
        webhooks = StandardWebhookSender(guard, now=clock.now, timeout_s=settings.webhook_timeout_s)
        celery = create_celery_app(settings)
        hints = CeleryHintPublisher(
            celery,
            {str(task): str(queue) for task, queue in QUEUE_OF_TASK.items()},
            cache_url=settings.cache_url.get_secret_value(),
            flag_ms=settings.hint_flag_ms,
            on_outcome=metrics.hint,
        )
        stack.callback(hints.close)
        flags = RedisHintFlags(cache)

        cipher = TokenCipher(settings.encryption_keys)
        tenants = PostgresTenants(database, cipher)
        instances = PostgresInstances(database, cipher)
        executions = PostgresExecutions(database, clock, chance, lease_s=settings.lease_s)
        inbound = PostgresInbound(database, chance, lease_s=settings.lease_s)
        notifications = PostgresNotifications(database, chance, lease_s=settings.lease_s)
        dead_letters = PostgresDeadLetters(database, chance)
        maintenance = PostgresMaintenance(database, chance)
        mappings = CachedSessionMappings(cache, executions)
        progress = RedisProgress(cache, reading)
        throttle = RedisThrottle(cache)
        servers = HttpOpenCodeServers(http, timeouts=_opencode_timeouts(settings))

        leases = LeaseHolder(maintenance, clock, chance, lease_s=settings.lease_s)
        leases.start()
        stack.push_async_callback(leases.stop)
        cancel_execution = CancelExecution(executions, hints)
        busy_policy = ApplyBusyPolicy(executions, cancel_execution, hints)
        rules = load_rules(settings.analysis_rules_file, main_agent=settings.opencode_agent_prefix)
        submit_execution = SubmitExecution(
            executions,
            tenants,
            busy_policy,
            hints,
            chance,
            rules,
            answer_by_s=settings.answer_by_s,
            max_prompt_bytes=settings.max_prompt_bytes,
        )
        asks = RefuseAsks(executions, servers)
        reconcile = ReconcileInstance(executions, instances, servers, asks, hints)
        submit_prompt = SubmitPrompt(
            executions,
            servers,
            mappings,
            GatherContext(messenger, tenants, throttle, limits=_context_limits(settings)),
            leases,
            rules,
            limits=RunLimits(
                submit_timeout_s=min(settings.opencode_read_timeout_s, settings.lease_s),
                run_deadline_s=settings.run_deadline_s,
                default_model=settings.opencode_default_model,
            ),
        )
        yield Services(
            settings=settings,
            clock=clock,
            chance=chance,
            metrics=metrics,
            celery=celery,
            cache=cache,
            database=database,
            cipher=cipher,
            tenants=tenants,
            instances=instances,
            executions=executions,
            inbound=inbound,
            notifications=notifications,
            dead_letters=dead_letters,
            maintenance=maintenance,
            mappings=mappings,
            progress=progress,
            hints=hints,
            messenger=messenger,
            servers=servers,
            leases=leases,
            accept_slack_event=AcceptSlackEvent(tenants, inbound, hints, chance),
            process_slack_events=ProcessSlackEvents(
                inbound,
                executions,
                tenants,
                cancel_execution,
                busy_policy,
                leases,
                hints,
                flags,
                chance,
                retry=_retry(settings, "slack_events"),
                limits=limits,
                answer_by_s=settings.answer_by_s,
            ),
            submit_execution=submit_execution,
            accept_submission=AcceptSubmission(
                tenants,
                dead_letters,
                submit_execution,
                clock,
                chance,
                trusted_organization_id=settings.trusted_broker_organization,
            ),
            read_execution=ReadExecution(executions),
            cancel_execution=cancel_execution,
            dispatch_executions=DispatchExecutions(
                executions,
                instances,
                submit_prompt,
                progress,
                throttle,
                leases,
                hints,
                flags,
                chance,
                clock,
                retry=_retry(settings, "orchestration"),
                limits=limits,
            ),
            complete_executions=CompleteExecutions(
                executions,
                instances,
                servers,
                mappings,
                progress,
                leases,
                hints,
                flags,
                chance,
                retry=_retry(settings, "orchestration"),
                limits=limits,
                checks=CheckLimits(),
            ),
            deliver_notifications=DeliverNotifications(
                notifications,
                tenants,
                DeliverToSlack(
                    messenger,
                    tenants,
                    notifications,
                    throttle,
                    leases,
                    read_quota_per_minute=settings.slack_read_quota_per_minute,
                ),
                webhooks,
                cancel_execution,
                leases,
                hints,
                flags,
                chance,
                retry=_retry(settings, "notifications"),
                limits=limits,
            ),
            reconcile_instance=reconcile,
            follow_instance=FollowInstance(
                HttpOpenCodeEvents(streams, silence_s=settings.opencode_stream_idle_s),
                servers,
                instances,
                executions,
                notifications,
                progress,
                reconcile,
                asks,
                hints,
                progress_pace_s=settings.slack_progress_interval_s,
            ),
            maintain=Maintain(maintenance, executions, reconcile, hints, pace=_pace(settings)),
        )


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
            "executions": settings.retention_executions_days * _DAY_S,
            "sessions": settings.retention_executions_days * _DAY_S,
            "dead_letters": settings.retention_dead_letters_days * _DAY_S,
            "audit_log": settings.retention_audit_days * _DAY_S,
        },
    )
