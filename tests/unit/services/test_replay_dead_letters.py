"""Dead letters in operators' hands."""

from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from nubabel_workers.domain.administration import AuditAction
from nubabel_workers.domain.dead_letters import DeadLetter, DeadLetterReason, DeadLetterStatus, SubjectKind
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.hints import HintTask
from nubabel_workers.domain.ids import DeadLetterId
from nubabel_workers.services.replay_dead_letters import ReplayDeadLetters, ReplayOutcome
from tests.fakes.administration import NOW, FakeAudit, FakeDeadLetterReports, FakeDeadLetterStore
from tests.fakes.hints import FakeHints


def _letter(
    number: int,
    *,
    status: DeadLetterStatus = DeadLetterStatus.OPEN,
    subject_kind: SubjectKind = SubjectKind.EXECUTION,
    reason: DeadLetterReason = DeadLetterReason.ATTEMPTS_EXHAUSTED,
) -> DeadLetter:
    return DeadLetter(
        id=DeadLetterId(f"dlq_{number}"),
        organization_id="org_a",
        queue="orchestration",
        task="orchestration.dispatch",
        reason=reason,
        error="it broke",
        status=status,
        created_at=NOW + timedelta(minutes=number),
        subject_kind=subject_kind,
        subject_id=f"exe_{number}",
    )


@dataclass
class Bench:
    store: FakeDeadLetterStore = field(default_factory=FakeDeadLetterStore)
    hints: FakeHints = field(default_factory=FakeHints)
    audit: FakeAudit = field(default_factory=FakeAudit)

    def put(self, *letters: DeadLetter) -> None:
        self.store.rows.update({letter.id: letter for letter in letters})

    def service(self) -> ReplayDeadLetters:
        return ReplayDeadLetters(self.store, FakeDeadLetterReports(), self.hints, self.audit)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_replay_wakes_the_subject_and_is_audited(bench: Bench) -> None:
    bench.put(_letter(1))

    replayed = await bench.service().replay_one("dlq_1", dry_run=False, actor="cli:anna")

    assert replayed.outcome is ReplayOutcome.REPLAYED
    assert bench.hints.rows(HintTask.DISPATCH) == ["exe_1"]
    assert [(one.actor, one.action, one.subject) for one in bench.audit.entries] == [
        ("cli:anna", AuditAction.DEAD_LETTER_REPLAYED, "dlq_1")
    ]


async def test_a_dry_run_changes_nothing(bench: Bench) -> None:
    bench.put(_letter(1))

    replayed = await bench.service().replay_one("dlq_1", dry_run=True, actor="cli:anna")

    assert replayed.outcome is ReplayOutcome.WOULD_REPLAY
    assert bench.store.rows["dlq_1"].status is DeadLetterStatus.OPEN
    assert (bench.hints.published, bench.audit.entries) == ([], [])


async def test_a_second_replay_finds_nothing_to_do(bench: Bench) -> None:
    bench.put(_letter(1))
    await bench.service().replay_one("dlq_1", dry_run=False, actor="cli:anna")

    again = await bench.service().replay_one("dlq_1", dry_run=False, actor="cli:anna")

    assert again.outcome is ReplayOutcome.SETTLED
    assert len(bench.hints.published) == 1


async def test_what_succeeded_since_is_left_alone(bench: Bench) -> None:
    bench.put(_letter(1))
    bench.store.settled.add("dlq_1")

    replayed = await bench.service().replay_one("dlq_1", dry_run=False, actor="cli:anna")

    assert replayed.outcome is ReplayOutcome.SETTLED
    assert bench.hints.published == []


async def test_a_raw_message_is_not_replayed_and_stays_open(bench: Bench) -> None:
    bench.put(_letter(1, subject_kind=SubjectKind.MESSAGE, reason=DeadLetterReason.UNDECODABLE))

    replayed = await bench.service().replay_one("dlq_1", dry_run=False, actor="cli:anna")

    assert replayed.outcome is ReplayOutcome.RAW_MESSAGE
    assert bench.store.rows["dlq_1"].status is DeadLetterStatus.OPEN


async def test_matching_ones_are_replayed_oldest_first(bench: Bench) -> None:
    bench.put(
        _letter(2),
        _letter(1),
        _letter(3, reason=DeadLetterReason.PERMANENT_ERROR),
        _letter(4, status=DeadLetterStatus.DISCARDED),
    )

    await bench.service().replay_matching(
        organization_id=None, reason=DeadLetterReason.ATTEMPTS_EXHAUSTED, limit=10, dry_run=False, actor="cli:anna"
    )

    assert bench.hints.rows(HintTask.DISPATCH) == ["exe_1", "exe_2"]


@pytest.mark.parametrize("limit", [0, 1001])
async def test_a_limit_out_of_range_is_refused(limit: int, bench: Bench) -> None:
    with pytest.raises(InvalidInputError, match="between 1 and 1000"):
        await bench.service().replay_matching(
            organization_id=None, reason=None, limit=limit, dry_run=True, actor="cli:anna"
        )


async def test_discarding_keeps_the_letter_and_says_who_did_it(bench: Bench) -> None:
    bench.put(_letter(1))

    discarded = await bench.service().discard("dlq_1", note="producer fixed", actor="cli:anna")

    assert (discarded.status, discarded.resolved_by) == (DeadLetterStatus.DISCARDED, "cli:anna")
    assert bench.audit.entries[0].action == AuditAction.DEAD_LETTER_DISCARDED


async def test_a_settled_letter_is_not_discarded(bench: Bench) -> None:
    bench.put(_letter(1, status=DeadLetterStatus.REPLAYED))

    with pytest.raises(InvalidInputError, match="it was replayed"):
        await bench.service().discard("dlq_1", note="x", actor="cli:anna")


async def test_discarding_needs_a_reason_and_an_existing_letter(bench: Bench) -> None:
    bench.put(_letter(1))

    with pytest.raises(InvalidInputError, match="reason for discarding"):
        await bench.service().discard("dlq_1", note=" ", actor="cli:anna")
    with pytest.raises(NotFoundError, match="nubabel dead-letters list"):
        await bench.service().discard("dlq_none", note="x", actor="cli:anna")
