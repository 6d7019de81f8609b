"""Whatever a stranger puts into our queues or publishes to our workers: it is worked on or kept as a dead letter, each
message once, the workers go on, and good messages among the garbage are not held up.
"""

import base64
import itertools
import json
import re
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from config.queues import QUEUE_OF_TASK, QueueName, TaskName
from nubabel_workers.adapters.broker.messages import compose_message, task_headers
from nubabel_workers.domain.submission import sign
from nubabel_workers.embedded.processes import ChildProcess
from nubabel_workers.embedded.valkey import EmbeddedValkey
from tests.conftest import PostgresServer
from tests.faults.raw_input.amount import cases
from tests.faults.raw_input.conftest import Stores, furnished_stores
from tests.faults.raw_input.values import RAW, VALUES, as_json, each_spoiled
from tests.integration.broker.raw_messages import BAD_MESSAGES
from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

_numbers = itertools.count(1)
# One queue each as in production, and several: fetched in two ways.
_WORKERS = (("orchestration",), ("slack-events", "notifications", "dead-letter"))
_HEADERS_OF_OTHERS: dict[str, Any] = {
    "shadow": None,
    "stamps": {},
    "replaced_task_nesting": 0,
    "redelivered": False,
    "reply_to": "x",
}


_HINT_OF_OURS = re.compile(r'"task_id":"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"')  # no message here has such an id


class Workers:
    """The real worker processes on stores of their own, and what their logs say became of the messages."""

    def __init__(self, processes: list[ChildProcess], stores: Stores, broker: redis.Redis) -> None:
        self.stores = stores
        self.broker = broker
        self._processes = processes
        self._positions = dict.fromkeys(processes, 0)
        self._sent = self._kept = self._done = 0

    def send(self, queue: str, messages: Iterable[bytes]) -> None:
        for message in messages:
            self.broker.lpush(queue, message)
            self._sent += 1

    def settle(self) -> None:
        """Until each message that was sent is done or kept; none of them twice, nobody broken."""
        wait_for(lambda: self._settled() >= self._sent, timeout_s=100, what=f"{self._sent} messages done or kept")
        wait_for(lambda: not self.broker.hlen("unacked"), what="nothing unacknowledged")
        assert self._settled() == self._sent
        assert [process.is_running for process in self._processes] == [True] * len(self._processes)

    def _settled(self) -> int:
        for process in self._processes:
            assert process.is_running, process.log_tail()
            for line in self._new_lines(process):
                self._done += '"event":"task.done"' in line and not _HINT_OF_OURS.search(line)
                self._kept += '"event":"broker.message_parked"' in line
                for trouble in ("task.failed", "task.again_later", "Connection to broker lost", "Unrecoverable"):
                    assert trouble not in line, line
        return self._done + self._kept

    def _new_lines(self, process: ChildProcess) -> list[str]:
        with process.log_path.open("rb") as log:
            log.seek(self._positions[process])
            whole, _, _ = log.read().rpartition(b"\n")
        self._positions[process] += len(whole) + 1 if whole else 0
        return whole.decode("utf-8", "replace").splitlines()


@pytest.fixture(scope="module")
def workers(postgres_server: PostgresServer, server_dir: Path) -> Iterator[Workers]:
    with (
        EmbeddedValkey(server_dir / "strange-broker") as valkey,
        furnished_stores(postgres_server, broker_url=valkey.broker_url, cache_url=valkey.cache_url) as stores,
        redis.Redis.from_url(valkey.broker_url) as broker,
    ):
        broker.flushdb()  # the hint of the organization's own execution
        processes = [_worker(stores, queues, server_dir / f"worker-{queues[0]}.log") for queues in _WORKERS]
        for process in processes:
            process.wait_until(lambda process=process: " ready." in process.log_path.read_text(), timeout_s=60)  # type: ignore[misc]
        yield Workers(processes, stores, broker)
        for process in processes:
            process.stop(grace_s=15)


def _worker(stores: Stores, queues: tuple[str, ...], log_path: Path) -> ChildProcess:
    celery = (sys.executable, "-m", "celery", "-A", "tasks.app", "worker", "-P", "threads")
    only = ("--without-gossip", "--without-mingle", "-n", f"{queues[0]}@%h", "-Q", ",".join(queues))
    return ChildProcess([*celery, *only], cwd=Path.cwd(), log_path=log_path, env=stores.environment())


