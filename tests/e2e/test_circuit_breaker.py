"""The only OpenCode server is away for a while under load: two workers share its breaker, everybody gets an answer."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from nubabel_workers.domain.executions import Status
from nubabel_workers.embedded.stack import Stack, StackOptions
from nubabel_workers.embedded.stack_environment import base_environment
from nubabel_workers.simulators.opencode.server import OpenCodeSimulator
from tests.e2e.conversation import Conversation, until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

STACK = StackOptions(
    copies={"flower": 0, "worker-orchestration": 2},
    settings={"late_notice_s": "3", "breaker_first_wait_s": "1", "breaker_max_wait_s": "4"},
)
QUESTIONS = 24
_WITHIN_S = 60.0


@contextmanager
def counted(server: OpenCodeSimulator, method: str) -> Iterator[list[str]]:
    """The paths of requests of that method that reach the server meanwhile."""
    route, paths = server._route, []

    async def counting(request: Any) -> Any:
        if request.method == method:
            paths.append(request.path)
        return await route(request)

    server._route = counting  # type: ignore[method-assign]
    yield paths
    server._route = route  # type: ignore[method-assign]


async def breaker_state(stack: Stack) -> float:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        text = (await http.get(f"{stack.api_url}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("nubabel_opencode_breaker_state{")]
    return float(lines[0].rsplit(" ", 1)[1])


async def nubabel(stack: Stack, *words: str) -> str:
    """What that command writes."""

    def run() -> str:
        environment = {**base_environment(), "NUBABEL_ENV_FILE": str(stack.env_file), "COLUMNS": "200"}
        command = [sys.executable, "-c", "from nubabel_workers.cli.main import app; app()", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout

    return await asyncio.to_thread(run)


async def test_under_load_an_outage_costs_delay_only(stack: Stack, conversation: Conversation) -> None:
    server = stack.opencode.simulators[0].insides
    questions = [conversation.say(f"@nubabel [[delay=1]] [[text=answer {n}]]") for n in range(QUESTIONS // 3)]
    await conversation.until_status(questions[0], Status.RUNNING, Status.COMPLETED)

    with counted(server, "POST") as tries:
        server.crash(down_s=1000)
        for n in range(QUESTIONS // 3, QUESTIONS):
            questions.append(conversation.say(f"@nubabel [[text=answer {n}]]"))
            await asyncio.sleep(0.1)  # a load, not a wait

        async def open_now() -> bool:
            return await breaker_state(stack) > 0

        await until(open_now, what="the breaker is open")
        listed, looked_at = await asyncio.gather(nubabel(stack, "instances", "list"), nubabel(stack, "doctor"))
        for question in questions[QUESTIONS // 3 :]:
            await conversation.reply(question, "This takes longer than usual", timeout_s=_WITHIN_S)
    assert "open" in listed
    assert "circuit breaker" in looked_at
    assert len(tries) < QUESTIONS  # of the waiting ones, each would have tried several times

    server.crash(down_s=0)
    ended = await asyncio.gather(*(conversation.settled(one, timeout_s=_WITHIN_S) for one in questions))

    assert {one.status for one in ended} == {Status.COMPLETED}
    assert {(one.attempt, one.failures) for one in ended[QUESTIONS // 3 :]} == {(1, 0)}
    for question, execution in zip(questions, ended, strict=True):
        said = [message.body for message in conversation.bot_messages(question)]
        assert said[-1] == execution.output
        assert len([body for body in said if "longer than usual" in body]) <= 1
        assert len(said) <= 2
    assert await breaker_state(stack) == 0
