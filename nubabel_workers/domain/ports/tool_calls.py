"""What calling tools needs from the outside: the servers that have them, and the ledger of every call."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.tool_calls import NewToolCall, Tool, ToolCallEnd, ToolCallRecord, ToolResult
from nubabel_workers.domain.tools import ToolConnection, ToolCredentials


class ToolServers(Protocol):
    """MCP servers. Both methods raise CredentialsError when the server refuses these credentials (HTTP 401)."""

    async def tools(self, connection: ToolConnection, credentials: ToolCredentials) -> Sequence[Tool]:
        """All that the server has, allowed or not; remembered for a while. TransientError when it cannot be asked."""
        ...

    async def call(
        self,
        connection: ToolConnection,
        credentials: ToolCredentials,
        tool: Tool,
        arguments: Mapping[str, Any],
        *,
        may_go: Callable[[], None],
    ) -> ToolResult:
        """Sent once; once more where the first cannot have taken effect, or where that does no harm.

        may_go: called directly before it is sent; what it raises is raised, and nothing took effect.
        Raises TransientError and PermanentError when it is certain that nothing took effect, or that the server
        refused; UncertainError when the call may have taken effect.
        """
        ...


class ToolCallLedger(Protocol):
    """Every call: its intent before it is made, its outcome afterwards. Both are in the execution's timeline."""

    async def begin(self, new: NewToolCall, lease: Lease) -> tuple[ToolCallRecord, bool]:
        """Write down the intent; (the row, whether this process is to make the call).

        A call that is over, or that another process makes, stays as it is. One whose process died becomes ours again
        when it is repeatable, and unknown when it is not. Raises NotFoundError when the execution is not there, or
        over, or about to be stopped.
        """
        ...

    async def finish(self, begun: ToolCallRecord, end: ToolCallEnd) -> bool:
        """Also after the lease was lost: the truth about this try. False when another try was begun meanwhile."""
        ...

    async def find(self, organization_id: str, tool_call_id: str) -> ToolCallRecord | None: ...
