"""The ledger of the chaos rig calls each request by its fate, and sees doubles, losses and wrong order."""

import pytest

from tests.faults.chaos.ledger import (
    Fate,
    Job,
    ModelRun,
    Saying,
    Told,
    Way,
    fates_of,
    order_violations,
    unexplained_reruns,
)


def job(number: int = 1, *, thread: str = "t", said_at: float = 0.0, accepted_at: float | None = 1.0) -> Job:
    return Job(number, thread, Way.EVENTS, said_at, accepted_at=accepted_at)


def told(saying: Saying = Saying.ANSWER, number: int | None = 1, *, at: float = 5.0) -> Told:
    return Told(at, saying, "t", number)


def fate_of(asked: Job, *said: Told) -> Fate:
    (found,) = fates_of([asked], said)
    return found.fate


@pytest.mark.parametrize(
    ("said", "fate"),
    [
        ([], Fate.LOST),
        ([told()], Fate.ONCE),
        ([told(), told()], Fate.TWICE),
        ([told(), told(Saying.REPEAT)], Fate.ONCE),
        ([told(Saying.REPEAT)], Fate.ONCE),
        ([told(Saying.APOLOGY, None)], Fate.APOLOGISED),
        ([told(), told(Saying.APOLOGY, None)], Fate.TWICE),
        ([told(Saying.REFUSAL, None)], Fate.REFUSED),
        ([told(Saying.NOTICE, None)], Fate.LOST),
        ([told(Saying.NOTICE, None), told()], Fate.ONCE),
    ],
)
def test_the_fate_follows_from_what_was_told(said: list[Told], fate: Fate) -> None:
    assert fate_of(job(), *said) is fate


def test_a_request_that_nobody_acknowledged_is_not_lost_but_was_never_accepted() -> None:
    assert fate_of(job(accepted_at=None)) is Fate.NEVER_ACCEPTED


def test_an_answer_counts_also_where_its_acceptance_was_never_seen() -> None:
    assert fate_of(job(accepted_at=None), told()) is Fate.ONCE


def test_a_request_that_somebody_still_works_on_is_stuck() -> None:
    waiting = job()
    waiting.working = True

    assert fate_of(waiting) is Fate.STUCK


def test_silence_is_right_where_nothing_can_be_told() -> None:
    archived = job()
    archived.tellable = False

    assert fate_of(archived) is Fate.UNTELLABLE


def test_two_executions_for_one_key_are_a_double() -> None:
    asked = job()
    asked.execution_ids = {"exe_1", "exe_2"}

    assert fate_of(asked, told()) is Fate.TWICE


def test_a_marked_repeat_is_counted_apart() -> None:
    (fate,) = fates_of([job()], [told(), told(Saying.REPEAT)])

    assert fate.repeats == 1


def test_an_apology_belongs_to_the_request_that_waits_for_an_outcome() -> None:
    fates = fates_of([job(1), job(2, said_at=2)], [told(number=1), told(Saying.APOLOGY, None)])

    assert [one.fate for one in fates] == [Fate.ONCE, Fate.APOLOGISED]


def test_a_follow_up_that_is_answered_first_violates_the_order() -> None:
    fates = fates_of([job(1), job(2, said_at=2)], [told(number=1, at=6), told(number=2, at=5)])

    assert order_violations(fates, {}) == [(1, 2)]


def test_a_follow_up_that_is_refused_is_told_so_at_once() -> None:
    fates = fates_of([job(1), job(2, said_at=2)], [told(number=1, at=6), told(Saying.REFUSAL, 2, at=3)])

    assert order_violations(fates, {}) == []


def test_a_follow_up_whose_run_overtakes_violates_the_order() -> None:
    fates = fates_of([job(1), job(2, said_at=2)], [told(number=1, at=6), told(number=2, at=7)])
    runs = {1: [ModelRun(1, 4, 5, answered=True)], 2: [ModelRun(2, 3, 4, answered=True)]}

    assert order_violations(fates, runs) == [(1, 2)]


def test_webhooks_may_arrive_in_any_order() -> None:
    asked = [Job(number, "t", Way.WEBHOOK, number, accepted_at=number + 0.5) for number in (1, 2)]
    fates = fates_of(asked, [told(number=1, at=6), told(number=2, at=5)])

    assert order_violations(fates, {}) == []


def test_what_was_accepted_after_its_successor_was_asked_may_come_later() -> None:
    fates = fates_of([job(1, accepted_at=3), job(2, said_at=2)], [told(number=1, at=6), told(number=2, at=5)])

    assert order_violations(fates, {}) == []


def test_a_second_run_after_an_answer_is_unexplained_unless_the_server_lost_it() -> None:
    runs = {1: [ModelRun(1, 4, 5, answered=True), ModelRun(1, 8, 9, answered=True)]}

    assert unexplained_reruns(runs, wipes=[]) == [1]
    assert unexplained_reruns(runs, wipes=[6.0]) == []


def test_a_second_run_after_a_failed_one_is_explained() -> None:
    runs = {1: [ModelRun(1, 4, 5, answered=False), ModelRun(1, 8, 9, answered=True)]}

    assert unexplained_reruns(runs, wipes=[]) == []
