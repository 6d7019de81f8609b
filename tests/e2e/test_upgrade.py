"""The previous release's processes beside ours, on one database and one broker: conversations cross between them."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from nubabel_workers.client import AsyncNubabelClient, Execution
from nubabel_workers.embedded.procfile import read_procfile
from nubabel_workers.embedded.stack import Stack, StackOptions
from tests.e2e.beside import ROOT, Beside, Surroundings, all_stopped, beside
from tests.e2e.conversation import TIMEOUT_S, Conversation, all_running, answered_once
from tests.e2e.previous_release import NoHistoryError, archived

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

STACK = StackOptions(
    copies={"flower": 0},
    slack_time_scale=0.05,
    settings={"lease_s": "3", "listener_lease_s": "3", "scheduler_hint_after_s": "1", "scheduler_reconcile_s": "3"},
)
PREVIOUS = (ROOT / "tests/e2e/previous-release").read_text().strip()
WORK = [kind for kind in read_procfile() if kind not in {"flower", "web", "slack"}]  # everything behind the way in


@pytest.fixture(scope="module")
def previous_home() -> Iterator[Path]:
    """The previous release as it was committed. Where there is no history: a failure in CI, elsewhere a loud skip."""
    try:
        archive = archived(PREVIOUS, ROOT)
    except NoHistoryError as error:
        if os.environ.get("CI"):
            pytest.fail(f"the previous release is needed here: {error}")
        pytest.skip(f"NOT CHECKED beside the previous release: {error}")
    home = Path(tempfile.mkdtemp(prefix="nubabel-previous-"))
    subprocess.run(["tar", "-x", "-C", home], input=archive, check=True)
    yield home
    shutil.rmtree(home)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def previous(stack: Stack, previous_home: Path) -> AsyncIterator[dict[str, Beside]]:
    """Its processes, on the schema of ours: migrations come first."""
    async with beside(stack, ["web", *WORK], Surroundings(copy=2, home=previous_home)) as running:
        yield running


def ours(stack: Stack) -> list[int]:
    return [stack.processes.pid(kind) for kind in WORK]


def theirs(previous: dict[str, Beside]) -> list[int]:
    return [previous[kind].process.pid for kind in WORK]


def shown_by_both(execution: Execution) -> Execution:
    """The release before told callers what the rules tell the agent; ours keeps that from them."""
    analysis = {name: value for name, value in execution.analysis.items() if name != "instructions"}
    return execution.model_copy(update={"analysis": analysis})


async def test_what_comes_in_at_one_release_is_answered_by_the_other_and_conversations_go_on(
    conversation: Conversation, stack: Stack, previous: dict[str, Beside]
) -> None:
    token = stack.tenants[0].token
    async with (
        AsyncNubabelClient(previous["web"].url, token) as at_theirs,
        AsyncNubabelClient(stack.api_url, token) as at_ours,
    ):
        with all_stopped(ours(stack)):
            question = conversation.say("@nubabel [[text=one]]")
            submitted = await at_ours.submit("[[text=asked here]]")
            here = await at_ours.wait(submitted.id, timeout_s=TIMEOUT_S)
            await conversation.reply(question, "one")
        with all_stopped(theirs(previous)):
            follow_up = conversation.say("@nubabel [[text=two]]", thread=question)
            submitted = await at_theirs.submit("[[text=asked there]]")
            there = await at_theirs.wait(submitted.id, timeout_s=TIMEOUT_S)
            await conversation.reply(follow_up, "two")

        assert [message.body for message in conversation.bot_messages(question)] == ["one", "two"]
        assert [here.output, there.output] == ["asked here", "asked there"]
        assert shown_by_both(await at_ours.get(there.id)) == shown_by_both(there)
        assert shown_by_both(await at_theirs.get(here.id)) == shown_by_both(here)


@pytest.mark.parametrize("begins", ["the previous release", "this release"])
async def test_what_one_release_began_the_other_finishes(
    conversation: Conversation, stack: Stack, previous: dict[str, Beside], begins: str
) -> None:
    first, second = theirs(previous), ours(stack)
    if begins == "this release":
        first, second = second, first
    with all_stopped(second):
        questions = [conversation.say(f"@nubabel [[delay=4]] [[text=answer {number}]]") for number in range(3)]
        await all_running(conversation, questions)

    with all_stopped(first):
        await answered_once(conversation, questions)


async def test_both_at_once_answer_once_and_nothing_is_set_aside(
    conversation: Conversation, stack: Stack, previous: dict[str, Beside]
) -> None:
    questions = [conversation.say(f"@nubabel [[delay=0.2]] [[text=answer {number}]]") for number in range(12)]

    await answered_once(conversation, questions)
    letters = await stack.services.database.system().all("SELECT reason, error FROM dead_letters")
    assert letters == []
    async with httpx.AsyncClient(base_url=previous["web"].url, trust_env=False) as http:
        assert (await http.get("/ready")).status_code == 200
