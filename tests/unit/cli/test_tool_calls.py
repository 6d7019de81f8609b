"""nubabel tool-calls."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

from nubabel_workers.domain.administration import AuditAction, ToolCallDetails, ToolCallFilter, ToolCallSummary
from nubabel_workers.domain.ids import ExecutionId, OrganizationId, SessionId
from nubabel_workers.domain.tool_calls import UNKNOWN_OUTCOME, CallStatus
from tests.fakes.clock import START
from tests.unit.cli.bench import ACME, Bench, fails_with

CALL = ToolCallSummary(
    id="tc_1",
    organization_id=ACME.id,
    execution_id=ExecutionId("exe_1"),
    session_id=SessionId("ses_1"),
    opencode_session_id="ses_oc",
    provider="notion",
    tool="create_page",
    status=CallStatus.SUCCEEDED,
    tries=1,
    repeatable=False,
    started_at=START - timedelta(minutes=5),
    ended_at=START - timedelta(minutes=5) + timedelta(seconds=2),
    error_code=None,
)


def put(bench: Bench, call: ToolCallSummary = CALL, **kept: Any) -> None:
    details = ToolCallDetails(
        call=call,
        connection_id="mcp_1",
        opencode_call_id="call_7",
        opencode_message_id="msg_1",
        arguments={"title": "Budget", "token": "[redacted]"},
        result={"text": "page 42\x1b[2J", "structured": {"id": 42}},
        error=None,
        altered=False,
    )
    bench.tool_calls.rows[call.id] = replace(details, **kept)


def test_calls_are_listed_without_what_went_in_and_came_out(bench: Bench) -> None:
    put(bench)

    result = bench.type("tool-calls", "list")

    for words in ("tc_1", "succeeded", "notion", "create_page", "exe_1", "5 min 0 s ago", "2.00 s"):
        assert words in result.stdout
    assert "Budget" not in result.stdout
    assert "page 42" not in result.stdout
    assert "Budget" not in str(bench.json("tool-calls", "list"))


def test_nothing_called_is_one_sentence(bench: Bench) -> None:
    assert bench.type("tool-calls", "list").stdout == "no tool calls\n"


def test_calls_of_other_organizations_are_left_out(bench: Bench) -> None:
    put(bench)
    put(bench, replace(CALL, id="tc_2", organization_id=OrganizationId("org_other")))

    listed = bench.json("tool-calls", "list", "--org", "Acme")

    assert [one["id"] for one in listed] == ["tc_1"]


def test_choices_reach_the_ledger(bench: Bench) -> None:
    choices = ("--execution", "exe_1", "--session", "ses_1", "--provider", "notion", "--tool", "search")

    bench.type("tool-calls", "list", *choices, "--status", "unknown", "--status", "failed")

    states = frozenset({CallStatus.UNKNOWN, CallStatus.FAILED})
    assert bench.tool_calls.asked == [ToolCallFilter(None, "exe_1", "ses_1", "notion", "search", states)]


def test_a_call_is_shown_as_it_is_kept(bench: Bench) -> None:
    put(bench, altered=True)

    result = bench.type("tool-calls", "show", "tc_1")

    for words in (
        "tc_1  succeeded  2.00 s",
        "mcp_1",
        "call_7",
        '"title": "Budget"',
        '"token": "[redacted]"',
        "Result, less than what came",
        "page 42·[2J",
        '"id": 42',
    ):
        assert words in result.stdout
    assert "nubabel executions show exe_1" in result.stderr


def test_a_call_of_unknown_outcome_says_what_that_means(bench: Bench) -> None:
    unknown = replace(CALL, status=CallStatus.UNKNOWN, error_code=UNKNOWN_OUTCOME.code)
    put(bench, unknown, result=None, error=UNKNOWN_OUTCOME)

    shown = bench.type("tool-calls", "show", "tc_1").stdout

    assert "tc_1  unknown" in shown
    assert "outcome_unknown: Nobody knows whether this call took effect" in shown
    assert "Result" not in shown


def test_json_holds_all_that_is_kept(bench: Bench) -> None:
    put(bench)

    found = bench.json("tool-calls", "show", "tc_1")

    assert found["call"]["status"] == "succeeded"
    assert found["arguments"] == {"title": "Budget", "token": "[redacted]"}
    assert found["result"]["structured"] == {"id": 42}


def test_looking_at_a_call_is_audited(bench: Bench) -> None:
    put(bench)

    bench.type("tool-calls", "show", "tc_1")

    (entry,) = bench.audit.entries
    assert (entry.actor, entry.action, entry.organization_id, entry.subject) == (
        "cli:anna",
        AuditAction.TOOL_CALL_SHOWN,
        ACME.id,
        "tc_1",
    )


def test_an_unknown_call_is_bad_input(bench: Bench) -> None:
    fails_with(bench.type("tool-calls", "show", "tc_none"), 2, "nubabel tool-calls list")
