"""Look at what was set aside; make it ready again, or put it away. Behind the commands and the HTTP API alike."""

from collections.abc import Sequence

from nubabel_workers.domain.administration import (
    AuditAction,
    AuditEntry,
    DeadLetterGroup,
    DeadLetterHistory,
    DeadLetterPage,
)
from nubabel_workers.domain.dead_letters import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterStatus,
    DiscardReport,
    Replayed,
    ReplayOutcome,
    ReplayReport,
    SubjectKind,
)
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.names import checked_name
from nubabel_workers.domain.ports import HintPublisher
from nubabel_workers.domain.ports.administration import AuditTrail, DeadLetterRegistry, Woken

MAX_AT_ONCE = 10_000
MAX_PAGE = 200
MAX_PACE_PER_S = 1000.0
MAX_REPLAY_S = 86_400.0

_BATCH = 100  # rows that one statement changes: no lock is held for long
_SAMPLE = 20


class ManageDeadLetters:
    """answer_by_s: patience of a replayed request, from its turn on."""

    def __init__(
        self, registry: DeadLetterRegistry, hints: HintPublisher, audit: AuditTrail, *, answer_by_s: float
    ) -> None:
        self._registry = registry
        self._hints = hints
        self._audit = audit
        self._answer_by_s = answer_by_s

    async def groups(
        self, *, organization_id: str | None = None, status: DeadLetterStatus = DeadLetterStatus.OPEN
    ) -> Sequence[DeadLetterGroup]:
        return await self._registry.groups(organization_id=organization_id, status=status)

    async def page(
        self, chosen: DeadLetterFilter, *, status: DeadLetterStatus | None, limit: int, after: str | None = None
    ) -> DeadLetterPage:
        """after: what the page before said."""
        found = await self._registry.list(chosen, status=status, limit=limit + 1, after=after)
        shown = tuple(found[:limit])
        return DeadLetterPage(shown, after=shown[-1].id if len(found) > limit else None)

    async def show(self, dead_letter_id: str, *, actor: str) -> DeadLetterHistory:
        """With what stands behind it. It shows a tenant's content, hence the entry in the audit log."""
        letter = await self._find(dead_letter_id)
        await self._audit.add(AuditEntry(actor, AuditAction.DEAD_LETTER_SHOWN, letter.organization_id, letter.id))
        return await self._registry.history(letter)

    async def replay_one(self, dead_letter_id: str, *, dry_run: bool, actor: str) -> Replayed:
        letter = await self._find(dead_letter_id)
        candidate = await self._registry.candidate(dead_letter_id)
        if candidate is None:
            return Replayed(letter, ReplayOutcome.NOTHING_TO_DO, f"it was {letter.status} by {letter.resolved_by}")
        if dry_run or candidate.prospect is ReplayOutcome.NOT_REPLAYABLE:
            return Replayed(letter, candidate.prospect, _words(letter, candidate.prospect, candidate.subject_status))
        woken = await self._registry.replay(
            [letter.id], actor=actor, first_after_s=0, every_s=0, answer_by_s=self._answer_by_s
        )
        self._hurry(woken)
        if not woken:  # somebody else was quicker
            return Replayed(letter, ReplayOutcome.NOTHING_TO_DO, "it was settled at this moment by somebody else")
        outcome = ReplayOutcome.REPLAYED if woken[0].hint else ReplayOutcome.NOTHING_TO_DO
        return Replayed(letter, outcome, _words(letter, outcome, candidate.subject_status))

    async def replay_matching(
        self,
        chosen: DeadLetterFilter,
        *,
        limit: int,
        pace_per_s: float | None,
        dry_run: bool,
        actor: str,
    ) -> ReplayReport:
        """The open ones that fit, oldest first, so many per second; their rows wait for their turn, nobody else does.

        Interrupted in the middle, the rest stays open. Raises InvalidInputError for a limit or a pace out of range.
        """
        _check_limit(limit)
        every_s = _interval_s(pace_per_s, limit)
        candidates = await self._registry.candidates(chosen, limit=limit)
        ready = sum(one.prospect is ReplayOutcome.WOULD_REPLAY for one in candidates)
        replayed = ready if dry_run else await self._replay([one.dead_letter_id for one in candidates], every_s, actor)
        return ReplayReport(
            dry_run=dry_run,
            replayed=replayed,
            nothing_to_do=len(candidates) - replayed,
            not_replayable=await self._registry.count_open(chosen, raw_only=True),
            takes_s=max(0, len(candidates) - 1) * every_s,
            more=len(candidates) == limit,
            sample=tuple(one.dead_letter_id for one in candidates[:_SAMPLE]),
        )

    async def discard_one(self, dead_letter_id: str, *, note: str, actor: str) -> DeadLetter:
        """Put it away for good; it is kept, with the note. Raises InvalidInputError when it is not open any more."""
        letter = await self._find(dead_letter_id)
        if not await self._registry.discard([letter.id], note=_checked(note), actor=actor):
            raise InvalidInputError(f"{letter.id} is not open any more: it was {letter.status}", code="not_open")
        return await self._find(dead_letter_id)

    async def discard_matching(
        self, chosen: DeadLetterFilter, *, note: str, limit: int, dry_run: bool, actor: str
    ) -> DiscardReport:
        _check_limit(limit)
        note = _checked(note)
        if dry_run:
            fitting = await self._registry.count_open(chosen, raw_only=False)
            return DiscardReport(dry_run=True, discarded=min(fitting, limit), more=fitting > limit)
        discarded = 0
        while discarded < limit:
            size = min(_BATCH, limit - discarded)
            done = await self._registry.discard_matching(chosen, note=note, actor=actor, limit=size)
            discarded += done
            if done < size:
                return DiscardReport(dry_run=False, discarded=discarded, more=False)
        return DiscardReport(dry_run=False, discarded=discarded, more=True)

    async def _replay(self, dead_letter_ids: Sequence[str], every_s: float, actor: str) -> int:
        """How many were made ready."""
        ready = 0
        for start in range(0, len(dead_letter_ids), _BATCH):
            woken = await self._registry.replay(
                dead_letter_ids[start : start + _BATCH],
                actor=actor,
                first_after_s=start * every_s,
                every_s=every_s,
                answer_by_s=self._answer_by_s,
            )
            if every_s == 0 or start == 0:  # what waits for its turn is found by the scheduler
                self._hurry(woken)
            ready += sum(one.hint is not None for one in woken)
        return ready

    def _hurry(self, woken: Sequence[Woken]) -> None:
        """One hint per kind of row: its task takes the others along."""
        for hint in {one.hint.task: one.hint for one in reversed(woken) if one.hint is not None}.values():
            self._hints.publish(hint)
        notices = [one.notice_id for one in woken if one.notice_id is not None]
        if notices:
            self._hints.publish(Hint(HintTask.DELIVER, notices[0]))

    async def _find(self, dead_letter_id: str) -> DeadLetter:
        found = await self._registry.find(dead_letter_id)
        if found is None:
            raise NotFoundError(f"there is no dead letter {dead_letter_id!r}; `nubabel dead-letters list` shows them")
        return found


