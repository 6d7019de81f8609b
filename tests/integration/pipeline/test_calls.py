"""A share of the requests is answered by another orchestrator, called while its row is held; nothing is lost by it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pytest

from nubabel_workers.adapters.orchestrators.canned import CannedAnswer
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.domain.errors import (
    CredentialsError,
    NotFoundError,
    NubabelError,
    RateLimitedError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.executions import Usage
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.ports.orchestrators import Call, CallAnswer
from nubabel_workers.domain.rollout import Orchestrator, Rollout
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.services import mask_prompt
from nubabel_workers.services.mask_prompt import Share
from nubabel_workers.simulators.opencode.running import RunningSimulator
from nubabel_workers.simulators.slack.server import SlackSimulator
from tests.conftest import RedisServer
from tests.integration.pipeline.conftest import (
    CHANNEL,
    ORGANIZATION,
    TEAM,
    Pipeline,
    found_organization,
    pipeline_settings,
)
from tests.integration.pipeline.dying import Killed, dies, others_find_its_rows
from tests.integration.pipeline.test_budgets import set_caps
from tests.integration.pipeline.test_masking import reads_of_threads
from tests.waiting import eventually_true

pytestmark = pytest.mark.integration

Open = Callable[..., Any]

NO_TIME = Share(-1.0, -1.0)


@dataclass
class Scripted:
    """An orchestrator that says what it is told to; an answer that is an error is raised. gate: calls wait for it."""

    answers: list[CallAnswer | NubabelError] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def check(self) -> str:
        return "here"

    async def answer(self, call: Call, *, timeout_s: float) -> CallAnswer:
        assert timeout_s > 0
        self.calls.append(call)
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.pop(0) if self.answers else CallAnswer(f"ANSWER: {call.texts[-1]}")
        if isinstance(answer, NubabelError):
            raise answer
        return answer


class CalledPipeline(Pipeline):
    scripted: Scripted

    async def ended(self) -> None:
        await eventually_true(self._no_calls, what="the end of every call")

    async def _no_calls(self) -> bool:
        return not self.services.answer_by_call._running

    async def called(self) -> None:
        await eventually_true(self._one_called, what="a call")

    async def _one_called(self) -> bool:
        return bool(self.scripted.calls)

    async def answered(self) -> None:
        """From stored events to told answers, those of the calls."""
        await self.take_events()
        await self.dispatch()
        await self.ended()
        await self.deliver()


@pytest.fixture
async def called(
    slack: SlackSimulator, opencode: RunningSimulator, database_url: str, clean_redis: RedisServer
) -> AsyncIterator[Open]:
    """Opens services, of whatever settings, over one database."""
    async with AsyncExitStack() as stack:
        founded = False
        keys: dict[str, Any] = {}

        async def open_(**changes: Any) -> CalledPipeline:
            nonlocal founded
            values = {"rollout": "fallback:100", "delegate_url": "http://127.0.0.1:9"} | keys | changes
            settings = pipeline_settings(slack, database_url, clean_redis, **values)
            keys["encryption_keys"] = settings.encryption_keys
            services = await stack.enter_async_context(open_services(settings, application_name="tests"))
            pipeline = CalledPipeline(services, slack, opencode)
            pipeline.scripted = Scripted()
            if not founded:
                agents = ("Sisyphus - ultraworker", "build")
                await found_organization(services, Instance(InstanceId("ins_1"), opencode.url, "", None, agents=agents))
                await pipeline.install()
                founded = True
            play(services, pipeline.scripted)
            return pipeline

        yield open_


def play(services: Services, scripted: Scripted) -> None:
    orchestrators = cast("dict[Orchestrator, Any]", services.orchestrators)
    orchestrators.update({Orchestrator.FALLBACK: scripted, Orchestrator.DELEGATE: scripted})


async def verdicts(pipeline: Pipeline) -> list[tuple[str, str | None]]:
    rows = await pipeline.services.database.system().all(
        "SELECT orchestrator, verdict FROM attempts ORDER BY execution_id, number"
    )
    return [(row["orchestrator"], row["verdict"]) for row in rows]


async def test_a_mention_is_answered_by_the_orchestrator_that_the_rollout_names(called: Open) -> None:
    pipeline = await called()
    used = Usage(input_tokens=10, output_tokens=5)
    pipeline.scripted.answers = [CallAnswer("Because of locks.", usage=used, model="acme/fast")]
    question = await pipeline.mention("why does it hang?")

    await pipeline.answered()

    assert pipeline.replies(question)[-1] == "Because of locks."
    assert await verdicts(pipeline) == [("fallback", "succeeded")]
    usage = await pipeline.one("SELECT model, input_tokens, output_tokens FROM usage")
    assert usage == {"model": "acme/fast", "input_tokens": 10, "output_tokens": 5}
    assert await pipeline.one("SELECT opencode_session_id FROM sessions") == {"opencode_session_id": None}


async def test_while_a_call_lasts_no_task_waits_and_its_row_runs_under_a_lease(called: Open) -> None:
    pipeline = await called()
    pipeline.scripted.gate = asyncio.Event()
    await pipeline.mention("take your time")
    await pipeline.take_events()

    line = await pipeline.dispatch()

    await pipeline.called()
    row = await pipeline.one("SELECT id, status, lease_owner IS NOT NULL AS held, instance_id FROM executions")
    assert line.startswith(f"1 called {row['id']}")
    assert (row["status"], row["held"], row["instance_id"]) == ("running", True, None)
    assert await pipeline.complete() == "nothing to do"
    pipeline.scripted.gate.set()
    await pipeline.ended()
    assert await pipeline.statuses() == ["completed"]


async def test_only_the_share_is_called_and_the_rest_runs_on_opencode(called: Open) -> None:
    pipeline = await called(rollout="fallback:50:session")
    rollout = Rollout.parse("fallback:50:session")
    for number in range(24):  # all of them on one side: once in eight million times
        await pipeline.mention(f"question {number}")
    await pipeline.take_events()

    await pipeline.dispatch()
    await pipeline.ended()
    await pipeline.run_ends()
    await pipeline.complete()

    rows = await pipeline.services.database.system().all(
        """SELECT s.session_key, a.orchestrator, e.status FROM executions e JOIN sessions s ON s.id = e.session_id
           JOIN attempts a ON a.execution_id = e.id"""
    )
    assert {row["status"] for row in rows} == {"completed"}
    assert [row["orchestrator"] for row in rows] == [
        rollout.choose(ORGANIZATION, row["session_key"]).value for row in rows
    ]
    assert {row["orchestrator"] for row in rows} == {"opencode", "fallback"}


async def test_a_thread_that_there_is_no_time_to_look_through_is_left_out_and_the_answer_says_so(
    called: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_prompt, "_CONTEXT", NO_TIME)
    pipeline = await called()
    root = pipeline.slack.say("a long story " * 350, team=TEAM, channel=CHANNEL)
    for _ in range(4):
        pipeline.slack.say("a long story " * 350, team=TEAM, channel=CHANNEL, thread_ts=root.ts)
    await pipeline.mention("what do they say?", thread_ts=root.ts)

    await pipeline.answered()

    (call,) = pipeline.scripted.calls
    assert call.texts == ["what do they say?"]
    assert "I left out the earlier messages of this thread" in pipeline.replies(root)[-1]


async def test_a_question_that_there_is_no_time_to_look_through_waits_and_is_called_for_later(
    called: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = await called()
    question = await pipeline.mention(f"{'a long story ' * 1_500} the end")
    with monkeypatch.context() as busy:
        busy.setattr(mask_prompt, "_QUESTION", NO_TIME)
        await pipeline.answered()
    row = await pipeline.one("SELECT status, failures, waiting_for, not_before > now() AS later FROM executions")
    assert row == {"status": "queued", "failures": 0, "waiting_for": "masking", "later": True}
    assert pipeline.scripted.calls == []

    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
    await pipeline.answered()

    assert pipeline.replies(question)[-1].endswith("the end")


async def test_a_thread_is_read_once_and_goes_along_when_there_is_time_for_its_question(
    called: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = reads_of_threads(monkeypatch)
    pipeline = await called()
    root = pipeline.slack.say("the build is red", team=TEAM, channel=CHANNEL)
    await pipeline.mention("a long story " * 1_500, thread_ts=root.ts)
    with monkeypatch.context() as busy:
        busy.setattr(mask_prompt, "_QUESTION", NO_TIME)
        await pipeline.answered()
    assert pipeline.scripted.calls == []

    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
    await pipeline.answered()

    (call,) = pipeline.scripted.calls
    assert "the build is red" in call.texts[0]
    assert len(reads) == 1


async def test_earlier_turns_that_there_is_no_time_for_are_in_the_timeline_and_beside_the_answer(
    called: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_prompt, "_EARLIER", NO_TIME)
    pipeline = await called()
    question = await pipeline.mention("a long story " * 1_500)
    await pipeline.answered()

    await pipeline.say("and now?", thread_ts=question.ts)
    await pipeline.answered()

    told = await pipeline.one("SELECT detail->'left_out' AS left_out FROM execution_events WHERE kind = 'masked'")
    assert told == {"left_out": {"earlier turns": 1}}
    assert "I left out earlier questions of this conversation" in pipeline.replies(question)[-1]
    assert "a long story" not in "".join(pipeline.scripted.calls[-1].texts)


async def test_what_is_masked_in_earlier_turns_is_in_the_timeline(called: Open) -> None:
    pipeline = await called()
    question = await pipeline.mention("my card is 4111 1111 1111 1111")
    await pipeline.answered()

    await pipeline.say("charge it", thread_ts=question.ts)
    await pipeline.answered()

    masked = await pipeline.services.database.system().all(
        "SELECT detail->'kinds'->>'card number' AS cards FROM execution_events WHERE kind = 'masked' ORDER BY id"
    )
    assert [row["cards"] is not None for row in masked] == [True, True]


async def test_a_follow_up_brings_the_earlier_turns_wherever_it_is_answered(called: Open) -> None:
    first = await called(rollout="opencode")
    question = await first.mention("remember the number 7")
    await first.answer_everything()
    second = await called(rollout="fallback:100")
    await second.say("and now?", thread_ts=question.ts)
    await second.answered()
    third = await called(rollout="opencode")
    await third.say("and at last?", thread_ts=question.ts)
    await third.answer_everything()

    (call,) = second.scripted.calls
    assert "remember the number 7" in call.texts[0]
    assert call.texts[-1] == "and now?"
    assert "at last" in first.replies(question)[-1]
    prompt = await third.one("SELECT count(DISTINCT opencode_session_id) AS sessions FROM attempts")
    assert prompt == {"sessions": 2}  # the one of the first turn does not know the second


async def test_the_delegate_service_is_told_its_own_name_of_the_conversation(called: Open) -> None:
    pipeline = await called(rollout="delegate:100")
    pipeline.scripted.answers = [CallAnswer("one", remote_session_id="theirs"), CallAnswer("two")]
    question = await pipeline.mention("first")
    await pipeline.answered()
    await pipeline.say("second", thread_ts=question.ts)
    await pipeline.answered()

    first, second = pipeline.scripted.calls
    assert (first.remote_session_id, second.remote_session_id) == (None, "theirs")
    assert list(second.texts) == ["second"]


async def test_a_conversation_that_the_service_lost_is_told_again(called: Open) -> None:
    pipeline = await called(rollout="delegate:100")
    pipeline.scripted.answers = [
        CallAnswer("one", remote_session_id="theirs"),
        NotFoundError("no such session"),
        CallAnswer("two"),
    ]
    question = await pipeline.mention("first")
    await pipeline.answered()
    await pipeline.say("second", thread_ts=question.ts)
    await pipeline.answered()

    assert pipeline.replies(question)[-1] == "two"
    again = pipeline.scripted.calls[-1]
    assert again.remote_session_id is None
    assert "first" in again.texts[0]


async def test_turns_that_there_was_no_time_for_when_the_service_lost_the_conversation_are_said_to_be_left_out(
    called: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_prompt, "_EARLIER", NO_TIME)
    pipeline = await called(rollout="delegate:100")
    pipeline.scripted.answers = [
        CallAnswer("one", remote_session_id="theirs"),
        NotFoundError("no such session"),
        CallAnswer("two"),
    ]
    question = await pipeline.mention("a long story " * 1_500)
    await pipeline.answered()

    await pipeline.say("second", thread_ts=question.ts)
    await pipeline.answered()

    assert "two" in pipeline.replies(question)[-1]
    assert "I left out earlier questions of this conversation" in pipeline.replies(question)[-1]


@pytest.mark.parametrize("error", [RateLimitedError("limited"), UncertainError("lost"), UnavailableError("down")])
async def test_a_passing_error_is_tried_again_under_the_same_key(called: Open, error: NubabelError) -> None:
    pipeline = await called(rollout="delegate:100")
    pipeline.scripted.answers = [error, CallAnswer("here it is")]
    question = await pipeline.mention("please")
    await pipeline.answered()

    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
    await pipeline.answered()

    assert pipeline.replies(question)[-1] == "here it is"
    assert len({call.key for call in pipeline.scripted.calls}) == 1


@pytest.mark.parametrize("error", [TransientError("it answered HTTP 500"), UncertainError("lost in the middle")])
async def test_an_orchestrator_that_answers_badly_each_time_is_asked_no_longer(
    called: Open, error: NubabelError
) -> None:
    """Each call may have cost something."""
    pipeline = await called(breaker_failures=100, retry_orchestration_max_attempts=3)
    pipeline.scripted.answers = [error for _ in range(10)]
    await pipeline.mention("please")
    for _ in range(5):
        await pipeline.answered()
        await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")

    assert await pipeline.statuses() == ["failed"]
    assert len(pipeline.scripted.calls) == 3


@pytest.mark.parametrize("error", [UnavailableError("down"), UncertainError("lost in the middle")])
async def test_an_orchestrator_whose_calls_fail_is_left_in_peace(called: Open, error: NubabelError) -> None:
    pipeline = await called(breaker_failures=2, breaker_first_wait_s=600, breaker_max_wait_s=600)
    pipeline.scripted.answers = [error] * 9
    await pipeline.mention("please")
    for _ in range(4):
        await pipeline.answered()
        await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
    await pipeline.mention("and this")

    await pipeline.answered()

    assert len(pipeline.scripted.calls) == 2
    last = await pipeline.one("SELECT attempt, waiting_for FROM executions ORDER BY position DESC LIMIT 1")
    assert last == {"attempt": 0, "waiting_for": "orchestrator away"}


async def test_what_waits_for_an_orchestrator_that_is_away_is_not_taken_up_one_by_one(called: Open) -> None:
    pipeline = await called(breaker_failures=2, breaker_first_wait_s=600, breaker_max_wait_s=600)
    pipeline.scripted.answers = [UnavailableError("down")] * 2
    for _ in range(2):
        await pipeline.mention("please")
        await pipeline.answered()
    for _ in range(3):
        await pipeline.mention("and this")
    await pipeline.take_events()

    said = await pipeline.services.dispatch_executions.run()

    assert said.startswith("3 wait for fallback, which is away")
    row = await pipeline.one("SELECT count(*) AS n FROM executions WHERE waiting_for = 'orchestrator away'")
    assert row == {"n": 5}
    last = await pipeline.one("SELECT not_before > now() AS waits FROM executions ORDER BY position DESC LIMIT 1")
    assert last == {"waits": True}


async def everything_is_answered(pipeline: CalledPipeline, *, due: str = "false") -> bool:
    await pipeline.services.database.system().execute(f"UPDATE executions SET not_before = now() WHERE {due}")
    await pipeline.answered()
    return set(await pipeline.statuses()) == {"completed"}


async def two_wait_for_it(called: Open) -> CalledPipeline:
    pipeline: CalledPipeline = await called(
        breaker_failures=2, breaker_first_wait_s=0.3, breaker_max_wait_s=0.3, retry_orchestration_max_attempts=99
    )
    pipeline.scripted.answers = [UnavailableError("down"), UnavailableError("down")]
    for _ in range(2):
        await pipeline.mention("please")
        await pipeline.answered()
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now() + interval '1 h'")
    return pipeline


async def test_when_an_orchestrator_is_back_everything_that_waited_for_it_goes_on(called: Open) -> None:
    pipeline = await two_wait_for_it(called)
    first = "id = (SELECT id FROM executions ORDER BY position LIMIT 1)"

    await eventually_true(partial(everything_is_answered, pipeline, due=first), what="the end of its rest")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_whoever_dies_while_it_puts_them_off_they_go_on_when_it_is_back(
    called: Open, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    pipeline = await called(breaker_failures=1, breaker_first_wait_s=1, breaker_max_wait_s=1)
    pipeline.scripted.answers = [UnavailableError("down")]
    await pipeline.mention("please")
    await pipeline.answered()
    await pipeline.mention("and this")
    await pipeline.take_events()
    deaths = dies(monkeypatch, pipeline.services.calls, "put_off", after=after)

    with suppress(Killed):
        await pipeline.dispatch()

    assert deaths() == 1
    await eventually_true(partial(everything_is_answered, pipeline, due="true"), what="the end of its rest")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_whoever_dies_while_it_wakes_them_they_go_on_when_their_own_wait_ends(
    called: Open, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    pipeline = await two_wait_for_it(called)
    deaths = dies(monkeypatch, pipeline.services.calls, "wake", after=after)

    async def goes_on() -> bool:
        with suppress(Killed):
            await everything_is_answered(pipeline, due="status = 'queued'")
        if deaths():
            await others_find_its_rows(pipeline)
        return set(await pipeline.statuses()) == {"completed"}

    await eventually_true(goes_on, what="the end of its rest")
    assert deaths() == 1


async def test_an_orchestrator_that_is_away_costs_no_failed_try(called: Open) -> None:
    pipeline = await called(breaker_failures=100)
    pipeline.scripted.answers = [UnavailableError("down") for _ in range(7)]
    question = await pipeline.mention("please")
    waits = []
    for _ in range(8):
        await pipeline.answered()
        waits.append((await pipeline.one("SELECT waiting_for FROM executions"))["waiting_for"])
        await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")

    assert waits == ["orchestrator away"] * 7 + [None]
    assert pipeline.replies(question)[-1].startswith("ANSWER")


async def test_a_permanent_error_ends_it_with_an_apology_and_a_dead_letter(called: Open) -> None:
    pipeline = await called()
    pipeline.scripted.answers = [CredentialsError("refused")]
    question = await pipeline.mention("please")

    await pipeline.answered()

    assert await pipeline.statuses() == ["failed"]
    assert "exe_" in pipeline.replies(question)[-1]
    letter = await pipeline.one("SELECT reason, error FROM dead_letters")
    assert letter == {"reason": "permanent-error", "error": "credentials_refused: refused"}


async def test_a_failure_that_the_service_reports_shows_what_there_is_of_an_answer(called: Open) -> None:
    pipeline = await called()
    pipeline.scripted.answers = [CallAnswer("half an answer", error="the other half is missing")]
    question = await pipeline.mention("please")

    await pipeline.answered()

    assert await pipeline.statuses() == ["failed"]
    assert "half an answer" in pipeline.replies(question)[-1]


async def test_a_wish_to_stop_ends_the_call_within_moments(called: Open) -> None:
    pipeline = await called()
    pipeline.scripted.gate = asyncio.Event()
    question = await pipeline.mention("take your time")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.called()

    await pipeline.say("stop", thread_ts=question.ts)
    await pipeline.take_events()

    await pipeline.ended()
    await pipeline.deliver()
    assert await pipeline.statuses() == ["cancelled"]
    used = await pipeline.one("SELECT model, lower_bound FROM usage")
    assert used == {"model": "unknown", "lower_bound": True}  # what the call had used by then, nobody told


async def test_a_call_longer_than_the_deadline_ends_with_an_apology(called: Open) -> None:
    pipeline = await called(run_deadline_s=1)
    pipeline.scripted.gate = asyncio.Event()
    question = await pipeline.mention("take your time")

    await pipeline.answered()

    assert await pipeline.statuses() == ["failed"]
    assert "exe_" in pipeline.replies(question)[-1]


async def test_a_process_that_stops_gives_its_calls_to_others_at_once(called: Open) -> None:
    pipeline = await called()
    pipeline.scripted.gate = asyncio.Event()
    await pipeline.mention("take your time")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.called()

    await pipeline.services.answer_by_call.close()

    row = await pipeline.one("SELECT status, lease_owner, not_before <= now() AS ready FROM executions")
    assert row == {"status": "queued", "lease_owner": None, "ready": True}
    pipeline.scripted.gate.set()
    await pipeline.answered()
    assert await pipeline.statuses() == ["completed"]
    assert await pipeline.one("SELECT count(*) AS n FROM attempts") == {"n": 1}


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("owner", "method"),
    [
        ("executions", "claim_queued"),
        ("calls", "begin"),
        ("calls", "remember_session"),
        ("executions", "finish"),
        ("mappings", "forget"),
    ],
)
async def test_whoever_dies_the_request_is_answered_once(
    called: Open, monkeypatch: pytest.MonkeyPatch, owner: str, method: str, *, after: bool
) -> None:
    pipeline = await called()
    pipeline.scripted.answers = [CallAnswer("the answer", remote_session_id="s") for _ in range(3)]
    question = await pipeline.mention("please")
    await pipeline.take_events()
    deaths = dies(monkeypatch, getattr(pipeline.services, owner), method, after=after)

    for _ in range(4):
        with suppress(Killed):
            await pipeline.dispatch()
        await pipeline.ended()
        await pipeline.deliver()
        await others_find_its_rows(pipeline)

    assert deaths() == 1
    assert pipeline.replies(question) == ["the answer"]
    assert len({call.key for call in pipeline.scripted.calls}) == 1


async def test_two_processes_that_take_the_same_execution_call_once(called: Open) -> None:
    one, other = await called(), await called()
    await one.mention("please")
    await one.take_events()

    await asyncio.gather(one.dispatch(), other.dispatch())
    await one.ended()
    await other.ended()

    assert len(one.scripted.calls) + len(other.scripted.calls) == 1


async def test_going_back_is_one_setting_also_for_what_waits(called: Open) -> None:
    long = {"retry_orchestration_first_wait_s": 3600, "retry_orchestration_max_wait_s": 3600}
    broken = await called(rollout="delegate:100", **long)
    broken.scripted.answers = [UncertainError("no answer") for _ in range(2)]
    asked = [await broken.mention(f"question {number}") for number in range(2)]
    await broken.answered()
    assert await broken.statuses() == ["queued", "queued"]

    back = await called(rollout="opencode")
    moved = await back.services.apply_rollout.run()
    await back.answer_everything()

    assert moved == 2
    assert await back.statuses() == ["completed", "completed"]
    assert [f"question {number}" in back.replies(asked[number])[-1] for number in range(2)] == [True, True]
    usage = await back.one("SELECT count(*) AS n FROM usage WHERE lower_bound AND model = 'unknown'")
    assert usage == {"n": 2}  # what the calls that were given up have used, nobody knows


async def test_what_may_run_on_opencode_stays_there(called: Open) -> None:
    first = await called(rollout="opencode")
    await first.mention("please")
    await first.take_events()
    await first.dispatch()
    await first.services.database.system().execute(
        "UPDATE executions SET status = 'queued', check_at = NULL, not_before = now()"
    )

    second = await called(rollout="fallback:100")

    assert await second.services.apply_rollout.run() == 0


async def test_what_must_not_leave_is_masked_for_every_orchestrator(called: Open) -> None:
    pipeline = await called()
    await pipeline.mention("write to mina@example.com, please")

    await pipeline.answered()

    (call,) = pipeline.scripted.calls
    assert "mina@example.com" not in call.texts[-1]


async def test_the_turns_before_a_question_are_masked_for_every_orchestrator(called: Open) -> None:
    pipeline = await called()
    question = await pipeline.mention("I am mina@example.com")
    await pipeline.answered()
    await pipeline.say("write to me", thread_ts=question.ts)

    await pipeline.answered()

    _, call = pipeline.scripted.calls
    assert "User: I am [mail address " in "\n".join(call.texts)
    assert "mina@example.com" not in "\n".join(call.texts)


async def test_files_are_said_to_be_left_out(called: Open) -> None:
    pipeline = await called()
    question = await pipeline.mention("please")
    await pipeline.take_events()
    await pipeline.services.database.system().execute(
        """UPDATE executions SET attachments =
             '[{"name": "plan.pdf", "mime_type": "application/pdf", "size_bytes": 3, "url": "http://x"}]'"""
    )

    await pipeline.answered()

    assert "plan.pdf" in pipeline.replies(question)[-1]


async def test_the_fallback_without_a_model_says_so_in_the_language_of_the_question(called: Open) -> None:
    pipeline = await called(rollout="fallback:100")
    cast("dict[Orchestrator, Any]", pipeline.services.orchestrators)[Orchestrator.FALLBACK] = CannedAnswer()
    question = await pipeline.mention("왜 멈추나요?")

    await pipeline.answered()

    assert "모델" in pipeline.replies(question)[-1]


async def test_the_sentence_of_a_fallback_without_a_model_counts_as_canned_and_not_as_an_answer(called: Open) -> None:
    pipeline = await called(rollout="fallback:100")
    cast("dict[Orchestrator, Any]", pipeline.services.orchestrators)[Orchestrator.FALLBACK] = CannedAnswer()
    await pipeline.mention("please")

    await pipeline.answered()

    registry = pipeline.services.metrics.registry
    ended = {
        status: registry.get_sample_value(
            "nubabel_executions_ended_total", {"orchestrator": "fallback", "status": status}
        )
        for status in ("canned", "completed")
    }
    assert await pipeline.statuses() == ["completed"]
    assert await verdicts(pipeline) == [("fallback", "canned")]
    assert ended == {"canned": 1.0, "completed": None}


async def test_what_is_asked_again_under_a_key_is_what_was_asked_before(called: Open) -> None:
    """Its own hold would bring the organization near its cap, and another category is another request."""
    pipeline = await called(rollout="delegate:100", budget_first_hold_usd=0.25)
    await pipeline.services.database.system().execute(
        """UPDATE organizations SET near_cap = 'economize', limits = '{"cost_per_day": 0.3}'"""
    )
    pipeline.services.tenants._organizations.clear()
    pipeline.scripted.answers = [UncertainError("lost")]
    await pipeline.mention("please")
    await pipeline.answered()
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")
    await pipeline.answered()

    first, again = pipeline.scripted.calls
    assert (first.key, first.category) == (again.key, again.category)


async def test_files_that_are_left_out_are_said_once_however_often_it_is_tried(called: Open) -> None:
    pipeline = await called()
    pipeline.scripted.answers = [UncertainError("lost"), UncertainError("lost")]
    question = await pipeline.mention("please")
    await pipeline.take_events()
    await pipeline.services.database.system().execute(
        """UPDATE executions SET attachments =
             '[{"name": "plan.pdf", "mime_type": "application/pdf", "size_bytes": 3, "url": "http://x"}]'"""
    )
    for _ in range(3):
        await pipeline.answered()
        await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")

    assert pipeline.replies(question)[-1].count("plan.pdf") == 1


async def test_an_erased_organizations_call_is_given_up(called: Open) -> None:
    pipeline = await called()
    pipeline.scripted.gate = asyncio.Event()
    await pipeline.mention("take your time")
    await pipeline.take_events()
    await pipeline.dispatch()
    await pipeline.called()

    await pipeline.services.database.system().execute("DELETE FROM executions")

    await pipeline.ended()


async def in_doubt_before(called: Open, *then: CallAnswer | NubabelError) -> CalledPipeline:
    """A request whose first call may still be at work somewhere, and may be made again now."""
    pipeline: CalledPipeline = await called(rollout="fallback:100")
    await set_caps(pipeline, cost_per_day=10)
    pipeline.scripted.answers = [UncertainError("the connection was lost"), *then]
    await pipeline.mention("please")
    await pipeline.answered()
    await again_now(pipeline)
    return pipeline


async def again_now(pipeline: CalledPipeline) -> None:
    await pipeline.services.database.system().execute("UPDATE executions SET not_before = now()")


async def used_at_least(pipeline: CalledPipeline) -> bool:
    """Whether what is counted says that it may have been more."""
    row = await pipeline.one("SELECT COALESCE(bool_or(lower_bound), false) AS at_least FROM usage")
    return bool(row["at_least"])


async def test_money_stays_held_for_a_call_in_doubt_although_the_next_one_does_not_get_through(called: Open) -> None:
    answer = CallAnswer("ok", usage=Usage(input_tokens=5), model="acme/fast")
    pipeline = await in_doubt_before(called, UnavailableError("down"), answer)

    await pipeline.answered()
    held = await pipeline.services.database.system().all("SELECT 1 AS one FROM budget_holds")
    await again_now(pipeline)
    await pipeline.answered()

    assert len(held) == 1
    assert await pipeline.statuses() == ["completed"]
    assert await used_at_least(pipeline)


async def test_a_request_that_is_refused_after_a_call_in_doubt_has_used_at_least_something(called: Open) -> None:
    pipeline = await in_doubt_before(called, CredentialsError("refused"))

    await pipeline.answered()

    assert await pipeline.statuses() == ["failed"]
    assert await used_at_least(pipeline)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("answer_by = now()", "failed"),
        ("cancel_requested_at = now(), cancel_reason = 'stopped'", "cancelled"),
    ],
)
async def test_a_queued_request_that_the_scheduler_ends_after_a_call_in_doubt_has_used_at_least_something(
    called: Open, change: str, status: str
) -> None:
    pipeline = await in_doubt_before(called)
    await pipeline.services.database.system().execute(f"UPDATE executions SET {change}")

    await pipeline.services.maintain.keep_deadlines()

    assert await pipeline.statuses() == [status]
    assert await used_at_least(pipeline)


async def test_a_queued_request_that_ends_before_its_first_call_has_used_nothing(called: Open) -> None:
    pipeline = await called()
    await pipeline.mention("please")
    await pipeline.take_events()
    await pipeline.services.database.system().execute("UPDATE executions SET answer_by = now()")

    await pipeline.services.maintain.keep_deadlines()

    assert await pipeline.statuses() == ["failed"]
    assert not await used_at_least(pipeline)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ("suspect = true, lone_deliveries = 99", "failed"),
        ("cancel_requested_at = now(), cancel_reason = 'stopped'", "cancelled"),
    ],
)
async def test_a_request_that_ends_before_its_next_call_has_used_at_least_something(
    called: Open, change: str, status: str
) -> None:
    pipeline = await in_doubt_before(called)
    await pipeline.services.database.system().execute(f"UPDATE executions SET {change}")

    await pipeline.answered()

    assert await pipeline.statuses() == [status]
    assert await used_at_least(pipeline)
