"""Every way an execution can end, as the values that its last transaction writes: state, words, notifications.

Each end has exactly one visible outcome: an answer, an apology, a refusal or a confirmation (DESIGN invariant 3).
"""

from collections.abc import Sequence
from typing import Any

from nubabel_workers.domain.dead_letters import DeadLetterReason, NewDeadLetter, SubjectKind
from nubabel_workers.domain.errors import PromptRefusedError
from nubabel_workers.domain.executions import Execution, ExecutionError, Status, Usage
from nubabel_workers.domain.groups import STOPPED_WITH_THE_REST
from nubabel_workers.domain.notifications import (
    CallbacksTarget,
    NewNotification,
    NotificationKind,
    SlackTarget,
    WebhookTarget,
    reply_target,
)
from nubabel_workers.domain.opencode_models import UNKNOWN_MODEL
from nubabel_workers.domain.ports import Finish
from nubabel_workers.domain.repeats import RememberedAnswer
from nubabel_workers.domain.sidecar import update_payload
from nubabel_workers.domain.verdict import Verdict, VerdictKind
from nubabel_workers.domain.wording import Language, kind_in, language_of, say

REPLACED = "replaced"
SESSION_BUSY = "session_busy"
SENSITIVE_DATA = "sensitive_data"
REUSED = "reused"
CANNED = "canned"
NOT_LOOKED_THROUGH = "not_looked_through"

_FAILURE_TEXTS = {
    "deadline_exceeded": "deadline",
    "not_started_in_time": "too_late",
    "not_resumed_in_time": "not_resumed",
    "no_answer": "no_answer",
    UNKNOWN_MODEL: "unknown_model",
    NOT_LOOKED_THROUGH: "not_looked_through",
}

_STOP_TEXTS = {REPLACED: "replaced", STOPPED_WITH_THE_REST: "stopped_with_the_rest"}


def answered(execution: Execution, verdict: Verdict, notes: Sequence[str]) -> Finish:
    """There is an answer; a cut one says so."""
    text = _with_earlier(execution, _storable(verdict.text))
    if verdict.cut:
        notes = [say("cut", language_of(execution.prompt)), *notes]
    return _finish(
        execution,
        Status.COMPLETED,
        verdict="succeeded",
        markdown=_with_notes(text, notes),
        output=text,
        run=verdict,
        notes=notes,
        # Asked for in the system text, which is a request to the model; here is whether it did.
        detail={"delegated": bool(verdict.delegations)} if execution.analysis.get("category") else None,
    )


def answered_by_nobody(execution: Execution, verdict: Verdict, notes: Sequence[str]) -> Finish:
    """A fixed sentence instead of an answer: it is told like one, and counted apart. Upstream, where a program reads
    it, a note says so; a person reads the sentence itself.
    """
    return _finish(
        execution,
        Status.COMPLETED,
        verdict=CANNED,
        markdown=_with_notes(verdict.text, notes),
        output=verdict.text,
        run=verdict,
        notes=[say("canned", language_of(execution.prompt)), *notes],
    )


def answered_before(execution: Execution, remembered: RememberedAnswer) -> Finish:
    """The same question was answered lately, and the organization wants that answer again; it says when it was."""
    when = f"{remembered.answered_at:%Y-%m-%d %H:%M} UTC"
    note = say("answered_before", language_of(execution.prompt), when=when)
    return _finish(
        execution,
        Status.COMPLETED,
        verdict=REUSED,
        markdown=_with_notes(remembered.text, [note]),
        output=remembered.text,
        notes=[note],
        detail={"reason": f"the answer to {remembered.execution_id}"},
    )


def failed(
    execution: Execution,
    *,
    code: str,
    detail: str,
    reason: DeadLetterReason,
    run: Verdict | None = None,
    may_still_run: bool = False,
) -> Finish:
    """Out of attempts, refused for good, or too late: an apology in the thread and a dead letter for the operators.

    code: stable word, also the reference's kind. detail: for operators only; what there is of an answer is shown.
    may_still_run: a prompt was sent, and nobody knows whether it arrived; a run known to go on needs no saying.
    """
    language = language_of(execution.prompt)
    apology = say(_FAILURE_TEXTS.get(code, "failed"), language, reference=execution.id)
    partial = _with_earlier(execution, _storable(run.partial_text) if run else "")
    return _finish(
        execution,
        Status.FAILED,
        verdict=code,
        markdown=_with_partial(apology, partial, language),
        output=partial or None,
        run=run,
        error=ExecutionError(code, apology, _storable(detail)[:2000]),
        dead_letter=NewDeadLetter(
            queue="orchestration",
            task="orchestration.dispatch",
            reason=reason,
            error=f"{code}: {_storable(detail)[:2000]}",
            subject_kind=SubjectKind.EXECUTION,
            subject_id=execution.id,
            organization_id=execution.organization_id,
            attempts=max(execution.attempt, execution.failures),
        ),
        may_still_run=may_still_run,
    )


