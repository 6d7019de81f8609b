"""Dead letters brought back: the right rows, once, at their pace, and the thread that waits is told."""

import asyncio

import pytest

from nubabel_workers.bootstrap import manage_dead_letters
from nubabel_workers.domain.dead_letters import DeadLetterFilter, DeadLetterReason, ReplayOutcome
from nubabel_workers.domain.errors import PermanentError
from nubabel_workers.simulators.slack.faults import Fault, FaultKind
from nubabel_workers.simulators.slack.model import Message
from tests.integration.pipeline.conftest import Pipeline

pytestmark = pytest.mark.integration

REFUSED = "[[status=400]] [[times=1]] [[text=better now]]"


async def failed(pipeline: Pipeline, text: str = "") -> tuple[Message, str]:
    """A question that the model refused, and its dead letter; the next try succeeds."""
    question = await pipeline.mention(f"{REFUSED} {text}")
    await pipeline.answer_everything()
    letter = await pipeline.one("SELECT id FROM dead_letters ORDER BY id DESC")
    return question, str(letter["id"])


@pytest.mark.parametrize(
    ("text", "notice"),
    [("hello", "Your request is being tried again"), ("안녕하세요", "요청을 다시 처리하고 있습니다")],
)
async def test_the_thread_is_told_in_its_language_and_then_answered(pipeline: Pipeline, text: str, notice: str) -> None:
    question, letter = await failed(pipeline, text)

    replayed = await pipeline.replay(letter)
    await pipeline.deliver()
    await pipeline.answer_everything()

    assert replayed.outcome is ReplayOutcome.REPLAYED
    _apology, told, answer = pipeline.replies(question)
    assert notice in told
    assert answer == "better now"


async def test_two_replays_at_once_are_one(pipeline: Pipeline) -> None:
    question, letter = await failed(pipeline)

    outcomes = await asyncio.gather(*(pipeline.replay(letter) for _ in range(4)))
    await pipeline.deliver()
    await pipeline.answer_everything()

    assert sorted(one.outcome for one in outcomes) == ["nothing_to_do"] * 3 + ["replayed"]
    assert len(pipeline.replies(question)) == 3
    entries = await pipeline.one("SELECT count(*) AS n FROM audit_log WHERE action = 'dead_letter.replayed'")
    assert entries == {"n": 1}


async def test_what_was_answered_meanwhile_is_not_run_again(pipeline: Pipeline) -> None:
    question, letter = await failed(pipeline)
    await pipeline.replay(letter)
    await pipeline.deliver()
    await pipeline.answer_everything()
    await pipeline.services.database.system().execute("UPDATE dead_letters SET status = 'open'")  # as if by hand

    again = await pipeline.replay(letter)
    await pipeline.answer_everything()

    assert again.outcome is ReplayOutcome.NOTHING_TO_DO
    assert "completed" in again.words
    assert len(pipeline.replies(question)) == 3
    settled = await pipeline.one("SELECT status, note FROM dead_letters")
    assert settled["status"] == "discarded"
    assert "had not failed any more" in str(settled["note"])


async def test_a_pace_is_kept_by_the_rows_themselves(pipeline: Pipeline) -> None:
    for number in range(3):
        await failed(pipeline, str(number))
    service = manage_dead_letters(pipeline.services)

    report = await service.replay_matching(
        DeadLetterFilter(reason=DeadLetterReason.PERMANENT_ERROR, cause="model_error"),
        limit=10,
        pace_per_s=0.01,
        dry_run=False,
        actor="tests",
    )

    assert (report.replayed, report.takes_s) == (3, 200)
    turns = await pipeline.services.database.system().all(
        """SELECT round(extract(epoch FROM not_before - now()) / 100)::int AS turn,
                  answer_by - not_before > interval '59 minutes' AS patient
           FROM executions ORDER BY position"""
    )
    assert [(row["turn"], row["patient"]) for row in turns] == [(0, True), (1, True), (2, True)]
    assert await pipeline.dispatch() == f"1 dispatched {(await oldest_execution(pipeline))}"
    told = await pipeline.one("SELECT count(*) AS n FROM notifications WHERE kind = 'notice' AND not_before <= now()")
    assert told == {"n": 1}


