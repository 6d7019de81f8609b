"""Dead letters in operators' hands."""

from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from nubabel_workers.domain.administration import AuditAction
from nubabel_workers.domain.dead_letters import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterReason,
    DeadLetterStatus,
    ReplayOutcome,
    ReplayReport,
    SubjectKind,
)
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.hints import HintTask
from nubabel_workers.domain.ids import DeadLetterId
from nubabel_workers.services.manage_dead_letters import ManageDeadLetters
from tests.fakes.administration import NOW, FakeAudit, FakeDeadLetterRegistry
from tests.fakes.hints import FakeHints

ALL = DeadLetterFilter()


def _letter(
    number: int,
    *,
    status: DeadLetterStatus = DeadLetterStatus.OPEN,
    subject_kind: SubjectKind = SubjectKind.EXECUTION,
    reason: DeadLetterReason = DeadLetterReason.ATTEMPTS_EXHAUSTED,
) -> DeadLetter:
    return DeadLetter(
        id=DeadLetterId(f"dlq_{number:03d}"),
        organization_id="org_a",
        queue="orchestration",
        task="orchestration.dispatch",
        reason=reason,
        error="it_broke: somewhere",
        status=status,
        created_at=NOW + timedelta(minutes=number),
        subject_kind=subject_kind,
        subject_id=f"exe_{number}",
    )


@dataclass
class Bench:
    registry: FakeDeadLetterRegistry = field(default_factory=FakeDeadLetterRegistry)
    hints: FakeHints = field(default_factory=FakeHints)
    audit: FakeAudit = field(default_factory=FakeAudit)

    def put(self, *letters: DeadLetter) -> None:
        self.registry.put(*letters)

    def status(self, number: int) -> DeadLetterStatus:
        return self.registry.rows[f"dlq_{number:03d}"].status

    def service(self) -> ManageDeadLetters:
        return ManageDeadLetters(self.registry, self.hints, self.audit, answer_by_s=3600)

    async def replay_all(
        self, *, limit: int = 1000, pace_per_s: float | None = None, dry_run: bool = False
    ) -> ReplayReport:
        return await self.service().replay_matching(
            ALL, limit=limit, pace_per_s=pace_per_s, dry_run=dry_run, actor="cli:anna"
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("kind", "words"), [(SubjectKind.NOTIFICATION, "it is delivered again"), (SubjectKind.EXECUTION, "it starts anew")]
)
async def test_a_replay_says_what_comes_of_it(bench: Bench, kind: SubjectKind, words: str) -> None:
    bench.put(_letter(1, subject_kind=kind))

    replayed = await bench.service().replay_one("dlq_001", dry_run=False, actor="cli:anna")

    assert replayed.words.startswith(words)


async def test_a_replay_wakes_the_subject(bench: Bench) -> None:
    bench.put(_letter(1))

    replayed = await bench.service().replay_one("dlq_001", dry_run=False, actor="cli:anna")

    assert replayed.outcome is ReplayOutcome.REPLAYED
    assert bench.hints.rows(HintTask.DISPATCH) == ["exe_1"]


async def test_a_dry_run_changes_nothing(bench: Bench) -> None:
    bench.put(_letter(1))

    replayed = await bench.service().replay_one("dlq_001", dry_run=True, actor="cli:anna")

    assert replayed.outcome is ReplayOutcome.WOULD_REPLAY
    assert bench.status(1) is DeadLetterStatus.OPEN
    assert bench.hints.published == []


async def test_a_second_replay_finds_nothing_to_do_and_says_who_did_it(bench: Bench) -> None:
    bench.put(_letter(1))
    await bench.service().replay_one("dlq_001", dry_run=False, actor="cli:anna")

    again = await bench.service().replay_one("dlq_001", dry_run=False, actor="cli:bob")

    assert (again.outcome, again.words) == (ReplayOutcome.NOTHING_TO_DO, "it was replayed by cli:anna")
    assert len(bench.hints.published) == 1


@pytest.mark.parametrize("dry_run", [True, False])
async def test_what_succeeded_since_is_left_alone_and_named(bench: Bench, dry_run: bool) -> None:
    bench.put(_letter(1))
    bench.registry.subjects["dlq_001"] = "completed"

    replayed = await bench.service().replay_one("dlq_001", dry_run=dry_run, actor="cli:anna")

    assert replayed.outcome is ReplayOutcome.NOTHING_TO_DO
    assert "it is completed" in replayed.words
    assert bench.hints.published == []


async def test_a_raw_message_is_not_replayed_and_stays_open(bench: Bench) -> None:
    bench.put(_letter(1, subject_kind=SubjectKind.MESSAGE, reason=DeadLetterReason.UNDECODABLE))

    replayed = await bench.service().replay_one("dlq_001", dry_run=False, actor="cli:anna")

    assert replayed.outcome is ReplayOutcome.NOT_REPLAYABLE
    assert bench.status(1) is DeadLetterStatus.OPEN


