"""Organizations' tools: connections to MCP servers, and calls of them. For the processes that manage or use them."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from secrets import token_bytes

from config.settings import Settings
from nubabel_workers.adapters.cache.circuit_breakers import OF_TOOLS
from nubabel_workers.adapters.mcp.catalogue import load_catalogue
from nubabel_workers.adapters.storage.connection_credentials import PostgresConnectionCredentials
from nubabel_workers.adapters.storage.tool_calls import PostgresToolCalls
from nubabel_workers.adapters.storage.tool_connections import PostgresToolConnections
from nubabel_workers.bootstrap.adapters import breakers_of
from nubabel_workers.bootstrap.policies import naming
from nubabel_workers.bootstrap.services import Services
from nubabel_workers.domain.tool_call_times import ToolCallTimes
from nubabel_workers.domain.tools import CommandServer
from nubabel_workers.services.ask_tool_servers import AskLimits, AskToolServers
from nubabel_workers.services.authorize_connection import AuthorizeConnection
from nubabel_workers.services.connections import Connections
from nubabel_workers.services.grant_tool_access import GrantToolAccess, RefreshLimits
from nubabel_workers.services.invoke_tool import InvokeLimits, InvokeTool
from nubabel_workers.services.list_tools import ListTools
from nubabel_workers.services.manage_connections import ManageConnections
from nubabel_workers.services.revoke_access import RevokeAccess
from nubabel_workers.services.tool_calls import ToolCalls


def tool_catalogue(settings: Settings) -> Mapping[str, CommandServer]:
    """The servers that may be started by a command."""
    with naming("tool_commands_file"):
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
    breakers = breakers_of(services, OF_TOOLS)
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
