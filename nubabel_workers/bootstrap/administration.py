"""What only some processes need on top: operators' services, Slack's installation."""

from collections.abc import Callable
from contextlib import AsyncExitStack

from nubabel_workers.adapters.cache.erasure import RedisOrganizationCache
from nubabel_workers.adapters.opencode.servers import HttpOpenCodeDirectories, HttpOpenCodeSessions
from nubabel_workers.adapters.slack.messenger import slack_http_session
from nubabel_workers.adapters.slack.oauth_client import SlackOAuthClient, install_states
from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.adapters.storage.dead_letter_registry import PostgresDeadLetterRegistry
from nubabel_workers.adapters.storage.erasure import PostgresErasure
from nubabel_workers.adapters.storage.workspaces import PostgresWorkspaces
from nubabel_workers.bootstrap.services import Services
from nubabel_workers.services.erase_organization import EraseOrganization, ErasureTimes
from nubabel_workers.services.install_workspace import InstallWorkspace
from nubabel_workers.services.manage_connections import ManageConnections
from nubabel_workers.services.manage_dead_letters import ManageDeadLetters
from nubabel_workers.services.manage_instances import ManageInstances
from nubabel_workers.services.manage_workspaces import ManageWorkspaces


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


def manage_instances(services: Services) -> ManageInstances:
    return ManageInstances(
        services.instances,
        services.instances,
        services.servers,
        services.breakers,
        services.chance,
        main_agent=services.settings.opencode_agent_prefix,
    )


def manage_dead_letters(services: Services) -> ManageDeadLetters:
    return ManageDeadLetters(
        PostgresDeadLetterRegistry(services.database),
        services.hints,
        PostgresAuditTrail(services.database),
        answer_by_s=services.settings.answer_by_s,
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
