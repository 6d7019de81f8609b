"""Real processes on real stores, shared by all tests here: what one test's garbage breaks shows in any of them."""

import asyncio
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.adapters.storage import schema
from nubabel_workers.adapters.storage.access import PostgresAccess
from nubabel_workers.adapters.storage.encryption import generate_key
from nubabel_workers.adapters.storage.workspaces import PostgresWorkspaces
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.domain.administration import Installation
from nubabel_workers.domain.credentials import operator_setting, operator_token_text
from nubabel_workers.domain.dead_letters import DeadLetterReason, NewDeadLetter
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.submission import SubmitRequest
from nubabel_workers.domain.tenants import Instance, Organization
from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.processes import ChildProcess
from nubabel_workers.embedded.stack_environment import base_environment
from nubabel_workers.services.manage_callback_keys import ManageCallbackKeys
from nubabel_workers.services.manage_tokens import ManageSubmitKeys, ManageTokens
from nubabel_workers.services.submit_execution import Submitted
from tasks.runtime import LoopThread
from tests.conftest import PostgresServer, RedisServer
from tests.loopback import is_healthy

ORGANIZATION = "org_fuzz"
TEAM = "T0FUZZ"
BOT = "U0BOT"
SERVER = "ins_fuzz"
Rows = psycopg.Connection[dict[str, Any]]
OPERATOR_TOKEN = operator_token_text(b"f" * 32)
SIGNING_SECRET = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Stores:
    """One database and one Valkey with one organization in them, which has everything that somebody could abuse."""

    settings: Settings
    service_token: str
    ended_execution: str
    ended_session: str
    silent_session: str  # ended too, and nobody may prompt it: its stream has an end
    dead_letter: str
    submit_key_id: str
    submit_secret: SecretStr
    callback_key: SecretStr

    def environment(self, **overrides: str) -> dict[str, str]:
        """For a process of ours on these stores."""
        chosen = self.settings
        given = {
            "environment": "development",
            "database_url": chosen.database_url.get_secret_value(),
            "broker_url": chosen.broker_url.get_secret_value(),
            "cache_url": chosen.cache_url.get_secret_value(),
            "encryption_keys": chosen.encryption_keys[0].get_secret_value(),
            "operator_tokens": operator_setting("fuzz", OPERATOR_TOKEN),
            "log_format": "json",
            **overrides,
        }
        return {**base_environment(), **{f"NUBABEL_{name.upper()}": value for name, value in given.items()}}


@dataclass(frozen=True)
class Web:
    """Process `web`. Its log tells what its callers must not see."""

    url: str
    process: ChildProcess
    log: IO[str]
    stores: Stores

    def crashes(self) -> list[str]:
        """New log lines about exceptions that nobody expected."""
        return [line for line in self.log if "Traceback" in line]


@contextmanager
def furnished_stores(postgres: PostgresServer, *, broker_url: str, cache_url: str) -> Iterator[Stores]:
    """A migrated database with the organization in it; dropped at the end."""
    url = postgres.create_database()
    schema.upgrade(url)
    settings = Settings(
        _env_file=None,
        environment="development",
        database_url=SecretStr(url),
        broker_url=SecretStr(broker_url),
        cache_url=SecretStr(cache_url),
        encryption_keys=(generate_key(),),
        database_pool_min=0,
    )
    try:
        yield asyncio.run(_furnished(settings))
    finally:
        postgres.drop_database(url)


@pytest.fixture(scope="session")
def stores(postgres_server: PostgresServer, redis_server: RedisServer) -> Iterator[Stores]:
    redis_server.flush()
    with furnished_stores(
        postgres_server, broker_url=redis_server.broker_url, cache_url=redis_server.cache_url
    ) as furnished:
        yield furnished


