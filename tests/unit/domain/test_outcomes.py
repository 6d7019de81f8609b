"""Every way an execution can end has exactly one visible outcome."""

from dataclasses import replace

import pytest

from nubabel_workers.domain import outcomes
from nubabel_workers.domain.dead_letters import DeadLetterReason
from nubabel_workers.domain.executions import Status, Usage
from nubabel_workers.domain.notifications import NotificationKind, SlackTarget, WebhookTarget
from nubabel_workers.domain.ports import Finish
from nubabel_workers.domain.verdict import Delegation, Verdict, VerdictKind
from tests.unit.domain.test_placement import EXECUTION

IN_SLACK = replace(EXECUTION, reply=SlackTarget("wsp_1", "C1", "1.1", "1.2").as_dict())
ANSWER = Verdict(VerdictKind.SUCCEEDED, text="42", usage=Usage(output_tokens=1))


def told(finish: Finish) -> str:
    (notification,) = finish.notifications
    assert notification.kind is NotificationKind.OUTCOME
    return str(notification.payload["markdown"])


def failed(execution: object = IN_SLACK, **more: object) -> Finish:
    arguments = {"code": "boom", "detail": "secret detail", "reason": DeadLetterReason.PERMANENT_ERROR, **more}
    return outcomes.failed(execution, **arguments)  # type: ignore[arg-type]


def test_an_answer_is_told_as_it_is() -> None:
    finish = outcomes.answered(IN_SLACK, ANSWER, ())

    assert (finish.status, told(finish), finish.output) == (Status.COMPLETED, "42", "42")


def test_a_cut_answer_says_so_but_is_stored_as_it_came() -> None:
    finish = outcomes.answered(IN_SLACK, replace(ANSWER, cut=True), ())

    assert "length limit" in told(finish)
    assert finish.output == "42"
    assert finish.output_cut


@pytest.mark.parametrize(
    ("question", "note"),
    [
        ("why?", "The answer reached its length limit and is cut here."),
        ("왜?", "답변이 길이 제한에 도달해 여기서 잘렸습니다."),
    ],
)
def test_whoever_reads_the_notes_learns_that_the_answer_is_cut(question: str, note: str) -> None:
    upstream = replace(EXECUTION, prompt=question, reply=WebhookTarget("https://up.example/hook").as_dict())

    finish = outcomes.answered(upstream, replace(ANSWER, cut=True), ["Not read: a.bin."])

    assert finish.notes == [note, "Not read: a.bin."]
    assert finish.notifications[0].payload["data"]["notes"] == finish.notes
    assert finish.notifications[0].payload["data"]["output"] == "42"


def test_the_sentence_of_an_installation_without_a_model_is_marked_for_upstream_callers() -> None:
    upstream = replace(EXECUTION, reply=WebhookTarget("https://up.example/hook").as_dict())

    finish = outcomes.answered_by_nobody(upstream, Verdict(VerdictKind.SUCCEEDED, text="No model."), ())

    (note,) = finish.notifications[0].payload["data"]["notes"]
    assert note == "No model worked on this: the text is a fixed sentence, not an answer."
    assert finish.notes == [note]


def test_people_are_not_told_twice_that_there_is_no_model() -> None:
    finish = outcomes.answered_by_nobody(IN_SLACK, Verdict(VerdictKind.SUCCEEDED, text="No model."), ["Not read: a."])

    assert told(finish) == "No model.\n\n_Not read: a._"


def test_notes_stand_beside_the_answer() -> None:
    assert told(outcomes.answered(IN_SLACK, ANSWER, ["Not read: a.bin."])) == "42\n\n_Not read: a.bin._"


def test_a_failure_is_an_apology_with_a_reference_and_a_dead_letter() -> None:
    finish = failed()

    assert IN_SLACK.id in told(finish)
    assert "secret detail" not in told(finish)
    assert finish.dead_letter is not None
    assert "secret detail" in finish.dead_letter.error


def test_work_done_before_a_failure_is_shown() -> None:
    finish = failed(run=Verdict(VerdictKind.FAILED, partial_text="half of it"))

    assert "half of it" in told(finish)
    assert finish.output == "half of it"


def test_people_are_answered_in_their_language() -> None:
    assert "죄송합니다" in told(failed(replace(IN_SLACK, prompt="안녕하세요")))


@pytest.mark.parametrize(
    ("reason", "words"),
    [(outcomes.REPLACED, "replaced by your next message"), ("stopped in the thread", "as you asked")],
    ids=["interrupted", "stopped"],
)
def test_a_cancellation_is_confirmed(reason: str, words: str) -> None:
    finish = outcomes.cancelled(IN_SLACK, reason=reason)

    assert words in told(finish)
    assert finish.status is Status.CANCELLED
    assert finish.dead_letter is None


def test_upstream_hears_by_webhook() -> None:
    upstream = replace(EXECUTION, reply=WebhookTarget("https://example.com/hook").as_dict(), metadata={"ticket": 7})

    (notification,) = outcomes.answered(upstream, ANSWER, ()).notifications

    assert notification.kind is NotificationKind.WEBHOOK
    assert notification.payload["type"] == "execution.completed"
    assert notification.payload["data"]["output"] == "42"
    assert notification.payload["data"]["metadata"] == {"ticket": 7}


def test_a_webhook_about_a_failure_tells_the_reason_without_secrets_and_addresses() -> None:
    upstream = replace(EXECUTION, reply=WebhookTarget("https://example.com/hook").as_dict())
    detail = "APIError (status 400): http://opencode-1:4096/x refused sk-0123456789abcdefghij"

    finish = outcomes.failed(upstream, code="boom", detail=detail, reason=DeadLetterReason.PERMANENT_ERROR)
    (notification,) = finish.notifications

    error = notification.payload["data"]["error"]
    assert (error["code"], error["detail"]) == ("boom", "APIError (status 400): [address] refused [redacted]")
    assert "status 400" not in error["message"]


def test_text_that_no_database_can_hold_is_made_storable() -> None:
    finish = outcomes.answered(IN_SLACK, replace(ANSWER, text="a\x00b\ud800"), ())

    assert finish.output == "ab?"


def test_an_answer_says_whether_what_was_to_be_delegated_was() -> None:
    asked = replace(IN_SLACK, analysis={"category": "deep"})
    by_sub_agent = replace(ANSWER, delegations=(Delegation("ses_1", "deep"),))

    assert outcomes.answered(asked, ANSWER, ()).detail == {"delegated": False}
    assert outcomes.answered(asked, by_sub_agent, ()).detail == {"delegated": True}
    assert outcomes.answered(asked, by_sub_agent, ()).delegations == by_sub_agent.delegations
    assert outcomes.answered(IN_SLACK, ANSWER, ()).detail == {}
