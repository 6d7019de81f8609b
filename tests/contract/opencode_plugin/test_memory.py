"""How much memory a server has, told signed: by the plugin in the real server, and by the simulator in its place."""

import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from pydantic import SecretStr

from nubabel_workers.simulators.opencode import simulator
from nubabel_workers.simulators.opencode.vitals import VITALS_PATH, BridgeAccess
from tests.contract.opencode_plugin.deployed import Deployed
from tests.contract.opencode_plugin.receiver import INSTANCE, Call, Receiver, receiving
from tests.waiting import eventually

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

_TWO_REPORTS_S = 40.0  # the plugin tells every quarter of a minute
_LITTLE_BYTES, _MUCH_BYTES = 100_000_000, 8_000_000_000


@pytest_asyncio.fixture(loop_scope="session")
async def simulated_receiver() -> AsyncIterator[Receiver]:
    key = f"nck_{secrets.token_urlsafe(32)}"
    async with (
        receiving(key) as (receiver, url),
        simulator() as running,
        running.bridged(BridgeAccess(url, INSTANCE, SecretStr(key), every_s=0.1)),
    ):
        yield receiver


@pytest.fixture(params=["simulator", pytest.param("real", marks=pytest.mark.node)])
def receiver(request: pytest.FixtureRequest) -> Receiver:
    if request.param == "simulator":
        receiver: Receiver = request.getfixturevalue("simulated_receiver")
        return receiver
    deployed: Deployed = request.getfixturevalue("shared")
    return deployed.receiver


def reports(receiver: Receiver) -> list[Call]:
    return [call for call in receiver.calls if call.path == VITALS_PATH]


async def test_memory_is_told_again_and_again_under_the_name_of_one_process(receiver: Receiver) -> None:
    await eventually(lambda: len(reports(receiver)) > 1, timeout_s=_TWO_REPORTS_S, what="two reports")

    told = [call.body for call in reports(receiver)]
    assert {tuple(body) for body in told} == {("process", "resident_bytes")}
    assert len({body["process"] for body in told}) == 1
    assert all(_LITTLE_BYTES < body["resident_bytes"] < _MUCH_BYTES for body in told)
    assert receiver.unsigned == []


async def test_a_report_that_nobody_hears_is_followed_by_the_next_one(receiver: Receiver) -> None:
    with receiver.being("away"):
        await eventually(lambda: receiver.lost[VITALS_PATH] > 0, timeout_s=_TWO_REPORTS_S, what="a lost report")
    heard = len(reports(receiver))

    await eventually(lambda: len(reports(receiver)) > heard, timeout_s=_TWO_REPORTS_S, what="the next report")
