"""Connections on real PostgreSQL, and the provider that they lead to."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.adapters.storage.encryption import generate_key
from nubabel_workers.bootstrap import Services, open_connections, open_services
from nubabel_workers.domain.tool_connections import ConnectionDetails, NewConnection
from nubabel_workers.services.connections import Connections
from tests.integration.connections.provider import Provider
from tests.integration.storage.seeds import add_organization

ORGANIZATION = "org_a"
OTHER = "org_b"
PUBLIC_URL = "http://nubabel.test"
NOWHERE = SecretStr("redis://127.0.0.1:1/0")  # nothing here asks broker or cache


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    async with TestServer(provider.app(), host="127.0.0.1") as server:
        provider.base = f"http://127.0.0.1:{server.port}"
        provider.publish()
        yield provider


@pytest.fixture
def settings(database_url: str, provider: Provider) -> Settings:
    return Settings(
        _env_file=None,
        environment="development",
        database_url=SecretStr(database_url),
        broker_url=NOWHERE,
        cache_url=NOWHERE,
        encryption_keys=(generate_key(),),
        database_pool_min=0,
        public_url=PUBLIC_URL,
        egress_allow=(provider.base.removeprefix("http://"),),
        tool_oauth_timeout_s=5,
    )


@pytest.fixture
async def services(settings: Settings) -> AsyncIterator[Services]:
    async with open_services(settings, application_name="tests") as opened:
        for organization_id in (ORGANIZATION, OTHER):
            await add_organization(opened.database, organization_id)
        yield opened


@pytest.fixture
async def connections(services: Services) -> AsyncIterator[Connections]:
    async with AsyncExitStack() as stack:
        yield open_connections(services, stack)


@dataclass(frozen=True)
class CameBack:
    """What the provider's answer put into the browser's address."""

    state: str
    code: str
    issuer: str | None

    def completion(self, **changes: str | None) -> dict[str, Any]:
        """The arguments of `AuthorizeConnection.complete`, from the browser that opened the link."""
        return {
            "state": self.state,
            "browser_state": self.state,
            "code": self.code,
            "issuer": self.issuer,
            "error": "",
            **changes,
        }


async def connect(connections: Connections, provider: Provider, organization_id: str = ORGANIZATION) -> str:
    """An OAuth connection that waits to be authorized; its id."""
    added = await connections.manage.add(
        organization_id, NewConnection(url=provider.mcp_url, provider="wiki"), actor="tests"
    )
    return added.connection.id


async def agree(connections: Connections, connection_id: str, organization_id: str = ORGANIZATION) -> CameBack:
    """Begin, open the link, agree at the provider."""
    link = await connections.authorize.begin(organization_id, connection_id, actor="tests")
    state = dict(parse_qsl(urlsplit(link.url).query))["state"]
    async with (
        aiohttp.ClientSession() as browser,
        browser.get(await connections.authorize.start(state), allow_redirects=False) as answer,
    ):
        back = dict(parse_qsl(urlsplit(answer.headers["Location"]).query))
    return CameBack(back["state"], back["code"], back.get("iss"))


async def authorized(connections: Connections, provider: Provider) -> ConnectionDetails:
    """A connection that somebody agreed to."""
    connection_id = await connect(connections, provider)
    back = await agree(connections, connection_id)
    return await connections.authorize.complete(**back.completion())


async def age(services: Services, connection_id: str, *, expires_in_s: float) -> None:
    """Its tokens end in so many seconds."""
    await services.database.system().execute(
        "UPDATE mcp_connections SET expires_at = now() + make_interval(secs => %(s)s) WHERE id = %(id)s",
        {"s": expires_in_s, "id": connection_id},
    )


async def column(services: Services, connection_id: str, name: str) -> Any:
    row = await services.database.system().one(
        f"SELECT {name} AS value FROM mcp_connections WHERE id = %(id)s", {"id": connection_id}
    )
    assert row is not None
    return row["value"]
