"""The old sidecar's form."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from nubabel_workers.domain import outcomes
from nubabel_workers.domain.executions import Execution, Status
from nubabel_workers.domain.ids import ExecutionId, NotificationId, OrganizationId, SessionId
from nubabel_workers.domain.notifications import CallbacksTarget, Notification, NotificationKind
from nubabel_workers.domain.ports import Conversation, LastRun
from nubabel_workers.domain.sidecar import (
    SidecarDelegation,
    callback_body,
    callers_name,
    key_of_repeat,
    metadata_of,
    session_view,
)
from nubabel_workers.domain.verdict import Verdict, VerdictKind

AT = datetime(2026, 1, 27, 10, 0, 0, 5000, tzinfo=UTC)
EXECUTION = Execution(
    ExecutionId("exe_1"),
    OrganizationId("org_1"),
    SessionId("ses_own"),
    "api",
    Status.RUNNING,
    "Summarize",
    AT,
    session_key="api:ses_123",
    opencode_session_id="oc_abc",
)
RUN = LastRun("anthropic/claude-sonnet-4-5", "oc_abc")
TARGET = CallbacksTarget("https://a.example/update", "https://a.example/progress")


def told(kind: NotificationKind, payload: dict[str, Any]) -> Notification:
    return Notification(
        NotificationId("ntf_1"), EXECUTION.organization_id, EXECUTION.id, kind, TARGET.as_dict(), payload, 0, AT
    )


def test_a_caller_finds_its_own_name_and_the_model_without_its_provider() -> None:
    assert metadata_of(EXECUTION, RUN).model_dump(by_alias=True, exclude_none=True) == {
        "model": "claude-sonnet-4-5",
        "opencodeSessionId": "oc_abc",
        "nubabelSessionId": "ses_123",
    }
    assert metadata_of(EXECUTION, LastRun()).model == "unknown"


def test_a_conversation_that_nobody_named_has_our_id() -> None:
    assert callers_name("once:key_1", "ses_own") == "ses_own"
    assert callers_name("slack:wsp_1:C1:1.2", "ses_own") == "ses_own"


def test_a_session_is_idle_when_its_last_execution_is_over() -> None:
    answered = replace(EXECUTION, status=Status.COMPLETED, output="Five tasks.")

    busy, idle = session_view(EXECUTION, RUN), session_view(answered, RUN)

    assert (busy.state, busy.result, busy.status) == ("busy", None, "running")
    assert (idle.state, idle.result, idle.status) == ("idle", "Five tasks.", "success")


def test_the_same_words_are_the_same_request_until_the_conversation_has_gone_on() -> None:
    content = {"session": "ses_123", "prompt": "Summarize"}
    begun = Conversation("ses_own", "api:ses_123", "exe_1")

    first, again = key_of_repeat(content, None), key_of_repeat(content, begun)

    assert first == again
    assert key_of_repeat(content, replace(begun, last_ended_id="exe_1")) != first
    assert key_of_repeat({**content, "prompt": "Else"}, begun) != first


def test_a_skill_that_needs_no_loading_is_left_out() -> None:
    body = {"category": "quick", "prompt": "x", "session_id": "s", "load_skills": ["mcp-integration", "debugging"]}

    assert SidecarDelegation.model_validate(body).skills() == ["debugging"]


def test_the_end_is_told_as_the_sidecar_told_it() -> None:
    execution = replace(EXECUTION, reply=TARGET.as_dict())
    answer = Verdict(VerdictKind.SUCCEEDED, text="Five tasks.")

    (notification,) = outcomes.answered(execution, answer, ()).notifications

    assert callback_body(told(notification.kind, dict(notification.payload)), now=AT) == {
        "state": {"opencodeSessionId": "oc_abc", "status": "completed"},
        "metadata": {"completedAt": "2026-01-27T10:00:00.005Z"},
    }


def test_who_gave_no_address_for_it_is_told_no_end() -> None:
    execution = replace(EXECUTION, reply=CallbacksTarget(None, "https://a.example/progress").as_dict())

    assert outcomes.answered(execution, Verdict(VerdictKind.SUCCEEDED, text="x"), ()).notifications == []


def test_progress_is_told_as_the_sidecar_told_it() -> None:
    assert callback_body(told(NotificationKind.PROGRESS, {"text": "Processing..."}), now=AT) == {
        "progress": {
            "type": "message_updated",
            "data": {"text": "Processing..."},
            "timestamp": "2026-01-27T10:00:00.005Z",
        }
    }
