"""The real gateway: uvicorn on a free port, PostgreSQL, Valkey, and an OpenCode simulator beside it."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import uvicorn
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.adapters.storage.access import PostgresAccess
from nubabel_workers.adapters.storage.encryption import generate_key
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.client import AsyncNubabelClient
from nubabel_workers.embedded.stack_environment import base_environment
from nubabel_workers.gateway.app import create_app
from nubabel_workers.gateway.dependencies import GatewayLimits
from nubabel_workers.gateway.wiring import gateway_parts
from nubabel_workers.services.manage_tokens import ManageTokens
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import RunningSimulator, simulator
from tests.conftest import RedisServer
from tests.waiting import eventually


@pytest.fixture
def settings(database_url: str, clean_redis: RedisServer) -> Settings:
    return Settings(
        _env_file=None,
        environment="development",
        database_url=SecretStr(database_url),
        broker_url=SecretStr(clean_redis.broker_url),
        cache_url=SecretStr(clean_redis.cache_url),
        encryption_keys=(generate_key(),),
        database_pool_min=0,
    )


@pytest.fixture
async def opencode() -> AsyncIterator[RunningSimulator]:
    async with simulator(SimulatorConfig()) as running:
        yield running


def environment_of(settings: Settings, *, http_port: int) -> dict[str, str]:
    """For a process of ours beside this one."""
    return {
        **base_environment(),
        "NUBABEL_ENVIRONMENT": "development",
        "NUBABEL_DATABASE_URL": settings.database_url.get_secret_value(),
        "NUBABEL_BROKER_URL": settings.broker_url.get_secret_value(),
        "NUBABEL_CACHE_URL": settings.cache_url.get_secret_value(),
        "NUBABEL_ENCRYPTION_KEYS": settings.encryption_keys[0].get_secret_value(),
        "NUBABEL_HTTP_PORT": str(http_port),
        "NUBABEL_LOG_FORMAT": "json",
    }


class Gateway:
    """A served gateway and the services behind it; workers don't run, a test takes their steps."""

    def __init__(self, url: str, services: Services) -> None:
        self.url = url
        self.services = services

    async def organization(self, organization_id: str) -> str:
        """Make one; returns a service token's text."""
        await self.services.database.system().execute(
            "INSERT INTO organizations (id, name) VALUES (%(id)s, %(id)s)", {"id": organization_id}
        )
        organization = await self.services.tenants.organization(organization_id)
        assert organization is not None
        tokens = ManageTokens(
            PostgresAccess(self.services.database, self.services.cipher), self.services.chance, secrets.token_bytes
        )
        issued = await tokens.create("tests", organization=organization, expires_in_s=None, actor="tests")
        return issued.text.get_secret_value()

    async def client_of(self, organization_id: str) -> AsyncNubabelClient:
        return AsyncNubabelClient(self.url, await self.organization(organization_id))

    async def run_to_the_end(self) -> None:
        """Dispatch what is queued, wait for OpenCode, complete."""
        await self.services.dispatch_executions.run()
        (instance,) = await self.services.instances.loads()
        server = self.services.servers.server(instance)

        async def idle() -> bool:
            return not await server.busy_sessions(None)

        await until(idle)
        await self.services.database.system().execute("UPDATE executions SET check_at = now() WHERE status = 'running'")
        await self.services.complete_executions.run(None)


async def until(condition: Callable[[], Awaitable[bool]], *, timeout_s: float = 10) -> None:
    async with asyncio.timeout(timeout_s):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def served(services: Services, limits: GatewayLimits | None = None) -> AsyncIterator[Gateway]:
    """The gateway on a free port of this event loop."""
    async with gateway_parts(services) as parts:
        app = create_app(replace(parts, limits=limits or parts.limits))
        # By its protocol's name: else asyncio takes it for no TCP, and Nagle's algorithm holds answers for 40 ms.
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=2,
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server._serve([listening]))  # without taking over pytest's signals
        try:
            await eventually(lambda: server.started)
            yield Gateway(f"http://127.0.0.1:{listening.getsockname()[1]}", services)
        finally:
            server.should_exit = True
            await task


@pytest.fixture
async def services(settings: Settings, opencode: RunningSimulator) -> AsyncIterator[Services]:
    async with open_services(settings, application_name="tests") as opened:
        await opened.database.system().execute(
            "INSERT INTO instances (id, url, agents) VALUES ('ins_1', %(url)s, %(agents)s)",
            {"url": opencode.url, "agents": '["Sisyphus - ultraworker", "build"]'},
        )
        yield opened


@pytest.fixture
async def gateway(services: Services) -> AsyncIterator[Gateway]:
    async with served(services, GatewayLimits(stream_row_check_s=0.2)) as running:
        yield running
