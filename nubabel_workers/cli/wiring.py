"""The operators' services, wired: on top of what every process has, what only administration needs."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import redis.asyncio as redis
from pydantic import SecretStr
from redis.exceptions import RedisError

from config.queues import QueueName
from config.settings import Settings
from nubabel_workers.adapters.broker.queues import BrokerQueues
from nubabel_workers.adapters.cache import connection
from nubabel_workers.adapters.storage.access import PostgresAccess
from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.adapters.storage.execution_reports import PostgresExecutionReports
from nubabel_workers.adapters.storage.key_rotation import PostgresKeyRotation
from nubabel_workers.adapters.storage.organization_rows import PostgresOrganizationRows
from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.adapters.storage.readiness import PostgresReadiness, connect_as
from nubabel_workers.adapters.storage.restore import PostgresRestore
from nubabel_workers.adapters.storage.tool_call_reports import PostgresToolCallReports
from nubabel_workers.adapters.storage.usage_reports import PostgresUsageReports
from nubabel_workers.adapters.storage.workspaces import PostgresWorkspaces
from nubabel_workers.bootstrap import (
    Services,
    erase_organization,
    manage_dead_letters,
    manage_instances,
    manage_workspaces,
    open_connections,
    open_installation,
    open_services,
    tool_catalogue,
)
from nubabel_workers.cli.administration import Administration, Defaults, InstallationLinks
from nubabel_workers.cli.command_settings import command_settings
from nubabel_workers.domain.errors import InvalidInputError, UnavailableError
from nubabel_workers.domain.ports import TenantStore
from nubabel_workers.domain.ports.orchestrators import CallableOrchestrator
from nubabel_workers.domain.rollout import Orchestrator, Rollout
from nubabel_workers.services.await_execution import AwaitExecution
from nubabel_workers.services.cancel_by_operator import CancelByOperator
from nubabel_workers.services.check_health import CheckHealth, Probe
from nubabel_workers.services.check_sidecar import sidecar_organization
from nubabel_workers.services.connections import Connections
from nubabel_workers.services.export_organization import ExportOrganization
from nubabel_workers.services.find_unserved import FindUnserved
from nubabel_workers.services.manage_callback_keys import ManageCallbackKeys
from nubabel_workers.services.manage_keys import ManageKeys
from nubabel_workers.services.manage_limits import ManageLimits, words_for_unknown
from nubabel_workers.services.manage_organizations import ManageOrganizations
from nubabel_workers.services.manage_tokens import ManageSubmitKeys, ManageTokens
from nubabel_workers.services.read_tool_calls import ReadToolCalls
from nubabel_workers.services.read_usage import ReadUsage

_REDIS_CONNECTIONS = 2
_NO_EVICTION = "noeviction"
# What an orchestrator is called among the findings, and the settings that say how it is reached.
_TRIED = {
    Orchestrator.DELEGATE: ("delegate service", "NUBABEL_DELEGATE_URL and NUBABEL_DELEGATE_TOKEN"),
    Orchestrator.FALLBACK: (
        "fallback API",
        "NUBABEL_FALLBACK_API, NUBABEL_FALLBACK_BASE_URL, NUBABEL_FALLBACK_MODEL and NUBABEL_FALLBACK_API_KEY",
    ),
}
_POSTGRESQL, _SCHEMA, _BROKER = "PostgreSQL", "schema", "broker"


@asynccontextmanager
async def open_administration() -> AsyncIterator[Administration]:
    """Raises config's SettingsError. Connects to nothing that the command doesn't use."""
    settings = command_settings()
    async with AsyncExitStack() as stack:
        services = await stack.enter_async_context(open_services(settings, application_name="nubabel cli"))
        broker = _redis(settings, settings.broker_url)
        stack.push_async_callback(broker.aclose)
        yield _wired(services, broker, _installation_links(services, stack), lambda: open_connections(services, stack))


def _wired(
    services: Services,
    broker: "redis.Redis",
    installation: InstallationLinks | None,
    connections: Callable[[], Connections],
) -> Administration:
    database, cipher, chance, settings = services.database, services.cipher, services.chance, services.settings
    access = PostgresAccess(database, cipher)
    workspaces = PostgresWorkspaces(database, cipher)
    audit = PostgresAuditTrail(database)
    secrets_at_rest = PostgresKeyRotation(database, cipher)
    keys = ManageKeys(secrets_at_rest, secrets_at_rest, audit)
    instances = manage_instances(services)
    organizations = PostgresOrganizations(database, cipher)
    reports = PostgresExecutionReports(database)
    find_unserved = FindUnserved(organizations, services.instances, services.rollout)
    limits = ManageLimits(organizations, services.plans, services.keep_budgets)
    return Administration(
        organizations=ManageOrganizations(organizations, chance, secrets.token_bytes),
        limits=limits,
        export=ExportOrganization(
            PostgresOrganizationRows(
                settings.tenant_dsn,
                connect_timeout_s=settings.database_connect_timeout_s,
                application_name="nubabel export",
            ),
            audit,
            services.clock,
            schema_revision=_head_revision,
        ),
        erase=erase_organization(services, lambda: connections().manage),
        workspaces=manage_workspaces(services),
        tokens=ManageTokens(access, chance, secrets.token_bytes),
        submit_keys=ManageSubmitKeys(access, chance, secrets.token_bytes),
        keys=keys,
        instances=instances,
        unserved=find_unserved,
        callback_keys=ManageCallbackKeys(services.instances, secrets.token_bytes),
        dead_letters=manage_dead_letters(services),
        tool_calls=ReadToolCalls(PostgresToolCallReports(database), audit),
        usage=ReadUsage(PostgresUsageReports(database), services.clock),
        budgets=services.keep_budgets,
        health=CheckHealth(
            _probes(services, broker, limits, keys),
            frozenset({_POSTGRESQL, _SCHEMA}),
            services.instances,
            instances,
            find_unserved,
            workspaces,
            manage_workspaces(services),
            services.tenants,
            services.messenger,
            services.rollout,
            services.clock,
        ),
        audit=audit,
        restore=PostgresRestore(database),
        reports=reports,
        submit=services.submit_execution,
        read=services.read_execution,
        waiting=services.read_waiting,
        cancel_by_operator=CancelByOperator(services.cancel_execution, reports),
        groups=services.groups,
        cancel_group=services.cancel_group,
        wait=AwaitExecution(services.read_execution, services.progress, services.clock),
        foreign_ids=services.foreign_ids,
        clock=services.clock,
        chance=chance,
        connections=connections,
        installation=installation,
        defaults=Defaults(
            opencode_username=settings.opencode_username,
            capacity_runs=settings.opencode_capacity_runs,
            submits_per_second=settings.opencode_submits_per_second,
            max_directories=settings.opencode_max_directories,
            slack_bot_token=settings.slack_bot_token,
        ),
    )


def _head_revision() -> str:
    # Imported here: SQLAlchemy and Alembic take longer to load than most commands to run.
    from nubabel_workers.adapters.storage.schema import head_revision  # noqa: PLC0415

    return head_revision()


def _redis(settings: Settings, url: SecretStr) -> "redis.Redis":
    return connection.connect(
        url.get_secret_value(),
        timeout_s=settings.cache_timeout_s,
        max_connections=_REDIS_CONNECTIONS,
        ca_file=str(settings.redis_ca_file) if settings.redis_ca_file else None,
    )


def _installation_links(services: Services, stack: AsyncExitStack) -> InstallationLinks | None:
    install = open_installation(services, stack)
    public_url = services.settings.public_url
    return InstallationLinks(public_url, install) if install is not None and public_url is not None else None


# --- doctor ----------------------------------------------------------------------------------------------------------


def _probes(services: Services, broker: "redis.Redis", limits: ManageLimits, keys: ManageKeys) -> list[Probe]:
    database = PostgresReadiness(services.database)
    queues = BrokerQueues(broker, list(QueueName))

    async def broker_answers() -> str:
        lengths = await queues.lengths()
        return ", ".join(f"{queue} {waiting}" for queue, waiting in lengths.items())

    async def broker_keeps() -> str:
        return await _eviction(broker)

    async def cache_answers() -> str:
        try:
            await services.cache.ping()
        except (RedisError, OSError) as error:
            raise UnavailableError("the cache cannot be reached") from error
        return "it answers"

    async def postgresql_answers() -> str:
        for url in (services.settings.system_dsn, services.settings.tenant_dsn):
            found = await connect_as(url, timeout_s=services.settings.database_connect_timeout_s)
        return found

    async def plans_known() -> str:
        unknown = await limits.unknown_plans()
        if unknown:
            raise InvalidInputError(words_for_unknown(unknown))
        return "every organization's plan is described"

    start = "see that the server runs and that {} names it"
    return [
        Probe(
            _POSTGRESQL,
            postgresql_answers,
            "see that the server runs and that NUBABEL_DATABASE_URL, NUBABEL_TENANT_DATABASE_URL and"
            " NUBABEL_SYSTEM_DATABASE_URL name it; the two roles are made by: nubabel migrate",
        ),
        Probe(_SCHEMA, database.schema_current, "run: nubabel migrate", needs=_POSTGRESQL),
        Probe(
            "tenant isolation",
            database.tenant_role_bound,
            "NUBABEL_TENANT_DATABASE_URL must use the role nubabel_tenant; run: nubabel migrate",
            needs=_POSTGRESQL,
        ),
        Probe(
            "plans",
            plans_known,
            "describe them in the file that NUBABEL_PLANS_FILE names, or: nubabel orgs set-policy ORG --plan PLAN",
            needs=_SCHEMA,
        ),
        Probe(
            "encryption keys",
            keys.check,
            "put that key back, behind the first, and restart; then: nubabel keys rotate",
            needs=_SCHEMA,
        ),
        Probe(_BROKER, broker_answers, start.format("NUBABEL_BROKER_URL")),
        Probe("broker memory", broker_keeps, "set maxmemory-policy noeviction on the broker's server", needs=_BROKER),
        Probe("cache", cache_answers, start.format("NUBABEL_CACHE_URL")),
        *rollout_probes(services.rollout, services.orchestrators),
        Probe("Slack settings", partial(_slack_mode, services.settings), "set what is missing, see .env.example"),
        *_tool_probes(services.settings),
        *sidecar_probes(services.settings.sidecar_organization, services.tenants),
    ]


async def _eviction(broker: "redis.Redis") -> str:
    try:
        policy = (await broker.info("memory")).get("maxmemory_policy")
    except (RedisError, OSError) as error:
        raise UnavailableError("the broker cannot be reached") from error
    if policy not in {None, _NO_EVICTION}:
        raise InvalidInputError(f"when memory runs out it drops keys ({policy}), and queues with them")
    return f"{policy or 'its policy is not shown'}: nothing is dropped when memory runs out"


def rollout_probes(rollout: Rollout, orchestrators: Mapping[Orchestrator, CallableOrchestrator]) -> Sequence[Probe]:
    """Who answers, and whether the other one can: it is tried as long as it gets a share."""
    if rollout.others is None:
        return [Probe("rollout", _said("OpenCode answers everything"), "")]
    share = f"{rollout.percent:g} % by {rollout.by}, OpenCode the rest" if rollout.only is None else "everything"
    name, settings = _TRIED[rollout.others]
    advice = f"see that {settings} fit, or give OpenCode everything meanwhile: NUBABEL_ROLLOUT=opencode"
    return [
        Probe("rollout", _said(f"{rollout.others} gets {share}"), ""),
        Probe(name, orchestrators[rollout.others].check, advice),
    ]


def _said(words: str) -> Callable[[], Awaitable[str]]:
    async def say() -> str:
        return words

    return say


def _tool_probes(settings: Settings) -> Sequence[Probe]:
    if settings.tool_commands_file is None:
        return []

    async def commands_fit() -> str:
        return f"servers that may be started: {', '.join(tool_catalogue(settings)) or 'none'}"

    return [Probe("tool commands", commands_fit, "mend that file: `web` does not start with it")]


def sidecar_probes(organization_id: str | None, tenants: TenantStore) -> Sequence[Probe]:
    """organization_id: whom callers of the private address act for; None: there is no such address."""
    if organization_id is None:
        return []
    check = partial(sidecar_organization, tenants, organization_id)
    advice = "set NUBABEL_SIDECAR_ORGANIZATION to an id of: nubabel orgs list, and restart `web`"
    return [Probe("sidecar address", check, advice, needs=_SCHEMA)]


async def _slack_mode(settings: Settings) -> str:
    if settings.slack_mode == "off":
        return "off: no messages come from Slack (NUBABEL_SLACK_MODE=events or socket)"
    if settings.slack_mode == "events" and settings.public_url is None:
        raise InvalidInputError("Slack cannot call us: NUBABEL_PUBLIC_URL is not set")
    return f"mode {settings.slack_mode}"
