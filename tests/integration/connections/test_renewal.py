"""Tokens are renewed once, whoever needs them, and a refusal is marked and told."""

import asyncio
import json
from pathlib import Path
from subprocess import PIPE

import pytest
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.adapters.storage.connection_credentials import PostgresConnectionCredentials
from nubabel_workers.adapters.storage.encryption import TokenCipher, generate_key
from nubabel_workers.adapters.storage.key_rotation import PostgresKeyRotation
from nubabel_workers.bootstrap import Services
from nubabel_workers.domain.errors import CredentialsError, PermanentError, UnavailableError
from nubabel_workers.domain.executions import EventKind
from nubabel_workers.domain.oauth import Tokens
from nubabel_workers.domain.ports.tools import RefreshLease
from nubabel_workers.domain.tool_connections import NewConnection
from nubabel_workers.services.connections import Connections
from tests.forking import ForkedProcess
from tests.integration.connections.conftest import ORGANIZATION, age, authorized, column
from tests.integration.connections.provider import Provider
from tests.integration.gateway.conftest import environment_of
from tests.integration.storage.seeds import ExecutionSeed, add_execution
from tests.waiting import eventually, eventually_true

pytestmark = pytest.mark.integration


@pytest.fixture
async def connection_id(connections: Connections, services: Services, provider: Provider) -> str:
    """Authorized, and about to end."""
    details = await authorized(connections, provider)
    await age(services, details.connection.id, expires_in_s=5)
    return details.connection.id


def _renewing(settings: Settings, connection_id: str, at_once: int) -> ForkedProcess:
    return ForkedProcess(
        ["python", "-m", "tests.integration.connections.renewing", ORGANIZATION, connection_id, str(at_once)],
        cwd=Path.cwd(),
        stdin=PIPE,
        env={
            **environment_of(settings, http_port=1),
            "NUBABEL_EGRESS_ALLOW": ",".join(settings.egress_allow),
            "NUBABEL_DATABASE_POOL_MAX": "4",
        },
    )


@pytest.mark.parametrize("number", range(3))
async def test_twenty_callers_in_two_processes_renew_once(
    settings: Settings, provider: Provider, connection_id: str, number: int
) -> None:
    with _renewing(settings, connection_id, at_once=10) as one, _renewing(settings, connection_id, at_once=10) as other:
        async with asyncio.timeout(60):
            for process in (one, other):
                assert await asyncio.to_thread(process.read_line) == b"ready\n"
            going = [asyncio.to_thread(process.communicate, b"go\n") for process in (one, other)]
            outputs = await asyncio.gather(*going)

    got = [tuple(renewal) for output in outputs for renewal in json.loads(output)]
    assert len(got) == 20
    assert set(got) == {(3, f"Bearer {provider.families[0].access}")}
    assert provider.calls["refresh_token"] == 1
    assert not provider.families[0].ended


async def test_tokens_that_last_are_used_as_they_are(
    connections: Connections, services: Services, provider: Provider, connection_id: str
) -> None:
    await age(services, connection_id, expires_in_s=600)

    await connections.access.access(ORGANIZATION, connection_id)

    assert provider.calls["refresh_token"] == 0


async def test_a_renewal_names_the_resource_and_keeps_its_client(
    connections: Connections, provider: Provider, connection_id: str
) -> None:
    credentials = await connections.access.access(ORGANIZATION, connection_id)

    assert provider.accepts(credentials.headers["Authorization"])
    assert provider.token_forms[-1]["resource"] == provider.mcp_url
    assert provider.token_authorizations[-1].startswith("Basic ")


async def test_credentials_that_the_server_refuses_are_renewed_although_they_last(
    connections: Connections, services: Services, provider: Provider, connection_id: str
) -> None:
    await age(services, connection_id, expires_in_s=600)
    before = await connections.access.access(ORGANIZATION, connection_id)

    renewed, again = [
        await connections.access.access(ORGANIZATION, connection_id, refused_revision=before.revision) for _ in range(2)
    ]

    assert renewed == again
    assert renewed.revision == before.revision + 1
    assert provider.calls["refresh_token"] == 1


