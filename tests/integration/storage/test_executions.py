"""Executions in PostgreSQL: every state change is conditional, happens once, and carries all that belongs to it."""

import asyncio
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from nubabel_workers.adapters.process import SystemChance, SystemClock
from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.encryption import TokenCipher
from nubabel_workers.adapters.storage.executions import PostgresExecutions
from nubabel_workers.adapters.storage.maintenance import PostgresMaintenance
from nubabel_workers.adapters.storage.workspaces import PostgresWorkspaces
from nubabel_workers.domain import outcomes
from nubabel_workers.domain.administration import AuditAction
from nubabel_workers.domain.dead_letters import DeadLetterFilter, DeadLetterReason, DeadLetterStatus
from nubabel_workers.domain.earlier_turns import EarlierTurns, Turn
from nubabel_workers.domain.errors import LeaseLostError
from nubabel_workers.domain.executions import EventKind, Execution, NewExecution, SessionLeft, Status, Usage
from nubabel_workers.domain.hints import LONG_LINE
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.masking import Cleaning
from nubabel_workers.domain.notifications import NewNotification, NotificationKind, SlackTarget
from nubabel_workers.domain.ports import ClaimedDispatch
from nubabel_workers.domain.verdict import Verdict, VerdictKind
from tests.integration.storage.seeds import (
    POOL,
    ExecutionSeed,
    add_execution,
    add_organization,
    fair_turns,
    installation,
)

pytestmark = pytest.mark.integration

ORGANIZATION = OrganizationId("org_a")
SLACK = SlackTarget("wsp_1", "C1", "1.000001", "1.000001").as_dict()
_keys = itertools.count()


@pytest.fixture
async def executions(database: Database) -> PostgresExecutions:
    await add_organization(database, ORGANIZATION)
    return PostgresExecutions(database, SystemClock(), SystemChance(), fair_turns(database), lease_s=10)


@pytest.fixture
def leases() -> Iterator[Lease]:
    return (Lease(f"lse_{number}", 1e12) for number in itertools.count())


def request(key: str | None = None, *, session: str = "s1", prompt: str = "hello", **more: Any) -> NewExecution:
    return NewExecution(
        organization_id=ORGANIZATION,
        source="slack",
        prompt=prompt,
        session_key=session,
        idempotency_key=key or f"k{next(_keys)}",
        request_hash=prompt,
        reply=SLACK,
        **more,
    )


async def accept(executions: PostgresExecutions, new: NewExecution | None = None) -> str:
    working = NewNotification(NotificationKind.WORKING, SLACK, {})
    return (await executions.accept(new or request(), working=working, answer_by_s=600)).execution_id


async def claim_one(executions: PostgresExecutions, lease: Lease) -> ClaimedDispatch:
    claimed = await executions.claim_queued(pool=POOL, limit=10, lease=lease)
    assert len(claimed) == 1
    return claimed[0]


async def begin(executions: PostgresExecutions, execution: Execution, lease: Lease, *, session: str = "ses_oc1") -> int:
    return await executions.begin_attempt(
        execution,
        lease,
        instance_id="ins_1",
        opencode_session_id=session,
        opencode_directory="/data",
        message_id="msg_1",
        known_assistant_ids=(),
        analysis={"category": "quick"},
        context=None,
        notes=(),
        cleaning=Cleaning(),
        run_deadline_s=60,
    )


@pytest.fixture
async def instance(database: Database) -> str:
    await database.system().execute("INSERT INTO instances (id, url) VALUES ('ins_1', 'http://127.0.0.1:1')")
    return "ins_1"


async def running(executions: PostgresExecutions, lease: Lease, new: NewExecution | None = None) -> Execution:
    await accept(executions, new)
    execution = (await claim_one(executions, lease)).execution
    await begin(executions, execution, lease)
    await executions.mark_running(execution, lease, check_after_s=30)
    return execution


