"""Frames of Slack's socket that are not what they should be; the events among them arrive."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from nubabel_workers.adapters.slack.socket_mode import SocketModeReceiver
from nubabel_workers.bootstrap import open_services
from nubabel_workers.gateway.slack_ingress import build_slack_app
from nubabel_workers.simulators.slack import SlackSimulator, SlackSimulatorOptions
from tasks.runtime import WorkerRuntime
from tests.faults.raw_input.amount import cases
from tests.faults.raw_input.conftest import TEAM, Rows, Stores
from tests.faults.raw_input.slack_payloads import good_event, numbers, payloads
from tests.faults.raw_input.values import OBJECTS, RAW, VALUES, as_json, spoiled
from tests.waiting import eventually

pytestmark = pytest.mark.integration

APP_TOKEN = "xapp-fuzz"

envelopes = payloads.map(lambda payload: {"envelope_id": "e", "type": "events_api", "payload": payload})
disconnects = spoiled({"type": "disconnect", "reason": "warning", "debug_info": {"host": "x"}})
frames = st.one_of(
    envelopes.map(as_json),
    envelopes.flatmap(spoiled).map(as_json),
    disconnects.map(as_json),
    (OBJECTS | VALUES).map(as_json),
    RAW,
).map(lambda raw: raw.decode("utf-8", "replace"))


class Socket:
    """Slack's end of a socket to a receiver that stores."""

    def __init__(self, slack: SlackSimulator, receiving: "asyncio.Task[None]") -> None:
        self._slack = slack
        self._receiving = receiving

    async def send(self, frames: list[str], good: dict[str, Any]) -> None:
        for frame in frames:
            await self._slack.sockets.wait_for_connections(1)
            await self._slack.sockets._sockets[0].send_str(frame)
        self._slack.sockets.deliver(good)
        await eventually(lambda: self._acknowledged(good["event_id"]), what="the acknowledgement")
        assert not self._receiving.done()

    def _acknowledged(self, event_id: str) -> bool:
        return any(entry["event_id"] == event_id for entry in self._slack.world.logged("delivered"))


@asynccontextmanager
async def open_socket(stores: Stores) -> AsyncIterator[Socket]:
    options = SlackSimulatorOptions(app_token=APP_TOKEN, teams=(TEAM,), ack_timeout_s=0.5, time_scale=0.001)
    async with open_services(stores.settings, application_name="tests") as services, SlackSimulator(options) as slack:
        receiver = SocketModeReceiver(build_slack_app(services), SecretStr(APP_TOKEN), base_url=slack.api_url)
        stop = asyncio.Event()
        receiving = asyncio.create_task(receiver.run(stop))
        await receiver.wait_connected()
        yield Socket(slack, receiving)
        stop.set()
        await receiving


@pytest.fixture(scope="module")
def socket(stores: Stores) -> Iterator[WorkerRuntime[Socket]]:
    """On a loop of its own, which goes on between the cases."""
    running = WorkerRuntime(lambda: open_socket(stores))
    running.start()
    yield running
    running.close()


@given(given_frames=st.lists(frames, min_size=1, max_size=8))
@cases(60)
def test_garbage_keeps_nobody_from_being_heard(
    socket: WorkerRuntime[Socket], database: Rows, given_frames: list[str]
) -> None:
    number = next(numbers)

    socket.run(lambda slack: slack.send(given_frames, good_event(number)), timeout_s=20)

    assert database.execute("SELECT FROM inbound_events WHERE provider_event_id = %s", (f"EvGood{number}",)).rowcount