async def test_a_refused_renewal_marks_the_connection_and_tells_the_organization(
    connections: Connections, services: Services, provider: Provider, connection_id: str
) -> None:
    await add_execution(services.database, ExecutionSeed("exe_1", ORGANIZATION))
    provider.token_trouble = ["refused"]

    with pytest.raises(CredentialsError, match="authorize it again") as refused:
        await connections.access.access(ORGANIZATION, connection_id, execution_id="exe_1")

    assert refused.value.code == "connection_refused"
    details = await connections.manage.find(ORGANIZATION, connection_id)
    assert details.connection.status == "refused"
    assert "refused to renew" in details.status_detail
    (event,) = await services.executions.timeline(ORGANIZATION, "exe_1")
    assert (event.kind, event.detail["provider"]) == (EventKind.CONNECTION_REFUSED, "wiki")
    (entry, *_) = await PostgresAuditTrail(services.database).list(organization_id=ORGANIZATION, limit=1)
    assert (entry.action, entry.detail["execution_id"]) == ("connection.refused", "exe_1")


async def test_a_refused_connection_asks_its_server_no_more(
    connections: Connections, provider: Provider, connection_id: str
) -> None:
    provider.token_trouble = ["refused"]
    for _ in range(3):
        with pytest.raises(CredentialsError):
            await connections.access.access(ORGANIZATION, connection_id)

    assert provider.calls["refresh_token"] == 1


@pytest.mark.parametrize("trouble", ["500", "429"])
async def test_while_the_authorization_server_is_in_trouble_the_present_token_serves(
    connections: Connections, provider: Provider, connection_id: str, trouble: str
) -> None:
    provider.token_trouble = [trouble]

    meanwhile = await connections.access.access(ORGANIZATION, connection_id)
    renewed = await connections.access.access(ORGANIZATION, connection_id)

    assert (meanwhile.revision, renewed.revision) == (2, 3)


async def test_a_token_that_ended_waits_for_an_authorization_server_in_trouble(
    connections: Connections, services: Services, provider: Provider, connection_id: str
) -> None:
    await age(services, connection_id, expires_in_s=-1)
    provider.token_trouble = ["500"]

    with pytest.raises(UnavailableError):
        await connections.access.access(ORGANIZATION, connection_id)

    assert (await connections.access.access(ORGANIZATION, connection_id)).revision == 3


async def test_a_renewal_whose_answer_was_lost_is_said_when_the_next_is_refused(
    connections: Connections, services: Services, provider: Provider, connection_id: str
) -> None:
    provider.token_trouble = ["lost"]
    meanwhile = await connections.access.access(ORGANIZATION, connection_id)

    with pytest.raises(CredentialsError):
        await connections.access.access(ORGANIZATION, connection_id)

    assert meanwhile.revision == 2
    assert "broke off" in await column(services, connection_id, "status_detail")


@pytest.mark.parametrize("endpoint", ["https://localhost:9/token", "https://10.0.0.1/token", "http://token.example/"])
async def test_a_token_endpoint_that_came_out_of_bounds_gets_no_refresh_token(
    connections: Connections, services: Services, provider: Provider, connection_id: str, endpoint: str
) -> None:
    await services.database.system().execute(
        "UPDATE mcp_connections SET terms = terms || jsonb_build_object('token_endpoint', %(endpoint)s::text)",
        {"endpoint": endpoint},
    )

    with pytest.raises(PermanentError) as refused:
        await connections.access.access(ORGANIZATION, connection_id)

    assert refused.value.code == "egress_refused"
    assert provider.calls["refresh_token"] == 0


