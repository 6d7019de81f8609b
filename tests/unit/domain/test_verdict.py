"""What became of a run: one table row per situation that was seen on a real server."""

from dataclasses import replace

import pytest

from nubabel_workers.domain.executions import Usage
from nubabel_workers.domain.verdict import (
    BUSY,
    IDLE,
    Delegation,
    PartKind,
    Role,
    RunError,
    RunMessage,
    RunPart,
    SessionActivity,
    SessionState,
    Verdict,
    VerdictKind,
    decide,
    with_sub_agents,
)

MINE = "msg_mine"
RETRYING = SessionState(SessionActivity.RETRY, retry_attempt=3, next_retry_ms=1)
ABORTED = RunError("MessageAbortedError", "Aborted")
UNAUTHORIZED = RunError("APIError", "stub error 401", status_code=401)
OVERLOADED = RunError("APIError", "stub error 503", status_code=503, retryable=True)


def text(value: str, *, synthetic: bool = False) -> RunPart:
    return RunPart(PartKind.TEXT, text=value, synthetic=synthetic)


def tool(status: str) -> RunPart:
    return RunPart(PartKind.TOOL, tool="bash", tool_status=status)


def user(message_id: str = MINE, *parts: RunPart) -> RunMessage:
    return RunMessage(message_id, Role.USER, parts=parts or (text("a question"),))


def assistant(message_id: str = "msg_a1", *parts: RunPart, finish: str | None = "stop") -> RunMessage:
    return RunMessage(
        message_id,
        Role.ASSISTANT,
        parent_id=MINE,
        completed=True,
        finish=finish,
        parts=parts,
        usage=Usage(input_tokens=11, output_tokens=3, cost=0.5),
        model="stub/echo",
    )


ANSWER = assistant("msg_a1", text("the answer "))
OPEN = replace(assistant("msg_open", text("so far")), completed=False, finish=None)
TOOL_STEP = assistant("msg_tool", tool("completed"), finish="tool-calls")
REJECTED_STEP = assistant("msg_tool", tool("error"), finish="tool-calls")
BROKEN_STREAM = assistant("msg_broken", text("half an ans"), finish="unknown")
COMPACTION = user("msg_compaction", RunPart(PartKind.COMPACTION))
SUMMARY = replace(assistant("msg_summary", text("what happened so far")), summary=True)
OPEN_SUMMARY = replace(SUMMARY, completed=False, finish=None)
CONTINUE = user("msg_continue", text("Continue if you have next steps", synthetic=True))
AFTER_COMPACTION = replace(assistant("msg_a2", text("the answer after it")), parent_id="msg_continue")
OVERFLOWN = assistant("msg_overflown", finish=None)
REMINDER = user("msg_reminder", text("<system-reminder> [BACKGROUND TASK COMPLETED]"))
FOLLOW_UP = user("msg_next", text("another question"))


def decided(
    *messages: RunMessage,
    state: SessionState = IDLE,
    settled: bool = True,
    known: frozenset[str] = frozenset(),
    own: frozenset[str] = frozenset(),
) -> Verdict:
    return decide(
        messages,
        my_message_id=MINE,
        state=state,
        settled=settled,
        known_assistant_ids=known,
        own_message_ids=own,
    )


