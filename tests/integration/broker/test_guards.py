"""A worker survives whatever is in its queue, and keeps it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from nubabel_workers.embedded.valkey import EmbeddedValkey
from tests.conftest import RedisServer
from tests.integration.broker.raw_messages import BAD_MESSAGES, QUEUE, TOLERATED, carrying, envelope, good
from tests.integration.broker.worker_process import WorkerProcess
from tests.waiting import wait_for

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worker")


@pytest.fixture(scope="module")
def worker(redis_server: RedisServer, directory: Path) -> Iterator[WorkerProcess]:
    redis_server.flush()
    worker = WorkerProcess(directory, redis_server.broker_url, redis_server.cache_url)
    yield worker
    worker.stop()


@pytest.fixture
def broker(redis_server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.broker_url) as broker:
        yield broker


def held(broker: redis.Redis) -> int:
    return int(broker.hlen("unacked"))


@pytest.mark.parametrize("name", BAD_MESSAGES)
def test_a_malformed_message_is_parked_and_the_worker_goes_on(
    name: str, worker: WorkerProcess, broker: redis.Redis
) -> None:
    pid, parked_before = worker.process.pid, len(worker.parked())
    bad = BAD_MESSAGES[name]

    broker.lpush(QUEUE, bad.raw())
    broker.lpush(QUEUE, good(f"after {name}"))
    worker.wait_for_done(f"after {name}")
    wait_for(lambda: len(worker.parked()) == parked_before + 1, what="one dead letter")

    letter = worker.parked()[-1]
    assert letter["reason"] == bad.reason
    assert letter["queue"] == QUEUE
    assert worker.process.is_running
    assert worker.process.pid == pid
    assert worker.reconnects == 0
    wait_for(lambda: held(broker) == 0, what="nothing unacknowledged")


def test_a_dead_letter_holds_the_raw_message_and_its_headers(worker: WorkerProcess, broker: redis.Redis) -> None:
    message = envelope()
    message["headers"].update(task="nobody.knows", note="x" * 2000, odd="\x00\ud800")
    parked_before = len(worker.parked())

    broker.lpush(QUEUE, json.dumps(message))
    wait_for(lambda: len(worker.parked()) == parked_before + 1)

    letter = worker.parked()[-1]
    assert json.loads(letter["payload"])["body"] == message["body"]
    assert letter["task"] == "nobody.knows"
    assert letter["headers"]["id"] == message["headers"]["id"]
    assert len(letter["headers"]["note"]) == 500
    assert letter["headers"]["odd"] == "\ufffd?"


def test_a_huge_bad_message_is_cut(worker: WorkerProcess, broker: redis.Redis) -> None:
    parked_before = len(worker.parked())

    broker.lpush(QUEUE, "한" * 100_000)
    wait_for(lambda: len(worker.parked()) == parked_before + 1)

    assert 65_000 < len(worker.parked()[-1]["payload"].encode()) <= 65_536


def test_while_the_database_is_away_the_broker_keeps_the_dead_letter(
    worker: WorkerProcess, broker: redis.Redis, directory: Path
) -> None:
    parked_before = len(worker.parked())
    (directory / "database-down").touch()

    broker.lpush(QUEUE, b"garbage while away")
    wait_for(lambda: "task.again_later" in worker.log(), what="the parking task waits")
    (directory / "database-down").unlink()
    wait_for(lambda: len(worker.parked()) == parked_before + 1, timeout_s=20)

    assert worker.parked()[-1]["payload"] == "garbage while away"
    assert worker.parked()[-1]["reason"] == "bad-envelope"


def test_a_message_that_carries_content_is_repeated_until_it_is_stored(
    worker: WorkerProcess, broker: redis.Redis, directory: Path
) -> None:
    (directory / "database-down").touch()
    waits = worker.log().count("task.again_later")

    broker.lpush(QUEUE, carrying({"prompt": "keep me"}))
    wait_for(lambda: worker.log().count("task.again_later") > waits)
    (directory / "database-down").unlink()

    wait_for(lambda: any(line.endswith("keep me") for line in worker.done()), timeout_s=20)


@pytest.mark.parametrize(
    ("content", "reason"), [({"bug": 1}, "handler-crash"), ({"refuse": 1}, "bad-arguments"), (7, "bad-arguments")]
)
def test_content_that_cannot_be_worked_on_is_parked(
    content: object, reason: str, worker: WorkerProcess, broker: redis.Redis
) -> None:
    parked_before = len(worker.parked())

    broker.lpush(QUEUE, carrying(content))
    wait_for(lambda: len(worker.parked()) == parked_before + 1)

    letter = worker.parked()[-1]
    assert letter["reason"] == reason
    assert letter["task"] == "orchestration.submit"
    assert json.loads(letter["payload"])["args"] == [content]


def test_a_bug_behind_a_hint_costs_the_hint_only(worker: WorkerProcess, broker: redis.Redis) -> None:
    parked_before = len(worker.parked())

    broker.lpush(QUEUE, good("bug"))
    broker.lpush(QUEUE, good("after the bug"))
    worker.wait_for_done("after the bug")
    wait_for(lambda: "task.failed" in worker.log())

    assert len(worker.parked()) == parked_before
    assert worker.reconnects == 0


def test_a_task_that_takes_too_long_is_cancelled_and_the_worker_goes_on(
    own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    worker = WorkerProcess(
        tmp_path, own_valkey.broker_url, own_valkey.cache_url, environment={"NUBABEL_TASK_TIMEOUT_S": "0.2"}
    )

    with redis.Redis.from_url(own_valkey.broker_url) as broker:
        for _ in range(6):  # more than it has threads
            broker.lpush(QUEUE, good("slow"))
        broker.lpush(QUEUE, good("after the slow ones"))
        worker.wait_for_done("after the slow ones")
    worker.stop()

    assert "slow" not in worker.done()
    assert worker.services() == ["opened", "closed"]


@pytest.mark.parametrize("name", TOLERATED)
def test_an_odd_message_runs(name: str, worker: WorkerProcess, broker: redis.Redis) -> None:
    message = TOLERATED[name]()
    runs_before, parked_before = worker.done().count("from-test"), len(worker.parked())

    broker.lpush(QUEUE, json.dumps(message))
    wait_for(lambda: worker.done().count("from-test") == runs_before + 1, what="the task's run")

    assert len(worker.parked()) == parked_before
    wait_for(lambda: held(broker) == 0, what="nothing unacknowledged")


@pytest.mark.parametrize(
    "payload",
    [b"[]", b"{}", b"7", b"\xff", b'{"properties": {}}', b"[" * 5_000, b'{"__type__": "bytes", "__value__": 1}'],
)
def test_a_malformed_control_message_does_not_disturb(
    payload: bytes, worker: WorkerProcess, broker: redis.Redis
) -> None:
    assert broker.publish("/0.celery.pidbox", payload) == 1

    broker.lpush(QUEUE, good(f"after control {payload[:40]!r}"))
    worker.wait_for_done(f"after control {payload[:40]!r}")

    assert worker.reconnects == 0


def test_the_worker_can_still_be_asked_and_told(worker: WorkerProcess, redis_server: RedisServer) -> None:
    from config.celery_app import create_celery_app
    from tests.integration.broker.conftest import settings_for

    app = create_celery_app(settings_for(redis_server.broker_url, redis_server.cache_url))

    answers = app.control.inspect(timeout=5, limit=1).registered() or {}

    assert ["orchestration.dispatch" in tasks for tasks in answers.values()] == [True]
