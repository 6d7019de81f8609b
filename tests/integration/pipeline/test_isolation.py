"""One row's trouble is its own: others of the batch go on, and whoever wrote it is told in the end."""

from typing import Any

import pytest

from nubabel_workers.domain.errors import UnavailableError
from tests.integration.pipeline.conftest import Pipeline
from tests.integration.pipeline.dying import work_until_quiet

pytestmark = pytest.mark.integration

STEPS = [
    ("executions", "accept"),
    ("executions", "begin_attempt"),
    ("executions", "finish"),
    ("messenger", "post"),
]


def cannot_bear(patch: pytest.MonkeyPatch, owner: object, method: str, word: str) -> None:
    """A bug that shows with one row only."""
    real = getattr(owner, method)

    async def crashing(*args: Any, **kwargs: Any) -> Any:
        if word in repr((args, kwargs)):
            raise ZeroDivisionError("a bug")
        return await real(*args, **kwargs)

    patch.setattr(owner, method, crashing)


@pytest.mark.parametrize(("owner", "method"), STEPS, ids=lambda step: step)
async def test_a_bug_that_one_row_meets_harms_no_other(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, owner: str, method: str
) -> None:
    cannot_bear(monkeypatch, getattr(pipeline.services, owner), method, "poison")
    poisonous = await pipeline.mention("poison")
    others = [await pipeline.mention(f"question {number}") for number in range(3)]

    await work_until_quiet(pipeline, rounds=12)

    assert [len(pipeline.replies(question)) for question in others] == [1, 1, 1]
    letters = await pipeline.one("SELECT count(*) AS n FROM dead_letters WHERE reason = 'too-many-deliveries'")
    if method == "finish":  # its apology crashes as well
        assert pipeline.replies(poisonous) == []
        return
    assert letters == {"n": 1}
    if method != "post":
        assert len(pipeline.replies(poisonous)) == 1


async def test_an_event_that_cannot_be_served_is_told_in_the_thread(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise UnavailableError("never")

    monkeypatch.setattr(pipeline.services.executions, "accept", refuse)
    question = await pipeline.mention("hello")

    await work_until_quiet(pipeline, rounds=12)

    (reply,) = pipeline.replies(question)
    letter = await pipeline.one("SELECT subject_id, reason FROM dead_letters")
    assert "Sorry" in reply
    assert str(letter["subject_id"]) in reply
    assert letter["reason"] == "attempts-exhausted"
