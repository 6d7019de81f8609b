"""The outside, opened: databases, caches, Slack, OpenCode and whoever else answers. Nothing else knows which adapter
serves which port.
"""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

import redis.asyncio as redis

from config.celery_app import CONNECT_TIMEOUT_S, SOCKET_TIMEOUT_S
from config.metrics import ProcessMetrics
from config.queues import QUEUE_OF_TASK
from config.settings import Settings
from nubabel_workers.adapters.broker import connection as broker_connection
from nubabel_workers.adapters.broker.hints import BrokerHintPublisher
from nubabel_workers.adapters.cache import connection
from nubabel_workers.adapters.cache.answers import RedisAnswerMemory
from nubabel_workers.adapters.cache.circuit_breakers import Guarded, RedisCircuitBreakers
from nubabel_workers.adapters.cache.mappings import CachedSessionMappings
from nubabel_workers.adapters.cache.progress import RedisProgress
from nubabel_workers.adapters.cache.throttle import RedisThrottle
from nubabel_workers.adapters.documents.reader import ProcessDocumentReader
from nubabel_workers.adapters.egress.guard import EgressGuard, EgressPolicy
from nubabel_workers.adapters.opencode.calls_seen import kind_of, outcome_of, tells_of_health
from nubabel_workers.adapters.opencode.client import CallReport
from nubabel_workers.adapters.opencode.servers import HttpOpenCodeEvents, HttpOpenCodeServers, OnServersCall
from nubabel_workers.adapters.opencode.transport import new_http_client, new_stream_session
from nubabel_workers.adapters.orchestrators.canned import CannedAnswer
from nubabel_workers.adapters.plans import load_plans
from nubabel_workers.adapters.process import SystemChance, SystemClock
from nubabel_workers.adapters.slack.messenger import SlackMessenger
from nubabel_workers.adapters.storage.admission import PostgresAdmission
from nubabel_workers.adapters.storage.calls import PostgresCalls
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.dead_letters import PostgresDeadLetters
from nubabel_workers.adapters.storage.directories import PostgresDirectories
from nubabel_workers.adapters.storage.encryption import TokenCipher
from nubabel_workers.adapters.storage.executions import PostgresExecutions
from nubabel_workers.adapters.storage.groups import PostgresGroups
from nubabel_workers.adapters.storage.id_owners import PostgresIdOwners
from nubabel_workers.adapters.storage.inbound import PostgresInbound
from nubabel_workers.adapters.storage.instances import PostgresInstances
from nubabel_workers.adapters.storage.maintenance import PostgresMaintenance
from nubabel_workers.adapters.storage.notifications import PostgresNotifications
from nubabel_workers.adapters.storage.tenants import PostgresTenants
from nubabel_workers.adapters.storage.turns import FairTurns
from nubabel_workers.adapters.storage.vitals import PostgresVitals
from nubabel_workers.adapters.storage.waiting import PostgresWaiting
from nubabel_workers.adapters.webhooks.sender import StandardWebhookSender
from nubabel_workers.bootstrap.policies import breaker_policy, database_limits, fair_policy, naming, opencode_timeouts
from nubabel_workers.domain.limits import Plans
from nubabel_workers.domain.placement import AWAY, PACE
from nubabel_workers.domain.ports.orchestrators import CallableOrchestrator
from nubabel_workers.domain.rollout import Orchestrator, Rollout

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
    id_owners: PostgresIdOwners
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


async def open_adapters(
    settings: Settings, metrics: ProcessMetrics, application_name: str, stack: AsyncExitStack
) -> Adapters:
    """stack: closes what was opened, in the opposite order."""
    with naming("egress_allow"):
        exceptions = EgressPolicy.parse(settings.egress_allow)
    with naming("plans_file"):
        plans = load_plans(settings.plans_file)
    clock, chance, cipher = SystemClock(), SystemChance(), TokenCipher(settings.encryption_keys)
    database = Database(
        settings.tenant_dsn, settings.system_dsn, database_limits(settings), application_name=application_name
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
    turns = FairTurns(database, plans, fair_policy(settings))
    rollout = Rollout.parse(settings.rollout)
    executions = PostgresExecutions(
        database, clock, chance, turns, lease_s=lease_s, lone_deliveries=lone, rollout=rollout
    )
    breakers = RedisCircuitBreakers(cache, chance, policy=breaker_policy(settings), on_opened=metrics.breaker_opened)
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
        id_owners=PostgresIdOwners(database),
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
        servers=HttpOpenCodeServers(http, timeouts=opencode_timeouts(settings), on_call=_heeded_by(breakers)),
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


def _cache(settings: Settings, timeout_s: float) -> "redis.Redis":
    return connection.connect(
        settings.cache_url.get_secret_value(),
        timeout_s=timeout_s,
        max_connections=settings.cache_pool_max,
        ca_file=str(settings.redis_ca_file) if settings.redis_ca_file else None,
    )


def _heeded_by(breakers: RedisCircuitBreakers) -> OnServersCall:
    def on_call(instance_id: str, report: CallReport) -> None:
        if tells_of_health(report):
            breakers.saw(instance_id, kind_of(report), outcome_of(report), began_ago_s=report.seconds)

    return on_call


def breakers_of(a: Adapters, guarded: Guarded) -> RedisCircuitBreakers:
    return RedisCircuitBreakers(a.cache, a.chance, policy=breaker_policy(a.settings), guarded=guarded)
