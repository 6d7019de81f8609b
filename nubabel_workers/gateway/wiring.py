"""The gateway's parts from the process's services."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import redis.asyncio as redis
from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from pydantic import SecretStr
from redis.exceptions import RedisError

from config.queues import QueueName
from config.settings import Settings
from nubabel_workers.adapters.broker.queues import BrokerQueues
from nubabel_workers.adapters.cache import connection
from nubabel_workers.adapters.cache.progress import RedisProgress
from nubabel_workers.adapters.slack.ingress import EventsApiHandler, events_api_handler
from nubabel_workers.adapters.storage.conversations import PostgresConversations
from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.adapters.storage.readiness import PostgresReadiness
from nubabel_workers.adapters.storage.usage_reports import PostgresUsageReports
from nubabel_workers.bootstrap import (
    Services,
    manage_dead_letters,
    open_connections,
    open_installation,
    open_tool_calls,
)
from nubabel_workers.domain.circuit_breaker import CLOSED, BreakerState
from nubabel_workers.domain.credentials import operator_tokens
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.gateway.checks import opencode_check, reach_server
from nubabel_workers.gateway.dependencies import CallbackParts, GatewayLimits, GatewayParts, SlackParts
from nubabel_workers.gateway.metrics import BreakerStates
from nubabel_workers.gateway.readiness import Check
from nubabel_workers.gateway.slack_ingress import build_slack_app
from nubabel_workers.services.authenticate_callback import AuthenticateCallback
from nubabel_workers.services.call_tools_for_session import CallToolsForSession
from nubabel_workers.services.find_callback_session import FindCallbackSession
from nubabel_workers.services.hear_callbacks import HearCallbacks
from nubabel_workers.services.manage_limits import ManageLimits
from nubabel_workers.services.manage_organizations import ManageOrganizations
from nubabel_workers.services.read_usage import ReadUsage
from nubabel_workers.services.tool_calls import ToolCalls

_BROKER_CONNECTIONS = 2  # only /metrics and /ready ask


@asynccontextmanager
async def gateway_parts(services: Services) -> AsyncIterator[GatewayParts]:
    """What only the gateway needs is opened here and closed again."""
    settings = services.settings
    async with AsyncExitStack() as stack:
        limits = GatewayLimits(
            max_body_bytes=settings.max_request_bytes,
            stream_heartbeat_s=settings.stream_heartbeat_s,
            delegate_wait_s=settings.delegate_wait_s,
            sidecar_wait_s=settings.sidecar_wait_s,
            metrics_organizations=settings.metrics_organizations,
        )
        broker = _redis(stack, settings, settings.broker_url, settings.cache_timeout_s, _BROKER_CONNECTIONS)
        queues = BrokerQueues(broker, list(QueueName))
        # Reading a stream rests in the cache between two looks at the row.
        rest_s = limits.stream_row_check_s + settings.cache_timeout_s
        streams = _redis(stack, settings, settings.cache_url, rest_s, limits.streams_at_once)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=services.metrics.registry)
        connections = open_connections(services, stack)
        organizations = PostgresOrganizations(services.database, services.cipher)
        yield GatewayParts(
            submit=services.submit_execution,
            read=services.read_execution,
            waiting=services.read_waiting,
            cancel=services.cancel_execution,
            submit_group=services.submit_group,
            cancel_group=services.cancel_group,
            tenants=services.tenants,
            progress=RedisProgress(services.cache, streams, keep_s=settings.progress_keep_s),
            maintenance=services.maintenance,
            queues=queues,
            breakers=_breaker_states(services),
            servers=services.instances.loads,
            clock=services.clock,
            chance=services.chance,
            dead_letters=manage_dead_letters(services),
            callbacks=_callbacks(services, open_tool_calls(services, connections, stack)),
            connections=connections,
            conversations=PostgresConversations(services.database),
            capabilities=services.read_capabilities,
            usage=ReadUsage(PostgresUsageReports(services.database), services.clock),
            manage_limits=ManageLimits(organizations, services.plans, services.keep_budgets),
            manage_organizations=ManageOrganizations(organizations, services.chance, secrets.token_bytes),
            budgets=services.keep_budgets,
            foreign_ids=services.foreign_ids,
            check_callback=services.egress.check_url,
            operator_tokens=operator_tokens(settings.operator_tokens),
            readiness_checks=_checks(services, queues),
            slack=SlackParts(
                events=_slack_events(services),
                install=open_installation(services, stack),
            ),
            secure_cookies=(settings.public_url or "").startswith("https://"),
            limits=limits,
            registry=services.metrics.registry,
        )


def _callbacks(services: Services, tools: ToolCalls) -> CallbackParts:
    return CallbackParts(
        authenticate=AuthenticateCallback(services.instances, services.tenants, services.clock),
        find=FindCallbackSession(
            services.mappings,
            services.executions,
            services.instances,
            services.servers,
            services.throttle,
            services.foreign_ids,
            services.metrics,
            services.clock,
            callbacks_per_s=services.settings.callbacks_per_second,
        ),
        hear=HearCallbacks(services.executions, services.progress, services.hints, services.foreign_ids),
        tools=CallToolsForSession(services.executions, services.foreign_ids, tools.invoke, tools.list),
        reach=reach_server(services.instances, services.servers),
        watch=services.watch_servers,
    )


def _redis(
    stack: AsyncExitStack, settings: Settings, url: SecretStr, timeout_s: float, connections: int
) -> "redis.Redis":
    client = connection.connect(
        url.get_secret_value(),
        timeout_s=timeout_s,
        max_connections=connections,
        ca_file=str(settings.redis_ca_file) if settings.redis_ca_file else None,
    )
    stack.push_async_callback(client.aclose)
    return client


def _checks(services: Services, queues: BrokerQueues) -> Mapping[str, Check]:
    database = PostgresReadiness(services.database)
    return {
        "database": database.reachable,
        "tenant_isolation": database.tenant_role_bound,
        "schema": database.schema_current,
        "broker": _answers(queues),
        "cache": _cache_check(services.cache),
        "opencode": opencode_check(services.instances, services.servers, services.breakers, services.rollout),
    }


def _breaker_states(services: Services) -> BreakerStates:
    async def states() -> Mapping[str, BreakerState]:
        servers, gates = await services.instances.loads(), await services.breakers.gates()
        return {one.id: gates.get(one.id, CLOSED).state for one in servers}

    return states


def _answers(queues: BrokerQueues) -> Check:
    async def check() -> str:
        await queues.ping()
        return "it answers"

    return check


def _cache_check(cache: "redis.Redis") -> Check:
    async def check() -> str:
        try:
            await cache.ping()
        except (RedisError, OSError, TimeoutError) as error:
            raise UnavailableError("the cache cannot be reached") from error
        return "it answers"

    return check


def _slack_events(services: Services) -> EventsApiHandler | None:
    if services.settings.slack_mode != "events":
        return None
    return events_api_handler(build_slack_app(services))
