"""Whoever is killed while tokens are got or renewed: the next one goes on, or says why it cannot."""

import asyncio
import json
import signal
from pathlib import Path
from subprocess import STDOUT
from typing import Any

import pytest

from config.settings import Settings
from nubabel_workers.bootstrap import Services
from nubabel_workers.domain.errors import CredentialsError
from nubabel_workers.services.connections import Connections
from tests.forking import ForkedProcess
from tests.integration.connections.conftest import ORGANIZATION, age, agree, authorized, column, connect
from tests.integration.connections.provider import Provider
from tests.integration.gateway.conftest import environment_of

pytestmark = pytest.mark.integration


async def killed(settings: Settings, method: str, moment: str, work: str, arguments: dict[str, Any]) -> None:
    with ForkedProcess(
        ["python", "-m", "tests.integration.connections.dying", method, moment, work, json.dumps(arguments)],
        cwd=Path.cwd(),
        env={
            **environment_of(settings, http_port=1),
            "NUBABEL_EGRESS_ALLOW": ",".join(settings.egress_allow),
            "NUBABEL_PUBLIC_URL": str(settings.public_url),
        },
        stderr=STDOUT,
    ) as process:
        async with asyncio.timeout(60):
            written = await asyncio.to_thread(process.communicate)
        assert process.poll() == -signal.SIGKILL, written


async def its_lease_ends(services: Services) -> None:
    await services.database.system().execute(
        "UPDATE mcp_connections SET refresh_until = now() WHERE refresh_owner IS NOT NULL"
    )


@pytest.mark.parametrize(
    ("method", "moment", "renewals"),
    [
        ("begin_refresh", "before", 1),
        ("begin_refresh", "after", 1),
        ("finish_refresh", "after", 1),
    ],
)
async def test_a_renewal_is_ended_by_the_next_one(
    connections: Connections,
    services: Services,
    settings: Settings,
    provider: Provider,
    method: str,
    moment: str,
    renewals: int,
) -> None:
    connection_id = (await authorized(connections, provider)).connection.id
    await age(services, connection_id, expires_in_s=5)
    who = {"organization_id": ORGANIZATION, "connection_id": connection_id}

    await killed(settings, method, moment, "access", who)
    await its_lease_ends(services)
    renewed = await connections.access.access(ORGANIZATION, connection_id)

    assert renewed.revision == 3
    assert provider.accepts(renewed.headers["Authorization"])
    assert provider.calls["refresh_token"] == renewals


async def test_tokens_that_died_with_their_process_are_a_refusal_that_says_so(
    connections: Connections, services: Services, settings: Settings, provider: Provider
) -> None:
    """The provider gave new ones and has ended the old: nobody can have them any more."""
    connection_id = (await authorized(connections, provider)).connection.id
    await age(services, connection_id, expires_in_s=5)
    who = {"organization_id": ORGANIZATION, "connection_id": connection_id}

    await killed(settings, "finish_refresh", "before", "access", who)
    await its_lease_ends(services)
    with pytest.raises(CredentialsError) as refused:
        await connections.access.access(ORGANIZATION, connection_id)

    assert refused.value.code == "connection_refused"
    assert "broke off" in await column(services, connection_id, "status_detail")
    again = await agree(connections, connection_id)
    await connections.authorize.complete(**again.completion())
    assert provider.accepts((await connections.access.access(ORGANIZATION, connection_id)).headers["Authorization"])


@pytest.mark.parametrize(
    ("method", "moment", "status"),
    [
        ("take_authorization", "before", "pending_authorization"),
        ("take_authorization", "after", "pending_authorization"),
        ("authorized", "before", "pending_authorization"),
        ("authorized", "after", "active"),
    ],
)
async def test_an_authorization_is_there_once_or_can_be_begun_again(
    connections: Connections,
    services: Services,
    settings: Settings,
    provider: Provider,
    method: str,
    moment: str,
    status: str,
) -> None:
    connection_id = await connect(connections, provider)
    back = await agree(connections, connection_id)

    await killed(settings, method, moment, "complete", back.completion())

    assert await column(services, connection_id, "status") == status
    again = await agree(connections, connection_id)
    done = await connections.authorize.complete(**again.completion())
    access = await connections.access.access(ORGANIZATION, connection_id)
    assert done.connection.status == "active"
    assert provider.accepts(access.headers["Authorization"])
