"""What the operators' API shows of dead letters, and what it reads."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from nubabel_workers.domain.administration import DeadLetterGroup, DeadLetterHistory, DeadLetterPage
from nubabel_workers.domain.dead_letters import (
    EXPLANATIONS,
    DeadLetter,
    DeadLetterFilter,
    DeadLetterReason,
    DeadLetterStatus,
    DiscardReport,
    Replayed,
    ReplayOutcome,
    ReplayReport,
    SubjectKind,
)
from nubabel_workers.domain.executions import EventKind
from nubabel_workers.domain.timeline import narrate
from nubabel_workers.services.manage_dead_letters import MAX_AT_ONCE, MAX_PACE_PER_S

_RFC_3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}")


def _written_time(value: Any) -> Any:
    """Pydantic would take a number, or its digits, for seconds since 1970."""
    if not isinstance(value, str) or not _RFC_3339.match(value):
        raise ValueError("must be a time as RFC 3339 writes it, with its offset: 2026-11-21T01:20:00Z")
    return value


Time = Annotated[AwareDatetime, BeforeValidator(_written_time)]
ShortText = Annotated[str, Field(min_length=1, max_length=200)]
Cause = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,60}$")]


class FilterBody(BaseModel):
    """Which dead letters; what is left out does not matter."""

    model_config = ConfigDict(extra="forbid")

    organization_id: ShortText | None = None
    reason: DeadLetterReason | None = None
    cause: Cause | None = Field(None, description="The word that the error begins with, finer than the reason.")
    queue: ShortText | None = None
    task: ShortText | None = None
    created_from: Time | None = Field(None, description="Set aside at or after this.")
    created_before: Time | None = Field(None, description="Set aside before this.")

    def chosen(self) -> DeadLetterFilter:
        return DeadLetterFilter(**{name: getattr(self, name) for name in type(self).model_fields})


class _Choice(BaseModel):
    model_config = ConfigDict(extra="forbid")

    filter: FilterBody = Field(default_factory=FilterBody)
    all: bool = Field(False, strict=True, description="Needed for a filter that names nothing: every open one.")
    limit: int = Field(1000, strict=True, ge=1, le=MAX_AT_ONCE, description="At most so many, oldest first.")
    dry_run: bool = Field(False, strict=True, description="true: nothing is changed.")


class ReplayManyBody(_Choice):
    pace_per_s: float | None = Field(
        None,
        strict=True,
        gt=0,
        le=MAX_PACE_PER_S,
        allow_inf_nan=False,
        description="So many start per second, all of them within a day; null: all at once.",
    )


class DiscardManyBody(_Choice):
    reason: str = Field(min_length=1, max_length=100, description="Why; kept with each of them.")


class ReplayOneBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(False, strict=True, description="true: nothing is changed.")


class DiscardOneBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str = Field(min_length=1, max_length=100, description="Why; kept with it.")


class DeadLetterView(BaseModel):
    """Something that was set aside."""

    id: str
    status: DeadLetterStatus
    reason: DeadLetterReason
    explanation: str = Field(description="The reason in plain words.")
    cause: str = Field(description="The word that the error begins with; empty where it has none.")
    error: str
    organization_id: str | None = Field(description="null: an undecodable message has none.")
    queue: str
    task: str
    subject_kind: SubjectKind = Field(description="What kind of row stands behind it; message: none.")
    subject_id: str | None
    attempts: int
    created_at: datetime
    resolved_at: datetime | None
    resolved_by: str | None
    note: str | None = Field(description="Why it was discarded.")

    @classmethod
    def of(cls, letter: DeadLetter) -> Self:
        return cls(**_shown(letter))


class DeadLetterList(BaseModel):
    data: list[DeadLetterView] = Field(description="Newest first.")
    after: str | None = Field(description="Send it as `after` for the next page; null on the last one.")

    @classmethod
    def of(cls, page: DeadLetterPage) -> Self:
        return cls(data=[DeadLetterView.of(one) for one in page.letters], after=page.after)


class DeadLetterGroupView(BaseModel):
    """Dead letters of one queue with the same cause."""

    reason: DeadLetterReason
    explanation: str
    cause: str
    queue: str
    task: str
    count: int
    raw: int = Field(
        description="Of those, raw messages, which cannot be replayed: their producer has to send them again."
    )
    oldest: datetime
    newest: datetime
    organizations: int = Field(description="How many have one in it.")
    organization_ids: list[str] = Field(description="At most ten of them.")
    sample_id: str = Field(description="The newest one.")
    sample_error: str


class DeadLetterGroups(BaseModel):
    data: list[DeadLetterGroupView] = Field(description="Largest first.")

    @classmethod
    def of(cls, groups: Sequence[DeadLetterGroup]) -> Self:
        return cls(
            data=[
                DeadLetterGroupView(
                    explanation=EXPLANATIONS[one.reason],
                    organization_ids=list(one.organization_ids),
                    **{name: value for name, value in vars(one).items() if name != "organization_ids"},
                )
                for one in groups
            ]
        )


class StepView(BaseModel):
    at: datetime
    kind: EventKind
    words: str


class AttemptView(BaseModel):
    """One run on OpenCode."""

    number: int
    instance_id: str
    opencode_session_id: str
    message_id: str
    started_at: datetime
    submitted_at: datetime | None
    ended_at: datetime | None
    verdict: str | None


class DeadLetterDetail(DeadLetterView):
    """One with its payload and its past."""

    payload: str | None = Field(description="A raw message's text, cut at 64 KiB.")
    headers: dict[str, Any]
    subject_status: str | None = Field(description="Where the row behind it stands now.")
    subject: dict[str, Any] | None = Field(description="What that row holds: prompt, answer or event.")
    execution_id: str | None
    timeline: list[StepView] = Field(description="What happened to the execution, in words.")
    runs: list[AttemptView] = Field(description="On OpenCode.")
    others: list[DeadLetterView] = Field(description="Other dead letters of the same row, oldest first.")

    @classmethod
    def of_history(cls, history: DeadLetterHistory) -> Self:
        letter = history.letter
        steps = zip(history.timeline, narrate(history.timeline), strict=True)
        return cls(
            **_shown(letter),
            payload=letter.payload,
            headers=dict(letter.headers),
            subject_status=history.subject_status,
            subject=None if history.subject is None else dict(history.subject),
            execution_id=history.execution_id,
            timeline=[StepView(at=event.at, kind=event.kind, words=step.words) for event, step in steps],
            runs=[AttemptView(**vars(attempt)) for attempt in history.attempts],
            others=[DeadLetterView.of(other) for other in history.others],
        )


class ReplayedView(BaseModel):
    id: str
    outcome: ReplayOutcome
    detail: str = Field(description="The outcome in plain words.")

    @classmethod
    def of(cls, replayed: Replayed) -> Self:
        return cls(id=replayed.dead_letter.id, outcome=replayed.outcome, detail=replayed.words)


class ReplayReportView(BaseModel):
    """What became of it, or with dry_run what would."""

    dry_run: bool
    replayed: int
    nothing_to_do: int = Field(description="What these are about has not failed any more; they were put away.")
    not_replayable: int = Field(description="Raw messages that fit: their producer has to send them again.")
    takes_s: float = Field(description="Seconds until the last one starts.")
    more: bool = Field(description="true: the limit may have left out others that fit.")
    sample: list[str] = Field(description="Ids of the first ones.")

    @classmethod
    def of(cls, report: ReplayReport) -> Self:
        return cls(**{**vars(report), "sample": list(report.sample)})


class DiscardReportView(BaseModel):
    dry_run: bool
    discarded: int
    more: bool = Field(description="true: the limit left out others that fit.")

    @classmethod
    def of(cls, report: DiscardReport) -> Self:
        return cls(**vars(report))


def _shown(letter: DeadLetter) -> dict[str, Any]:
    shown = {name: getattr(letter, name) for name in DeadLetterView.model_fields if name != "explanation"}
    return {**shown, "explanation": EXPLANATIONS[letter.reason]}
