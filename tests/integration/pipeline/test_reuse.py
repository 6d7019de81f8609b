"""A question that was answered lately gets the same answer, marked, where its organization wants that; nowhere else."""

import pytest

from nubabel_workers.adapters.storage.organizations import PostgresOrganizations
from nubabel_workers.domain.repeats import RememberedAnswer
from nubabel_workers.domain.tenants import PolicyChange, RepeatedQuestions
from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline

pytestmark = pytest.mark.integration

MARK = "the same question got at"


async def reuse(pipeline: Pipeline) -> None:
    organizations = PostgresOrganizations(pipeline.services.database, pipeline.services.cipher)
    change = PolicyChange(repeated_questions=RepeatedQuestions.REUSE)
    assert await organizations.set_policy(ORGANIZATION, change, actor="tests") is not None
    pipeline.services.tenants._organizations.clear()


async def test_the_same_question_gets_the_same_answer_and_says_since_when(pipeline: Pipeline) -> None:
    await reuse(pipeline)
    first = await pipeline.mention("why does it hang?")
    await pipeline.answer_everything()

    second = await pipeline.mention("why  does it hang?")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.deliver()

    (answer,) = pipeline.replies(first)
    (again,) = pipeline.replies(second)
    assert again.startswith(answer)
    assert MARK in again
    assert await pipeline.statuses() == ["completed", "completed"]
    assert await pipeline.one("SELECT count(*) AS n FROM attempts") == {"n": 1}
    verdict = await pipeline.one(
        "SELECT detail->>'verdict' AS v FROM execution_events WHERE kind = 'finished' ORDER BY id DESC LIMIT 1"
    )
    assert verdict == {"v": "reused"}


async def test_unless_it_is_asked_for_every_question_is_run(pipeline: Pipeline) -> None:
    for _ in range(2):
        question = await pipeline.mention("why does it hang?")
        await pipeline.answer_everything()
        assert MARK not in pipeline.replies(question)[-1]

    assert await pipeline.one("SELECT count(*) AS n FROM attempts") == {"n": 2}
    assert [key async for key in pipeline.services.cache.scan_iter("nubabel:answer:*")] == []


async def test_a_follow_up_is_run_though_its_words_were_asked_before(pipeline: Pipeline) -> None:
    await reuse(pipeline)
    question = await pipeline.mention("why?")
    await pipeline.answer_everything()
    await pipeline.say("why?", thread_ts=question.ts)

    await pipeline.answer_everything()

    assert await pipeline.one("SELECT count(*) AS n FROM attempts") == {"n": 2}


async def test_a_failure_is_not_given_again(pipeline: Pipeline) -> None:
    await reuse(pipeline)
    await pipeline.mention("[[status=400]] always")
    await pipeline.answer_everything()
    again = await pipeline.mention("[[status=400]] always")

    await pipeline.answer_everything()

    assert MARK not in pipeline.replies(again)[-1]


async def test_what_was_given_again_is_not_remembered_anew(pipeline: Pipeline) -> None:
    """Else an answer would never grow old."""
    await reuse(pipeline)
    await pipeline.mention("why does it hang?")
    await pipeline.answer_everything()
    (key,) = [key async for key in pipeline.services.cache.scan_iter("nubabel:answer:*")]
    stored = await pipeline.services.cache.get(key)
    await pipeline.mention("why does it hang?")

    await pipeline.answer_everything()

    assert await pipeline.services.cache.get(key) == stored


async def test_an_answer_put_into_the_cache_by_others_is_none(pipeline: Pipeline) -> None:
    """Neither text of their own, nor another organization's answer under this one's name."""
    memory = pipeline.services.answers
    answer = RememberedAnswer("theirs", "exe_other", pipeline.services.clock.now())
    await memory.remember("org_other", "q", answer)
    stolen = await pipeline.services.cache.get("nubabel:answer:org_other:q")
    assert stolen is not None
    await pipeline.services.cache.set(f"nubabel:answer:{ORGANIZATION}:q", stolen)
    await pipeline.services.cache.set(f"nubabel:answer:{ORGANIZATION}:r", b"not sealed")

    assert await memory.find("org_other", "q") == answer
    assert await memory.find(ORGANIZATION, "q") is None
    assert await memory.find(ORGANIZATION, "r") is None


async def test_without_the_cache_the_question_is_run(pipeline: Pipeline) -> None:
    await reuse(pipeline)
    pool = pipeline.services.cache.connection_pool
    pool.connection_kwargs["port"] = 1
    await pool.disconnect()
    question = await pipeline.mention("hello")

    await pipeline.answer_everything()

    assert len(pipeline.replies(question)) == 1
