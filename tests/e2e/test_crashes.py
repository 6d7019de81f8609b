"""Processes, stores and servers that die while people wait: every question is answered, and only once."""

import asyncio
from collections.abc import Callable

import pytest
import redis

from nubabel_workers.domain.executions import Status
from nubabel_workers.embedded.stack import Stack, StackOptions
from nubabel_workers.simulators.slack.model import Message
from tests.e2e.conversation import Conversation, all_running, answered_once

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

# Short leases, and a Slack that comes again sooner: a test need not wait as long as a user of production would.
STACK = StackOptions(
    copies={"flower": 0, "listener": 2, "scheduler": 2},
    slack_time_scale=0.05,
    settings={"lease_s": "3", "listener_lease_s": "3", "scheduler_hint_after_s": "1", "scheduler_reconcile_s": "3"},
)

NewConversation = Callable[..., Conversation]


def _ask(conversation: Conversation, number: int, *, delay_s: float) -> list[Message]:
    return [conversation.say(f"@nubabel [[delay={delay_s}]] [[text=answer {n}]]") for n in range(number)]


@pytest.mark.parametrize("worker", ["worker-events", "worker-orchestration", "worker-notifications"])
async def test_a_worker_killed_while_it_works_costs_nothing(
    stack: Stack, conversation: Conversation, worker: str
) -> None:
    questions = _ask(conversation, 8, delay_s=0.3)
    await conversation.until_status(questions[0], Status.RUNNING, Status.COMPLETED)

    await stack.processes.kill(worker)
    questions += _ask(conversation, 4, delay_s=0.1)

    await answered_once(conversation, questions)


async def test_the_other_listener_takes_over(stack: Stack, conversation: Conversation) -> None:
    questions = _ask(conversation, 3, delay_s=6)
    await conversation.until_status(questions[0], Status.RUNNING)

    for listener in ("listener", "listener.2"):  # one of them holds the connection
        await stack.processes.kill(listener)

    await answered_once(conversation, questions)


async def test_an_answer_needs_no_listener_at_all(stack: Stack, conversation: Conversation) -> None:
    for listener in ("listener", "listener.2"):
        await stack.processes.stop(listener)
    try:
        await answered_once(conversation, _ask(conversation, 2, delay_s=0.5))
    finally:
        await asyncio.gather(stack.processes.start("listener"), stack.processes.start("listener.2"))


async def test_web_and_slack_may_die_while_questions_come_in(stack: Stack, conversation: Conversation) -> None:
    questions = _ask(conversation, 3, delay_s=0)
    await stack.processes.kill("slack")
    questions += _ask(conversation, 3, delay_s=0)
    await stack.processes.kill("web")

    await answered_once(conversation, questions)


async def test_a_wiped_broker_and_cache_cost_a_moment(stack: Stack, conversation: Conversation) -> None:
    questions = _ask(conversation, 5, delay_s=1)
    await conversation.until_status(questions[0], Status.RUNNING)

    for url in (stack.valkey.broker_url, stack.valkey.cache_url):
        with redis.Redis.from_url(url) as client:
            client.flushall()

    await answered_once(conversation, questions)


async def test_a_killed_valkey_costs_a_moment(stack: Stack, conversation: Conversation) -> None:
    questions = _ask(conversation, 4, delay_s=2)
    await conversation.until_status(questions[0], Status.RUNNING)

    await asyncio.to_thread(stack.valkey.kill)
    await asyncio.to_thread(stack.valkey.start)
    questions += _ask(conversation, 2, delay_s=0)

    await answered_once(conversation, questions)


async def test_a_killed_postgres_costs_a_moment(stack: Stack, conversation: Conversation) -> None:
    questions = _ask(conversation, 4, delay_s=2)
    await conversation.until_status(questions[0], Status.RUNNING)

    await asyncio.to_thread(stack.postgres.kill)
    questions += _ask(conversation, 2, delay_s=0)  # Slack is told to come again: nothing is accepted that isn't stored
    await asyncio.to_thread(stack.postgres.start)

    await answered_once(conversation, questions)


async def test_a_crashed_opencode_server_runs_its_work_again(stack: Stack, conversation: Conversation) -> None:
    questions = _ask(conversation, 3, delay_s=5)  # the last may begin seconds after the first on a busy machine
    await all_running(conversation, questions)

    stack.opencode.simulators[0].insides.crash(down_s=1)

    await answered_once(conversation, questions)
    attempts = [(await conversation.settled(question)).attempt for question in questions]
    assert attempts == [2, 2, 2]


async def test_a_prompt_whose_confirmation_is_lost_runs_once(stack: Stack, conversation: Conversation) -> None:
    server = stack.opencode.simulators[0].insides
    calls_before = server.engine.model_calls
    server.set_faults(lose_answers=1)

    await answered_once(conversation, _ask(conversation, 1, delay_s=0.2))

    assert server.engine.model_calls == calls_before + 1
