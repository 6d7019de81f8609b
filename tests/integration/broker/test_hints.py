"""Hints on a real Valkey: one message where several are asked for, and a broken broker that costs nobody time."""

import asyncio
import base64
import json
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio

from config.celery_app import CONNECT_TIMEOUT_S, SOCKET_TIMEOUT_S
from config.queues import QUEUE_OF_TASK
from config.settings import Settings
from nubabel_workers.adapters.broker import connection
from nubabel_workers.adapters.broker.hints import BrokerHintPublisher
from nubabel_workers.adapters.broker.queues import BrokerQueues
from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.embedded.valkey import EmbeddedValkey
from tests.integration.broker.conftest import settings_for
from tests.waiting import eventually, wait_for

pytestmark = pytest.mark.integration

QUEUES = {str(task): str(queue) for task, queue in QUEUE_OF_TASK.items()}
MakePublisher = Callable[..., tuple[BrokerHintPublisher, list[tuple[str, str]]]]


@pytest.fixture
def make_publisher() -> Iterator[MakePublisher]:
    """A publisher and the list of its outcomes."""
    publishers = []

    def make(settings: Settings, *, flag_ms: int | None = 1000) -> tuple[BrokerHintPublisher, list[tuple[str, str]]]:
        outcomes: list[tuple[str, str]] = []
        url = settings.broker_url.get_secret_value()
        publisher = BrokerHintPublisher(
            connection.connect(url, timeout_s=SOCKET_TIMEOUT_S, connect_timeout_s=CONNECT_TIMEOUT_S, again=1),
            QUEUES,
            flag_ms=flag_ms,
            on_outcome=lambda task, outcome: outcomes.append((task, outcome)),
        )
        publishers.append(publisher)
        return publisher, outcomes

    yield make
    for publisher in publishers:
        publisher.close()


def messages(broker_url: str, queue: str) -> list[dict[str, Any]]:
    with redis.Redis.from_url(broker_url) as broker:
        return [json.loads(raw) for raw in broker.lrange(queue, 0, -1)]


def length(broker_url: str, queue: str) -> int:
    return len(messages(broker_url, queue))


def test_a_hint_becomes_a_message_of_protocol_2_with_nothing_but_the_id(
    settings: Settings, broker_url: str, make_publisher: MakePublisher
) -> None:
    publisher, _ = make_publisher(settings)

    publisher.publish(Hint(HintTask.DISPATCH, "exe_1", "org_1"))
    wait_for(lambda: messages(broker_url, "orchestration"))

    (message,) = messages(broker_url, "orchestration")
    assert json.loads(base64.b64decode(message["body"])) == [["exe_1"], {}, {}]
    assert message["headers"]["task"] == "orchestration.dispatch"
    assert message["content-type"] == "application/json"
    assert message["properties"]["delivery_info"] == {"exchange": "", "routing_key": "orchestration"}
    assert "org_1" not in json.dumps(message)


def test_two_hints_in_quick_succession_are_one_message(
    settings: Settings, broker_url: str, make_publisher: MakePublisher
) -> None:
    publisher, outcomes = make_publisher(settings)

    publisher.publish(Hint(HintTask.DISPATCH, "exe_1"))
    wait_for(lambda: ("orchestration.dispatch", "published") in outcomes)
    publisher.publish(Hint(HintTask.DISPATCH, "exe_2"))
    wait_for(lambda: ("orchestration.dispatch", "suppressed") in outcomes)

    assert length(broker_url, "orchestration") == 1


def test_hints_that_may_wait_become_one_message(
    settings: Settings, broker_url: str, make_publisher: MakePublisher
) -> None:
    publisher, outcomes = make_publisher(settings, flag_ms=None)

    for number in range(5):
        publisher.publish(Hint(HintTask.DELIVER, f"ntf_{number}", may_wait_s=0.2))
    publisher.publish(Hint(HintTask.DISPATCH, "exe_1"))
    wait_for(lambda: ("orchestration.dispatch", "published") in outcomes)
    waiting_meanwhile = length(broker_url, "notifications")
    wait_for(lambda: ("notifications.deliver", "published") in outcomes)

    assert waiting_meanwhile == 0
    assert length(broker_url, "notifications") == 1
    assert outcomes.count(("notifications.deliver", "suppressed")) == 4