KINDS: dict[str, tuple[tuple[RunMessage, ...], SessionState, VerdictKind]] = {
    "nothing of it on the server": ((), IDLE, VerdictKind.NOT_SUBMITTED),
    "only other messages on the server": ((user("msg_old"), ANSWER), IDLE, VerdictKind.NOT_SUBMITTED),
    "answered and idle": ((user(), ANSWER), IDLE, VerdictKind.SUCCEEDED),
    "answered after a tool step": ((user(), TOOL_STEP, ANSWER), IDLE, VerdictKind.SUCCEEDED),
    "answered after a broken stream": ((user(), BROKEN_STREAM, ANSWER), IDLE, VerdictKind.SUCCEEDED),
    "answered but still busy": ((user(), ANSWER), BUSY, VerdictKind.RUNNING),
    "no step begun yet": ((user(),), BUSY, VerdictKind.RUNNING),
    "first step open": ((user(), OPEN), BUSY, VerdictKind.RUNNING),
    "between two steps": ((user(), TOOL_STEP), BUSY, VerdictKind.RUNNING),
    "the model is being retried": ((user(), OPEN), RETRYING, VerdictKind.RUNNING),
    "no step and idle": ((user(),), IDLE, VerdictKind.RESUBMIT),
    "step open and idle": ((user(), OPEN), IDLE, VerdictKind.RESUBMIT),
    "tool step went well, nothing follows": ((user(), TOOL_STEP), IDLE, VerdictKind.RESUBMIT),
    "broken stream, nothing follows": ((user(), BROKEN_STREAM), IDLE, VerdictKind.RESUBMIT),
    "overflown, nothing follows": ((user(), OVERFLOWN), IDLE, VerdictKind.RESUBMIT),
    "died while compacting": ((user(), OVERFLOWN, COMPACTION, OPEN_SUMMARY), IDLE, VerdictKind.RESUBMIT),
    "died after compacting": ((user(), OVERFLOWN, COMPACTION, SUMMARY), IDLE, VerdictKind.RESUBMIT),
    "answered, then died while compacting": ((user(), ANSWER, COMPACTION, OPEN_SUMMARY), IDLE, VerdictKind.SUCCEEDED),
    "an ask was rejected": ((user(), REJECTED_STEP), IDLE, VerdictKind.ENDED_WITHOUT_ANSWER),
    "a failed tool, then an answer": ((user(), REJECTED_STEP, ANSWER), IDLE, VerdictKind.SUCCEEDED),
    "the model said nothing": ((user(), assistant()), IDLE, VerdictKind.ENDED_WITHOUT_ANSWER),
    "aborted": ((user(), replace(OPEN, completed=True, error=ABORTED)), IDLE, VerdictKind.CANCELLED),
    "model refused the key": ((user(), replace(OPEN, completed=True, error=UNAUTHORIZED)), IDLE, VerdictKind.FAILED),
    "error after a tool step": (
        (user(), TOOL_STEP, replace(OPEN, completed=True, error=OVERLOADED)),
        IDLE,
        VerdictKind.FAILED,
    ),
    "filtered answer": (
        (user(), replace(ANSWER, finish="content-filter", error=RunError("ContentFilterError", "blocked"))),
        IDLE,
        VerdictKind.FAILED,
    ),
    "the next question is running": ((user(), ANSWER, FOLLOW_UP, OPEN), BUSY, VerdictKind.SUCCEEDED),
    "the next question is queued": ((user(), OPEN, FOLLOW_UP), BUSY, VerdictKind.RUNNING),
    "the next question is queued between two steps": ((user(), TOOL_STEP, FOLLOW_UP), BUSY, VerdictKind.RUNNING),
    "a plugin woke the run again": ((user(), ANSWER, REMINDER), BUSY, VerdictKind.RUNNING),
}


@pytest.mark.parametrize(("messages", "state", "kind"), KINDS.values(), ids=KINDS.keys())
def test_verdict_table(messages: tuple[RunMessage, ...], state: SessionState, kind: VerdictKind) -> None:
    assert decided(*messages, state=state).kind is kind


@pytest.mark.parametrize("name", [name for name, (_, _, kind) in KINDS.items() if kind is VerdictKind.RESUBMIT])
def test_nothing_is_declared_dead_at_the_first_look(name: str) -> None:
    messages, state, _ = KINDS[name]

    assert decided(*messages, state=state, settled=False).kind is VerdictKind.UNSETTLED


def test_an_end_needs_no_second_look() -> None:
    assert decided(user(), ANSWER, settled=False).kind is VerdictKind.SUCCEEDED


