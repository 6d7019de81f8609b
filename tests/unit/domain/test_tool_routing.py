"""Which provider serves a tool, and what is said when none or several would."""

import pytest

from nubabel_workers.domain.ids import OrganizationId, ToolConnectionId
from nubabel_workers.domain.tool_calls import ProviderTools, Tool, ToolCallError
from nubabel_workers.domain.tool_routing import Route, candidates, route
from nubabel_workers.domain.tools import ConnectionKind, ConnectionStatus, ToolConnection


def connection(
    provider: str, *, status: ConnectionStatus = ConnectionStatus.ACTIVE, is_default: bool = False
) -> ToolConnection:
    return ToolConnection(
        ToolConnectionId(f"con_{provider}"),
        OrganizationId("org_a"),
        provider,
        ConnectionKind.HTTP,
        status,
        is_default=is_default,
    )


def offer(provider: str, *names: str, error: str | None = None) -> ProviderTools:
    return ProviderTools(provider, tuple(Tool(name, "", {}) for name in names), error=error)


NOTION, LINEAR = connection("notion"), connection("linear")


def test_the_only_provider_that_has_the_tool_serves_it() -> None:
    found = route([NOTION, LINEAR], [offer("notion", "create_page"), offer("linear", "create_issue")], "create_issue")

    assert isinstance(found, Route)
    assert found.connection is LINEAR


def test_of_several_the_default_serves_it() -> None:
    default = connection("linear", is_default=True)

    found = route([NOTION, default], [offer("notion", "search"), offer("linear", "search")], "search")

    assert isinstance(found, Route)
    assert found.connection is default


def test_several_without_a_default_are_named() -> None:
    found = route([NOTION, LINEAR], [offer("notion", "search"), offer("linear", "search")], "search")

    assert isinstance(found, ToolCallError)
    assert found.code == "ambiguous_tool"
    assert "notion, linear" in found.message


def test_an_unknown_tool_gets_a_list_of_what_there_is() -> None:
    found = route([NOTION, LINEAR], [offer("notion", "create_page"), offer("linear", error="it is away")], "creat_page")

    assert isinstance(found, ToolCallError)
    assert found.code == "unknown_tool"
    assert found.message == (
        "There is no tool 'creat_page'. Did you mean 'create_page'? notion has: create_page. "
        "linear could not be asked: it is away."
    )


def test_a_tool_of_a_provider_that_cannot_be_asked_is_not_said_to_be_missing() -> None:
    found = route([NOTION], [offer("notion", error="it is away")], "create_page")

    assert isinstance(found, ToolCallError)
    assert found.code == "provider_unavailable"


def test_an_unknown_provider_gets_a_list_of_what_there_is() -> None:
    found = candidates([NOTION, LINEAR], "notoin")

    assert isinstance(found, ToolCallError)
    assert (found.code, "notion, linear" in found.message) == ("unknown_provider", True)


@pytest.mark.parametrize("status", [one for one in ConnectionStatus if one is not ConnectionStatus.ACTIVE])
def test_a_provider_that_is_not_ready_says_why(status: ConnectionStatus) -> None:
    found = candidates([connection("notion", status=status), LINEAR], "notion")

    assert isinstance(found, ToolCallError)
    assert found.code == f"connection_{status}"
    assert "notion" in found.message


def test_without_a_provider_all_that_are_ready_are_asked() -> None:
    refused = connection("github", status=ConnectionStatus.REFUSED)

    assert candidates([NOTION, refused, LINEAR], None) == [NOTION, LINEAR]


@pytest.mark.parametrize("provider", [None, "notion"])
def test_an_organization_without_connections_is_told_so(provider: str | None) -> None:
    found = candidates([], provider)

    assert isinstance(found, ToolCallError)
    assert found.code == "no_providers"
