"""Dead letters as commands print them."""

from collections.abc import Sequence
from datetime import datetime

import orjson

from nubabel_workers.cli.output import fields, heading, note, print_line, say, styled, table
from nubabel_workers.cli.table_layout import Column
from nubabel_workers.cli.wording import ago, clock_time, counted, plain, plain_lines, shortened
from nubabel_workers.domain.administration import AttemptSummary, DeadLetterGroup, DeadLetterHistory, DeadLetterPage
from nubabel_workers.domain.dead_letters import EXPLANATIONS, DeadLetter, DeadLetterStatus
from nubabel_workers.domain.timeline import narrate

_ERROR_CHARACTERS = 90


def print_groups(groups: Sequence[DeadLetterGroup], status: DeadLetterStatus, now: datetime) -> None:
    if not groups:
        say(f"no {status} dead letters")
        return
    for group in groups:
        cause = f", {group.cause}" if group.cause else ""
        print_line(
            (f"{group.count:>5}  {group.reason}{cause}", "bold"),
            (f"  {group.queue}  {plain(group.task)}{_raw(group)}", ""),
        )
        say(f"        {EXPLANATIONS[group.reason]}")
        say(f"        newest {ago(group.newest, now)}, oldest {ago(group.oldest, now)}")
        if group.organizations:
            more = " and others" if group.organizations > len(group.organization_ids) else ""
            say(f"        of {counted(group.organizations, 'organization')}: {' '.join(group.organization_ids)}{more}")
        say(f"        e.g. {group.sample_id}: {shortened(group.sample_error, _ERROR_CHARACTERS)}")
    note("each of a group: nubabel dead-letters list --reason REASON --cause CAUSE")
    if status is DeadLetterStatus.OPEN:
        _say_what_to_do(groups)


def _say_what_to_do(groups: Sequence[DeadLetterGroup]) -> None:
    if any(group.raw < group.count for group in groups):
        note("try them again:  nubabel dead-letters replay --reason REASON --cause CAUSE --pace 2 --dry-run")
    if any(group.raw for group in groups):
        note(
            "raw messages cannot be replayed: mend their producer, let it send again, then:"
            " nubabel dead-letters discard --reason REASON --because WHY"
        )


def print_each(page: DeadLetterPage, status: DeadLetterStatus, now: datetime) -> None:
    columns = [Column(title) for title in ("ID", "REASON", "QUEUE", "SUBJECT", "SET ASIDE")]
    table(
        [*columns, Column("ERROR", whole=False)],
        [
            (one.id, one.reason.value, one.queue, one.subject_id or "raw message", ago(one.created_at, now), one.error)
            for one in page.letters
        ],
        empty=f"no {status} dead letters",
    )
    if page.after is not None:
        note("there are more: --limit")


def print_history(history: DeadLetterHistory, now: datetime) -> None:
    letter = history.letter
    print_line((f"{letter.id}  ", "bold"), (letter.status.value, styled(letter.status.value)))
    say()
    fields(
        {
            "reason": f"{letter.reason}: {EXPLANATIONS[letter.reason]}",
            "error": letter.error,
            "queue": letter.queue,
            "task": letter.task,
            "subject": _subject(history),
            "organization": letter.organization_id or "unknown",
            "attempts": str(letter.attempts),
            "set aside": f"{clock_time(letter.created_at)} UTC ({ago(letter.created_at, now)})",
        }
    )
    if letter.resolved_at is not None:
        say(plain(_settled(letter)))
    _print_payload(history)
    _print_past(history)
    if letter.status is DeadLetterStatus.OPEN:
        note(_what_to_do(letter))


def _print_payload(history: DeadLetterHistory) -> None:
    letter = history.letter
    if letter.headers:
        heading("Headers")
        fields({plain(name): str(value) for name, value in letter.headers.items()})
    if letter.payload:
        heading("Raw payload")
        say(plain_lines(letter.payload))
    if history.subject is not None:
        heading("Payload")
        say(plain_lines(orjson.dumps(history.subject, option=orjson.OPT_INDENT_2).decode()))


def _print_past(history: DeadLetterHistory) -> None:
    if history.timeline:
        heading("What happened (seconds since accepted)")
        for step in narrate(history.timeline):
            say(f"{step.since_start_s:>10.3f}  {plain(step.words)}")
    if history.attempts:
        heading("Runs on OpenCode")
        for attempt in history.attempts:
            say(_run(attempt))
    if history.others:
        heading("Set aside at other times")
        for other in history.others:
            say(plain(f"{other.id}  {_settled(other)}  {other.error}"))


def _run(attempt: AttemptSummary) -> str:
    end = f"{attempt.verdict or 'ended'} at {clock_time(attempt.ended_at)}" if attempt.ended_at else "no end known"
    return (
        f"{attempt.number:>3}  {attempt.instance_id} {attempt.opencode_session_id}"
        f"  began {clock_time(attempt.started_at)} UTC, {end}"
    )


def _what_to_do(letter: DeadLetter) -> str:
    discard = f"nubabel dead-letters discard {letter.id} --because WHY"
    if letter.subject_id is None:  # no row stands behind a raw message
        return f"mend its producer, let it send again, then: {discard}"
    return f"nubabel dead-letters replay {letter.id}, or: {discard}"


def _raw(group: DeadLetterGroup) -> str:
    if group.raw == 0:
        return ""
    return "  raw messages" if group.raw == group.count else f"  {group.raw} of them raw messages"


def _subject(history: DeadLetterHistory) -> str:
    letter = history.letter
    if letter.subject_id is None:
        return "a raw message"
    execution = f" of {history.execution_id}" if history.execution_id not in {None, letter.subject_id} else ""
    return f"{letter.subject_kind} {letter.subject_id}{execution}, now {history.subject_status or 'gone'}"


def _settled(letter: DeadLetter) -> str:
    if letter.resolved_at is None:
        return str(letter.status)
    words = f"{letter.status} by {letter.resolved_by} at {clock_time(letter.resolved_at)} UTC"
    return f"{words}: {letter.note}" if letter.note else words