async def test_the_same_request_is_accepted_once(executions: PostgresExecutions) -> None:
    first = await executions.accept(request("same"), working=None, answer_by_s=60)

    second = await executions.accept(request("same"), working=None, answer_by_s=60)

    assert first.created
    assert not second.created
    assert second.execution_id == first.execution_id
    assert second.request_hash == first.request_hash


async def test_a_request_behind_more_than_a_claim_takes_is_told_of_its_long_line(
    executions: PostgresExecutions,
) -> None:
    told = [
        (await executions.accept(request(session=f"s{number}"), working=None, answer_by_s=60)).line_is_long
        for number in range(LONG_LINE + 2)
    ]

    assert told == [False] * LONG_LINE + [True] * 2


async def test_the_line_of_another_organization_is_not_ones_own(
    executions: PostgresExecutions, database: Database
) -> None:
    await add_organization(database, "org_other")
    for number in range(LONG_LINE):
        await add_execution(database, ExecutionSeed(f"exe_other_{number}", "org_other", status="queued"))

    accepted = await executions.accept(request(), working=None, answer_by_s=60)

    assert not accepted.line_is_long


async def test_the_same_request_at_the_same_moment_is_accepted_once(executions: PostgresExecutions) -> None:
    accepted = await asyncio.gather(
        *(executions.accept(request("same"), working=None, answer_by_s=60) for _ in range(4))
    )

    assert sum(one.created for one in accepted) == 1
    assert len({one.execution_id for one in accepted}) == 1


async def test_acceptance_writes_the_working_sign_and_the_first_milestone(
    executions: PostgresExecutions, database: Database
) -> None:
    execution_id = await accept(executions)

    told = await database.tenant(ORGANIZATION).all("SELECT kind, status FROM notifications")
    assert told == [{"kind": "working", "status": "ready"}]
    assert [event.kind for event in await executions.timeline(ORGANIZATION, execution_id)] == [EventKind.ACCEPTED]


async def test_a_follow_up_waits_until_its_session_is_free(
    executions: PostgresExecutions, instance: str, leases: Iterator[Lease]
) -> None:
    first = await running(executions, next(leases))
    follow_up = await executions.accept(request(), working=None, answer_by_s=60)
    assert follow_up.busy_execution_ids == (first.id,)

    nothing = await executions.claim_queued(pool=POOL, limit=10, lease=next(leases))

    assert nothing == []


async def test_of_two_waiting_in_a_session_the_earlier_is_taken(
    executions: PostgresExecutions, leases: Iterator[Lease]
) -> None:
    first = await accept(executions)
    await accept(executions)

    claimed = await executions.claim_queued(pool=POOL, limit=10, lease=next(leases))

    assert [one.execution.id for one in claimed] == [first]


async def test_two_processes_never_claim_the_same_row(executions: PostgresExecutions, leases: Iterator[Lease]) -> None:
    ids = {await accept(executions, request(session=f"s{n}")) for n in range(8)}

    batches = await asyncio.gather(*(executions.claim_queued(pool=POOL, limit=3, lease=next(leases)) for _ in range(4)))

    claimed = [one.execution.id for batch in batches for one in batch]
    assert len(claimed) == len(set(claimed))
    assert set(claimed) <= ids


async def test_news_during_the_submit_is_not_lost(
    executions: PostgresExecutions, instance: str, leases: Iterator[Lease]
) -> None:
    lease = next(leases)
    await accept(executions)
    execution = (await claim_one(executions, lease)).execution
    await begin(executions, execution, lease)
    assert await executions.wake_by_sessions("ins_1", ["ses_oc1"]) == []

    started = await executions.mark_running(execution, lease, check_after_s=30)

    assert started.check_now
    assert len(await executions.claim_checks(execution_id=None, limit=5, lease=next(leases))) == 1


