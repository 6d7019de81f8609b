"""What an operator sees of a running system: Flower, the command line, readiness and metrics; pages in a browser."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from config.queues import QueueName
from nubabel_workers.domain.executions import Status
from nubabel_workers.embedded.stack import Stack
from nubabel_workers.embedded.stack_environment import FLOWER_USER, base_environment
from nubabel_workers.embedded.stack_tenants import create_tenant
from tests.browser.chromium import install
from tests.browser.pages import browser, opened
from tests.e2e.conversation import Conversation, until
from tests.needing_node import needing

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

_NUBABEL = Path(sys.executable).with_name("nubabel")


@pytest_asyncio.fixture(loop_scope="module")
async def flower(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    login = (FLOWER_USER, stack.secrets.flower_password)
    async with httpx.AsyncClient(base_url=stack.flower_url, auth=login, trust_env=False) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    with needing("a browser"):
        found = install()
    async with browser(found) as running:
        yield running


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


@pytest.mark.node
async def test_an_operators_browser_shows_the_queues_and_what_each_task_moved(
    chromium: Browser, stack: Stack, conversation: Conversation
) -> None:
    question = conversation.say("@nubabel hello")
    execution = await conversation.settled(question)
    login = (FLOWER_USER, stack.secrets.flower_password)

    async with opened(chromium, f"{stack.flower_url}/broker", login=login) as queues:
        await expect(queues.page.get_by_role("row")).to_have_count(1 + len(QueueName))
        shown = await queues.page.get_by_role("row").all_inner_texts()
    async with opened(chromium, f"{stack.flower_url}/tasks", login=login) as tasks:
        await tasks.page.get_by_label("Search tasks").fill(execution.id)
        for moved in ("orchestration.dispatch.*1 dispatched", "orchestration.complete.*1 completed"):
            row = tasks.page.get_by_role("row").filter(has_text=re.compile(f"{moved} {execution.id}", re.DOTALL))
            await expect(row).to_have_count(1)

    assert {row.split()[0] for row in shown[1:]} == set(QueueName)
    assert queues.complaints + tasks.complaints == []


@pytest.mark.node
async def test_the_local_slack_is_used_in_a_browser(
    chromium: Browser, stack: Stack, conversation: Conversation
) -> None:
    question = conversation.say("@nubabel <b>what?</b> [[text=한국어로 답합니다]]")
    await conversation.reply(question)

    async with opened(chromium, stack.slack.base_url) as slack:
        await slack.page.get_by_role("button", name=conversation.channel).first.click()
        await expect(slack.page.get_by_text("한국어로 답합니다", exact=True)).to_be_visible()
        await expect(slack.page.get_by_text("<b>what?</b>")).to_be_visible()  # as it was written, no markup
        await slack.page.locator("form input[name=text]").fill("@nubabel [[text=typed by hand]]")
        await slack.page.get_by_role("button", name="Send").click()
        await expect(slack.page.get_by_text("typed by hand", exact=True)).to_be_visible()

    assert slack.complaints == []


@pytest.mark.node
async def test_the_description_of_the_api_is_a_page(chromium: Browser, stack: Stack) -> None:
    async with opened(chromium, f"{stack.api_url}/docs") as docs:
        await expect(docs.page.get_by_role("heading", name="Nubabel")).to_be_visible()
        await docs.page.get_by_text("Submit a request", exact=True).click()
        await expect(docs.page.get_by_text("Idempotency-Key", exact=False).last).to_be_visible()

    assert docs.complaints == []


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


async def test_a_limit_that_one_process_sets_is_kept_by_another_that_runs_within_seconds(stack: Stack) -> None:
    tenant = await create_tenant(stack.services, "Limited", [])
    async with httpx.AsyncClient(
        base_url=stack.api_url,
        headers={"authorization": f"Bearer {tenant.token.get_secret_value()}"},
        trust_env=False,
    ) as client:

        async def submitted() -> int:
            return (await client.post("/v1/executions", json={"prompt": "hello"})).status_code

        async def refused() -> bool:
            return await submitted() == 429

        async def accepted() -> bool:
            return await submitted() == 202

        assert await accepted()  # from now on the gateway knows the organization
        assert (await _nubabel(stack, "limits", "set", tenant.id, "requests_per_minute=1"))[0] == 0
        await until(refused, timeout_s=10, what="the gateway keeps the limit")
        assert (await _nubabel(stack, "limits", "set", tenant.id, "requests_per_minute=unset"))[0] == 0
        await until(accepted, timeout_s=10, what="the gateway has dropped it")


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
