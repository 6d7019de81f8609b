"""A worker process on the orchestration queue, beside the gateway and the simulated OpenCode of the gateway's tests."""

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.adapters.storage.access import PostgresAccess
from nubabel_workers.client import AsyncNubabelClient, NubabelClient
from nubabel_workers.embedded.processes import ChildProcess
from nubabel_workers.services.manage_tokens import ManageSubmitKeys
from tests.forking import ForkedProcess
from tests.integration.gateway.conftest import (  # noqa: F401 - pytest finds these fixtures by their names here
    Gateway,
    environment_of,
    gateway,
    opencode,
    services,
    settings,
)

ORGANIZATION = "org_producers"


@dataclass(frozen=True)
class Upstream:
    """What an upstream service has: addresses, a service token, a submit key."""

    gateway: Gateway
    api_url: str
    token: str
    broker_url: str
    key_id: str
    secret: SecretStr
    worker: ChildProcess

    def client(self) -> NubabelClient:
        return NubabelClient(self.api_url, self.token)

    def async_client(self) -> AsyncNubabelClient:
        return AsyncNubabelClient(self.api_url, self.token)


@pytest.fixture
async def upstream(
    gateway: Gateway,  # noqa: F811 - the fixture
    settings: Settings,  # noqa: F811 - the fixture
    short_dir: Path,
) -> AsyncIterator[Upstream]:
    token = await gateway.organization(ORGANIZATION)
    organization = await gateway.services.tenants.organization(ORGANIZATION)
    assert organization is not None
    access = PostgresAccess(gateway.services.database, gateway.services.cipher)
    keys = ManageSubmitKeys(access, gateway.services.chance, secrets.token_bytes)
    issued = await keys.create("tests", organization=organization, actor="tests")
    log = short_dir / "worker.log"
    queues = ("-Q", "orchestration", "-n", "producers@%h")
    worker = ChildProcess(
        [
            "celery",
            "-A",
            "tasks.app",
            "worker",
            "-P",
            "threads",
            *queues,
            "--without-gossip",
            "--without-mingle",
        ],
        cwd=Path.cwd(),
        log_path=log,
        env=environment_of(settings, http_port=1),
        start=ForkedProcess,
    )
    try:
        worker.wait_until(lambda: "ready" in log.read_text(encoding="utf-8"), timeout_s=60)
        yield Upstream(
            gateway=gateway,
            api_url=gateway.url,
            token=token,
            broker_url=settings.broker_url.get_secret_value(),
            key_id=issued.key.id,
            secret=issued.text,
            worker=worker,
        )
    finally:
        worker.stop()
