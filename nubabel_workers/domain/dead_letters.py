"""Dead letters: what was set aside, why, and what can be done about it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from nubabel_workers.domain.hints import HintTask
from nubabel_workers.domain.ids import DeadLetterId


class DeadLetterReason(StrEnum):
    """Why a message or a row was set aside; EXPLANATIONS has the same in plain words."""

    UNKNOWN_TASK = "unknown-task"
    UNKNOWN_MESSAGE = "unknown-message"
    INVALID = "invalid"
    UNDECODABLE = "undecodable"
    HANDLER_CRASH = "handler-crash"
    BAD_ENVELOPE = "bad-envelope"
    BAD_ARGUMENTS = "bad-arguments"
    ATTEMPTS_EXHAUSTED = "attempts-exhausted"
    TOO_MANY_DELIVERIES = "too-many-deliveries"
    PERMANENT_ERROR = "permanent-error"
    REFUSED_SUBMISSION = "refused-submission"


EXPLANATIONS: Mapping[DeadLetterReason, str] = {
    DeadLetterReason.UNKNOWN_TASK: "The message names a task that no worker knows. Fix the producer's task name.",
    DeadLetterReason.UNKNOWN_MESSAGE: "The message is not a Celery task message. Find out who writes to this queue.",
    DeadLetterReason.INVALID: "The message's content type is not JSON; nothing else is accepted.",
    DeadLetterReason.UNDECODABLE: "The message's body could not be decoded as JSON.",
    DeadLetterReason.HANDLER_CRASH: "The message is JSON but not shaped as Celery's protocol 2 wants it.",
    DeadLetterReason.BAD_ENVELOPE: "What was in the queue is not a message envelope at all.",
    DeadLetterReason.BAD_ARGUMENTS: "The task exists, but its arguments do not fit.",
    DeadLetterReason.ATTEMPTS_EXHAUSTED: "Every attempt failed for a passing reason. Replay when the cause is gone.",
    DeadLetterReason.TOO_MANY_DELIVERIES: "Each time a worker took it alone, the worker ended without a result.",
    DeadLetterReason.PERMANENT_ERROR: "The other side refused it for good. Replay only after changing something.",
    DeadLetterReason.REFUSED_SUBMISSION: "A producer's submission was refused: signature, key, age or content.",
}


CAUSE = "^([a-z][a-z0-9_]{0,60}): "  # a regular expression for Python and for PostgreSQL


class DeadLetterStatus(StrEnum):
    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class SubjectKind(StrEnum):
    """What kind of row a dead letter stands for; a raw message has none."""

    EXECUTION = "execution"
    NOTIFICATION = "notification"
    INBOUND_EVENT = "inbound_event"
    MESSAGE = "message"


@dataclass(frozen=True)
class DeadLetter:
    id: DeadLetterId
    organization_id: str | None
    queue: str
    task: str
    reason: DeadLetterReason
    error: str
    status: DeadLetterStatus
    created_at: datetime
    subject_kind: SubjectKind
    subject_id: str | None = None
    payload: str | None = None  # raw text, cut at 64 KiB
    headers: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 0
    resolved_at: datetime | None = None
    resolved_by: str | None = None
    note: str | None = None

    @property
    def cause(self) -> str:
        """The stable word that the error begins with, finer than the reason; empty where it has none."""
        found = None if self.subject_kind is SubjectKind.MESSAGE else re.match(CAUSE, self.error)
        return found[1] if found else ""


@dataclass(frozen=True)
class NewDeadLetter:
    queue: str
    task: str
    reason: DeadLetterReason
    error: str
    subject_kind: SubjectKind = SubjectKind.MESSAGE
    subject_id: str | None = None
    organization_id: str | None = None
    payload: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 0


@dataclass(frozen=True)
class DeadLetterFilter:
    """Which dead letters; what is None does not matter.

    cause: the stable word that the error begins with, such as `deadline_exceeded`; finer than the reason.
    """

    organization_id: str | None = None
    reason: DeadLetterReason | None = None
    cause: str | None = None
    queue: str | None = None
    task: str | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None

    @property
    def names_something(self) -> bool:
        return any(getattr(self, one.name) is not None for one in fields(self))


class ReplayOutcome(StrEnum):
    REPLAYED = "replayed"
    WOULD_REPLAY = "would_replay"  # dry run
    NOTHING_TO_DO = "nothing_to_do"  # settled before, or its subject has not failed any more
    NOT_REPLAYABLE = "not_replayable"  # no row stands behind it: its producer has to send it again, mended


@dataclass(frozen=True)
class ReplayCandidate:
    """An open dead letter and where the row behind it stands; None: there is none."""

    dead_letter_id: str
    subject_kind: SubjectKind
    subject_status: str | None

    @property
    def prospect(self) -> ReplayOutcome:
        """What a replay would come to now."""
        if self.subject_kind is SubjectKind.MESSAGE:
            return ReplayOutcome.NOT_REPLAYABLE
        return ReplayOutcome.WOULD_REPLAY if self.subject_status == "failed" else ReplayOutcome.NOTHING_TO_DO


@dataclass(frozen=True)
class Replayed:
    """What became of the replay of one. words: for people."""

    dead_letter: DeadLetter
    outcome: ReplayOutcome
    words: str


@dataclass(frozen=True)
class ReplayReport:
    """What became of a replay by filter, or (dry_run) what would. more: others fit that the limit left out.

    takes_s: seconds from now until the last one starts. sample: ids of the first ones.
    """

    dry_run: bool
    replayed: int
    nothing_to_do: int
    not_replayable: int
    takes_s: float
    more: bool
    sample: tuple[str, ...] = ()


@dataclass(frozen=True)
class DiscardReport:
    dry_run: bool
    discarded: int
    more: bool


def letter_of_event(
    event_id: str, organization_id: str, *, reason: DeadLetterReason, error: str, attempts: int
) -> NewDeadLetter:
    """For an incoming Slack event that cannot be worked on."""
    return NewDeadLetter(
        queue="slack-events",
        task=HintTask.PROCESS_SLACK_EVENTS.value,
        reason=reason,
        error=error,
        subject_kind=SubjectKind.INBOUND_EVENT,
        subject_id=event_id,
        organization_id=organization_id,
        attempts=attempts,
    )


def letter_of_notification(
    notification_id: str, organization_id: str, *, reason: DeadLetterReason, error: str, attempts: int
) -> NewDeadLetter:
    """For something that cannot be told."""
    return NewDeadLetter(
        queue="notifications",
        task=HintTask.DELIVER.value,
        reason=reason,
        error=error,
        subject_kind=SubjectKind.NOTIFICATION,
        subject_id=notification_id,
        organization_id=organization_id,
        attempts=attempts,
    )
