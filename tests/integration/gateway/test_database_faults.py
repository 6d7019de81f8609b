"""The gateway while its database hangs, is away, or has no connection left: refused in time, stored when accepted."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import orjson
import pytest
from pydantic import SecretStr

from config.settings import Settings
from nubabel_workers.adapters.storage.database import Scope
from nubabel_workers.adapters.storage.workspaces import PostgresWorkspaces
from nubabel_workers.bootstrap import open_services
from nubabel_workers.domain.administration import Installation
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.gateway.problems import MEDIA_TYPE
from nubabel_workers.simulators.slack.delivery import envelope, signature_headers
from nubabel_workers.simulators.slack.model import Workspace
from tests.faulty_network import FaultyNetwork, network_before, socket_of, through
from tests.integration.gateway.conftest import Gateway, served, until

pytestmark = pytest.mark.integration

_SIGNING_SECRET = "signing-secret"
_SLACK_WAITS_S = 3.0


@pytest.fixture
async def network(settings: Settings) -> AsyncIterator[FaultyNetwork]:
    async with network_before(socket_of(settings.database_url.get_secret_value())) as running:
        yield running


@pytest.fixture
async def gateway(settings: Settings, network: FaultyNetwork) -> AsyncIterator[Gateway]:
    """One connection per role, over the faulty network."""
    changed = settings.model_copy(
        update={
            "database_url": SecretStr(through(network, settings.database_url.get_secret_value())),
            "database_pool_max": 1,
            "database_connect_timeout_s": 2,
            "database_acquire_timeout_s": 0.3,
            "database_statement_timeout_s": 0.5,
            "slack_mode": "events",
            "slack_signing_secret": SecretStr(_SIGNING_SECRET),
        }
    )
    async with open_services(changed, application_name="tests") as services, served(services) as running:
        yield running


async def submit(http: httpx.AsyncClient, token: str, key: str) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}", "idempotency-key": key}
    return await http.post("/v1/executions", json={"prompt": "Hello"}, headers=headers)


async def stored(gateway: Gateway) -> int:
    """How many executions there are, as soon as the pool has a connection again."""
    rows: list[Any] = []

    async def counted() -> bool:
        with suppress(UnavailableError):
            rows.append(await gateway.services.database.system().one("SELECT count(*) AS n FROM executions"))
        return bool(rows)

    await until(counted)
    return int(rows[0]["n"])


@pytest.mark.parametrize("fault", ["hang", "cut"])
async def test_a_request_without_a_database_is_refused_in_time_and_works_when_it_is_back(
    gateway: Gateway, network: FaultyNetwork, fault: str
) -> None:
    token = await gateway.organization("org_one")
    async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as http:
        assert (await submit(http, token, "before")).status_code == 202
        began = time.monotonic()
        getattr(network, fault)()

        refused = await asyncio.gather(*(submit(http, token, f"during-{number}") for number in range(5)))

        assert time.monotonic() - began < 8
        assert {answer.status_code for answer in refused} == {503}
        assert {answer.headers["content-type"] for answer in refused} == {MEDIA_TYPE}
        assert {answer.json()["code"] for answer in refused} <= {"temporarily_unavailable", "outcome_unknown"}
        assert all("retry-after" in answer.headers for answer in refused)
        assert (await http.get("/ready")).status_code == 503
        assert (await http.get("/health")).status_code == 200
        network.heal()
        again = [await _until_accepted(http, token, f"during-{number}") for number in range(5)]

    assert len({answer.json()["id"] for answer in again}) == 5
    assert await stored(gateway) == 6


@pytest.mark.parametrize("fault", ["hang", "cut"])
async def test_slack_is_refused_in_time_without_a_database(
    gateway: Gateway, network: FaultyNetwork, fault: str
) -> None:
    await gateway.organization("org_one")
    workspace = await _installed(gateway)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=10) as http:
        assert (await _mention(http, workspace, 1)).status_code == 200
        getattr(network, fault)()
        began = time.monotonic()

        refused = await asyncio.gather(*(_mention(http, workspace, number) for number in (2, 3)))

        assert [answer.status_code for answer in refused] == [503, 503]
        assert time.monotonic() - began < _SLACK_WAITS_S
        network.heal()

        async def accepted() -> bool:
            return (await _mention(http, workspace, 2)).status_code == 200

        await until(accepted)


async def occupy(scope: Scope) -> None:
    """Most of the time this role's connection is in use."""
    while True:
        with suppress(UnavailableError):
            await scope.one("SELECT pg_sleep(0.45)")


async def test_more_requests_than_connections_are_answered_or_refused_clearly(gateway: Gateway) -> None:
    token = await gateway.organization("org_one")
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=gateway.url, timeout=20, limits=limits) as http:
        occupied = asyncio.gather(
            occupy(gateway.services.database.system()), occupy(gateway.services.database.unscoped_tenant())
        )

        answers = await asyncio.gather(*(submit(http, token, f"key-{number}") for number in range(60)))
        occupied.cancel()

        outcomes = Counter((answer.status_code, answer.json().get("code")) for answer in answers)
        assert set(outcomes) <= {(202, None), (503, "temporarily_unavailable")}
        assert outcomes[202, None] + outcomes[503, "temporarily_unavailable"] == 60
        assert outcomes[503, "temporarily_unavailable"] > 0
        with suppress(asyncio.CancelledError):
            await occupied
        assert (await submit(http, token, "afterwards")).status_code == 202
    assert await stored(gateway) == outcomes[202, None] + 1


async def _until_accepted(http: httpx.AsyncClient, token: str, key: str) -> httpx.Response:
    answers: list[httpx.Response] = []

    async def accepted() -> bool:
        answers.append(await submit(http, token, key))
        return answers[-1].status_code != 503

    await until(accepted)
    assert answers[-1].status_code == 202
    return answers[-1]


async def _installed(gateway: Gateway) -> Workspace:
    workspace = Workspace("T0ONE", "One", "xoxb-one", "U0BOT", "B0BOT", "A0APP")
    await PostgresWorkspaces(gateway.services.database, gateway.services.cipher).save(
        "org_one",
        gateway.services.chance.new_id("wsp"),
        Installation(
            team_id=workspace.team_id,
            enterprise_id=None,
            team_name=workspace.name,
            bot_user_id=workspace.bot_user_id,
            bot_token=SecretStr(workspace.bot_token),
            bot_id=workspace.bot_id,
            scopes=("chat:write",),
        ),
        actor="tests",
    )
    return workspace


async def _mention(http: httpx.AsyncClient, workspace: Workspace, number: int) -> httpx.Response:
    event = {"type": "app_mention", "user": "U0ALICE", "text": "hi", "channel": "C0GEN", "ts": f"1795216375.{number}"}
    raw = orjson.dumps(envelope(workspace, event, f"Ev{number}"))
    return await http.post("/slack/events", content=raw, headers=signature_headers(_SIGNING_SECRET, raw))
