"""Connections to MCP servers that an organization made, and what a call to one of their tools needs.

Model Context Protocol: https://modelcontextprotocol.io/specification
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from nubabel_workers.domain.ids import OrganizationId, ToolConnectionId

# Every variable that mcp.client.stdio hands on from the process that starts a server (DEFAULT_INHERITED_ENV_VARS).
_BARE_ENVIRONMENT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/nonexistent",
        "LOGNAME": "nobody",
        "USER": "nobody",
        "SHELL": "/bin/false",
        "TERM": "dumb",
    }
)


class ConnectionKind(StrEnum):
    HTTP = "http"  # a server at a URL, spoken to through the egress guard
    COMMAND = "command"  # a process that we start, from the operator's catalogue only


class ConnectionStatus(StrEnum):
    """Only an active connection serves calls."""

    PENDING_AUTHORIZATION = "pending_authorization"  # somebody of the organization has yet to agree at the provider
    ACTIVE = "active"
    REFUSED = "refused"  # its credentials were refused; it has to be authorized again
    DISABLED = "disabled"


@dataclass(frozen=True)
class ToolConnection:
    """One organization's connection to one MCP server, without its credentials."""

    id: ToolConnectionId
    organization_id: OrganizationId
    provider: str  # its name within the organization, unique there; what the agent calls it by
    kind: ConnectionKind
    status: ConnectionStatus
    url: str | None = None  # of an HTTP server
    command_name: str | None = None  # of a command server: its name in the operator's catalogue
    allowed_tools: frozenset[str] | None = None  # None allows all that the server has
    is_default: bool = False  # serves a tool name that several providers have; at most one per organization
    repeatable_tools: frozenset[str] | None = None  # None: those of which its server says so

    def allows(self, tool_name: str) -> bool:
        return self.allowed_tools is None or tool_name in self.allowed_tools

    def repeats(self, tool_name: str, *, server_says: bool) -> bool:
        """Whether a call of the tool whose outcome is unknown may be made again. A list overrules the server's word."""
        return server_says if self.repeatable_tools is None else tool_name in self.repeatable_tools


@dataclass(frozen=True)
class ToolCredentials:
    """What to show a server. revision grows with every new token: a pooled client of an older one is stale."""

    revision: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # of each request to an HTTP server
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # of a command server, beside its own


@dataclass(frozen=True)
class CommandServer:
    """An entry of the operator's catalogue: how a server is started. It gets nothing of our own environment."""

    name: str
    command: str  # absolute path
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)  # the same for every organization
    credential_names: frozenset[str] = frozenset()  # variables that an organization's credentials may set

    def environment_with(self, credentials: ToolCredentials) -> Mapping[str, str]:
        """The whole environment of its process. What the SDK would hand on of ours by itself is overwritten."""
        given = {name: text for name, text in credentials.environment.items() if name in self.credential_names}
        return {**_BARE_ENVIRONMENT, **self.environment, **given}