def envelope(task: str, argument: Any) -> dict[str, Any]:
    """A good message with all that Celery knows of, in plain text, so that spoiling it reaches the body as well."""
    number = str(next(_numbers))
    return {
        "body": json.dumps([[argument], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {**task_headers(task, number, argsrepr="()"), **_HEADERS_OF_OTHERS},
        "properties": {
            "correlation_id": number,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": QUEUE_OF_TASK[TaskName(task)]},
            "priority": 0,
            "body_encoding": "utf-8",
            "delivery_tag": number,
        },
    }


def hint(task: str, row_id: object) -> bytes:
    return as_json(envelope(task, row_id))


def submission(stores: Stores, key: str) -> dict[str, Any]:
    return sign(
        {
            "prompt": "hello",
            "idempotency_key": key,
            "metadata": {"a": ["b"]},
            "skills": ["debugging"],
            "deadline_s": 60,
        },
        key_id=stores.submit_key_id,
        secret=stores.submit_secret,
        issued_at=int(time.time()),
        nonce=secrets.token_urlsafe(18),
    )


@pytest.mark.parametrize("task", [TaskName.DISPATCH, TaskName.PROCESS_SLACK_EVENTS, TaskName.PARK])
def test_a_message_with_any_part_wrong_is_done_or_kept(task: TaskName, workers: Workers) -> None:
    good = envelope(task, {"queue": "x"} if task is TaskName.PARK else "nothing_of_this_name")

    workers.send(QUEUE_OF_TASK[task], map(as_json, each_spoiled(good)))

    workers.settle()


@pytest.mark.parametrize("queue", QueueName)
def test_each_shape_that_stops_a_stock_worker_is_kept_on_each_queue(queue: QueueName, workers: Workers) -> None:
    workers.send(queue, (bad.raw() for bad in BAD_MESSAGES.values()))
    workers.settle()


def test_a_submission_with_any_part_wrong_is_kept_and_a_good_one_among_them_is_stored(workers: Workers) -> None:
    spoiled = each_spoiled(submission(workers.stores, "spoiled"))
    bodies = (hint(TaskName.SUBMIT, content) for content in spoiled if not _waits_for_a_later_release(content))
    good = hint(TaskName.SUBMIT, submission(workers.stores, "good-among-the-spoiled"))

    workers.send(QueueName.ORCHESTRATION, [*itertools.islice(bodies, 100), good, *bodies])

    wait_for(lambda: _accepted(workers.stores) == 1, timeout_s=60, what="the good one's row")
    workers.settle()


def _waits_for_a_later_release(content: Any) -> bool:
    version = content.get("version") if isinstance(content, dict) else None
    return isinstance(version, int | float) and version > 1


def _accepted(stores: Stores) -> int:
    with psycopg.connect(stores.settings.database_url.get_secret_value()) as database:
        return database.execute("SELECT FROM executions WHERE source = 'broker'").rowcount


@pytest.mark.parametrize("task", [TaskName.SUBMIT, TaskName.DELIVER])
def test_nesting_of_any_depth_is_done_or_kept(task: TaskName, workers: Workers) -> None:
    def nested(depth: int) -> bytes:
        message = envelope(task, "here")
        message["body"] = message["body"].replace('"here"', '{"a":' * depth + "[" * depth + "]" * depth + "}" * depth)
        return as_json(message)

    workers.send(QUEUE_OF_TASK[task], (nested(depth) for depth in (10, 100, *range(200, 1_000, 25), 2_000, 100_000)))

    workers.settle()


def test_a_message_of_any_size_is_kept(workers: Workers) -> None:
    large = "x" * 20_000_000

    workers.send(
        QueueName.ORCHESTRATION,
        [large.encode(), hint(TaskName.SUBMIT, {"a": large}), hint(TaskName.DELIVER, large)],
    )

    workers.settle()


tasks = st.sampled_from([*map(str, TaskName), "nobody.knows"])
garbage = st.one_of(
    RAW,
    st.tuples(tasks, VALUES).map(lambda it: compose_message("q", it[0], it[1], task_id="i", delivery_tag="t")),
    RAW.map(lambda raw: as_json({**envelope(TaskName.SUBMIT, 1), "body": base64.b64encode(raw).decode()})),
    VALUES.map(lambda value: as_json({**envelope(TaskName.SUBMIT, 1), "headers": value})),
)
control = RAW | st.dictionaries(st.sampled_from(["body", "properties", "headers", "content-type"]), VALUES).map(as_json)


@given(
    given_messages=st.lists(st.tuples(st.sampled_from(QueueName), garbage), max_size=12),
    told=st.lists(control, max_size=2),
)
@cases(40)
def test_garbage_is_done_or_kept(
    workers: Workers, given_messages: list[tuple[QueueName, bytes]], told: list[bytes]
) -> None:
    for order in told:
        workers.broker.publish("/0.celery.pidbox", order)
    for queue, message in given_messages:
        workers.send(queue, [message])
    for task in (TaskName.DISPATCH, TaskName.DELIVER):
        workers.send(QUEUE_OF_TASK[task], [hint(task, "good")])

    workers.settle()
