"""Producers that write straight to the broker, against a real worker: ours in Python, and celery-node's in Node."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from nubabel_workers.bootstrap import manage_dead_letters
from nubabel_workers.client import (
    BrokerProducer,
    ConnectionFailedError,
    NotAcceptedError,
    Published,
    Status,
    SubmitRequest,
)
from nubabel_workers.domain.dead_letters import DeadLetterFilter
from nubabel_workers.domain.submission import sign
from nubabel_workers.embedded.valkey import EmbeddedValkey
from tests.integration.gateway.conftest import until
from tests.integration.producers.conftest import ORGANIZATION, Upstream

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parent
REQUEST = {
    "prompt": '어떤 테스트가 빠졌나요? "quoted" \\ and\ttabs 🎉',
    "idempotency_key": "invoice-4711",
    "session_key": "invoice",
    "skills": ["git-master"],
    "metadata": {"z": 1, "a": [1.5, None, True, {"é": "ü", "가": 9007199254740991, "😀": 0.000001}]},
    "deadline_s": 600,
}


async def answered(upstream: Upstream, execution_id: str) -> Status:
    """The worker dispatches by itself; what the listener would notice, the test does."""
    async with upstream.async_client() as client:

        async def submitted() -> bool:
            return (await client.get(execution_id)).status is Status.RUNNING

        await until(submitted, timeout_s=30)
        await upstream.gateway.run_to_the_end()
        return (await client.wait(execution_id, timeout_s=10)).status


async def test_our_own_producers_request_is_accepted_and_answered(upstream: Upstream) -> None:
    def produce() -> tuple[Published, str]:
        with (
            BrokerProducer(upstream.broker_url, key_id=upstream.key_id, secret=upstream.secret) as producer,
            upstream.client() as api,
        ):
            published = producer.submit(SubmitRequest.model_validate(REQUEST))
            return published, producer.wait_accepted(published, api, timeout_s=30).id

    published, execution_id = await asyncio.to_thread(produce)

    execution = await upstream.gateway.services.read_execution.by_id(ORGANIZATION, execution_id)
    assert (execution.source, execution.prompt) == ("broker", REQUEST["prompt"])
    assert execution.metadata == REQUEST["metadata"]
    assert published.idempotency_key == "invoice-4711"
    assert await answered(upstream, execution_id) is Status.COMPLETED


async def test_a_request_of_plain_celery_is_accepted_whatever_its_priority(upstream: Upstream) -> None:
    def produce() -> None:
        with Celery("upstream", broker=upstream.broker_url, set_as_current=False) as producer:
            for priority in (0, 3, 5, 9):
                request = {"prompt": "Hello", "idempotency_key": f"priority-{priority}"}
                signed = sign(
                    request,
                    key_id=upstream.key_id,
                    secret=upstream.secret,
                    issued_at=int(time.time()),
                    nonce=secrets.token_urlsafe(24),
                )
                producer.send_task("orchestration.submit", args=[signed], queue="orchestration", priority=priority)

    await asyncio.to_thread(produce)

    async with upstream.async_client() as client:

        async def accepted() -> bool:
            found = [await client.find(f"priority-{priority}") for priority in (0, 3, 5, 9)]
            return None not in found

        await until(accepted, timeout_s=30)


async def test_the_same_request_by_broker_and_by_http_is_one(upstream: Upstream) -> None:
    request = SubmitRequest.model_validate(REQUEST)
    async with upstream.async_client() as client:
        over_http = await client.submit(request)

    def produce() -> str:
        with (
            BrokerProducer(upstream.broker_url, key_id=upstream.key_id, secret=upstream.secret) as producer,
            upstream.client() as api,
        ):
            published = [producer.submit(request) for _ in range(3)]
            return producer.wait_accepted(published[-1], api, timeout_s=30).id

    assert await asyncio.to_thread(produce) == over_http.id
    await drained(upstream)
    row = await upstream.gateway.services.database.system().one("SELECT count(*) AS executions FROM executions")
    assert row == {"executions": 1}


async def test_a_refused_submission_is_a_dead_letter_with_the_reason(upstream: Upstream) -> None:
    def produce() -> None:
        with (
            BrokerProducer(upstream.broker_url, key_id=upstream.key_id, secret="nbk_wrong") as producer,
            upstream.client() as api,
            pytest.raises(NotAcceptedError),
        ):
            producer.wait_accepted(producer.submit("Hello"), api, timeout_s=1)

    await asyncio.to_thread(produce)
    await drained(upstream)

    found = await manage_dead_letters(upstream.gateway.services).page(DeadLetterFilter(), status=None, limit=10)
    assert [(letter.reason.value, letter.error.partition(":")[0]) for letter in found.letters] == [
        ("refused-submission", "bad_signature")
    ]


def test_a_broker_that_hangs_costs_seconds_not_for_ever(short_dir: Path) -> None:
    with (
        EmbeddedValkey(short_dir) as valkey,
        BrokerProducer(valkey.broker_url, key_id="key_1", secret="s", publish_timeout_s=0.3) as producer,
    ):
        producer.submit("Hello")
        valkey.process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(ConnectionFailedError):
            producer.submit("Hello")
        took_s = time.monotonic() - started
        valkey.process.send_signal(signal.SIGCONT)
        producer.submit("Hello")

    assert took_s < 5


async def drained(upstream: Upstream) -> None:
    """Every message was taken and finished."""

    async def empty() -> bool:
        with_unacknowledged = await queue_lengths(upstream)
        return sum(with_unacknowledged) == 0

    await until(empty, timeout_s=30)


async def queue_lengths(upstream: Upstream) -> list[int]:
    import redis.asyncio as redis

    async with redis.Redis.from_url(upstream.broker_url) as broker:
        return [await broker.llen("orchestration"), await broker.zcard("unacked_index")]


# --- Node ------------------------------------------------------------------------------------------------------------


def node_tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is missing")
        pytest.skip(f"NOT CHECKED: a producer in Node, for {name} is missing")
    return found


@pytest.fixture(scope="session")
def node_producer(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any], dict[str, str]], str]:
    """produce(request, environment) runs submit.js and returns the message's id."""
    npm, node = node_tool("npm"), node_tool("node")
    home = tmp_path_factory.mktemp("producer")
    for name in ("package.json", "package-lock.json", "submit.js"):
        shutil.copyfile(FOLDER / name, home / name)
    subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"],
        cwd=home,
        check=True,
        capture_output=True,
        timeout=300,
    )

    def produce(request: dict[str, Any], environment: dict[str, str]) -> str:
        done = subprocess.run(
            [node, "submit.js", json.dumps(request)],
            cwd=home,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], **environment},
        )
        return done.stdout.strip()

    return produce


@pytest.mark.node
@pytest.mark.timeout(420)
async def test_a_node_producers_request_is_accepted_and_answered(
    upstream: Upstream, node_producer: Callable[[dict[str, Any], dict[str, str]], str]
) -> None:
    environment = {
        "BROKER_URL": upstream.broker_url,
        "KEY_ID": upstream.key_id,
        "SECRET": upstream.secret.get_secret_value(),
    }

    await asyncio.to_thread(node_producer, REQUEST, environment)

    async with upstream.async_client() as client:

        async def accepted() -> bool:
            return await client.find("invoice-4711") is not None

        await until(accepted, timeout_s=30)
        found = await client.find("invoice-4711")
    assert found is not None
    execution = await upstream.gateway.services.read_execution.by_id(ORGANIZATION, found.id)
    assert execution.prompt == REQUEST["prompt"]
    assert execution.metadata == REQUEST["metadata"]
    assert await answered(upstream, found.id) is Status.COMPLETED