async def _furnished(settings: Settings) -> Stores:
    async with open_services(settings, application_name="tests") as services:
        await services.database.system().execute(
            "INSERT INTO organizations (id, name) VALUES (%(id)s, %(id)s)", {"id": ORGANIZATION}
        )
        organization = await services.tenants.organization(ORGANIZATION)
        assert organization is not None
        access = PostgresAccess(services.database, services.cipher)
        tokens = ManageTokens(access, services.chance, secrets.token_bytes)
        service = await tokens.create("tests", organization=organization, expires_in_s=None, actor="tests")
        dead_letter_id = await services.dead_letters.add(
            NewDeadLetter("orchestration", "x", DeadLetterReason.UNKNOWN_TASK, "no such task", payload="{}")
        )
        key = await ManageSubmitKeys(access, services.chance, secrets.token_bytes).create(
            "tests", organization=organization, actor="tests"
        )
        await _install_slack(services)
        submitted = await _ended(services, organization)
        silent = await _ended(services, organization)
        return Stores(
            settings,
            service.text.get_secret_value(),
            submitted.execution_id,
            submitted.session_id,
            silent.session_id,
            dead_letter_id,
            key.key.id,
            key.text,
            await _server(services, submitted.session_id),
        )


async def _ended(services: Services, organization: Organization) -> Submitted:
    submitted = await services.submit_execution.submit(
        organization,
        SubmitRequest(prompt="to be read by everybody"),
        source="api",
        correlation_id="tests",
        traceparent=services.chance.new_traceparent(),
    )
    await services.cancel_execution.cancel(ORGANIZATION, submitted.execution_id, reason="tests")
    return submitted


async def _server(services: Services, session_id: str) -> SecretStr:
    """One that takes no work and does not answer, with the session on it; its callback key."""
    url = "http://127.0.0.1:1"
    await services.instances.add(Instance(InstanceId(SERVER), url, "opencode", None), actor="tests")
    await services.instances.set_status(SERVER, "draining", only_if_idle=False, actor="tests")
    await services.database.system().execute(
        "UPDATE sessions SET instance_id = %(server)s, opencode_session_id = 'ses_fuzz' WHERE id = %(id)s",
        {"server": SERVER, "id": session_id},
    )
    return await ManageCallbackKeys(services.instances, secrets.token_bytes).create(SERVER, actor="tests")


async def _install_slack(services: Services) -> None:
    await PostgresWorkspaces(services.database, services.cipher).save(
        ORGANIZATION,
        services.chance.new_id("wsp"),
        Installation(
            team_id=TEAM,
            enterprise_id=None,
            team_name="Fuzz",
            bot_user_id=BOT,
            bot_token=SecretStr("xoxb-fuzz"),
            bot_id="B0BOT",
            scopes=("chat:write",),
        ),
        actor="tests",
    )


@pytest.fixture(scope="session")
def web(stores: Stores, server_dir: Path) -> Iterator[Web]:
    port = free_port()
    log = server_dir / "web.log"
    process = ChildProcess(
        [sys.executable, "-m", "nubabel_workers.gateway"],
        cwd=Path.cwd(),
        log_path=log,
        env=stores.environment(
            http_port=str(port),
            slack_mode="events",
            delegate_wait_s="0.2",
            sidecar_wait_s="0.2",
            slack_signing_secret=SIGNING_SECRET,
            slack_client_id="fuzz",
            slack_client_secret="fuzz",
            slack_api_base_url="http://127.0.0.1:1/api",
            public_url=f"http://127.0.0.1:{port}",
        ),
    )
    url = f"http://127.0.0.1:{port}"
    try:
        process.wait_until(lambda: is_healthy(url), timeout_s=30)
        with log.open(encoding="utf-8", errors="replace") as lines:
            yield Web(url, process, lines, stores)
    finally:
        process.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[httpx.Client]:
    """Sends whatever it is told to."""
    with httpx.Client(timeout=10, trust_env=False, follow_redirects=False) as client:
        yield client


@pytest.fixture(scope="session")
def database(stores: Stores) -> Iterator[Rows]:
    """Looks at every row."""
    url = stores.settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        yield connection


@pytest.fixture(scope="session")
def loop() -> Iterator[LoopThread]:
    running = LoopThread()
    yield running
    running.close()
