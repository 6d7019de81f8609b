"""Connections as they are kept, and checked against servers of both kinds."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import yaml
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.bootstrap import Services, open_connections
from nubabel_workers.domain.errors import CredentialsError, InvalidInputError, NotFoundError
from nubabel_workers.domain.tool_connections import Authentication, NewConnection
from nubabel_workers.services.connections import Connections
from nubabel_workers.services.manage_connections import MAX_CONNECTIONS
from tests.integration.connections.conftest import ORGANIZATION, OTHER, age, authorized
from tests.integration.connections.provider import Provider

pytestmark = pytest.mark.integration

KEY = "k3y-of-acme"


@pytest.fixture
async def with_commands(services: Services, tmp_path: Path) -> AsyncIterator[Connections]:
    """The same, with a catalogue of one command."""
    entry = {
        "command": sys.executable,
        "arguments": [str(Path(__file__).parent / "stdio_server.py")],
        "environment": {"MODE": "fixed"},
        "credentials": ["SERVICE_KEY"],
    }
    path = tmp_path / "commands.yaml"
    path.write_text(yaml.safe_dump({"servers": {"small": entry, "gone": {"command": "/nowhere/server"}}}))
    settings = services.settings.model_copy(update={"tool_commands_file": path, "tool_check_timeout_s": 60})
    async with AsyncExitStack() as stack:
        changed = type(services)(**{**vars(services), "settings": settings})
        yield open_connections(changed, stack)


async def add(connections: Connections, name: str, organization_id: str = ORGANIZATION) -> str:
    new = NewConnection(url="https://mcp.example/mcp", provider=name, authentication=Authentication.NONE)
    added = await connections.manage.add(organization_id, new, actor="cli:anna")
    return added.connection.id


async def test_connections_are_listed_by_name_and_belong_to_one_organization(connections: Connections) -> None:
    for name in ("b", "a"):
        await add(connections, name)
    other = await add(connections, "a", OTHER)

    mine = await connections.access.serving(ORGANIZATION)

    assert [one.provider for one in mine] == ["a", "b"]
    with pytest.raises(NotFoundError):
        await connections.manage.find(ORGANIZATION, other)
    assert len(await connections.manage.list(None)) == 3


async def test_at_most_one_connection_is_the_default(connections: Connections) -> None:
    first, second = await add(connections, "a"), await add(connections, "b")
    elsewhere = await add(connections, "a", OTHER)
    await connections.manage.set_default(OTHER, elsewhere, default=True, actor="t")

    for chosen in (first, second, second):
        await connections.manage.set_default(ORGANIZATION, chosen, default=True, actor="t")

    assert [one.is_default for one in await connections.access.serving(ORGANIZATION)] == [False, True]
    assert [one.is_default for one in await connections.access.serving(OTHER)] == [True]


async def test_an_allow_list_is_kept_as_it_was_given(connections: Connections) -> None:
    await add(connections, "a")

    some = await connections.manage.allow(ORGANIZATION, "a", ["search"], actor="t")
    every = await connections.manage.allow(ORGANIZATION, "a", None, actor="t")

    assert some.connection.allows("search")
    assert not some.connection.allows("delete")
    assert every.connection.allows("delete")


async def test_a_disabled_connection_serves_nothing_until_it_is_enabled(connections: Connections) -> None:
    connection_id = await add(connections, "a")
    await connections.manage.disable(ORGANIZATION, "a", actor="t")

    with pytest.raises(CredentialsError) as refused:
        await connections.access.access(ORGANIZATION, connection_id)

    assert refused.value.code == "connection_disabled"
    await connections.manage.enable(ORGANIZATION, "a", actor="t")
    assert (await connections.access.access(ORGANIZATION, connection_id)).headers == {}


async def test_every_change_is_in_the_audit_log_without_secrets(connections: Connections, services: Services) -> None:
    new = NewConnection(preset="github", secrets={"token": SecretStr(KEY)})
    await connections.manage.add(ORGANIZATION, new, actor="cli:anna")
    await connections.manage.replace_secrets(ORGANIZATION, "github", {"token": SecretStr(f"{KEY}2")}, actor="cli:anna")
    await connections.manage.remove(ORGANIZATION, "github", actor="cli:anna")

    entries = await PostgresAuditTrail(services.database).list(organization_id=ORGANIZATION, limit=10)

    assert [one.action for one in entries] == [
        "connection.removed",
        "connection.credentials_set",
        "connection.added",
    ]
    assert {one.actor for one in entries} == {"cli:anna"}
    assert KEY not in repr(entries)


async def test_what_operators_say_of_repeats_and_of_the_header_is_kept(connections: Connections) -> None:
    new = NewConnection(
        url="https://mcp.example/mcp", provider="a", secrets={"token": SecretStr(KEY)}, token_header="X-Api-Key"
    )
    added = await connections.manage.add(ORGANIZATION, new, actor="t")

    kept = []
    for tools in (["write"], [], None):
        await connections.manage.set_repeatable(ORGANIZATION, "a", tools, actor="t")
        kept += [one.repeatable_tools for one in await connections.access.serving(ORGANIZATION)]

    assert kept == [frozenset({"write"}), frozenset(), None]
    shown = await connections.access.access(ORGANIZATION, added.connection.id)
    assert (added.token_header, shown.headers) == ("X-Api-Key", {"X-Api-Key": KEY})


async def test_the_tokens_of_a_removed_connection_are_revoked_at_the_provider(
    connections: Connections, provider: Provider
) -> None:
    await authorized(connections, provider)

    removal = await connections.manage.remove(ORGANIZATION, "wiki", actor="t")

    assert removal.provider_told
    assert [family.ended for family in provider.families] == [True]


async def test_a_removal_needs_no_answer_and_no_place_to_revoke_at(
    connections: Connections, provider: Provider
) -> None:
    told = []
    for trouble in ("unknown client", "out of bounds", "no such place"):
        provider.publish(revokes=trouble != "no such place")
        if trouble == "out of bounds":
            provider.server_document()["revocation_endpoint"] = "https://10.0.0.1/revoke"
        await authorized(connections, provider)
        provider.clients.clear()
        told.append((await connections.manage.remove(ORGANIZATION, "wiki", actor="t")).provider_told)

    assert told == [False, False, False]
    assert await connections.manage.list(ORGANIZATION) == []
    assert provider.calls["revoke"] == 2  # both tokens, of the first


async def test_an_organization_has_so_many_connections_at_most(connections: Connections) -> None:
    for number in range(MAX_CONNECTIONS):
        await add(connections, f"a{number}")

    with pytest.raises(InvalidInputError, match="at most"):
        await add(connections, "one-more")

    await add(connections, "one-more", OTHER)


async def test_authorizations_that_were_never_ended_go_away(
    connections: Connections, services: Services, provider: Provider
) -> None:
    details = await authorized(connections, provider)
    await connections.authorize.begin(ORGANIZATION, details.connection.id, actor="t")
    await services.database.system().execute("UPDATE mcp_authorizations SET expires_at = now() - interval '1 s'")

    await services.maintenance.expire(retention_s={}, batch=10)

    assert await services.database.system().all("SELECT 1 FROM mcp_authorizations") == []


async def test_a_check_asks_a_server_behind_oauth_for_its_tools(connections: Connections, provider: Provider) -> None:
    await authorized(connections, provider)

    checked = await connections.manage.check(ORGANIZATION, "wiki")

    assert (checked.problem, checked.tools) == (None, ("fetch", "search"))
    assert checked.details.healthy is True
    assert checked.details.health_detail == "2 tools"


async def test_a_check_names_allowed_tools_that_are_not_there(connections: Connections, provider: Provider) -> None:
    await authorized(connections, provider)
    await connections.manage.allow(ORGANIZATION, "wiki", ["search", "erase"], actor="t")

    checked = await connections.manage.check(ORGANIZATION, "wiki")

    assert checked.details.health_detail == "2 tools; allowed but not there: erase"


async def test_a_check_renews_a_token_that_the_server_does_not_know_any_more(
    connections: Connections, services: Services, provider: Provider
) -> None:
    details = await authorized(connections, provider)
    await age(services, details.connection.id, expires_in_s=3000)
    provider.families[0].access = "another"

    checked = await connections.manage.check(ORGANIZATION, "wiki")

    assert checked.problem is None
    assert provider.calls["refresh_token"] == 1


async def test_a_check_of_a_server_that_accepts_nothing_marks_the_connection(
    connections: Connections, provider: Provider
) -> None:
    new = NewConnection(url=provider.mcp_url, provider="wiki", secrets={"token": SecretStr(KEY)})
    await connections.manage.add(ORGANIZATION, new, actor="t")

    checked = await connections.manage.check(ORGANIZATION, "wiki")

    assert checked.problem is not None
    assert KEY not in checked.problem
    assert checked.details.connection.status == "refused"
    assert checked.details.healthy is False


async def test_a_server_started_by_a_command_sees_its_own_variables_and_nothing_of_ours(
    with_commands: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUBABEL_CANARY", "ours")
    new = NewConnection(command_name="small", secrets={"SERVICE_KEY": SecretStr(KEY)})
    await with_commands.manage.add(ORGANIZATION, new, actor="t")

    checked = await with_commands.manage.check(ORGANIZATION, "small")

    assert checked.problem is None
    own = {"env_MODE", "env_SERVICE_KEY"}
    bare = {"env_HOME", "env_LOGNAME", "env_PATH", "env_SHELL", "env_TERM", "env_USER"}
    made_by_python = {"env_LC_CTYPE"}
    assert own <= set(checked.tools) <= own | bare | made_by_python


async def test_a_command_that_cannot_be_started_is_said(with_commands: Connections) -> None:
    await with_commands.manage.add(ORGANIZATION, NewConnection(command_name="gone"), actor="t")

    checked = await with_commands.manage.check(ORGANIZATION, "gone")

    assert checked.problem is not None
    assert "cannot be started" in checked.problem


async def test_an_entry_that_left_the_catalogue_is_not_started(
    with_commands: Connections, connections: Connections
) -> None:
    await with_commands.manage.add(ORGANIZATION, NewConnection(command_name="small"), actor="t")

    checked = await connections.manage.check(ORGANIZATION, "small")

    assert checked.problem is not None
    assert "not in the operators' catalogue any more" in checked.problem


async def test_a_connection_to_an_address_that_became_private_is_not_opened(
    connections: Connections, settings: Settings, services: Services
) -> None:
    connection_id = await add(connections, "a")
    await services.database.system().execute(
        "UPDATE mcp_connections SET url = 'https://localhost:9/mcp' WHERE id = %(id)s", {"id": connection_id}
    )

    checked = await connections.manage.check(ORGANIZATION, "a")

    assert checked.problem == "the server's address is out of bounds"
