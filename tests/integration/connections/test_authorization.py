"""From a link to stored tokens, and every way in which that must not end."""

import asyncio
from typing import Any

import pytest
from pydantic import SecretStr

from nubabel_workers.bootstrap import Services
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError, PermanentError
from nubabel_workers.domain.tool_connections import NewConnection
from nubabel_workers.domain.tools import ConnectionStatus
from nubabel_workers.services.connections import Connections
from tests.integration.connections.conftest import (
    ORGANIZATION,
    OTHER,
    PUBLIC_URL,
    agree,
    authorized,
    column,
    connect,
)
from tests.integration.connections.provider import Provider

pytestmark = pytest.mark.integration


async def test_who_agrees_gives_calls_a_token_that_the_server_accepts(
    connections: Connections, provider: Provider
) -> None:
    details = await authorized(connections, provider)

    credentials = await connections.access.access(ORGANIZATION, details.connection.id)

    assert details.connection.status is ConnectionStatus.ACTIVE
    assert details.issuer == provider.base
    assert provider.accepts(credentials.headers["Authorization"])


async def test_the_code_is_asked_for_and_exchanged_as_oauth_2_1_wants_it(
    connections: Connections, provider: Provider
) -> None:
    await authorized(connections, provider)

    (registration,) = provider.registrations
    (form,) = provider.token_forms
    assert registration["redirect_uris"] == [f"{PUBLIC_URL}/connections/callback"]
    assert registration["token_endpoint_auth_method"] == "client_secret_basic"
    assert (form["grant_type"], form["resource"]) == ("authorization_code", provider.mcp_url)
    assert len(form["code_verifier"]) >= 43
    assert provider.token_authorizations[0].startswith("Basic ")
    assert "client_secret" not in form


async def test_a_state_is_good_once(connections: Connections, provider: Provider) -> None:
    back = await agree(connections, await connect(connections, provider))
    await connections.authorize.complete(**back.completion())

    with pytest.raises(InvalidInputError) as refused:
        await connections.authorize.complete(**back.completion())

    assert refused.value.code == "authorization_unknown"
    assert provider.calls["authorization_code"] == 1


async def test_a_state_brought_twice_at_once_is_exchanged_once(connections: Connections, provider: Provider) -> None:
    back = await agree(connections, await connect(connections, provider))

    outcomes = await asyncio.gather(
        *(connections.authorize.complete(**back.completion()) for _ in range(5)), return_exceptions=True
    )

    assert sum(not isinstance(one, BaseException) for one in outcomes) == 1
    assert provider.calls["authorization_code"] == 1


async def test_a_state_ends(connections: Connections, services: Services, provider: Provider) -> None:
    back = await agree(connections, await connect(connections, provider))
    await services.database.system().execute("UPDATE mcp_authorizations SET expires_at = now()")

    with pytest.raises(InvalidInputError, match="took too long"):
        await connections.authorize.complete(**back.completion())

    assert provider.calls["authorization_code"] == 0


async def test_only_a_browser_that_opened_the_link_can_end_it(connections: Connections, provider: Provider) -> None:
    back = await agree(connections, await connect(connections, provider))

    with pytest.raises(InvalidInputError) as refused:
        await connections.authorize.complete(**back.completion(browser_state="another"))

    assert refused.value.code == "authorization_other_browser"
    await connections.authorize.complete(**back.completion())  # the right one is not disturbed


async def test_a_state_of_one_organization_changes_nothing_of_another(
    connections: Connections, services: Services, provider: Provider
) -> None:
    connection_id = await connect(connections, provider)
    other_id = await connect(connections, provider, OTHER)
    back = await agree(connections, connection_id)

    done = await connections.authorize.complete(**back.completion())

    assert (done.connection.organization_id, done.connection.id) == (ORGANIZATION, connection_id)
    assert await column(services, other_id, "status") == "pending_authorization"
    with pytest.raises(NotFoundError):
        await connections.authorize.begin(OTHER, connection_id, actor="tests")
    with pytest.raises(NotFoundError):
        await connections.access.access(OTHER, connection_id)


