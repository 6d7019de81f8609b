"""The composition root: settings in, wired services out. The only place that knows which adapter serves which port.

Read it in this order; each file imports only from those above it:

    policies        the settings as values
    adapters        the outside, opened
    intake          requests come in
    runs            executions are answered, and the answers told
    servers         OpenCode servers are followed
    services        all of it, once per process
    administration  what operators and the installation need on top
    tools           organizations' tools
"""

from nubabel_workers.bootstrap.adapters import Adapters
from nubabel_workers.bootstrap.administration import (
    erase_organization,
    manage_dead_letters,
    manage_instances,
    manage_workspaces,
    open_installation,
)
from nubabel_workers.bootstrap.servers import restart_servers
from nubabel_workers.bootstrap.services import Services, open_services
from nubabel_workers.bootstrap.tools import open_connections, open_tool_calls, tool_catalogue

__all__ = [
    "Adapters",
    "Services",
    "erase_organization",
    "manage_dead_letters",
    "manage_instances",
    "manage_workspaces",
    "open_connections",
    "open_installation",
    "open_services",
    "open_tool_calls",
    "restart_servers",
    "tool_catalogue",
]
