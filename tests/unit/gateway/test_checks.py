"""Readiness of the OpenCode servers: one that answers is enough."""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pytest

from nubabel_workers.domain.circuit_breaker import BreakerState, Gate
from nubabel_workers.domain.errors import NubabelError, PermanentError, UnavailableError
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.ports import InstanceStore, OpenCodeServers
from nubabel_workers.domain.rollout import EVERYTHING_ON_OPENCODE, Rollout
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.gateway import checks
from nubabel_workers.gateway.checks import opencode_check
from tests.fakes.breakers import FakeBreakers


@dataclass
class Registered:
    instances: list[Instance]

    async def loads(self, *, besides: Collection[str] = ()) -> list[Instance]:
        return self.instances


class Server:
    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour

    async def version(self) -> str:
        if self.behaviour == "hangs":
            await asyncio.Event().wait()
        if self.behaviour == "fails":
            raise UnavailableError("http://10.0.0.5:4096 refused")
        return "1.18.33"


@dataclass
class Servers:
    behaviours: Mapping[str, str]

    def server(self, instance: Instance) -> Server:
        return Server(self.behaviours[instance.id])


async def look(
    *,
    status: str = "active",
    breakers: FakeBreakers | None = None,
    rollout: Rollout = EVERYTHING_ON_OPENCODE,
    **behaviours: str,
) -> str:
    instances = [Instance(InstanceId(name), f"http://{name}", "opencode", None, status=status) for name in behaviours]
    store, servers = Registered(instances), Servers(behaviours)
    check = opencode_check(
        cast("InstanceStore", store), cast("OpenCodeServers", servers), breakers or FakeBreakers(), rollout
    )
    return await check()


@pytest.fixture(autouse=True)
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_SERVER_TIMEOUT_S", 0.05)


async def test_one_server_that_answers_is_enough() -> None:
    assert await look(one="hangs", two="fails", three="answers") == "1 of 3 servers answer"


async def test_servers_that_a_circuit_breaker_holds_back_are_told() -> None:
    breakers = FakeBreakers({"two": Gate(BreakerState.OPEN, wait_s=5)})

    assert await look(one="answers", two="fails", breakers=breakers) == "1 of 2 servers answer, 1 held back"


@pytest.mark.parametrize(
    ("servers", "error"),
    [
        ({}, PermanentError),
        ({"one": "fails", "two": "hangs"}, UnavailableError),
        ({"status": "draining", "one": "answers"}, PermanentError),
    ],
    ids=["none", "none answers", "none active"],
)
async def test_without_any_it_is_not_ready(servers: dict[str, Any], error: type[NubabelError]) -> None:
    with pytest.raises(error) as raised:
        await look(**servers)
    assert "10.0.0.5" not in str(raised.value)


@pytest.mark.parametrize(
    ("behaviours", "words"),
    [
        pytest.param({}, "no active OpenCode server is registered", id="none"),
        pytest.param({"one": "fails"}, "none of 1 OpenCode servers answers", id="none answers"),
    ],
)
async def test_without_any_it_is_ready_where_another_orchestrator_answers_everything(
    behaviours: dict[str, Any], words: str
) -> None:
    found = await look(rollout=Rollout.parse("delegate:100"), **behaviours)

    assert found == f"{words}, and none is needed: delegate answers everything (NUBABEL_ROLLOUT)"