async def test_a_state_that_was_moved_to_another_organization_cannot_be_read(
    connections: Connections, services: Services, provider: Provider
) -> None:
    other_id = await connect(connections, provider, OTHER)
    back = await agree(connections, await connect(connections, provider))
    await services.database.system().execute(
        "UPDATE mcp_authorizations SET organization_id = %(o)s, connection_id = %(c)s", {"o": OTHER, "c": other_id}
    )

    with pytest.raises(PermanentError, match="another row"):
        await connections.authorize.complete(**back.completion())

    assert provider.calls["authorization_code"] == 0


@pytest.mark.parametrize("issuer", ["https://evil.example", None])
async def test_an_answer_of_another_authorization_server_is_refused_before_its_code_is_used(
    connections: Connections, provider: Provider, issuer: str | None
) -> None:
    provider.answers_with_issuer = issuer
    back = await agree(connections, await connect(connections, provider))

    with pytest.raises(InvalidInputError) as refused:
        await connections.authorize.complete(**back.completion())

    assert refused.value.code == "authorization_mixed_up"
    assert provider.calls["authorization_code"] == 0


async def test_who_declines_connects_nothing(connections: Connections, services: Services, provider: Provider) -> None:
    connection_id = await connect(connections, provider)
    back = await agree(connections, connection_id)

    with pytest.raises(InvalidInputError, match="declined"):
        await connections.authorize.complete(**back.completion(code="", error="access_denied"))

    assert await column(services, connection_id, "status") == "pending_authorization"


async def test_a_connection_that_was_removed_meanwhile_gets_nothing(
    connections: Connections, provider: Provider
) -> None:
    connection_id = await connect(connections, provider)
    back = await agree(connections, connection_id)
    await connections.manage.remove(ORGANIZATION, connection_id, actor="tests")

    with pytest.raises(InvalidInputError, match="unknown"):
        await connections.authorize.complete(**back.completion())


async def test_authorizing_again_registers_no_second_client(connections: Connections, provider: Provider) -> None:
    details = await authorized(connections, provider)

    back = await agree(connections, details.connection.id)
    again = await connections.authorize.complete(**back.completion())

    assert len(provider.registrations) == 1
    assert again.revision == details.revision + 1


async def test_a_configured_client_is_used_and_none_is_registered(connections: Connections, provider: Provider) -> None:
    provider.publish(registers=False)
    provider.clients["ours"] = "s3cret&"
    new = NewConnection(
        url=provider.mcp_url, provider="wiki", client_id="ours", client_secret=SecretStr("s3cret&"), scope="read"
    )
    added = await connections.manage.add(ORGANIZATION, new, actor="tests")

    back = await agree(connections, added.connection.id)
    await connections.authorize.complete(**back.completion())

    assert provider.calls["register"] == 0
    credentials = await connections.access.access(ORGANIZATION, added.connection.id)
    assert provider.accepts(credentials.headers["Authorization"])


async def test_without_registration_a_client_is_asked_for(connections: Connections, provider: Provider) -> None:
    provider.publish(registers=False)
    connection_id = await connect(connections, provider)

    with pytest.raises(InvalidInputError, match="client id") as refused:
        await connections.authorize.begin(ORGANIZATION, connection_id, actor="tests")

    assert refused.value.code == "client_needed"


