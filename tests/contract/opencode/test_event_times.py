"""What the ids of events say: the listener tells from them how late events come."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import pytest

from nubabel_workers.adapters.opencode.arrivals import event_made_at
from nubabel_workers.adapters.opencode.servers import HttpOpenCodeEvents
from nubabel_workers.adapters.opencode.transport import new_stream_session
from nubabel_workers.adapters.opencode.wire import EVENT_STREAM_PATH, basic_authorization
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.opencode_events import EventLag, ServerEvent
from nubabel_workers.domain.tenants import Instance
from tests.contract.opencode.backends import Backend, Conversation

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(60)]

_CLOSE_S = 5.0  # on a busy machine


async def test_an_event_says_when_it_was_made(backend: Backend) -> None:
    authorization = basic_authorization(backend.username, backend.password)
    assert authorization is not None
    headers = {"authorization": authorization.get_secret_value()}
    async with (
        new_stream_session() as http,
        http.get(backend.url + EVENT_STREAM_PATH, headers=headers) as response,
    ):
        first = await response.content.readany()

    made_at = event_made_at(first, time.time())
    assert made_at is not None
    assert abs(time.time() - made_at) < _CLOSE_S


async def test_how_late_events_come_is_measured_while_a_run_goes_on(conversation: Conversation) -> None:
    backend = conversation.backend
    instance = Instance(InstanceId("ins_1"), backend.url, backend.username, backend.password)
    async with new_stream_session() as http:
        events = HttpOpenCodeEvents(http, silence_s=30, lag_check_s=0.2)
        async with aclosing(events.stream(instance, set())) as stream:
            await anext(stream)
            prompt = await conversation.post("[[delay=0.5]] [[tokens=20]] hello")
            lag = await _first_lag(stream)
            await conversation.ended(prompt)

    assert 0 <= lag.seconds < _CLOSE_S


async def _first_lag(stream: AsyncIterator[Sequence[ServerEvent]]) -> EventLag:
    async for burst in stream:
        for event in burst:
            if isinstance(event, EventLag):
                return event
    raise AssertionError("the stream ended")
