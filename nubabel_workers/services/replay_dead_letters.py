"""Look at what was set aside; make it ready again, or put it away for good."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from nubabel_workers.domain.administration import AuditAction, AuditEntry, DeadLetterGroup
from nubabel_workers.domain.dead_letters import DeadLetter, DeadLetterReason, DeadLetterStatus, SubjectKind
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.names import checked_name
from nubabel_workers.domain.ports import DeadLetterStore, HintPublisher
from nubabel_workers.domain.ports.administration import AuditTrail, DeadLetterReports

MAX_REPLAYED_AT_ONCE = 1000


class ReplayOutcome(StrEnum):
    REPLAYED = "replayed"
    WOULD_REPLAY = "would replay"  # dry run
    SETTLED = "nothing to do"  # resolved before, or its subject succeeded since
    RAW_MESSAGE = "cannot be replayed"  # no row stands behind it: its producer has to send it again, mended


@dataclass(frozen=True)
class Replayed:
    dead_letter: DeadLetter
    outcome: ReplayOutcome


class ReplayDeadLetters:
    def __init__(
        self,
        dead_letters: DeadLetterStore,
        reports: DeadLetterReports,
        hints: HintPublisher,
        audit: AuditTrail,
    ) -> None:
        self._dead_letters = dead_letters
        self._reports = reports
        self._hints = hints
        self._audit = audit

    async def groups(self, *, organization_id: str | None, status: DeadLetterStatus) -> Sequence[DeadLetterGroup]:
        return await self._reports.groups(organization_id=organization_id, status=status)

    async def list(
        self,
        *,
        organization_id: str | None,
        status: DeadLetterStatus | None,
        reason: DeadLetterReason | None,
        limit: int,
    ) -> list[DeadLetter]:
        return await self._dead_letters.list(organization_id=organization_id, status=status, reason=reason, limit=limit)

    async def show(self, dead_letter_id: str) -> DeadLetter:
        found = await self._dead_letters.find(dead_letter_id)
        if found is None:
            raise NotFoundError(f"there is no dead letter {dead_letter_id!r}; `nubabel dead-letters list` shows them")
        return found

    async def replay_one(self, dead_letter_id: str, *, dry_run: bool, actor: str) -> Replayed:
        return await self._replay(await self.show(dead_letter_id), dry_run=dry_run, actor=actor)

    async def replay_matching(
        self,
        *,
        organization_id: str | None,
        reason: DeadLetterReason | None,
        limit: int,
        dry_run: bool,
        actor: str,
    ) -> Sequence[Replayed]:
        """The open ones that fit, oldest first. Raises InvalidInputError for a limit out of range."""
        if not 1 <= limit <= MAX_REPLAYED_AT_ONCE:
            raise InvalidInputError(f"between 1 and {MAX_REPLAYED_AT_ONCE} can be replayed at once, not {limit}")
        found = await self._dead_letters.list(
            organization_id=organization_id, status=DeadLetterStatus.OPEN, reason=reason, limit=limit
        )
        oldest_first = sorted(found, key=lambda letter: letter.created_at)
        return [await self._replay(letter, dry_run=dry_run, actor=actor) for letter in oldest_first]

    async def discard(self, dead_letter_id: str, *, note: str, actor: str) -> DeadLetter:
        """Put it away for good; it is kept, with the note. Raises InvalidInputError when it is not open any more."""
        letter = await self.show(dead_letter_id)
        note = checked_name(note, "the reason for discarding")
        if not await self._dead_letters.discard(letter.id, actor=actor, note=note):
            raise InvalidInputError(f"{letter.id} is not open any more: it was {letter.status}")
        await self._enter(letter, AuditAction.DEAD_LETTER_DISCARDED, actor)
        return await self.show(dead_letter_id)

    async def _replay(self, letter: DeadLetter, *, dry_run: bool, actor: str) -> Replayed:
        if letter.status is not DeadLetterStatus.OPEN:
            return Replayed(letter, ReplayOutcome.SETTLED)
        if letter.subject_kind is SubjectKind.MESSAGE:
            return Replayed(letter, ReplayOutcome.RAW_MESSAGE)
        if dry_run:
            return Replayed(letter, ReplayOutcome.WOULD_REPLAY)
        hint = await self._dead_letters.replay(letter.id, actor=actor)
        if hint is None:
            return Replayed(letter, ReplayOutcome.SETTLED)
        self._hints.publish(hint)
        await self._enter(letter, AuditAction.DEAD_LETTER_REPLAYED, actor)
        return Replayed(letter, ReplayOutcome.REPLAYED)

    async def _enter(self, letter: DeadLetter, action: AuditAction, actor: str) -> None:
        await self._audit.add(AuditEntry(actor, action, letter.organization_id, letter.id))