@pytest.mark.parametrize(
    ("document", "change", "code"),
    [
        ("server", {"issuer": "https://evil.example"}, "issuer_mismatch"),
        ("server", {"code_challenge_methods_supported": ["plain"]}, "no_pkce"),
        ("server", {"code_challenge_methods_supported": None}, "no_pkce"),
        ("resource", {"resource": "https://evil.example/mcp"}, "resource_mismatch"),
        ("server", {"authorization_endpoint": "https://10.0.0.1/authorize"}, "egress_refused"),
        ("server", {"authorization_endpoint": "http://login.example/"}, "egress_refused"),
        ("server", {"token_endpoint": "https://169.254.169.254/token"}, "egress_refused"),
        ("server", {"registration_endpoint": "https://[::1]/register"}, "egress_refused"),
        ("resource", {"authorization_servers": ["https://192.168.0.1"]}, "egress_refused"),
    ],
)
async def test_documents_that_lead_astray_are_refused(
    connections: Connections, provider: Provider, document: str, change: dict[str, Any], code: str
) -> None:
    found = provider.server_document() if document == "server" else provider.resource_document()
    found.update(change)
    connection_id = await connect(connections, provider)

    with pytest.raises(PermanentError) as refused:
        await connections.authorize.begin(ORGANIZATION, connection_id, actor="tests")

    assert refused.value.code == code
    assert provider.calls["register"] == provider.calls["authorize"] == 0


async def test_a_redirect_in_discovery_is_not_followed(connections: Connections, provider: Provider) -> None:
    document = provider.server_document()
    provider.documents["/.well-known/oauth-authorization-server"] = f"{provider.base}/moved"
    provider.documents["/moved"] = document
    connection_id = await connect(connections, provider)

    with pytest.raises(InvalidInputError) as refused:
        await connections.authorize.begin(ORGANIZATION, connection_id, actor="tests")

    assert refused.value.code == "no_authorization_server"


@pytest.mark.parametrize("place", ["https://169.254.169.254/latest", "http://10.0.0.1/", "file:///etc/passwd"])
async def test_metadata_named_out_of_bounds_are_not_looked_at(
    connections: Connections, provider: Provider, place: str
) -> None:
    provider.names_metadata = place
    connection_id = await connect(connections, provider)

    with pytest.raises(InvalidInputError):
        await connections.authorize.begin(ORGANIZATION, connection_id, actor="tests")


@pytest.mark.parametrize("endpoint", ["registration_endpoint", "token_endpoint"])
async def test_a_redirect_of_an_endpoint_is_a_refusal(
    connections: Connections, provider: Provider, endpoint: str
) -> None:
    provider.documents["/moved"] = f"{provider.base}/{endpoint.removesuffix('_endpoint')}"
    provider.server_document()[endpoint] = f"{provider.base}/moved"
    connection_id = await connect(connections, provider)

    with pytest.raises(PermanentError):
        await connections.authorize.complete(**(await agree(connections, connection_id)).completion())

    assert provider.families == []


async def test_a_server_of_the_first_specification_is_asked_at_its_own_origin(
    connections: Connections, provider: Provider
) -> None:
    del provider.documents["/.well-known/oauth-protected-resource/mcp"]

    details = await authorized(connections, provider)

    assert details.issuer == provider.base


async def test_a_url_out_of_bounds_is_refused_when_the_connection_is_made(connections: Connections) -> None:
    for url in ("https://127.0.0.1/mcp", "http://mcp.example/mcp", "https://169.254.169.254/"):
        with pytest.raises(InvalidInputError):
            await connections.manage.add(ORGANIZATION, NewConnection(url=url, provider="p"), actor="tests")


async def test_nothing_of_an_authorization_is_stored_in_the_clear(
    connections: Connections, services: Services, provider: Provider
) -> None:
    connection_id = await connect(connections, provider)
    back = await agree(connections, connection_id)
    (pending,) = await services.database.system().all("SELECT mcp_authorizations::text AS text FROM mcp_authorizations")
    await connections.authorize.complete(**back.completion())
    (stored,) = await services.database.system().all("SELECT mcp_connections::text AS text FROM mcp_connections")

    (family,) = provider.families
    (secret,) = provider.clients.values()
    found = pending["text"] + stored["text"]
    for hidden in (back.state, provider.token_forms[0]["code_verifier"], family.access, family.refresh, str(secret)):
        assert hidden not in found
        assert hidden.encode().hex() not in found
