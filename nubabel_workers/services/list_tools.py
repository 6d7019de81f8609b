"""Which tools an organization's agent may call, provider by provider."""

import asyncio
from collections.abc import Sequence

from nubabel_workers.domain.ports.tools import ToolConnections
from nubabel_workers.domain.tool_calls import ProviderTools
from nubabel_workers.services.ask_tool_servers import AskToolServers


class ListTools:
    def __init__(self, connections: ToolConnections, ask: AskToolServers) -> None:
        self._connections = connections
        self._ask = ask

    async def run(self, organization_id: str) -> Sequence[ProviderTools]:
        """A provider that cannot be asked is in the list, with the reason."""
        connections = await self._connections.serving(organization_id)
        return await asyncio.gather(*(self._ask.offer(connection) for connection in connections))
