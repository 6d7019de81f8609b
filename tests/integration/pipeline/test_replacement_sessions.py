"""A session that takes the place of a lost one is told everything, whatever becomes of the first post into it."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from nubabel_workers.adapters.opencode.servers import HttpOpenCodeServer
from nubabel_workers.domain.errors import NubabelError, UnavailableError, UncertainError
from nubabel_workers.simulators.slack.model import Message
from tests.integration.pipeline.conftest import Pipeline
from tests.integration.pipeline.dying import Killed, dies, others_find_its_rows, work_until_quiet
from tests.integration.pipeline.test_budgets import set_caps, until_paused
from tests.integration.pipeline.test_masking import mention_with_files

pytestmark = pytest.mark.integration

_STEP = '[[tool=bash {"command":"sleep 0.3","description":"x"}]]'
_DEAR = f"{_STEP * 10} [[usage=50000,0]] [[text=done]]"

Spoil = Callable[[Pipeline, pytest.MonkeyPatch, str], None]  # with the id of the lost session


def _refused(_pipeline: Pipeline, patch: pytest.MonkeyPatch, lost: str) -> None:
    _first_submit(patch, lost, UnavailableError("OpenCode answered 503"), arrives=False)


def _unanswered(_pipeline: Pipeline, patch: pytest.MonkeyPatch, lost: str) -> None:
    _first_submit(patch, lost, UncertainError("no answer in time"), arrives=True)


def _dead_after_writing_it_down(pipeline: Pipeline, patch: pytest.MonkeyPatch, _lost: str) -> None:
    dies(patch, pipeline.services.executions, "owned_by_another", after=False)  # asked of a new session alone


def _first_submit(patch: pytest.MonkeyPatch, lost: str, error: NubabelError, *, arrives: bool) -> None:
    submit = HttpOpenCodeServer.submit
    spoilt: list[str] = []

    async def spoiling(self: HttpOpenCodeServer, session_id: str, **prompt: Any) -> None:
        spoils = session_id != lost and not spoilt
        if arrives or not spoils:
            await submit(self, session_id, **prompt)
        if spoils:
            spoilt.append(session_id)
            raise error

    patch.setattr(HttpOpenCodeServer, "submit", spoiling)


SPOILT = pytest.mark.parametrize("spoil", [_refused, _unanswered, _dead_after_writing_it_down])


def prompts(pipeline: Pipeline) -> list[str]:
    """What each user message that is on the server says, with the names of its files."""
    return [
        "\n".join(str(part.get("text") or part.get("filename")) for part in message.parts)
        for session in pipeline.opencode.simulator.store.sessions.values()
        for message in session.messages.values()
        if message.info["role"] == "user"
    ]


async def _lose_the_session(pipeline: Pipeline) -> str:
    """Returns its id."""
    pipeline.opencode.simulator.store.sessions.clear()
    return str((await pipeline.one("SELECT opencode_session_id FROM sessions"))["opencode_session_id"])


async def _first_post_is_spoilt(pipeline: Pipeline) -> None:
    with suppress(Killed):
        await pipeline.dispatch()
    await others_find_its_rows(pipeline)


async def _answered_once(pipeline: Pipeline, question: Message, *, replies: int) -> None:
    await work_until_quiet(pipeline, rounds=3)
    assert set(await pipeline.statuses()) == {"completed"}
    assert len(pipeline.replies(question)) == replies
    assert list(pipeline.opencode.simulator.store.model_runs.values())[-1] == 1


async def _paused(pipeline: Pipeline) -> Message:
    await set_caps(pipeline, cost_per_execution=0.17)
    question = await mention_with_files(pipeline, f"{_DEAR} count the rows", ("rows.csv", "text/csv", b"one\ntwo"))
    await pipeline.take_events()
    await pipeline.dispatch()
    await until_paused(pipeline)
    await set_caps(pipeline, cost_per_execution=100)
    await pipeline.services.keep_budgets.resume_those_with_room()
    return question


async def _followed_up(pipeline: Pipeline) -> Message:
    question = await pipeline.mention("my name is Ada")
    await pipeline.answer_everything()
    await pipeline.say("what am I called?", thread_ts=question.ts)
    await pipeline.take_events()
    return question


@SPOILT
async def test_a_paused_run_brings_its_question_and_files(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, spoil: Spoil
) -> None:
    question = await _paused(pipeline)
    said_before = len(pipeline.replies(question))
    spoil(pipeline, monkeypatch, await _lose_the_session(pipeline))
    await _first_post_is_spoilt(pipeline)

    await _answered_once(pipeline, question, replies=said_before + 1)

    (prompt,) = prompts(pipeline)
    assert prompt.count("count the rows") == 1
    assert "rows.csv" in prompt


@SPOILT
async def test_a_follow_up_brings_its_earlier_turns(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, spoil: Spoil
) -> None:
    question = await _followed_up(pipeline)
    spoil(pipeline, monkeypatch, await _lose_the_session(pipeline))
    await _first_post_is_spoilt(pipeline)

    await _answered_once(pipeline, question, replies=2)

    (prompt,) = prompts(pipeline)
    assert prompt.count("what am I called?") == 1
    assert prompt.count("User: my name is Ada") == 1


async def test_the_turn_after_one_that_never_arrived_brings_the_turns_before_both(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = await _followed_up(pipeline)
    _refused(pipeline, monkeypatch, await _lose_the_session(pipeline))
    await pipeline.dispatch()
    await pipeline.services.database.system().execute(
        "UPDATE executions SET answer_by = now() - interval '1 s' WHERE status = 'queued'"
    )
    await pipeline.services.maintain.keep_deadlines()
    assert await pipeline.statuses() == ["completed", "failed"]

    await pipeline.say("and now?", thread_ts=question.ts)
    await pipeline.answer_everything()

    (prompt,) = prompts(pipeline)
    assert prompt.count("and now?") == 1
    assert prompt.count("User: my name is Ada") == 1


@pytest.mark.parametrize("first", [True, False], ids=["before the repeat", "after the repeat"])
async def test_a_prompt_that_comes_after_the_look_for_it_is_answered_once(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, *, first: bool
) -> None:
    """The repeat has the same ids in the same session."""
    question = await _followed_up(pipeline)
    _comes_late(monkeypatch, await _lose_the_session(pipeline), first=first)
    await _first_post_is_spoilt(pipeline)

    await _answered_once(pipeline, question, replies=2)

    (prompt,) = prompts(pipeline)
    assert prompt.count("what am I called?") == 1
    assert prompt.count("User: my name is Ada") == 1


def _comes_late(patch: pytest.MonkeyPatch, lost: str, *, first: bool) -> None:
    """The first prompt is on its way until it is posted again. first: it arrives before the other one."""
    submit = HttpOpenCodeServer.submit
    on_its_way: list[dict[str, Any]] = []

    async def delayed(self: HttpOpenCodeServer, session_id: str, **prompt: Any) -> None:
        if session_id != lost and not on_its_way:
            on_its_way.append(prompt)
            raise UncertainError("no answer in time")
        for one in [*on_its_way, prompt] if first else [prompt, *on_its_way]:
            await submit(self, session_id, **one)

    patch.setattr(HttpOpenCodeServer, "submit", delayed)