def cancelled(execution: Execution, *, reason: str, run: Verdict | None = None) -> Finish:
    """Somebody stopped it, or a newer message replaced it; work done until then is shown."""
    language = language_of(execution.prompt)
    partial = _with_earlier(execution, _storable(run.partial_text) if run else "")
    words = say(_STOP_TEXTS.get(reason, "stopped"), language)
    return _finish(
        execution,
        Status.CANCELLED,
        verdict="cancelled",
        markdown=_with_partial(words, partial, language),
        output=partial or None,
        run=run,
        error=ExecutionError("cancelled", words),
        detail={"reason": reason},
    )


def refused_as_busy(execution: Execution) -> Finish:
    """The organization's policy: one request at a time in a session."""
    words = say("rejected_busy", language_of(execution.prompt))
    return _finish(
        execution,
        Status.REJECTED,
        verdict=SESSION_BUSY,
        markdown=words,
        error=ExecutionError(SESSION_BUSY, words),
    )


def refused_for_content(execution: Execution, error: PromptRefusedError) -> Finish:
    """The organization's policy: nothing with such data leaves. Which kinds is said and in which files, never what."""
    language = language_of(execution.prompt)
    words = say("rejected_content", language, kinds=", ".join(kind_in(language, kind) for kind in error.kinds))
    if error.files:
        words = f"{words} {say('found_in_files', language, names=', '.join(map(_storable, error.files)))}"
    return _finish(
        execution,
        Status.REJECTED,
        verdict=SENSITIVE_DATA,
        markdown=words,
        error=ExecutionError(SENSITIVE_DATA, words),
        detail={"kinds": list(error.kinds)},
    )


def _finish(
    execution: Execution,
    status: Status,
    *,
    verdict: str,
    markdown: str,
    output: str | None = None,
    run: Verdict | None = None,
    error: ExecutionError | None = None,
    dead_letter: NewDeadLetter | None = None,
    notes: Sequence[str] = (),
    detail: dict[str, Any] | None = None,
    may_still_run: bool = False,
) -> Finish:
    return Finish(
        status=status,
        verdict=verdict,
        output=output,
        output_cut=bool(run and run.cut),
        usage=run.usage if run else Usage(lower_bound=True) if may_still_run else None,
        usage_by_model=run.usage_by_model if run else {},
        error=error,
        notes=notes,
        notifications=_notifications(execution, status, markdown, output=output, notes=notes, error=error),
        dead_letter=dead_letter,
        detail=detail or {},
        delegations=run.delegations if run else (),
        abandon_session=may_still_run or (run is not None and run.kind is VerdictKind.RUNNING),
    )


def _notifications(
    execution: Execution,
    status: Status,
    markdown: str,
    *,
    output: str | None,
    notes: Sequence[str],
    error: ExecutionError | None,
) -> list[NewNotification]:
    target = reply_target(execution.reply)
    if isinstance(target, SlackTarget):
        words = {"markdown": markdown, "status": status.value}
        return [NewNotification(NotificationKind.OUTCOME, target.as_dict(), words)]
    if isinstance(target, WebhookTarget):
        data = {
            "execution_id": execution.id,
            "session_id": execution.session_id,
            "status": status.value,
            "output": output,
            "notes": list(notes),
            "error": error.told() if error else None,
            "metadata": dict(execution.metadata),
        }
        payload = {"type": f"execution.{status.value}", "data": data}
        return [NewNotification(NotificationKind.WEBHOOK, target.as_dict(), payload)]
    if isinstance(target, CallbacksTarget) and target.session_update is not None:
        return [NewNotification(NotificationKind.WEBHOOK, target.as_dict(), update_payload(execution, status))]
    return []


def _with_earlier(execution: Execution, text: str) -> str:
    """What was said before the budget made it pause comes first."""
    earlier = execution.output if execution.pauses else None
    return "\n\n".join(said for said in (earlier, text) if said)


def _with_notes(text: str, notes: Sequence[str]) -> str:
    return "\n\n".join([text, *(f"_{note}_" for note in notes)])


def _with_partial(words: str, partial: str, language: Language) -> str:
    return f"{words}\n\n{say('partial', language)}\n\n{partial}" if partial else words


def _storable(text: str) -> str:
    """PostgreSQL's text cannot hold U+0000 nor lone surrogates; models can produce both."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")
