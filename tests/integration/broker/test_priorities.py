"""A Celery producer with kombu's own priorities: whatever the priority, the message is taken, and none is lost."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from config.queues import QueueName
from nubabel_workers.adapters.broker.parking import dead_letter_to_json, describe
from nubabel_workers.adapters.broker.priority_lists import move_to_queue, priority_lists
from nubabel_workers.domain.dead_letters import DeadLetterReason
from nubabel_workers.embedded.valkey import EmbeddedValkey
from tests.integration.broker.worker_process import WorkerProcess
from tests.waiting import wait_for

pytestmark = pytest.mark.integration

QUEUE = "orchestration"
PRIORITIES = (0, 3, 5, 9)
ALL = tuple(QueueName)
TASKS = {
    QueueName.SLACK_EVENTS: "slack_events.process",
    QueueName.ORCHESTRATION: "orchestration.submit",
    QueueName.NOTIFICATIONS: "notifications.deliver",
    QueueName.DEAD_LETTER: "dead_letters.park",
}


@pytest.fixture
def broker(own_valkey: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_valkey.broker_url) as broker:
        yield broker


@pytest.fixture
def producer(own_valkey: EmbeddedValkey) -> Iterator[Celery]:
    """Somebody else's app, with every option as Celery has it."""
    with Celery("upstream", broker=own_valkey.broker_url, set_as_current=False) as producer:
        yield producer


def content(queue: QueueName, mark: str) -> Any:
    if queue is QueueName.ORCHESTRATION:
        return {"prompt": mark}
    if queue is QueueName.DEAD_LETTER:
        return dead_letter_to_json(
            describe(DeadLetterReason.BAD_ENVELOPE, queue="elsewhere", task="", error=mark, raw=b"")
        )
    return mark


def send(producer: Celery, queue: QueueName, priority: int) -> str:
    mark = f"written {queue} {priority}"
    task = TASKS[queue]
    producer.send_task(task, args=[content(queue, mark)], queue=str(queue), priority=priority, ignore_result=True)
    return mark


def marks_of(worker: WorkerProcess) -> set[str]:
    done = {line[line.index("written") :] for line in worker.done() if "written" in line}
    return done | {letter["error"] for letter in worker.parked()}


@pytest.mark.parametrize("queues", [*((queue,) for queue in ALL), ALL], ids=[*ALL, "all queues"])
def test_messages_of_every_priority_are_taken(
    own_valkey: EmbeddedValkey, broker: redis.Redis, producer: Celery, tmp_path: Path, queues: Sequence[QueueName]
) -> None:
    marks = {send(producer, queue, priority) for queue in queues for priority in PRIORITIES}
    assert sum(int(broker.llen(name)) for queue in queues for name in priority_lists(queue)) == 3 * len(queues)

    worker = WorkerProcess(tmp_path, own_valkey.broker_url, own_valkey.cache_url, queues=queues)
    marks |= {send(producer, queue, priority) for queue in queues for priority in (1, 4, 7)}

    wait_for(lambda: marks_of(worker) == marks, timeout_s=20, what="every one of them run")
    wait_for(lambda: not broker.hlen("unacked"), what="every one of them acknowledged")
    assert not any(broker.llen(name) for queue in queues for name in (queue, *priority_lists(queue)))
    worker.stop()


def test_a_message_keeps_its_place_among_those_of_its_priority(broker: redis.Redis) -> None:
    broker.lpush(QUEUE, "waits already")
    urgent, late = priority_lists(QUEUE)[2], priority_lists(QUEUE)[8]
    broker.lpush(late, "late 1", "late 2")
    broker.lpush(urgent, "urgent 1", "urgent 2")

    moved = move_to_queue(broker, QUEUE)

    taken = [broker.rpop(QUEUE) for _ in range(5)]
    assert moved == (4, False)
    assert taken == [b"waits already", b"urgent 1", b"urgent 2", b"late 1", b"late 2"]


def test_a_flood_is_moved_in_bounded_steps(broker: redis.Redis) -> None:
    broker.lpush(priority_lists(QUEUE)[8], *(f"exe_{number}" for number in range(1500)))

    assert [move_to_queue(broker, QUEUE) for _ in range(3)] == [(1000, True), (500, False), (0, False)]


def test_what_is_no_list_under_such_a_name_is_left_alone(broker: redis.Redis) -> None:
    broker.set(priority_lists(QUEUE)[0], "somebody's")
    broker.lpush(priority_lists(QUEUE)[1], "a message")

    assert move_to_queue(broker, QUEUE) == (1, False)
    assert broker.get(priority_lists(QUEUE)[0]) == b"somebody's"
