"""What people are promised whatever happens at the same time: order, one run, deadlines, policies, outages."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from nubabel_workers.domain.errors import InvalidInputError, UnavailableError
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.submission import SubmitRequest
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.domain.wording import language_of
from tests.integration.pipeline.conftest import ORGANIZATION, Pipeline
from tests.integration.pipeline.dying import others_find_its_rows, work_until_quiet

pytestmark = pytest.mark.integration


async def set_policy(pipeline: Pipeline, policy: str) -> None:
    await pipeline.services.database.system().execute("UPDATE organizations SET busy_policy = %(p)s", {"p": policy})


async def in_the_past(pipeline: Pipeline, column: str) -> None:
    await pipeline.services.database.system().execute(f"UPDATE executions SET {column} = now() - interval '1 s'")


async def test_two_dispatchers_at_once_start_one_run_each(pipeline: Pipeline) -> None:
    questions = [await pipeline.mention(f"question {number}") for number in range(4)]
    await pipeline.take_events()

    await asyncio.gather(pipeline.dispatch(), pipeline.dispatch())
    await pipeline.run_ends()
    await asyncio.gather(pipeline.complete(), pipeline.complete())
    await asyncio.gather(pipeline.deliver(), pipeline.deliver())

    assert [len(pipeline.replies(question)) for question in questions] == [1, 1, 1, 1]
    assert list(pipeline.opencode.simulator.store.model_runs.values()) == [1, 1, 1, 1]


async def test_a_process_that_wakes_up_after_its_lease_was_taken_posts_nothing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = pipeline.services.executions.begin_attempt

    async def stopped_for_long(*args: Any, **kwargs: Any) -> int:
        with monkeypatch.context() as nothing_stops_the_others:
            nothing_stops_the_others.setattr(pipeline.services.executions, "begin_attempt", begin)
            await others_find_its_rows(pipeline)
            await pipeline.dispatch()
            await pipeline.run_ends()
            await pipeline.complete()
        return await begin(*args, **kwargs)

    monkeypatch.setattr(pipeline.services.executions, "begin_attempt", stopped_for_long)
    question = await pipeline.mention("hello")
    await pipeline.take_events()

    line = await pipeline.dispatch()
    await pipeline.deliver()

    assert "1 lost" in line
    assert len(pipeline.replies(question)) == 1
    assert list(pipeline.opencode.simulator.store.model_runs.values()) == [1]


async def test_a_follow_up_replaces_the_running_one_where_the_policy_says_so(pipeline: Pipeline) -> None:
    await set_policy(pipeline, "interrupt")
    question = await pipeline.mention("[[hang]] think for ever")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.say("forget it, what is red?", thread_ts=question.ts)

    await pipeline.take_events()
    await pipeline.complete()
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    await pipeline.deliver()
    await pipeline.deliver()

    assert await pipeline.statuses() == ["cancelled", "completed"]
    replaced, answer = pipeline.replies(question)
    assert "replaced by your next message" in replaced
    assert "what is red?" in answer


async def test_a_follow_up_is_refused_where_the_policy_says_so(pipeline: Pipeline) -> None:
    await set_policy(pipeline, "reject")
    question = await pipeline.mention("[[hang]] think for ever")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.say("are you there?", thread_ts=question.ts)

    await pipeline.take_events()
    await pipeline.deliver()

    assert await pipeline.statuses() == ["running", "rejected"]
    (reply,) = pipeline.replies(question)
    assert "still working" in reply


async def test_follow_ups_are_answered_in_order_one_at_a_time(pipeline: Pipeline) -> None:
    question = await pipeline.mention("one")
    for text in ("two", "three"):
        await pipeline.say(text, thread_ts=question.ts)

    for _ in range(3):
        await pipeline.answer_everything()

    first, second, third = pipeline.replies(question)
    assert ("one" in first, "two" in second, "three" in third) == (True, True, True)
    assert pipeline.opencode.simulator.engine.peak == 1


async def test_a_run_past_its_deadline_is_aborted_and_what_there_is_is_shown(pipeline: Pipeline) -> None:
    question = await pipeline.mention("[[hang=mid]] [[text=half of an answer that never ends]]")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.services.maintain.keep_deadlines()
    await in_the_past(pipeline, "deadline_at")

    await pipeline.services.maintain.keep_deadlines()
    await pipeline.complete()
    await pipeline.deliver()

    (reply,) = pipeline.replies(question)
    assert "longer than allowed" in reply
    assert "half of" in reply  # what there was until then
    assert await pipeline.statuses() == ["failed"]
    (instance,) = await pipeline.services.instances.loads()
    assert await pipeline.services.servers.server(instance).busy_sessions(None) == {}


async def test_what_could_not_start_in_time_ends_with_an_apology(pipeline: Pipeline) -> None:
    question = await pipeline.mention("hello")
    await pipeline.take_events()
    await in_the_past(pipeline, "answer_by")

    await pipeline.services.maintain.keep_deadlines()
    await pipeline.deliver()

    (reply,) = pipeline.replies(question)
    assert "could not start on this in time" in reply
    assert await pipeline.statuses() == ["failed"]


async def test_a_thread_that_waits_hears_so_once(pipeline: Pipeline) -> None:
    question = await pipeline.mention("hello")
    await pipeline.take_events()
    for _ in range(3):
        await pipeline.late_threads_are_told()
        await pipeline.deliver()

    (notice,) = pipeline.replies(question)
    assert notice.startswith("This takes longer than usual.")


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("hello", "It waits: every OpenCode server is busy; place 2 in its organization's queue; when it starts"),
        ("안녕하세요", "대기 사유: 모든 OpenCode 서버가 사용 중입니다; 조직의 대기 순서 2번; 시작 시각은"),
    ],
)
async def test_a_thread_that_waits_hears_what_the_api_says(pipeline: Pipeline, question: str, words: str) -> None:
    await pipeline.services.database.system().execute("UPDATE instances SET capacity_runs = 0")
    await pipeline.mention("before it")
    await pipeline.take_events()
    asked = await pipeline.mention(question)
    await pipeline.take_events()

    await pipeline.late_threads_are_told()
    await pipeline.deliver()

    assert words in pipeline.replies(asked)[-1]
    row = await pipeline.one("SELECT id FROM executions ORDER BY position DESC LIMIT 1")
    execution = await pipeline.services.executions.find(ORGANIZATION, str(row["id"]))
    assert execution is not None
    waiting = await pipeline.services.read_waiting.of(execution)
    assert waiting is not None
    assert waiting.words_in(language_of(question)) in pipeline.replies(asked)[-1]


@pytest.mark.parametrize(
    "call",
    [
        "inbound.claim",
        "executions.accept",
        "executions.begin_attempt",
        "executions.mark_running",
        "executions.claim_checks",
        "executions.finish",
        "notifications.part_sent",
        "notifications.sent",
    ],
)
async def test_an_outage_of_the_database_costs_time_only(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    owner, method = call.split(".")
    real = getattr(getattr(pipeline.services, owner), method)
    outages = iter((True, True))

    async def away_for_a_while(*args: Any, **kwargs: Any) -> Any:
        if next(outages, False):
            raise UnavailableError("the database cannot be reached")
        return await real(*args, **kwargs)

    monkeypatch.setattr(getattr(pipeline.services, owner), method, away_for_a_while)
    monkeypatch.setattr("tests.integration.pipeline.dying.Killed", UnavailableError)
    question = await pipeline.mention("[[tokens=6000]] hello")

    await work_until_quiet(pipeline)

    replies = pipeline.replies(question)
    assert len(replies) == len(set(replies)) > 1
    assert next(outages, False) is False
    assert list(pipeline.opencode.simulator.store.model_runs.values()) == [1]


async def test_without_the_cache_everything_goes_on(pipeline: Pipeline) -> None:
    pool = pipeline.services.cache.connection_pool
    pool.connection_kwargs["port"] = 1
    await pool.disconnect()
    question = await pipeline.mention("hello")

    await pipeline.answer_everything()

    assert len(pipeline.replies(question)) == 1


async def test_somebody_elses_organization_is_not_cancelled(pipeline: Pipeline) -> None:
    await pipeline.mention("hello")
    await pipeline.take_events()
    execution = await pipeline.one("SELECT id FROM executions")

    assert await pipeline.services.executions.request_cancel("org_other", str(execution["id"]), reason="x") is None
    assert await pipeline.statuses() == ["queued"]


@pytest.mark.parametrize(
    ("of_the_request", "of_the_category", "deadline_s"), [(120, 600, 120), (None, 600, 600), (None, None, 1800)]
)
async def test_a_run_has_its_own_deadline_or_its_categorys_or_the_settings(
    pipeline: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    of_the_request: int | None,
    of_the_category: int | None,
    deadline_s: int,
) -> None:
    deadlines = pipeline.services.dispatch_executions._submit_prompt._plan_runs._deadlines
    by_category = {} if of_the_category is None else dict.fromkeys(deadlines._rules.categories, of_the_category)
    monkeypatch.setattr(deadlines, "_rules", replace(deadlines._rules, deadlines_s=by_category))
    await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.services.database.system().execute(
        "UPDATE executions SET deadline_s = %(seconds)s", {"seconds": of_the_request}
    )

    await pipeline.dispatch()

    left = await pipeline.one(
        "SELECT round(extract(epoch FROM deadline_at - now()) / 10)::int * 10 AS s FROM executions"
    )
    assert left == {"s": deadline_s}


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"agent": "nope"}, "unknown_agent"),
        ({"callback_url": "http://10.0.0.1/hook"}, "egress_refused"),
        ({"callback_url": "https://user:word@example.com/"}, "invalid_url"),
    ],
)
async def test_what_can_only_fail_is_refused_at_the_door(pipeline: Pipeline, asked: dict[str, str], code: str) -> None:
    request = SubmitRequest.model_validate({"prompt": "hello", **asked})
    organization = Organization(OrganizationId(ORGANIZATION), "Pipeline")

    with pytest.raises(InvalidInputError) as raised:
        await pipeline.services.submit_execution.submit(
            organization, request, source="api", correlation_id="c", traceparent=""
        )

    assert raised.value.code == code
    assert await pipeline.statuses() == []


async def test_one_bad_row_keeps_no_other_from_its_deadline_or_its_notice(pipeline: Pipeline) -> None:
    bad = await pipeline.mention("of a newer release")
    late = await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.services.database.system().execute(
        """UPDATE executions SET overrides = '"unreadable"' WHERE prompt LIKE '%newer release%'"""
    )

    await pipeline.late_threads_are_told()
    await pipeline.deliver()

    assert "longer than usual" in pipeline.replies(late)[-1]
    assert "longer than usual" in pipeline.replies(bad)[-1]