def test_a_hint_that_may_wait_goes_with_one_that_may_not(
    settings: Settings, broker_url: str, make_publisher: MakePublisher
) -> None:
    publisher, outcomes = make_publisher(settings)
    publisher.publish(Hint(HintTask.DELIVER, "ntf_1", may_wait_s=600))

    publisher.publish(Hint(HintTask.DELIVER, "ntf_2"))

    wait_for(lambda: ("notifications.deliver", "published") in outcomes)
    assert length(broker_url, "notifications") == 1


def test_what_waits_is_published_at_the_end(settings: Settings, broker_url: str, make_publisher: MakePublisher) -> None:
    publisher, _ = make_publisher(settings)
    publisher.publish(Hint(HintTask.DELIVER, "ntf_1", may_wait_s=600))

    publisher.close()

    assert length(broker_url, "notifications") == 1


def test_a_flag_whose_message_was_wiped_is_gone_as_well(
    settings: Settings, broker_url: str, make_publisher: MakePublisher
) -> None:
    publisher, outcomes = make_publisher(settings)
    publisher.publish(Hint(HintTask.DISPATCH, "exe_1"))
    wait_for(lambda: outcomes)
    with redis.Redis.from_url(broker_url) as broker:
        broker.flushall()

    publisher.publish(Hint(HintTask.DISPATCH, "exe_2"))

    wait_for(lambda: length(broker_url, "orchestration") == 1)


def test_hints_of_different_tasks_do_not_suppress_each_other(
    settings: Settings, broker_url: str, make_publisher: MakePublisher
) -> None:
    publisher, outcomes = make_publisher(settings)

    for task in HintTask:
        publisher.publish(Hint(task, "row_1"))
    wait_for(lambda: len(outcomes) == len(HintTask))

    assert [length(broker_url, queue) for queue in ("slack-events", "orchestration", "notifications")] == [1, 2, 1]


def test_after_the_flag_expired_the_next_hint_is_a_message(
    settings: Settings, broker_url: str, make_publisher: MakePublisher
) -> None:
    publisher, _ = make_publisher(settings, flag_ms=50)
    publisher.publish(Hint(HintTask.DISPATCH, "exe_1"))
    wait_for(lambda: length(broker_url, "orchestration") == 1)

    with redis.Redis.from_url(broker_url) as broker:
        wait_for(lambda: not broker.exists("nubabel:hint:orchestration.dispatch"))
    publisher.publish(Hint(HintTask.DISPATCH, "exe_2"))

    wait_for(lambda: length(broker_url, "orchestration") == 2)


def test_a_flag_never_outlives_its_time(settings: Settings, broker_url: str, make_publisher: MakePublisher) -> None:
    publisher, outcomes = make_publisher(settings)

    publisher.publish(Hint(HintTask.DISPATCH, "exe_1"))
    wait_for(lambda: outcomes)

    with redis.Redis.from_url(broker_url) as broker:
        assert 0 < broker.pttl("nubabel:hint:orchestration.dispatch") <= 1000


async def test_a_hung_broker_leaves_the_event_loop_free_and_publishing_fails_in_seconds(
    cache_url: str, own_valkey: EmbeddedValkey, make_publisher: MakePublisher
) -> None:
    publisher, outcomes = make_publisher(settings_for(own_valkey.broker_url, cache_url))
    publisher.publish(Hint(HintTask.DISPATCH, "exe_1"))
    await eventually(lambda: ("orchestration.dispatch", "published") in outcomes)
    own_valkey.process.send_signal(signal.SIGSTOP)

    longest_pause = 0.0
    started = time.monotonic()
    publisher.publish(Hint(HintTask.DELIVER, "ntf_1"))
    while ("notifications.deliver", "failed") not in outcomes:
        assert time.monotonic() - started < 8
        before = time.monotonic()
        publisher.publish(Hint(HintTask.COMPLETE, "exe_2"))
        await asyncio.sleep(0.01)
        longest_pause = max(longest_pause, time.monotonic() - before)
    own_valkey.process.send_signal(signal.SIGCONT)

    def published_again() -> bool:  # what was sent meanwhile may have arrived: its flag stands for a second
        publisher.publish(Hint(HintTask.COMPLETE, "exe_3"))
        return ("orchestration.complete", "published") in outcomes

    assert longest_pause < 0.5
    await eventually(published_again)


