"""Which of an organization's providers serves a tool, and what is said when none or several would. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from nubabel_workers.domain.tool_calls import ProviderTools, Tool, ToolCallError
from nubabel_workers.domain.tools import ConnectionStatus, ToolConnection

_NAMES_SHOWN: Final = 40

NO_PROVIDERS: Final = ToolCallError(
    "no_providers", "This organization has no tools connected. An administrator can connect an MCP server to Nubabel."
)
NOT_CONNECTED: Final = frozenset({"no_providers", "unknown_provider"})  # codes: what was named is not there
_STATUS_WORDS: Final = {
    ConnectionStatus.PENDING_AUTHORIZATION: "is not authorized yet: somebody of the organization has to do that first",
    ConnectionStatus.REFUSED: "refuses its credentials: somebody of the organization has to authorize it again",
    ConnectionStatus.DISABLED: "is switched off",
}


@dataclass(frozen=True)
class Route:
    connection: ToolConnection
    tool: Tool


def candidates(connections: Sequence[ToolConnection], provider: str | None) -> list[ToolConnection] | ToolCallError:
    """The connections whose tools have to be known to decide."""
    if not connections:
        return NO_PROVIDERS
    active = [one for one in connections if one.status is ConnectionStatus.ACTIVE]
    if provider is None:
        return active or ToolCallError("no_providers", " ".join(_inactive(one) for one in connections))
    named = next((one for one in connections if one.provider == provider), None)
    if named is None:
        return ToolCallError("unknown_provider", f"There is no provider {provider[:80]!r}. {_providers(active)}")
    if named.status is not ConnectionStatus.ACTIVE:
        return ToolCallError(f"connection_{named.status}", _inactive(named))
    return [named]


def route(
    connections: Sequence[ToolConnection], offers: Sequence[ProviderTools], tool_name: str
) -> Route | ToolCallError:
    """offers: what each of these connections has, as far as it could be listed."""
    found = [
        Route(connection, tool)
        for connection in connections
        for offer in offers
        if offer.name == connection.provider
        for tool in offer.tools
        if tool.name == tool_name
    ]
    if len(found) == 1:
        return found[0]
    if found:
        defaults = [one for one in found if one.connection.is_default]
        return defaults[0] if defaults else _ambiguous(tool_name, found)
    return _unknown_tool(tool_name, offers)


def _ambiguous(tool_name: str, found: Sequence[Route]) -> ToolCallError:
    names = ", ".join(one.connection.provider for one in found)
    return ToolCallError(
        "ambiguous_tool", f"Several providers have a tool {tool_name!r}: {names}. Name the provider that you mean."
    )


def _unknown_tool(tool_name: str, offers: Sequence[ProviderTools]) -> ToolCallError:
    away = [offer for offer in offers if offer.error]
    if away and len(away) == len(offers):
        reasons = "; ".join(f"{offer.name}: {offer.error}" for offer in away)
        return ToolCallError("provider_unavailable", f"The tools could not be listed ({reasons}). Try again later.")
    names = [tool.name for offer in offers for tool in offer.tools]
    near = get_close_matches(tool_name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = " ".join(_offer(offer) for offer in offers if not offer.error)
    missing = " ".join(f"{offer.name} could not be asked: {offer.error}." for offer in away)
    return ToolCallError("unknown_tool", f"There is no tool {tool_name[:80]!r}.{hint} {listed} {missing}".strip())


def _offer(offer: ProviderTools) -> str:
    names = sorted(tool.name for tool in offer.tools)
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{offer.name} has: {', '.join(names[:_NAMES_SHOWN]) or 'no tools'}{more}."


def _providers(active: Sequence[ToolConnection]) -> str:
    return f"There is: {', '.join(one.provider for one in active)}." if active else "None is ready for use."


def _inactive(connection: ToolConnection) -> str:
    return f"The provider {connection.provider!r} {_STATUS_WORDS[connection.status]}."
