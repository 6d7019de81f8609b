"""What tool calls need to know of an organization's connections to MCP servers."""

from collections.abc import Sequence
from typing import Protocol

from nubabel_workers.domain.tools import ToolConnection, ToolCredentials


class ToolConnections(Protocol):
    async def serving(self, organization_id: str) -> Sequence[ToolConnection]:
        """All of the organization's connections, whatever their status, in the order of their provider names."""
        ...

    async def access(
        self,
        organization_id: str,
        connection_id: str,
        *,
        refused_revision: int | None = None,
        execution_id: str | None = None,
    ) -> ToolCredentials:
        """Credentials that are good for a call now; refreshed first when they end soon, by one process at a time.

        refused_revision: credentials of this revision were refused (HTTP 401) although they had not run out; a newer
        one is returned, or got by a refresh. execution_id: whose timeline tells when the connection is refused.
        Raises NotFoundError, CredentialsError (`connection_<status>` when it is not active; it is marked refused when
        the refresh was), UnavailableError while the authorization server is away or another process refreshes.
        """
        ...

    async def mark_refused(
        self, organization_id: str, connection_id: str, *, revision: int, reason: str, execution_id: str | None = None
    ) -> bool:
        """The server refuses these credentials and no refresh helps. reason: for people; no secrets.

        False, and nothing is changed, when the connection has newer credentials by now or is not active.
        """
        ...
