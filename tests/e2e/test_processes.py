"""Every process twice: stopped, hung, with another clock, without room for its log; every question is answered once."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import orjson
import pytest
import pytest_asyncio

from nubabel_workers.domain.executions import Status
from nubabel_workers.embedded.procfile import read_procfile
from nubabel_workers.embedded.stack import Stack, StackOptions
from nubabel_workers.simulators.slack.delivery import envelope, signature_headers
from nubabel_workers.simulators.slack.model import Message
from tests.e2e.beside import Beside, Surroundings, all_stopped, beside
from tests.e2e.conversation import Conversation, answered_once

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

LEASE_S = 3
STACK = StackOptions(
    copies={"flower": 0},
    slack_time_scale=0.05,
    settings={
        "lease_s": str(LEASE_S),
        "listener_lease_s": str(LEASE_S),
        "scheduler_hint_after_s": "1",
        "scheduler_reconcile_s": "3",
        "database_statement_timeout_s": "2",
        "database_acquire_timeout_s": "2",
        "database_connect_timeout_s": "2",
    },
)
KINDS = [kind for kind in read_procfile() if kind != "flower"]
SKEW_S = 60.0
FULL = Path("/dev/full")
LOG = FULL if FULL.exists() else None
STOPS_WITHIN_S = 8.0
OPEN = (Status.QUEUED, Status.DISPATCHING, Status.RUNNING, Status.COMPLETED)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def others(stack: Stack) -> AsyncIterator[dict[str, Beside]]:
    """A second process of each kind: its clock is a minute ahead, and there is no room for its log."""
    around = Surroundings(
        copy=2,
        clock_s=SKEW_S,
        log=LOG,
        environment={"NUBABEL_SLACK_MODE": "events"},
    )
    async with beside(stack, [kind for kind in KINDS if kind != "slack"], around) as running:
        yield running


def ask(conversation: Conversation, number: int, *, delay_s: float = 0.0) -> list[Message]:
    return [conversation.say(f"@nubabel [[delay={delay_s}]] [[text=answer {n}]]") for n in range(number)]


async def test_two_of_each_with_clocks_a_minute_apart_answer_once(
    conversation: Conversation, stack: Stack, others: dict[str, Beside]
) -> None:
    calls_before = stack.opencode.simulators[0].insides.engine.model_calls
    questions = ask(conversation, 12, delay_s=0.3)
    first = conversation.say("@nubabel [[text=first]]")
    await conversation.reply(first, "first")
    follow_up = conversation.say("@nubabel [[text=second]]", thread=first)

    await answered_once(conversation, questions)
    assert [(await conversation.reply(follow_up, "second")).body] == ["second"]
    assert stack.opencode.simulators[0].insides.engine.model_calls == calls_before + 14


@pytest.mark.parametrize(("age_s", "status"), [(0, 200), (-200, 200), (-400, 401), (400, 401)])
async def test_signatures_have_their_five_minutes_less_the_skew(
    stack: Stack, others: dict[str, Beside], age_s: float, status: int
) -> None:
    """Slack's clock is the true one; the gateway's is a minute ahead."""
    workspace = stack.slack.workspace(stack.tenants[0].team)
    raw = orjson.dumps(envelope(workspace, {"type": "reaction_added"}, f"Ev{age_s}"))
    headers = signature_headers(stack.secrets.signing_secret, raw, now=time.time() + age_s)

    async with httpx.AsyncClient(base_url=others["web"].url, trust_env=False) as http:
        answer = await http.post("/slack/events", content=raw, headers=headers)

    assert answer.status_code == status


async def test_what_was_stopped_and_wakes_up_after_its_lease_was_taken_posts_nothing(
    conversation: Conversation, stack: Stack, others: dict[str, Beside]
) -> None:
    questions = ask(conversation, 10, delay_s=0.5)
    await conversation.until_status(questions[0], *OPEN)

    with all_stopped(stack.processes.pid(kind) for kind in KINDS if kind not in {"web", "slack"}):
        questions += ask(conversation, 4)
        await answered_once(conversation, questions)

    questions += ask(conversation, 4)
    await answered_once(conversation, questions)


async def test_a_database_that_hangs_costs_the_time_that_it_hangs(
    conversation: Conversation, stack: Stack, others: dict[str, Beside]
) -> None:
    questions = ask(conversation, 6, delay_s=1)
    await conversation.until_status(questions[0], *OPEN)
    pids = {kind: stack.processes.pid(kind) for kind in KINDS}

    with all_stopped(family(stack.postgres.process.pid)):
        questions += ask(conversation, 2)  # Slack is told to come again
        async with stack.client(stack.tenants[0]) as http:
            answer = await http.post("/v1/executions", json={"prompt": "hello"})
        await asyncio.sleep(2 * LEASE_S)

    assert answer.status_code == 503
    await answered_once(conversation, questions)
    assert {kind: stack.processes.pid(kind) for kind in KINDS} == pids


async def test_what_is_asked_to_stop_finishes_its_work_and_the_others_go_on(
    conversation: Conversation, stack: Stack, others: dict[str, Beside]
) -> None:
    processes = {kind: stack.processes.process(kind) for kind in KINDS}
    questions = ask(conversation, 10, delay_s=0.2)
    await conversation.until_status(questions[0], *OPEN)

    took_s = dict(zip(KINDS, await asyncio.gather(*(_stopped(stack, kind) for kind in KINDS)), strict=True))
    questions += ask(conversation, 3)
    await stack.processes.start("slack")

    assert {kind: process.returncode for kind, process in processes.items()} == dict.fromkeys(KINDS, 0)
    assert max(took_s.values()) < STOPS_WITHIN_S
    await answered_once(conversation, questions)
    accepted = await conversation.execution_of(questions[-1])
    assert accepted.message_created_ms / 1000 - accepted.created_at.timestamp() > SKEW_S / 2  # by the others


@pytest.mark.skipif(LOG is None, reason="NOT CHECKED: this system has no /dev/full")
async def test_processes_without_room_for_their_logs_say_so_and_stop_in_order(others: dict[str, Beside]) -> None:
    lost = {kind: await one.metrics() for kind, one in others.items()}

    codes = dict(zip(others, await asyncio.gather(*(one.stop() for one in others.values())), strict=True))

    assert codes == dict.fromkeys(others, 0)
    for kind, metrics in lost.items():
        assert "nubabel_log_lines_lost_total" in metrics, kind
        assert "nubabel_log_lines_lost_total 0.0" not in metrics, kind


async def _stopped(stack: Stack, kind: str) -> float:
    began = time.monotonic()
    await stack.processes.stop(kind)
    return time.monotonic() - began


def family(pid: int) -> list[int]:
    """A process and its children."""
    parents = {int(stat.parent.name): stat for stat in Path("/proc").glob("[0-9]*/stat")}
    return [pid, *(child for child, stat in parents.items() if _parent(stat) == pid)]


def _parent(stat: Path) -> int | None:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None  # it has just ended
