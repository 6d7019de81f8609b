"""Two whole systems: one gives all of its conversations to the other, which speaks the bridge contract."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from nubabel_workers.domain.executions import Status
from nubabel_workers.embedded.stack import Stack, StackOptions
from nubabel_workers.embedded.stack_environment import base_environment
from tests.e2e.conversation import Conversation, all_running, answered_once, until
from tests.forking import ForkedProcess

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

_NUBABEL = str(Path(sys.executable).parent / "nubabel")
_QUICK = {"lease_s": "3", "scheduler_hint_after_s": "1"}
_BEHIND = StackOptions(
    organizations={"Upstream": 1}, copies={"flower": 0, "slack": 0}, settings=_QUICK | {"delegate_wait_s": "1"}
)
_BEFORE = StackOptions(copies={"flower": 0, "worker-orchestration": 2}, opencode_servers=1, settings=_QUICK)

NewConversation = Callable[..., Conversation]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind() -> AsyncIterator[Stack]:
    async with Stack(_BEHIND, start_process=ForkedProcess) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(behind: Stack) -> AsyncIterator[Stack]:
    """Nothing of it is on OpenCode."""
    told = {
        "rollout": "delegate:100:session",
        "delegate_url": behind.api_url,
        "delegate_token": behind.tenants[0].token.get_secret_value(),
    }
    async with AsyncExitStack() as parts:
        options = replace(_BEFORE, settings={**_BEFORE.settings, **told})
        yield await parts.enter_async_context(Stack(options, start_process=ForkedProcess))


async def sessions_behind(behind: Stack) -> int:
    row = await behind.services.database.system().one("SELECT count(*) AS n FROM sessions")
    return int(row["n"]) if row else 0


async def test_a_thread_is_one_conversation_of_the_other_system(
    stack: Stack, behind: Stack, conversation: Conversation
) -> None:
    before = await sessions_behind(behind)
    question = conversation.say("@nubabel [[text=Two locks.]] why?")
    await conversation.reply(question, "Two locks.")
    follow_up = conversation.say("@nubabel and then?", thread=question)

    execution = await conversation.settled(follow_up)

    assert execution.status is Status.COMPLETED
    assert execution.usage is not None
    assert execution.usage.total_tokens > 0
    assert await sessions_behind(behind) == before + 1
    here = await stack.services.database.system().one(
        "SELECT count(*) AS n FROM attempts WHERE instance_id IS NOT NULL"
    )
    assert here == {"n": 0}


async def test_a_task_that_takes_longer_than_an_exchange_is_waited_for(conversation: Conversation) -> None:
    question = conversation.say("@nubabel [[delay=3]] [[text=at last]] why?")

    await answered_once(conversation, [question])

    assert "at last" in conversation.bot_messages(question)[-1].body


@pytest.mark.parametrize("worker", ["worker-orchestration", "worker-orchestration.2"])
async def test_a_worker_that_is_killed_while_it_waits_costs_nothing(
    stack: Stack, behind: Stack, conversation: Conversation, worker: str
) -> None:
    before = await sessions_behind(behind)
    questions = [conversation.say(f"@nubabel [[delay=2]] [[text=answer {n}]]") for n in range(4)]
    await all_running(conversation, questions)

    await stack.processes.kill(worker)

    await answered_once(conversation, questions)
    assert await sessions_behind(behind) == before + len(questions)  # asked again under the same keys


async def test_doctor_says_who_answers_and_whether_it_lives(stack: Stack) -> None:
    told_where = {**base_environment(), "NUBABEL_ENV_FILE": str(stack.env_file)}
    asked = await asyncio.create_subprocess_exec(_NUBABEL, "doctor", "--json", env=told_where, stdout=PIPE)
    printed, _ = await asked.communicate()

    found = {one["name"]: (one["ok"], one["detail"]) for one in json.loads(printed)}
    assert found["rollout"] == (True, "delegate gets everything")
    assert found["delegate service"] == (True, "it answers and takes our token")


async def test_what_is_cancelled_here_ends_here(conversation: Conversation) -> None:
    question = conversation.say("@nubabel [[delay=20]] take your time")
    await conversation.until_status(question, Status.RUNNING)

    conversation.say("stop", thread=question)

    execution = await conversation.settled(question)
    assert execution.status is Status.CANCELLED
    assert execution.finished_at is not None


async def test_a_system_behind_that_is_away_costs_a_moment(behind: Stack, conversation: Conversation) -> None:
    await behind.processes.stop("web")
    question = conversation.say("@nubabel [[text=here again]] hello")

    async def waits() -> bool:
        execution = await conversation.until_status(question, Status.QUEUED)
        return execution.waiting_for == "orchestrator away"

    await until(waits, what="it waits for the other system")
    await behind.processes.start("web")

    await answered_once(conversation, [question])