async def test_news_during_a_look_leads_to_another_look(
    executions: PostgresExecutions, instance: str, leases: Iterator[Lease]
) -> None:
    execution = await running(executions, next(leases))
    await executions.wake_by_sessions("ins_1", ["ses_oc1"])
    looking = next(leases)
    assert len(await executions.claim_checks(execution_id=execution.id, limit=5, lease=looking)) == 1
    await executions.wake_by_sessions("ins_1", ["ses_oc1"])

    await executions.release_check(execution, looking, check_after_s=30)

    assert len(await executions.claim_checks(execution_id=None, limit=5, lease=next(leases))) == 1


async def test_finishing_writes_everything_in_one_step(
    executions: PostgresExecutions, instance: str, database: Database, leases: Iterator[Lease]
) -> None:
    execution = await running(executions, next(leases))
    waiting = await accept(executions)
    await executions.wake_by_sessions("ins_1", ["ses_oc1"])
    lease = next(leases)
    await executions.claim_checks(execution_id=None, limit=5, lease=lease)
    usage = Usage(input_tokens=3, output_tokens=5, cost=0.25)
    verdict = Verdict(VerdictKind.SUCCEEDED, text="42", usage=usage, usage_by_model={"stub/echo": usage})

    finished = await executions.finish(execution, lease, outcomes.answered(execution, verdict, ()))

    found = await executions.find(ORGANIZATION, execution.id)
    assert found is not None
    assert (found.status, found.output, found.usage) == (Status.COMPLETED, "42", usage)
    assert finished.next_execution_id == waiting
    assert len(finished.notification_ids) == 2  # the outcome, and the working sign to take away
    rows = await database.tenant(ORGANIZATION).all("SELECT model, input_tokens, cost::float FROM usage")
    assert rows == [{"model": "stub/echo", "input_tokens": 3, "cost": 0.25}]


async def test_finishing_without_the_lease_changes_nothing(
    executions: PostgresExecutions, instance: str, leases: Iterator[Lease]
) -> None:
    execution = await running(executions, next(leases))
    verdict = Verdict(VerdictKind.SUCCEEDED, text="42")

    with pytest.raises(LeaseLostError):
        await executions.finish(execution, next(leases), outcomes.answered(execution, verdict, ()))

    found = await executions.find(ORGANIZATION, execution.id)
    assert found is not None
    assert found.status is Status.RUNNING


async def test_a_row_of_a_dead_worker_is_taken_over_and_then_claimed_alone(
    executions: PostgresExecutions, database: Database, leases: Iterator[Lease]
) -> None:
    poison, innocent = await accept(executions), await accept(executions, request(session="other"))
    await executions.claim_queued(pool=POOL, limit=1, lease=next(leases))
    await database.system().execute("UPDATE executions SET lease_until = now() WHERE lease_owner IS NOT NULL")

    released = await PostgresMaintenance(database, SystemChance()).release_expired_leases()

    assert released == 1
    alone = await claim_one(executions, next(leases))
    assert (alone.execution.id, alone.suspect, alone.lone_deliveries) == (poison, True, 1)
    assert (await claim_one(executions, next(leases))).execution.id == innocent


async def test_an_attempt_with_unknown_outcome_is_continued_not_counted_again(
    executions: PostgresExecutions, instance: str, leases: Iterator[Lease]
) -> None:
    lease = next(leases)
    await accept(executions)
    execution = (await claim_one(executions, lease)).execution
    assert await begin(executions, execution, lease) == 1
    await executions.requeue(
        execution, lease, wait_s=0, kind=EventKind.RETRY, detail={"reason": "?"}, failed=True, attempt_verdict=None
    )

    lease = next(leases)
    again = await claim_one(executions, lease)

    assert again.open_attempt
    assert again.execution.failures == 1
    assert await begin(executions, again.execution, lease) == 1


async def test_an_ended_attempt_is_followed_by_the_next_number(
    executions: PostgresExecutions, instance: str, leases: Iterator[Lease]
) -> None:
    lease = next(leases)
    await accept(executions)
    execution = (await claim_one(executions, lease)).execution
    await begin(executions, execution, lease)
    await executions.requeue(
        execution, lease, wait_s=0, kind=EventKind.RETRY, detail={}, failed=True, attempt_verdict="failed"
    )

    lease = next(leases)
    again = await claim_one(executions, lease)

    assert not again.open_attempt
    assert await begin(executions, again.execution, lease) == 2


