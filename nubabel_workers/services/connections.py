"""All that the ways in do with connections to MCP servers, in one piece."""

from collections.abc import Mapping
from dataclasses import dataclass

from nubabel_workers.domain.tools import CommandServer
from nubabel_workers.services.authorize_connection import AuthorizeConnection
from nubabel_workers.services.grant_tool_access import GrantToolAccess
from nubabel_workers.services.manage_connections import ManageConnections


@dataclass(frozen=True)
class Connections:
    manage: ManageConnections
    authorize: AuthorizeConnection
    access: GrantToolAccess
    catalogue: Mapping[str, CommandServer]