def test_answer_is_the_final_text_without_that_of_tool_steps() -> None:
    verdict = decided(
        user(), assistant("msg_tool", text("let me look"), tool("completed"), finish="tool-calls"), ANSWER
    )

    assert verdict.text == "the answer"
    assert not verdict.cut


def test_answer_of_several_text_parts_keeps_their_order() -> None:
    verdict = decided(user(), assistant("msg_a1", text("first"), tool("completed"), text("second")))

    assert verdict.text == "first\n\nsecond"


def test_silent_last_step_falls_back_to_the_latest_text() -> None:
    said = assistant("msg_tool", text("I have sent the mail."), tool("completed"), finish="tool-calls")

    verdict = decided(user(), said, assistant("msg_a1"))

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert verdict.text == "I have sent the mail."


def test_length_marks_the_answer_as_cut() -> None:
    verdict = decided(user(), replace(ANSWER, finish="length"))

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert verdict.cut


def test_compaction_after_an_overflow_is_part_of_the_run() -> None:
    verdict = decided(user(), OVERFLOWN, COMPACTION, SUMMARY, CONTINUE, AFTER_COMPACTION)

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert verdict.text == "the answer after it"


def test_answer_before_a_compaction_is_kept() -> None:
    verdict = decided(user(), ANSWER, COMPACTION, SUMMARY, CONTINUE, AFTER_COMPACTION)

    assert verdict.text == "the answer\n\nthe answer after it"


def test_summary_is_never_shown() -> None:
    verdict = decided(user(), OVERFLOWN, COMPACTION, SUMMARY, CONTINUE, state=BUSY)

    assert verdict.partial_text == ""


def test_run_continued_by_a_plugin_goes_on() -> None:
    verdict = decided(user(), TOOL_STEP, REMINDER, assistant("msg_a2", text("done")))

    assert verdict.text == "done"


def test_message_known_as_ours_ends_the_run_whatever_it_says() -> None:
    verdict = decided(user(), ANSWER, REMINDER, OPEN, state=BUSY, own=frozenset({MINE, REMINDER.id}))

    assert verdict.kind is VerdictKind.SUCCEEDED


STRAY = replace(assistant("msg_stray", text("to somebody else")), parent_id="msg_earlier")


def test_answer_to_a_message_posted_again_late_is_not_mine() -> None:
    verdict = decided(user("msg_earlier"), user(), ANSWER, STRAY)

    assert verdict.text == "the answer"
    assert verdict.assistant_ids == {"msg_a1"}


@pytest.mark.parametrize("behind", [(replace(STRAY, completed=False, finish=None),), (FOLLOW_UP, OPEN)])
def test_run_that_has_its_end_does_not_wait_for_what_else_keeps_the_session_busy(
    behind: tuple[RunMessage, ...],
) -> None:
    verdict = decided(user(), ANSWER, *behind, state=BUSY)

    assert verdict.kind is VerdictKind.SUCCEEDED
    assert verdict.stray_run


def test_second_answer_to_the_same_prompt_replaces_the_first() -> None:
    assert decided(user(), ANSWER, assistant("msg_a2", text("said again"))).text == "said again"


def test_messages_of_an_earlier_attempt_are_ignored() -> None:
    failed = replace(assistant("msg_first"), error=UNAUTHORIZED)
    known = frozenset({"msg_first"})

    assert decided(user(), failed, state=BUSY, known=known).kind is VerdictKind.RUNNING
    assert decided(user(), failed, known=known).kind is VerdictKind.RESUBMIT
    assert decided(user(), failed, ANSWER, known=known).text == "the answer"


def test_open_message_of_a_crashed_attempt_stays_before_the_new_one() -> None:
    verdict = decided(user(), OPEN, ANSWER)

    assert verdict.kind is VerdictKind.SUCCEEDED


def test_error_is_told() -> None:
    verdict = decided(user(), replace(OPEN, completed=True, error=OVERLOADED))

    assert verdict.error == OVERLOADED
    assert verdict.partial_text == "so far"