async def test_a_row_waits_for_its_time_in_the_database(
    executions: PostgresExecutions, leases: Iterator[Lease]
) -> None:
    lease = next(leases)
    await accept(executions)
    execution = (await claim_one(executions, lease)).execution

    await executions.requeue(
        execution, lease, wait_s=60, kind=EventKind.RETRY, detail={}, failed=True, attempt_verdict=None
    )

    assert await executions.claim_queued(pool=POOL, limit=5, lease=next(leases)) == []


async def test_a_queued_execution_is_cancelled_at_once_and_told(
    executions: PostgresExecutions, leases: Iterator[Lease]
) -> None:
    execution_id = await accept(executions)
    wish = await executions.request_cancel(ORGANIZATION, execution_id, reason="stop")
    assert wish is not None

    finished = await executions.cancel_queued(wish.execution, outcomes.cancelled(wish.execution, reason="stop"))

    assert finished is not None
    assert len(finished.notification_ids) == 2
    assert await executions.claim_queued(pool=POOL, limit=5, lease=next(leases)) == []


async def test_an_operators_wish_to_cancel_is_audited_with_the_mark_and_only_if_it_is_new(
    executions: PostgresExecutions, database: Database
) -> None:
    execution_id = await accept(executions)

    wishes = [
        await executions.request_cancel(ORGANIZATION, execution_id, reason=reason, operator="cli:anna")
        for reason in ("stop", "again")
    ]

    assert [wish is not None and wish.is_new for wish in wishes] == [True, False]
    (entry,) = await PostgresAuditTrail(database).list(organization_id=ORGANIZATION, limit=10)
    assert (entry.actor, entry.action, entry.subject) == ("cli:anna", AuditAction.EXECUTION_CANCELLED, execution_id)
    assert entry.detail == {"reason": "stop"}


async def test_what_a_workspace_asked_for_before_its_app_was_installed_again_is_told_from_what_came_after(
    executions: PostgresExecutions, database: Database, cipher: TokenCipher
) -> None:
    workspaces = PostgresWorkspaces(database, cipher)
    await workspaces.save(ORGANIZATION, "wsp_1", installation(), actor="t")
    before = await accept(executions, request(session="s1", workspace_id="wsp_1"))
    await workspaces.end(ORGANIZATION, "wsp_1", actor="doctor", reason="token_revoked")
    open_when_ended = await executions.open_of_workspace(ORGANIZATION, "wsp_1")
    await workspaces.save(ORGANIZATION, "wsp_1", installation(), actor="t")
    await accept(executions, request(session="s2", workspace_id="wsp_1"))

    open_when_installed_again = await executions.open_of_workspace(ORGANIZATION, "wsp_1")

    assert (open_when_ended, open_when_installed_again) == ([before], [before])


async def test_cancelling_a_running_execution_makes_it_due_for_a_look(
    executions: PostgresExecutions, instance: str, leases: Iterator[Lease]
) -> None:
    execution = await running(executions, next(leases))

    await executions.request_cancel(ORGANIZATION, execution.id, reason="stop")

    looked = await executions.claim_checks(execution_id=execution.id, limit=5, lease=next(leases))
    assert [one.cancel_requested for one in looked] == [True]


async def test_another_organization_finds_nothing(executions: PostgresExecutions, database: Database) -> None:
    await add_organization(database, "org_b")
    execution_id = await accept(executions)

    assert await executions.find("org_b", execution_id) is None
    assert await executions.request_cancel("org_b", execution_id, reason="mine") is None
    assert await executions.timeline("org_b", execution_id) == []