async def test_matching_ones_are_replayed_and_raw_ones_counted(bench: Bench) -> None:
    bench.put(
        _letter(2),
        _letter(1),
        _letter(3, reason=DeadLetterReason.PERMANENT_ERROR),
        _letter(4, status=DeadLetterStatus.DISCARDED),
        _letter(5, subject_kind=SubjectKind.MESSAGE),
    )
    chosen = DeadLetterFilter(reason=DeadLetterReason.ATTEMPTS_EXHAUSTED, queue="orchestration")

    report = await bench.service().replay_matching(chosen, limit=10, pace_per_s=None, dry_run=False, actor="cli:anna")

    assert (report.replayed, report.not_replayable, report.more) == (2, 1, False)
    assert [bench.status(n) for n in (1, 2)] == [DeadLetterStatus.REPLAYED] * 2
    assert bench.hints.rows(HintTask.DISPATCH) == ["exe_1"]  # its task takes the others along


async def test_a_pace_spreads_the_turns_across_batches(bench: Bench) -> None:
    bench.put(*(_letter(number) for number in range(250)))

    report = await bench.replay_all(pace_per_s=2)

    assert [bench.registry.starts_s[f"dlq_{n:03d}"] for n in (0, 1, 99, 100, 249)] == [0, 0.5, 49.5, 50, 124.5]
    assert (report.replayed, report.takes_s) == (250, 124.5)


async def test_a_dry_run_of_many_counts_and_changes_nothing(bench: Bench) -> None:
    bench.put(*(_letter(number) for number in range(3)))
    bench.registry.subjects["dlq_001"] = "completed"

    report = await bench.replay_all(limit=3, pace_per_s=1, dry_run=True)

    assert (report.replayed, report.nothing_to_do, report.more, report.takes_s) == (2, 1, True, 2)
    assert all(bench.status(n) is DeadLetterStatus.OPEN for n in range(3))


@pytest.mark.parametrize(("limit", "pace_per_s"), [(0, None), (10_001, None), (10, 0), (10, -1), (10_000, 0.1)])
async def test_a_limit_or_a_pace_out_of_range_is_refused(limit: int, pace_per_s: float | None, bench: Bench) -> None:
    with pytest.raises(InvalidInputError):
        await bench.replay_all(limit=limit, pace_per_s=pace_per_s)


async def test_pages_follow_each_other(bench: Bench) -> None:
    bench.put(*(_letter(number) for number in range(5)))
    service = bench.service()

    first = await service.page(ALL, status=DeadLetterStatus.OPEN, limit=3)
    second = await service.page(ALL, status=DeadLetterStatus.OPEN, limit=3, after=first.after)

    assert [one.id for one in first.letters] == ["dlq_004", "dlq_003", "dlq_002"]
    assert ([one.id for one in second.letters], second.after) == (["dlq_001", "dlq_000"], None)


async def test_looking_at_a_tenants_content_is_audited(bench: Bench) -> None:
    bench.put(_letter(1))

    await bench.service().show("dlq_001", actor="operator:night")

    (entry,) = bench.audit.entries
    assert (entry.actor, entry.action, entry.subject) == ("operator:night", AuditAction.DEAD_LETTER_SHOWN, "dlq_001")


async def test_discarding_keeps_the_letter_and_says_who_did_it(bench: Bench) -> None:
    bench.put(_letter(1))

    discarded = await bench.service().discard_one("dlq_001", note="producer fixed", actor="cli:anna")

    assert (discarded.status, discarded.resolved_by) == (DeadLetterStatus.DISCARDED, "cli:anna")


async def test_a_settled_letter_is_not_discarded(bench: Bench) -> None:
    bench.put(_letter(1, status=DeadLetterStatus.REPLAYED))

    with pytest.raises(InvalidInputError, match="it was replayed"):
        await bench.service().discard_one("dlq_001", note="x", actor="cli:anna")


async def test_discarding_needs_a_reason_and_an_existing_letter(bench: Bench) -> None:
    bench.put(_letter(1))

    with pytest.raises(InvalidInputError, match="reason for discarding"):
        await bench.service().discard_one("dlq_001", note=" ", actor="cli:anna")
    with pytest.raises(NotFoundError, match="nubabel dead-letters list"):
        await bench.service().discard_one("dlq_none", note="x", actor="cli:anna")


@pytest.mark.parametrize(("limit", "discarded", "more"), [(150, 150, True), (1000, 250, False)])
async def test_matching_ones_are_discarded_in_batches(bench: Bench, limit: int, discarded: int, more: bool) -> None:
    bench.put(*(_letter(number) for number in range(250)))

    report = await bench.service().discard_matching(ALL, note="load test", limit=limit, dry_run=False, actor="cli:anna")

    assert (report.discarded, report.more) == (discarded, more)


async def test_a_dry_run_discards_nothing(bench: Bench) -> None:
    bench.put(_letter(1), _letter(2))

    report = await bench.service().discard_matching(ALL, note="x", limit=1, dry_run=True, actor="cli:anna")

    assert (report.discarded, report.more) == (1, True)
    assert bench.status(1) is DeadLetterStatus.OPEN
