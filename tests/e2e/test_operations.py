"""What an operator sees of a running system: Flower, the command line, readiness and metrics."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from config.queues import QueueName
from nubabel_workers.domain.executions import Status
from nubabel_workers.embedded.stack import Stack
from nubabel_workers.embedded.stack_environment import FLOWER_USER, base_environment
from tests.e2e.conversation import Conversation, until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

_NUBABEL = Path(sys.executable).with_name("nubabel")


@pytest_asyncio.fixture(loop_scope="module")
async def flower(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    login = (FLOWER_USER, stack.secrets.flower_password)
    async with httpx.AsyncClient(base_url=stack.flower_url, auth=login, trust_env=False) as client:
        yield client


async def _nubabel(stack: Stack, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a command that looks at the stack."""
    process = await asyncio.create_subprocess_exec(
        _NUBABEL,
        *arguments,
        env={**base_environment(), "NUBABEL_ENV_FILE": str(stack.env_file), "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def test_flower_wants_a_login(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.flower_url, trust_env=False) as stranger:
        assert (await stranger.get("/workers")).status_code == 401
        assert (await stranger.get("/api/tasks")).status_code == 401


async def test_flower_shows_the_four_queues_and_what_each_task_moved(
    flower: httpx.AsyncClient, conversation: Conversation
) -> None:
    question = conversation.say("@nubabel hello")
    execution = await conversation.settled(question)

    async def lines() -> list[str] | None:
        tasks = (await flower.get("/api/tasks")).json().values()
        found = [f"{task['name']}: {task['result']}" for task in tasks if execution.id in str(task["result"])]
        return found if len(found) >= 2 else None

    shown = await until(lines, what="Flower has heard of the tasks")

    async def all_queues() -> bool:
        queues = (await flower.get("/api/queues/length")).json()["active_queues"]
        return {queue["name"] for queue in queues} == set(QueueName)

    assert any(f"orchestration.dispatch: '1 dispatched {execution.id}" in line for line in shown)
    assert any(f"orchestration.complete: '1 completed {execution.id}" in line for line in shown)
    await until(all_queues, what="Flower lists the four queues")


async def test_doctor_finds_everything_well(stack: Stack) -> None:
    code, output = await _nubabel(stack, "doctor")

    assert code == 0, output
    assert "FAIL" not in output


async def test_an_execution_tells_its_story_on_the_command_line(stack: Stack, conversation: Conversation) -> None:
    question = conversation.say("@nubabel hello")
    execution = await conversation.settled(question)

    code, output = await _nubabel(stack, "executions", "show", execution.id)

    assert code == 0, output
    assert execution.id in output
    assert "completed" in output


async def test_a_request_from_the_command_line_is_answered(stack: Stack) -> None:
    code, output = await _nubabel(stack, "enqueue", "say it [[text=said]]", "--org", "Acme", "--wait")

    assert code == 0, output
    assert "said" in output


async def test_a_dead_letter_is_replayed_from_the_command_line(stack: Stack, conversation: Conversation) -> None:
    # The model refuses its first call for this prompt for good, and answers the next.
    question = conversation.say("@nubabel [[status=400]] [[times=1]] [[text=better now]]")
    execution = await conversation.settled(question)
    assert execution.status is Status.FAILED

    code, output = await _nubabel(stack, "dead-letters", "list", "--all", "--json")
    letter = _letter_of(json.loads(output), execution.id)
    code, output = await _nubabel(stack, "dead-letters", "replay", letter)

    assert code == 0, output
    assert (await conversation.reply(question, "better now")).body == "better now"
    assert (await conversation.settled(question)).status is Status.COMPLETED


async def test_the_gateway_is_ready_and_counts(stack: Stack) -> None:
    async with httpx.AsyncClient(base_url=stack.api_url, trust_env=False) as client:
        ready, metrics = await client.get("/ready"), await client.get("/metrics")

    assert ready.status_code == 200
    assert 'nubabel_queue_messages{queue="orchestration"}' in metrics.text


def _letter_of(letters: list[dict[str, Any]], execution_id: str) -> str:
    (found,) = [letter["id"] for letter in letters if letter["subject_id"] == execution_id]
    return str(found)