async def test_the_lease_of_a_process_that_died_is_taken_over_when_it_ends(
    connections: Connections, services: Services, provider: Provider, connection_id: str
) -> None:
    store = PostgresConnectionCredentials(services.database, services.cipher)
    taken = await store.begin_refresh(ORGANIZATION, connection_id, revision=2, owner="dead", lease_s=60)
    held = await store.begin_refresh(ORGANIZATION, connection_id, revision=2, owner="other", lease_s=60)
    await services.database.system().execute("UPDATE mcp_connections SET refresh_until = now()")

    renewed = await connections.access.access(ORGANIZATION, connection_id)

    assert (taken, held) == (RefreshLease.TAKEN, RefreshLease.HELD)
    assert renewed.revision == 3
    assert await column(services, connection_id, "refresh_owner") is None


async def test_a_caller_that_gives_up_breaks_no_renewal_off(
    connections: Connections, services: Services, provider: Provider, connection_id: str
) -> None:
    provider.hold_tokens = asyncio.Event()
    caller = asyncio.create_task(connections.access.access(ORGANIZATION, connection_id))
    await eventually(lambda: provider.calls["refresh_token"] == 1)
    caller.cancel()
    await asyncio.wait([caller])

    provider.hold_tokens.set()

    async def stored() -> bool:
        return bool(await column(services, connection_id, "revision") == 3)

    await eventually_true(stored)
    renewed = await connections.access.access(ORGANIZATION, connection_id)
    assert provider.accepts(renewed.headers["Authorization"])


async def test_a_process_that_stood_still_overwrites_no_newer_tokens(
    connections: Connections, services: Services, provider: Provider, connection_id: str
) -> None:
    store = PostgresConnectionCredentials(services.database, services.cipher)
    stale = await store.read(ORGANIZATION, connection_id)
    assert stale is not None
    newer = await connections.access.access(ORGANIZATION, connection_id)

    assert not await store.finish_refresh(stale, Tokens(SecretStr("late")))
    assert await connections.access.access(ORGANIZATION, connection_id) == newer


async def test_tokens_that_arrive_after_a_wrong_refusal_are_used(
    connections: Connections, services: Services, provider: Provider, connection_id: str
) -> None:
    """Another process took the lease over and was refused because the first one's renewal had gone through."""
    provider.hold_tokens = asyncio.Event()
    first = asyncio.create_task(connections.access.access(ORGANIZATION, connection_id))
    await eventually(lambda: provider.calls["refresh_token"] == 1)
    await connections.access.mark_refused(ORGANIZATION, connection_id, revision=2, reason="used up")

    provider.hold_tokens.set()

    assert (await first).revision == 3
    assert await column(services, connection_id, "status") == "active"


async def test_a_given_token_that_is_refused_marks_the_connection(connections: Connections, provider: Provider) -> None:
    new = NewConnection(url=provider.mcp_url, provider="wiki", secrets={"token": SecretStr("t0ken")})
    added = await connections.manage.add(ORGANIZATION, new, actor="tests")
    given = await connections.access.access(ORGANIZATION, added.connection.id)

    with pytest.raises(CredentialsError):
        await connections.access.access(ORGANIZATION, added.connection.id, refused_revision=given.revision)

    assert given.headers == {"Authorization": "Bearer t0ken"}
    assert "t0ken" not in repr(given)


async def test_news_about_older_credentials_refuses_nothing(
    connections: Connections, services: Services, connection_id: str
) -> None:
    await connections.access.access(ORGANIZATION, connection_id)

    marked = await connections.access.mark_refused(ORGANIZATION, connection_id, revision=2, reason="old news")

    assert not marked
    assert await column(services, connection_id, "status") == "active"


async def test_after_a_rotation_of_encryption_keys_the_old_key_is_not_needed_for_connections(
    connections: Connections, services: Services, settings: Settings, connection_id: str
) -> None:
    await connections.authorize.begin(ORGANIZATION, connection_id, actor="tests")  # a verifier is stored as well
    new = generate_key()

    report = await PostgresKeyRotation(
        services.database, TokenCipher([new, *settings.encryption_keys]), batch=1
    ).rotate()

    assert (report.rotated, report.unreadable) == (3, ())
    stored = await PostgresConnectionCredentials(services.database, TokenCipher([new])).read(
        ORGANIZATION, connection_id
    )
    assert stored is not None
    assert set(stored.secrets) == {"access", "refresh"}
