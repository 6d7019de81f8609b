"""Ids, stored outcomes and what is shown of a tool call."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from nubabel_workers.domain.ids import ExecutionId, OrganizationId, ToolConnectionId
from nubabel_workers.domain.redaction import CUT, MASK
from nubabel_workers.domain.tool_calls import (
    MAX_STORED_CHARS,
    NOTE_STORED,
    CallStatus,
    ToolCallEnd,
    ToolCallError,
    ToolCallRecord,
    ToolRequest,
    ToolResult,
    ended,
    fingerprint,
    shown,
    told_again,
    tool_call_id,
)

REQUEST = ToolRequest(OrganizationId("org_a"), ExecutionId("exe_a"), "ses_a", "call_a", "search", {"q": "x"})


def record(end: ToolCallEnd) -> ToolCallRecord:
    return ToolCallRecord(
        "tc_1",
        OrganizationId("org_a"),
        ExecutionId("exe_a"),
        "ses_a",
        "call_a",
        ToolConnectionId("con_1"),
        "notion",
        "search",
        "f",
        False,
        end.status,
        1,
        datetime.now(UTC),
        result=end.result,
        error=end.error,
        altered=end.altered,
    )


def test_a_repeat_has_the_id_of_the_call() -> None:
    assert tool_call_id(REQUEST) == tool_call_id(replace(REQUEST, arguments={"q": "y"}))


@pytest.mark.parametrize(
    "change",
    [
        {"organization_id": "org_b"},
        {"execution_id": "exe_b"},
        {"opencode_session_id": "ses_b"},
        {"call_id": "call_b"},
        {"message_id": "msg_2"},
        {"opencode_session_id": "ses_a\x00", "call_id": "call_a"},
    ],
)
def test_another_call_has_another_id(change: dict[str, Any]) -> None:
    assert tool_call_id(replace(REQUEST, **change)) != tool_call_id(REQUEST)


@pytest.mark.parametrize("change", [{"arguments": {"q": "y"}}, {"tool_name": "find"}, {"provider": "linear"}])
def test_another_call_under_the_same_id_is_told_apart(change: dict[str, Any]) -> None:
    assert fingerprint(replace(REQUEST, **change)) != fingerprint(REQUEST)


def test_a_result_that_is_stored_whole_is_told_again_as_it_was() -> None:
    told = told_again(record(ended(ToolResult("found 3", {"count": 3}))))

    assert (told.ok, told.content, told.structured) == (True, "found 3", {"count": 3})


def test_a_result_that_was_shortened_says_so_when_it_is_told_again() -> None:
    told = told_again(record(ended(ToolResult("a" * (MAX_STORED_CHARS + 1)))))

    assert told.content.endswith(CUT + NOTE_STORED)


def test_a_tool_that_failed_failed_again() -> None:
    told = told_again(record(ended(ToolResult("no such page", is_error=True))))

    assert told.error == ToolCallError("tool_error", "no such page")


def test_an_unknown_outcome_is_told_as_unknown() -> None:
    told = told_again(record(ToolCallEnd(CallStatus.UNKNOWN)))

    assert told.error is not None
    assert told.error.code == "outcome_unknown"


def test_the_credentials_of_the_call_are_in_nothing_that_is_shown() -> None:
    answer = shown(
        ToolResult("key opensesame", {"you": {"sent": "opensesame"}}), frozenset({"opensesame"}), max_chars=99
    )

    assert (answer.text, answer.structured) == (f"key {MASK}", {"you": {"sent": MASK}})


def test_a_long_answer_is_cut_and_its_structure_left_out() -> None:
    answer = shown(ToolResult("a" * 50, {"text": "a" * 50}), frozenset(), max_chars=20)

    assert (answer.text, answer.structured) == ("a" * 20 + CUT, None)
