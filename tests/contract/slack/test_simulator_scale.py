"""The local Slack takes thousands of messages and answers. What one costs does not grow with them."""

import asyncio
from pathlib import Path

import aiohttp
from starlette.requests import Request
from starlette.responses import Response

import nubabel_workers.simulators.slack
from nubabel_workers.simulators.slack import SlackSimulator, SlackSimulatorOptions
from nubabel_workers.simulators.slack.model import Message
from tests.contract.slack.conftest import events_endpoint
from tests.executed_lines import executed_lines

_SIMULATOR = Path(nubabel_workers.simulators.slack.__file__).parent
_MESSAGES = 3_000
_CHANNEL = "D0ALICE"  # a direct message is one event
_AT_ONCE = 50
_CONNECTIONS = 100  # of Slack's side


class Receiver:
    """Acknowledges, and counts how many deliveries come at once."""

    def __init__(self) -> None:
        self.here = self.peak = 0
        self.events: set[str] = set()  # a machine that is very busy may let one wait until it is sent again

    async def handle(self, request: Request) -> Response:
        self.here += 1
        self.peak = max(self.peak, self.here)
        self.events.add((await request.json())["event_id"])
        self.here -= 1
        return Response()


async def _answer(http: aiohttp.ClientSession, slack: SlackSimulator, root: Message) -> None:
    headers = {"Authorization": f"Bearer {slack.workspace().bot_token}"}
    arguments = {"channel": _CHANNEL, "thread_ts": root.ts, "text": "answer"}
    async with http.post(f"{slack.api_url}chat.postMessage", json=arguments, headers=headers) as response:
        assert (await response.json())["ok"]


async def _exchange(http: aiohttp.ClientSession, slack: SlackSimulator, number: int) -> None:
    """A question that is delivered, its answer, and whoever waits for it."""
    root = slack.say(f"question {number}", channel=_CHANNEL)
    answered = asyncio.create_task(
        slack.wait_for(root, lambda messages: len(messages) == 2, channel=_CHANNEL, timeout_s=60)
    )
    await asyncio.sleep(0)
    await _answer(http, slack, root)
    await answered


async def test_thousands_of_questions_and_answers_cost_what_the_first_ones_did() -> None:
    receiver, options = Receiver(), SlackSimulatorOptions(echo_own_messages=False, time_scale=0.001)
    async with (
        events_endpoint(receiver.handle) as url,
        SlackSimulator(options) as slack,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_AT_ONCE)) as http,
    ):
        slack.send_events_to(url)
        assert slack.http is not None
        await _exchange(http, slack, 0)  # whatever is found out once
        with executed_lines(_SIMULATOR) as first:
            await _exchange(http, slack, 1)
            await _delivered(slack)
        for begin in range(2, _MESSAGES, _AT_ONCE):
            await asyncio.gather(*(_exchange(http, slack, begin + one) for one in range(_AT_ONCE)))
        await _delivered(slack)
        with executed_lines(_SIMULATOR) as last:
            await _exchange(http, slack, _MESSAGES)
            await _delivered(slack)
        messages = slack.workspace().channels[_CHANNEL].messages

    assert len(receiver.events) > _MESSAGES
    assert len(messages) == 2 * len(receiver.events)
    assert receiver.peak <= _CONNECTIONS
    assert first.lines > 0
    assert last.lines < 2 * first.lines
    assert slack.world._waiting == {}


async def test_a_burst_of_thousands_waits_for_few_connections() -> None:
    receiver = Receiver()
    async with (
        events_endpoint(receiver.handle) as url,
        SlackSimulator(SlackSimulatorOptions(time_scale=0.001)) as slack,
    ):
        slack.send_events_to(url)
        for number in range(_MESSAGES):
            slack.say(f"question {number}", channel=_CHANNEL)
        await _delivered(slack)

    assert len(receiver.events) == _MESSAGES
    assert receiver.peak <= _CONNECTIONS


async def _delivered(slack: SlackSimulator) -> None:
    """Until nothing is on its way."""
    assert slack.http is not None
    async with asyncio.timeout(60):
        while running := tuple(slack.http._running):
            await asyncio.wait(running)