def _words(letter: DeadLetter, outcome: ReplayOutcome, subject_status: str | None) -> str:
    match outcome:
        case ReplayOutcome.REPLAYED if letter.subject_kind is SubjectKind.NOTIFICATION:
            return "it is delivered again"
        case ReplayOutcome.REPLAYED:
            return "it starts anew, and whoever waits in a thread is told"
        case ReplayOutcome.WOULD_REPLAY:
            return "it would start anew"
        case ReplayOutcome.NOT_REPLAYABLE:
            return "a raw message has no row: mend its producer, let it send again, and discard this"
        case ReplayOutcome.NOTHING_TO_DO:
            return f"what it is about has not failed any more: it is {subject_status or 'gone'}"


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_AT_ONCE:
        raise InvalidInputError(f"the limit must be between 1 and {MAX_AT_ONCE}, not {limit}", code="bad_limit")


def _interval_s(pace_per_s: float | None, limit: int) -> float:
    if pace_per_s is None:
        return 0.0
    if not 0 < pace_per_s <= MAX_PACE_PER_S or limit / pace_per_s > MAX_REPLAY_S:
        raise InvalidInputError(
            f"the pace must be above 0, at most {MAX_PACE_PER_S:g} per second, and let {limit} end within a day",
            code="bad_pace",
        )
    return 1 / pace_per_s


def _checked(note: str) -> str:
    return checked_name(note, "the reason for discarding")