@pytest.mark.parametrize("busy_policy", ["queue", "interrupt", "reject"])
async def test_a_thread_goes_on_while_its_replay_waits_for_its_turn(pipeline: Pipeline, busy_policy: str) -> None:
    await failed(pipeline)
    question, _ = await failed(pipeline)
    await pipeline.services.database.system().execute(f"UPDATE organizations SET busy_policy = '{busy_policy}'")
    await manage_dead_letters(pipeline.services).replay_matching(
        DeadLetterFilter(cause="model_error"), limit=2, pace_per_s=0.001, dry_run=False, actor="tests"
    )

    await pipeline.mention("what about Tuesday", thread_ts=question.ts)
    await pipeline.answer_everything()

    assert "what about Tuesday" in pipeline.replies(question)[-1]
    assert await pipeline.statuses() == ["completed", "queued", "completed"]


async def oldest_execution(pipeline: Pipeline) -> object:
    return (await pipeline.one("SELECT id FROM executions ORDER BY position LIMIT 1"))["id"]


async def test_patience_does_not_grow_from_replay_to_replay(pipeline: Pipeline) -> None:
    question = await pipeline.mention("[[status=400]] always")
    await pipeline.answer_everything()
    await pipeline.services.database.system().execute(
        "UPDATE executions SET created_at = created_at - interval '10 days', answer_by = answer_by - interval '1 day'"
    )
    await pipeline.replay(str((await pipeline.one("SELECT id FROM dead_letters"))["id"]))

    left = await pipeline.one("SELECT answer_by < now() + interval '61 minutes' AS short FROM executions")

    assert left == {"short": True}
    assert await pipeline.services.maintenance.late(after_s=90) == []  # it was told already
    assert len(pipeline.replies(question)) == 1


async def test_an_event_that_failed_is_told_and_answered(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise PermanentError("no", code="refused")

    with monkeypatch.context() as broken:
        broken.setattr(pipeline.services.executions, "accept", refuse)
        question = await pipeline.mention("hello")
        await pipeline.take_events()
    await pipeline.deliver()

    await pipeline.replay(str((await pipeline.one("SELECT id FROM dead_letters"))["id"]))
    await pipeline.deliver()
    await pipeline.answer_everything()

    apology, notice, answer = pipeline.replies(question)
    assert "could not finish" in apology
    assert "tried again" in notice
    assert "hello" in answer


async def test_one_is_shown_with_what_happened_before(pipeline: Pipeline) -> None:
    _question, letter = await failed(pipeline, "hello")
    await pipeline.replay(letter)

    history = await manage_dead_letters(pipeline.services).show(letter, actor="tests")

    assert history.subject_status == "queued"
    assert history.subject is not None
    assert "hello" in history.subject["prompt"]
    assert [event.kind.value for event in history.timeline][-2:] == ["delivered", "replayed"]
    assert [(one.number, one.verdict) for one in history.attempts] == [(1, "model_error")]


async def test_an_answer_that_could_not_be_told_shows_the_run_behind_it(pipeline: Pipeline) -> None:
    await pipeline.mention("hello")
    await pipeline.take_events()
    await pipeline.deliver()
    await pipeline.dispatch()
    await pipeline.run_ends()
    await pipeline.complete()
    pipeline.slack.faults.plan(Fault("chat.postMessage", FaultKind.ERROR, code="is_archived"))
    await pipeline.deliver()
    letter = await pipeline.one("SELECT id FROM dead_letters")

    history = await manage_dead_letters(pipeline.services).show(str(letter["id"]), actor="tests")

    assert history.letter.cause == "is_archived"
    assert history.subject is not None
    assert history.subject["kind"] == "outcome"
    assert history.timeline[-1].kind == "delivery_failed"


async def test_groups_count_causes_and_organizations(pipeline: Pipeline) -> None:
    for number in range(2):
        await failed(pipeline, str(number))

    (group,) = await manage_dead_letters(pipeline.services).groups()

    assert (group.reason, group.cause) == (DeadLetterReason.PERMANENT_ERROR, "model_error")
    assert (group.count, group.raw) == (2, 0)
    assert group.organization_ids == ("org_pipeline",)
    assert group.oldest < group.newest


async def test_discarding_by_filter_is_audited_for_each(pipeline: Pipeline) -> None:
    for number in range(2):
        await failed(pipeline, str(number))

    report = await manage_dead_letters(pipeline.services).discard_matching(
        DeadLetterFilter(queue="orchestration"), note="load test", limit=10, dry_run=False, actor="operator:night"
    )

    assert report.discarded == 2
    rows = await pipeline.services.database.system().all(
        "SELECT actor, detail FROM audit_log WHERE action = 'dead_letter.discarded'"
    )
    assert [(row["actor"], row["detail"]) for row in rows] == [("operator:night", {"reason": "load test"})] * 2