async def test_a_failure_is_a_dead_letter_whose_replay_has_an_outcome_of_its_own(
    executions: PostgresExecutions, database: Database, leases: Iterator[Lease]
) -> None:
    from nubabel_workers.adapters.storage.dead_letter_registry import PostgresDeadLetterRegistry

    execution_id = await accept(executions)
    for round_number in (1, 2):
        lease = next(leases)
        execution = (await claim_one(executions, lease)).execution
        finish = outcomes.failed(execution, code="boom", detail="it broke", reason=DeadLetterReason.PERMANENT_ERROR)
        await executions.finish(execution, lease, finish)
        letters = PostgresDeadLetterRegistry(database)
        chosen = DeadLetterFilter(organization_id=ORGANIZATION)
        (letter,) = await letters.list(chosen, status=DeadLetterStatus.OPEN, limit=5, after=None)
        assert letter.subject_id == execution_id
        (woken,) = await letters.replay([letter.id], actor="test", first_after_s=0, every_s=0, answer_by_s=60)
        assert woken.hint is not None
        told = await database.tenant(ORGANIZATION).all("SELECT id FROM notifications WHERE kind = 'outcome'")
        assert len(told) == round_number


async def test_the_lost_session_is_forgotten_and_earlier_turns_are_kept(
    executions: PostgresExecutions, instance: str, leases: Iterator[Lease]
) -> None:
    first = await running(executions, next(leases), request(prompt="What is 6 x 7?"))
    await executions.wake_by_sessions("ins_1", ["ses_oc1"])
    lease = next(leases)
    await executions.claim_checks(execution_id=None, limit=5, lease=lease)
    await executions.finish(first, lease, outcomes.answered(first, Verdict(VerdictKind.SUCCEEDED, text="42"), ()))
    await accept(executions, request(prompt="and plus one?"))
    lease = next(leases)
    second = (await claim_one(executions, lease)).execution
    assert second.opencode_session_id == "ses_oc1"

    await executions.forget_opencode_session(second, lease, because=SessionLeft.LOST)

    found = await executions.find(ORGANIZATION, second.id)
    assert found is not None
    assert found.opencode_session_id is None
    assert await executions.earlier_turns(second, limit=5, max_bytes=2_000) == EarlierTurns(
        [Turn("What is 6 x 7?", "42")]
    )
    (replaced,) = [one for one in await executions.timeline(ORGANIZATION, second.id) if one.kind == "session_replaced"]
    assert replaced.detail == {"reason": "lost"}


@pytest.mark.parametrize("word", ["word ", "단어 "], ids=["en", "ko"])
async def test_of_a_long_answer_only_its_ends_are_read_and_how_much_is_left_out(
    executions: PostgresExecutions, instance: str, leases: Iterator[Lease], word: str
) -> None:
    answer = f"it begins {word * 200_000}and ends"
    first = await running(executions, next(leases), request(prompt="write a lot"))
    await executions.wake_by_sessions("ins_1", ["ses_oc1"])
    lease = next(leases)
    await executions.claim_checks(execution_id=None, limit=5, lease=lease)
    await executions.finish(first, lease, outcomes.answered(first, Verdict(VerdictKind.SUCCEEDED, text=answer), ()))
    await accept(executions, request(prompt="go on"))
    second = (await claim_one(executions, next(leases))).execution

    (turn,) = (await executions.earlier_turns(second, limit=5, max_bytes=2_000)).turns

    beginning, mark, end = turn.answer.split("\n")
    assert turn.question == "write a lot"
    assert beginning.startswith("it begins ")
    assert end.endswith(" and ends")
    assert 2_000 < len(turn.answer) < 11_000
    assert mark == f"[… {len(answer) - len(beginning) - len(end)} characters left out …]"


async def test_times_come_from_the_database(executions: PostgresExecutions) -> None:
    execution_id = await accept(executions)

    found = await executions.find(ORGANIZATION, execution_id)

    assert found is not None
    assert found.created_at.tzinfo is not None
    assert abs((datetime.now(UTC) - found.created_at).total_seconds()) < 60
