"""A worker of a single queue: nothing is lost between the queue and the reservation, whenever it is killed."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from nubabel_workers.adapters.broker.hints import flag_of
from nubabel_workers.adapters.broker.transport import LeanConnection
from nubabel_workers.embedded.valkey import EmbeddedValkey
from tests.integration.broker.raw_messages import BAD_MESSAGES, QUEUE, carrying, good, with_properties
from tests.integration.broker.worker_process import WorkerProcess
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

FETCHED = f"{QUEUE}:fetched"


@pytest.fixture
def broker(own_valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_valkey.broker_url) as broker:
        yield broker


def start_worker(directory: Path, valkey: EmbeddedValkey, *, name: str) -> WorkerProcess:
    return WorkerProcess(
        directory, valkey.broker_url, valkey.cache_url, queues=(QUEUE,), arguments=("-n", f"{name}@%h")
    )


def nothing_is_left(broker: redis.Redis) -> bool:
    return not (broker.llen(QUEUE) or broker.llen(FETCHED) or broker.hlen("unacked"))


def test_messages_run_and_leave_nothing_behind(own_valkey: EmbeddedValkey, broker: redis.Redis, tmp_path: Path) -> None:
    worker = start_worker(tmp_path, own_valkey, name="one")

    for number in range(200):
        broker.lpush(QUEUE, good(f"exe_{number}"))
    worker.wait_for_done("exe_199")

    wait_for(lambda: nothing_is_left(broker), what="an empty broker")
    assert sorted(worker.done()) == sorted(f"exe_{number}" for number in range(200))
    worker.stop()


def test_taking_a_message_removes_the_flag_that_stood_for_it(
    own_valkey: EmbeddedValkey, broker: redis.Redis, tmp_path: Path
) -> None:
    worker = start_worker(tmp_path, own_valkey, name="one")
    flag = flag_of("orchestration.dispatch")
    assert flag is not None
    broker.set(flag, "1")

    broker.lpush(QUEUE, good("exe_1"))
    worker.wait_for_done("exe_1")

    assert not broker.exists(flag)
    worker.stop()


def test_the_message_that_a_dead_worker_was_handed_is_run_by_the_next(
    own_valkey: EmbeddedValkey, broker: redis.Redis, tmp_path: Path
) -> None:
    dying = start_worker(tmp_path, own_valkey, name="dying")
    broker.lpush(QUEUE, good("before"))
    dying.wait_for_done("before")
    wait_for(lambda: nothing_is_left(broker), what="its acknowledgement")
    dying.process.send_signal(signal.SIGSTOP)  # it waits for a message, and the server hands it the next one

    broker.lpush(QUEUE, good("handed over"))
    dying.process.kill()
    next_worker = start_worker(tmp_path, own_valkey, name="next")

    next_worker.wait_for_done("handed over", timeout_s=15)
    wait_for(lambda: nothing_is_left(broker), what="an empty broker")
    next_worker.stop()


def test_nothing_is_lost_over_many_kills(own_valkey: EmbeddedValkey, broker: redis.Redis, tmp_path: Path) -> None:
    sent = 0
    for life in range(3):
        worker = start_worker(tmp_path, own_valkey, name=f"life-{life}")
        for _ in range(150):
            broker.lpush(QUEUE, good(f"exe_{sent}"))
            sent += 1
        wait_for(lambda: len(worker.done()) > 10)  # noqa: B023  # called at once
        worker.process.kill()

    last = start_worker(tmp_path, own_valkey, name="last")
    wait_for(lambda: not broker.llen(QUEUE) and not broker.llen(FETCHED), timeout_s=20, what="nothing waiting")
    held = int(broker.hlen("unacked"))  # reserved by the dead: they come again after the visibility timeout
    done = set(last.done())

    assert len(done) + held >= sent
    last.stop()


def test_a_malformed_message_is_parked_here_too(
    own_valkey: EmbeddedValkey, broker: redis.Redis, tmp_path: Path
) -> None:
    worker = start_worker(tmp_path, own_valkey, name="one")

    for bad in BAD_MESSAGES.values():
        broker.lpush(QUEUE, bad.raw())
    broker.lpush(QUEUE, good("after all of them"))
    worker.wait_for_done("after all of them")

    wait_for(lambda: len(worker.parked()) == len(BAD_MESSAGES), what="a dead letter for each")
    wait_for(lambda: nothing_is_left(broker), what="an empty broker")
    assert worker.reconnects == 0
    worker.stop()


def test_messages_that_share_a_delivery_tag_are_acknowledged_one_by_one(
    own_valkey: EmbeddedValkey, broker: redis.Redis, tmp_path: Path
) -> None:
    worker = start_worker(tmp_path, own_valkey, name="one")

    for row in ("slow", "quick"):
        broker.lpush(QUEUE, with_properties(good(row), delivery_tag="the same"))
    worker.wait_for_done("quick")

    wait_for(lambda: broker.hlen("unacked") == 1, what="only the slow one held")
    worker.process.kill()


def test_what_a_stopping_worker_gives_back_returns_to_its_queue_whatever_its_producer_says(
    own_valkey: EmbeddedValkey, broker: redis.Redis, tmp_path: Path
) -> None:
    stopping = start_worker(tmp_path, own_valkey, name="stopping")
    (tmp_path / "database-down").touch()
    elsewhere = {"exchange": "celery", "routing_key": "celery"}  # as celery-node writes it

    broker.lpush(QUEUE, with_properties(carrying({"prompt": "keep me"}), delivery_info=elsewhere))
    wait_for(lambda: "task.again_later" in stopping.log() and broker.hlen("unacked") == 1, what="its second try")
    stopping.stop()
    (tmp_path / "database-down").unlink()

    next_worker = start_worker(tmp_path, own_valkey, name="next")
    wait_for(lambda: any(line.endswith("keep me") for line in next_worker.done()), what="its run")
    wait_for(lambda: nothing_is_left(broker), what="an empty broker")
    next_worker.stop()


def test_a_worker_outlives_crashes_of_the_broker(own_valkey: EmbeddedValkey, tmp_path: Path) -> None:
    worker = start_worker(tmp_path, own_valkey, name="one")

    for crash in range(3):
        with redis.Redis.from_url(own_valkey.broker_url) as broker:
            for number in range(50):
                broker.lpush(QUEUE, good(f"exe_{crash}_{number}"))
        own_valkey.kill()
        own_valkey.start()
        with redis.Redis.from_url(own_valkey.broker_url) as broker:
            broker.lpush(QUEUE, good(f"after crash {crash}"))
        worker.wait_for_done(f"after crash {crash}", timeout_s=20)

    assert worker.process.is_running
    worker.stop()


def test_a_channel_of_a_closed_connection_speaks_of_a_lost_connection(own_valkey: EmbeddedValkey) -> None:
    connection = LeanConnection(own_valkey.broker_url)
    channel: Any = connection.channel()
    connection.release()

    with pytest.raises(redis.ConnectionError, match="closed"):
        channel.qos.restore_unacked()
