"""Why the guards exist. When a test here fails after an upgrade, a guard may have become unnecessary: look before
deleting it. Measured on Celery 5.7.0 with kombu 5.7.0.

| guard | against | stock, here | ours |
|---|---|---|---|
| `check_envelope` | items that are no envelopes, JSON that kombu reads otherwise | ends, message gone | `test_guards` |
| `check_envelope` | compression: a megabyte becomes a gigabyte before any task | (not run) | `test_guards`, "a bomb" |
| `settle_delivery` | a delivery tag used twice | acknowledged together | `test_fetch` |
| `settle_delivery` | a way back that leads elsewhere | given back elsewhere | `test_fetch` |
| `plain_headers` | an eta that cannot be converted | dropped | `test_guards`, "waits for the year 1" |
| `GuardedConsumer` | bodies and headers of wrong shape | ends, message stays for the next | `test_guards` |
| `GuardedConsumer` | no id: a KeyError that counts as a lost connection | reconnects for ever | `test_guards` |
| `check_content` | what a thread stumbles over | neither done nor given back | `test_guards` |
| `_receive_one` | control messages | ends | `test_guards` |
| `_brpop_start` | a worker killed between fetch and reservation | lost | `test_fetch` |
| `_connparams` | a broker that dies during the clean-up | AttributeError | `test_fetch` |
| `conn_or_acquire`, `pipe_or_acquire` | one Redis client per command (cost only) | two clients | `test_fetch` |
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu import Connection

from nubabel_workers.embedded.valkey import EmbeddedValkey
from tests.integration.broker.raw_messages import BAD_MESSAGES, QUEUE, TOLERATED, good, with_properties
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


@pytest.mark.parametrize(
    "name",
    ["list", "unknown body encoding", "a value of an unknown type", "byte order mark"],
)
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


@pytest.mark.parametrize("order", [b"[" * 5_000, b'{"__type__": "bytes", "__value__": 1}'])
def test_a_stock_worker_ends_over_a_control_message(order: bytes, stock: WorkerProcess, broker: redis.Redis) -> None:
    wait_for(lambda: broker.publish("/0.celery.pidbox", order), what="a worker that listens")

    wait_for(lambda: not stock.process.is_running, what="the end of the worker")


def test_a_stock_worker_acknowledges_messages_that_share_a_delivery_tag_together(
    stock: WorkerProcess, broker: redis.Redis
) -> None:
    for row in ("slow", "quick"):
        broker.lpush(QUEUE, with_properties(good(row), delivery_tag="the same"))
    stock.wait_for_done("quick")

    wait_for(lambda: not broker.hlen("unacked"), what="the slow one forgotten")
    assert "slow" not in stock.done()


def test_a_stock_worker_gives_a_message_back_to_where_its_producer_says(
    stock: WorkerProcess, broker: redis.Redis
) -> None:
    elsewhere = {"exchange": "", "routing_key": "elsewhere"}
    held = json.dumps(TOLERATED["waits for years"]()).encode()
    broker.lpush(QUEUE, with_properties(held, delivery_info=elsewhere))
    wait_for(lambda: broker.hlen("unacked") == 1, what="the message in the worker's memory")

    stock.process.send_signal(signal.SIGTERM)

    wait_for(lambda: broker.llen("elsewhere") == 1, timeout_s=30, what="the message in another queue")


def test_a_stock_worker_drops_a_message_whose_eta_it_cannot_convert(stock: WorkerProcess, broker: redis.Redis) -> None:
    broker.lpush(QUEUE, json.dumps(TOLERATED["waits for the year 1"]()))
    broker.lpush(QUEUE, good("behind it"))
    stock.wait_for_done("behind it")

    wait_for(lambda: not broker.hlen("unacked"), what="nothing unacknowledged")
    assert stock.done() == ["behind it"]


def test_a_stock_worker_loses_the_message_that_it_was_handed_when_it_died(
    stock: WorkerProcess, broker: redis.Redis
) -> None:
    broker.lpush(QUEUE, good("before"))
    stock.wait_for_done("before")
    wait_for(lambda: not broker.hlen("unacked") and broker.info("clients")["blocked_clients"], what="its next wait")
    stock.process.send_signal(signal.SIGSTOP)

    broker.lpush(QUEUE, good("handed over"))
    stock.process.kill()

    assert broker.llen(QUEUE) + broker.hlen("unacked") == 0


def test_a_channel_of_a_closed_stock_connection_falls_over_its_own_cleanup(own_valkey: EmbeddedValkey) -> None:
    connection = Connection(own_valkey.broker_url)
    channel: Any = connection.channel()
    connection.release()

    with pytest.raises(AttributeError):
        channel.qos.restore_unacked()


def test_a_stock_channel_makes_a_client_for_every_command(own_valkey: EmbeddedValkey) -> None:
    with Connection(own_valkey.broker_url) as connection:
        channel: Any = connection.channel()
        with channel.conn_or_acquire() as first, channel.conn_or_acquire() as second:
            assert first is not second
