"""When a group of executions is over, what its state is then, and when its rest has to stop."""

from dataclasses import replace
from datetime import UTC, datetime

import orjson
import pytest

from nubabel_workers.domain.executions import ExecutionError, Status
from nubabel_workers.domain.groups import (
    MAX_REPLY_BYTES,
    STOPPED_WITH_THE_REST,
    ExecutionGroup,
    GroupItem,
    GroupState,
    OnFailure,
    combined_reply,
    reason_to_stop,
    state_at_the_end,
)
from nubabel_workers.domain.ids import OrganizationId

DONE, FAILED, REJECTED, CANCELLED = Status.COMPLETED, Status.FAILED, Status.REJECTED, Status.CANCELLED


def group(*statuses: Status, on_failure: OnFailure = OnFailure.REPORT, cancelled: bool = False) -> ExecutionGroup:
    items = [GroupItem(f"exe_{number}", "ses_1", status) for number, status in enumerate(statuses)]
    reason = "enough" if cancelled else None
    now = datetime(2026, 11, 27, tzinfo=UTC)
    return ExecutionGroup("bat_1", OrganizationId("org_1"), GroupState.RUNNING, on_failure, now, None, reason, items)


def answering(*outputs: str | None) -> ExecutionGroup:
    return replace(group(), items=[GroupItem(f"exe_{n}", "ses_1", DONE, text) for n, text in enumerate(outputs)])


@pytest.mark.parametrize(
    ("ended", "state"),
    [
        (group(DONE, DONE), GroupState.COMPLETED),
        (group(DONE, FAILED), GroupState.COMPLETED_WITH_FAILURES),
        (group(DONE, REJECTED), GroupState.COMPLETED_WITH_FAILURES),
        (group(DONE, CANCELLED), GroupState.COMPLETED_WITH_FAILURES),
        (group(DONE, CANCELLED, cancelled=True), GroupState.CANCELLED),
        (group(DONE, DONE, cancelled=True), GroupState.COMPLETED),
        (group(DONE, FAILED, cancelled=True), GroupState.COMPLETED_WITH_FAILURES),
    ],
)
def test_its_state_says_what_became_of_all(ended: ExecutionGroup, state: GroupState) -> None:
    assert ended.is_over
    assert state_at_the_end(ended) is state


@pytest.mark.parametrize("status", [Status.QUEUED, Status.RUNNING, Status.WAITING_BUDGET])
def test_it_is_not_over_while_one_of_it_is_open(status: Status) -> None:
    assert not group(DONE, status).is_over


@pytest.mark.parametrize(
    ("standing", "reason"),
    [
        (group(FAILED, Status.RUNNING), None),
        (group(DONE, Status.RUNNING, on_failure=OnFailure.CANCEL_REST), None),
        (group(CANCELLED, Status.RUNNING, on_failure=OnFailure.CANCEL_REST), None),
        (group(FAILED, Status.RUNNING, on_failure=OnFailure.CANCEL_REST), STOPPED_WITH_THE_REST),
        (group(REJECTED, Status.QUEUED, on_failure=OnFailure.CANCEL_REST), STOPPED_WITH_THE_REST),
        (group(FAILED, DONE, on_failure=OnFailure.CANCEL_REST), None),
        (group(DONE, Status.RUNNING, cancelled=True), "enough"),
    ],
)
def test_the_rest_stops_by_the_callers_wish_only(standing: ExecutionGroup, reason: str | None) -> None:
    assert reason_to_stop(standing) == reason


def test_the_reply_tells_each_outcome_in_its_order_and_the_reason_of_a_failure() -> None:
    failed = GroupItem("exe_0", "ses_1", FAILED, error=ExecutionError("failed", "Sorry.", "APIError (status 400)"))
    done = GroupItem("exe_1", "ses_2", DONE, output="Two.", metadata={"order": "4711"})

    reply = combined_reply(replace(group(), items=[failed, done]), GroupState.COMPLETED_WITH_FAILURES)

    assert reply["type"] == "batch.completed_with_failures"
    first, second = reply["data"]["outcomes"]
    error = {"code": "failed", "message": "Sorry.", "detail": "APIError (status 400)"}
    assert (first["execution_id"], first["error"]) == ("exe_0", error)
    assert (second["output"], second["error"], second["metadata"]) == ("Two.", None, {"order": "4711"})
    assert [first["truncated"], second["truncated"]] == [False, False]


@pytest.mark.parametrize("letter", ["x", "가", '"', "\n", "\x01", "😀"])
def test_a_reply_that_is_too_large_cuts_the_longest_outputs_alike_and_fits(letter: str) -> None:
    outputs = ["short", letter * 900_000, letter * 600_000, None]

    reply = combined_reply(answering(*outputs), GroupState.COMPLETED)

    short, first, second, none = reply["data"]["outcomes"]
    assert (short["output"], short["truncated"], none["output"], none["truncated"]) == ("short", False, None, False)
    assert (first["output"], first["truncated"]) == (second["output"], second["truncated"])
    assert first["truncated"]
    assert set(first["output"]) == {letter}
    assert MAX_REPLY_BYTES - 100 < len(orjson.dumps(reply)) <= MAX_REPLY_BYTES


def test_a_reply_that_just_fits_is_not_cut() -> None:
    empty = len(orjson.dumps(combined_reply(answering(""), GroupState.COMPLETED)))
    just_fits = "x" * (MAX_REPLY_BYTES - empty)

    whole = combined_reply(answering(just_fits), GroupState.COMPLETED)
    cut = combined_reply(answering(just_fits + "x"), GroupState.COMPLETED)

    assert (whole["data"]["outcomes"][0]["output"], whole["data"]["outcomes"][0]["truncated"]) == (just_fits, False)
    # "true" is a byte shorter than "false", which the reckoning leaves aside.
    assert (cut["data"]["outcomes"][0]["output"], cut["data"]["outcomes"][0]["truncated"]) == (just_fits, True)


def test_many_large_metadata_leave_no_room_and_are_still_told_whole() -> None:
    items = [GroupItem(f"exe_{n}", "ses_1", DONE, output="x" * 100, metadata={"m": "y" * 16_000}) for n in range(80)]

    outcomes = combined_reply(replace(group(), items=items), GroupState.COMPLETED)["data"]["outcomes"]

    assert {(one["output"], one["truncated"], len(one["metadata"]["m"])) for one in outcomes} == {("", True, 16_000)}