def test_retries_of_the_model_are_told() -> None:
    assert decided(user(), OPEN, state=RETRYING).retry_attempt == 3


def test_usage_sums_every_step_of_this_attempt() -> None:
    verdict = decided(
        user(),
        assistant("msg_first"),
        TOOL_STEP,
        COMPACTION,
        SUMMARY,
        CONTINUE,
        AFTER_COMPACTION,
        known=frozenset({"msg_first"}),
    )

    assert verdict.usage == Usage(input_tokens=33, output_tokens=9, cost=1.5)
    assert verdict.usage_by_model == {"stub/echo": verdict.usage}
    assert verdict.assistant_ids == {"msg_tool", "msg_summary", "msg_a2"}


@pytest.mark.parametrize(
    ("last", "lower_bound"),
    [
        pytest.param(ANSWER, False, id="answered"),
        pytest.param(OPEN, True, id="open"),
        pytest.param(BROKEN_STREAM, True, id="stream broke off"),
        pytest.param(replace(OPEN, completed=True, error=ABORTED), True, id="aborted"),
        pytest.param(replace(OPEN, completed=True, error=UNAUTHORIZED), False, id="refused by the model"),
    ],
)
def test_usage_of_a_step_that_broke_off_is_a_lower_bound(last: RunMessage, *, lower_bound: bool) -> None:
    verdict = decided(user(), TOOL_STEP, last)

    assert verdict.usage.lower_bound is lower_bound
    assert verdict.usage.input_tokens == 22


def delegated(message_id: str, *sessions: str) -> RunMessage:
    calls = [RunPart(PartKind.TOOL, tool="task", delegation=Delegation(session, "quick")) for session in sessions]
    return assistant(message_id, *calls, finish="tool-calls")


def test_delegations_of_a_run_are_told_in_their_order_each_session_once() -> None:
    steps = (delegated("msg_1", "ses_b", "ses_a"), delegated("msg_2", "ses_b"))

    verdict = decided(user(), *steps, ANSWER)

    assert [delegation.session_id for delegation in verdict.delegations] == ["ses_b", "ses_a"]


def test_delegations_of_an_earlier_attempt_are_not_told_again() -> None:
    verdict = decided(user(), delegated("msg_1", "ses_a"), ANSWER, known=frozenset({"msg_1"}))

    assert verdict.delegations == ()


@pytest.mark.parametrize(
    "further",
    [
        pytest.param((TOOL_STEP, OPEN), id="another step"),
        pytest.param((replace(OPEN, parts=(text("so far, and more"),)),), id="more text"),
        pytest.param((replace(OPEN, parts=(text("so far"), tool("running"))),), id="a tool call"),
        pytest.param((replace(OPEN, completed=True, finish="tool-calls"),), id="the end of a step"),
    ],
)
def test_a_run_that_has_come_further_has_another_mark(further: tuple[RunMessage, ...]) -> None:
    before = decided(user(), OPEN, state=BUSY)

    assert decided(user(), OPEN, state=BUSY).mark == before.mark
    assert decided(user(), *further, state=BUSY).mark != before.mark


def test_a_run_comes_further_when_its_sub_agent_does() -> None:
    run = decided(user(), delegated("msg_1", "ses_b"), state=BUSY)
    its_step = replace(assistant("msg_sub"), completed=False)

    working = with_sub_agents(run, [its_step])

    assert working.mark != run.mark
    assert with_sub_agents(run, [replace(its_step, completed=True)]).mark != working.mark


def test_steps_of_sub_agents_count_as_those_of_the_run_do_once_they_have_ended() -> None:
    run = decided(user(), delegated("msg_1", "ses_b"), state=BUSY)
    ended, at_work = assistant("msg_sub"), replace(assistant("msg_sub_2"), completed=False)

    assert with_sub_agents(run, [ended, at_work]).steps == run.steps + 1