def test_hints_are_published_again_after_the_broker_was_restarted(
    cache_url: str, own_valkey: EmbeddedValkey, make_publisher: MakePublisher
) -> None:
    publisher, outcomes = make_publisher(settings_for(own_valkey.broker_url, cache_url), flag_ms=None)
    publisher.publish(Hint(HintTask.DISPATCH, "exe_1"))
    wait_for(lambda: len(outcomes) == 1)
    own_valkey.kill()
    publisher.publish(Hint(HintTask.DISPATCH, "exe_2"))
    wait_for(lambda: len(outcomes) == 2)
    own_valkey.start()

    publisher.publish(Hint(HintTask.DISPATCH, "exe_3"))
    wait_for(lambda: len(outcomes) == 3)

    assert [outcome for _, outcome in outcomes] == ["published", "failed", "published"]


def test_a_connection_that_went_stale_costs_no_hint(
    settings: Settings, broker_url: str, make_publisher: MakePublisher
) -> None:
    publisher, outcomes = make_publisher(settings, flag_ms=None)
    publisher.publish(Hint(HintTask.DISPATCH, "exe_1"))
    wait_for(lambda: len(outcomes) == 1)
    with redis.Redis.from_url(broker_url) as broker:
        broker.client_kill_filter(_type="normal", skipme=True)

    publisher.publish(Hint(HintTask.DISPATCH, "exe_2"))
    wait_for(lambda: len(outcomes) == 2)

    assert [outcome for _, outcome in outcomes] == ["published", "published"]


def test_closing_publishes_what_is_pending_and_nothing_after(
    settings: Settings, broker_url: str, make_publisher: MakePublisher
) -> None:
    publisher, _ = make_publisher(settings)

    publisher.publish(Hint(HintTask.DISPATCH, "exe_1"))
    publisher.close()
    publisher.publish(Hint(HintTask.DELIVER, "ntf_1"))

    assert length(broker_url, "orchestration") == 1
    assert length(broker_url, "notifications") == 0


def test_closing_does_not_wait_for_a_hung_broker(
    cache_url: str, own_valkey: EmbeddedValkey, make_publisher: MakePublisher
) -> None:
    publisher, _ = make_publisher(settings_for(own_valkey.broker_url, cache_url))
    own_valkey.process.send_signal(signal.SIGSTOP)
    publisher.publish(Hint(HintTask.DISPATCH, "exe_1"))

    started = time.monotonic()
    publisher.close(timeout_s=0.2)

    assert time.monotonic() - started < 2


async def test_queue_lengths_count_waiting_and_held_messages(
    settings: Settings, broker_url: str, make_publisher: MakePublisher
) -> None:
    publisher, _ = make_publisher(settings)
    publisher.publish(Hint(HintTask.DELIVER, "ntf_1"))
    await eventually(lambda: length(broker_url, "notifications") == 1)

    async with redis.asyncio.Redis.from_url(broker_url) as broker:
        await broker.zadd("unacked_index", {"tag": time.time() - 60})
        queues = BrokerQueues(broker, ("orchestration", "notifications"))

        assert await queues.lengths() == {"orchestration": 0, "notifications": 1, "unacknowledged": 1}


async def test_queue_lengths_count_what_producers_left_under_other_priorities(broker_url: str) -> None:
    async with redis.asyncio.Redis.from_url(broker_url) as broker:
        for name in ("orchestration", "orchestration\x06\x163", "orchestration\x06\x169"):
            await broker.lpush(name, "a message")

        lengths = await BrokerQueues(broker, ("orchestration", "notifications")).lengths()

    assert lengths == {"orchestration": 3, "notifications": 0, "unacknowledged": 0}


async def test_queue_lengths_of_a_broker_that_is_away_are_unavailable(own_valkey: EmbeddedValkey) -> None:
    broker = redis.asyncio.Redis.from_url(own_valkey.broker_url)
    queues = BrokerQueues(broker, ("orchestration",))
    own_valkey.kill()

    with pytest.raises(UnavailableError):
        await queues.lengths()
    with pytest.raises(UnavailableError):
        await queues.ping()
    await broker.aclose()
