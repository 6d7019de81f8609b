"""Why the guards exist. When a test here fails after an upgrade, a guard may have become unnecessary: look before
deleting it. Measured on Celery 5.7.0 with kombu 5.7.0.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from nubabel_workers.embedded.valkey import EmbeddedValkey
from tests.integration.broker.raw_messages import BAD_MESSAGES, QUEUE, good
from tests.integration.broker.worker_process import WorkerProcess
from tests.waiting import wait_for

pytestmark = pytest.mark.integration


@pytest.fixture
def stock(own_valkey: EmbeddedValkey, tmp_path: Path) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(
        tmp_path, own_valkey.broker_url, own_valkey.cache_url, app="tests.integration.broker.stock_app"
    )
    yield worker
    worker.process.kill()


@pytest.fixture
def broker(own_valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_valkey.broker_url) as broker:
        yield broker


@pytest.mark.parametrize("name", ["body is a pair", "body is missing", "id is an object"])
def test_a_stock_worker_ends_and_leaves_the_message_for_the_next(
    name: str, stock: WorkerProcess, broker: redis.Redis
) -> None:
    broker.lpush(QUEUE, BAD_MESSAGES[name].raw())

    wait_for(lambda: not stock.process.is_running, what="the end of the worker")
    assert broker.llen(QUEUE) == 1


@pytest.mark.parametrize("name", ["list", "unknown body encoding"])
def test_a_stock_worker_ends_and_the_message_is_gone(name: str, stock: WorkerProcess, broker: redis.Redis) -> None:
    broker.lpush(QUEUE, BAD_MESSAGES[name].raw())

    wait_for(lambda: not stock.process.is_running, what="the end of the worker")
    assert broker.llen(QUEUE) == 0


def test_a_stock_worker_reconnects_for_ever_over_a_message_without_id(
    stock: WorkerProcess, broker: redis.Redis
) -> None:
    broker.lpush(QUEUE, BAD_MESSAGES["no id"].raw())
    broker.lpush(QUEUE, good("behind it"))

    wait_for(lambda: stock.reconnects >= 6, what="many reconnects")
    assert stock.done() == []


def test_a_stock_worker_takes_a_message_without_delivery_tag_for_a_lost_connection(
    stock: WorkerProcess, broker: redis.Redis
) -> None:
    broker.lpush(QUEUE, BAD_MESSAGES["no delivery tag"].raw())

    wait_for(lambda: stock.reconnects >= 1, what="a reconnect")


def test_a_stock_worker_never_gives_back_a_message_that_its_thread_stumbled_over(
    stock: WorkerProcess, broker: redis.Redis
) -> None:
    broker.lpush(QUEUE, BAD_MESSAGES["embed is a list"].raw())
    broker.lpush(QUEUE, good("behind it"))
    stock.wait_for_done("behind it")

    wait_for(lambda: broker.hlen("unacked") == 1, what="one held message")
