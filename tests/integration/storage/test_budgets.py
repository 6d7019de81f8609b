"""Holds in PostgreSQL: however many are placed at once, used and held never pass a cap, and nothing leaks."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from nubabel_workers.adapters.process import SystemChance, SystemClock
from nubabel_workers.adapters.storage.budgets import PostgresBudgets
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.executions import PostgresExecutions
from nubabel_workers.domain import outcomes
from nubabel_workers.domain.budgets import Amount, BudgetReachedError, Cap, Caps
from nubabel_workers.domain.dead_letters import DeadLetterReason
from nubabel_workers.domain.errors import LeaseLostError
from nubabel_workers.domain.executions import EventKind, Execution, Usage
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.masking import Cleaning
from nubabel_workers.domain.ports.budgets import Hold, Pause
from nubabel_workers.domain.verdict import Verdict, VerdictKind
from tests.integration.storage.seeds import POOL, add_organization, fair_turns
from tests.integration.storage.test_executions import ORGANIZATION, accept, request

pytestmark = pytest.mark.integration

DIME = Amount(0.1, 1000)


@pytest.fixture
async def executions(database: Database) -> PostgresExecutions:
    await add_organization(database, ORGANIZATION)
    await database.system().execute("INSERT INTO instances (id, url) VALUES ('ins_1', 'http://127.0.0.1:1')")
    return PostgresExecutions(database, SystemClock(), SystemChance(), fair_turns(database), lease_s=10)


@pytest.fixture
def budgets(database: Database) -> PostgresBudgets:
    return PostgresBudgets(database)


@pytest.fixture
def leases() -> Iterator[Lease]:
    return (Lease(f"lse_{number}", 1e12) for number in itertools.count())


async def claimed(
    executions: PostgresExecutions, leases: Iterator[Lease], number: int, *, user: str | None = None
) -> list[tuple[Execution, Lease]]:
    for one in range(number):
        await accept(executions, request(session=f"s{one}", user_id=user))
    lease = next(leases)
    found = await executions.claim_queued(pool=POOL, limit=number, lease=lease)
    return [(one.execution, lease) for one in found]


async def begin(executions: PostgresExecutions, execution: Execution, lease: Lease, hold: Hold | None) -> bool:
    """Whether there was room."""
    try:
        await executions.begin_attempt(
            execution,
            lease,
            instance_id="ins_1",
            opencode_session_id=f"ses_{execution.id}",
            opencode_directory=None,
            message_id=f"msg_{execution.id}",
            known_assistant_ids=(),
            analysis={"category": "quick"},
            context=None,
            notes=(),
            cleaning=Cleaning(),
            run_deadline_s=60,
            hold=hold,
        )
    except BudgetReachedError:
        return False
    return True


async def held(database: Database) -> tuple[int, float]:
    row = await database.system().one("SELECT count(*) AS n, COALESCE(sum(cost), 0)::float8 AS cost FROM budget_holds")
    assert row is not None
    return row["n"], round(row["cost"], 6)


def used(cost: float) -> Verdict:
    usage = Usage(input_tokens=100, cost=cost)
    return Verdict(VerdictKind.SUCCEEDED, text="42", usage=usage, usage_by_model={"m/x": usage})


async def end(executions: PostgresExecutions, execution: Execution, lease: Lease, *, cost: float) -> None:
    reason = DeadLetterReason.PERMANENT_ERROR
    finish = outcomes.failed(execution, code="no_answer", detail="", reason=reason, run=used(cost))
    await executions.finish(execution, lease, finish)


@pytest.mark.parametrize(
    "caps",
    [
        Caps(cost_per_day=0.35),
        Caps(cost_per_month=0.35),
        Caps(cost_per_user_day=0.35),
        Caps(tokens_per_day=3500),
        Caps(tokens_per_month=3500),
    ],
    ids=str,
)
async def test_of_many_that_begin_at_once_only_those_with_room_do(
    executions: PostgresExecutions, leases: Iterator[Lease], database: Database, caps: Caps
) -> None:
    ready = await claimed(executions, leases, 12, user="anna")

    begun = await asyncio.gather(*(begin(executions, one, lease, Hold(caps, DIME)) for one, lease in ready))

    assert sum(begun) == 3
    assert await held(database) == (3, 0.3)
    attempts = await database.system().all("SELECT 1 FROM attempts")
    assert len(attempts) == 3  # the others have written nothing


async def test_holding_the_same_twice_counts_once(
    executions: PostgresExecutions, leases: Iterator[Lease], database: Database
) -> None:
    ((one, lease),) = await claimed(executions, leases, 1)
    hold = Hold(Caps(cost_per_day=0.15), DIME)

    assert [await begin(executions, one, lease, hold) for _ in range(2)] == [True, True]
    assert await held(database) == (1, 0.1)


async def test_another_users_budget_is_his_own(executions: PostgresExecutions, leases: Iterator[Lease]) -> None:
    hold = Hold(Caps(cost_per_user_day=0.15), DIME)
    for name, session in (("anna", "a"), ("ben", "b"), ("anna", "c"), (None, "d")):
        await accept(executions, request(session=session, user_id=name))
    lease = next(leases)
    found = await executions.claim_queued(pool=POOL, limit=9, lease=lease)

    assert [await begin(executions, one.execution, lease, hold) for one in found] == [True, True, False, True]


async def test_the_end_settles_hold_and_usage_in_one_step(
    executions: PostgresExecutions, leases: Iterator[Lease], database: Database
) -> None:
    (one, lease), (other, _) = await claimed(executions, leases, 2)
    hold = Hold(Caps(cost_per_day=0.15), DIME)
    assert await begin(executions, one, lease, hold)

    await end(executions, one, lease, cost=0.04)

    assert await held(database) == (0, 0)
    assert await begin(executions, other, lease, hold)
    with pytest.raises(LeaseLostError):
        await end(executions, one, lease, cost=0.04)
    assert await database.system().one("SELECT sum(cost)::float8 AS cost FROM usage") == {"cost": 0.04}


@pytest.mark.parametrize(("verdict", "left"), [("failed", 0), (None, 1)], ids=["ended", "in doubt"])
async def test_a_failed_attempt_gives_back_unless_it_may_still_run(
    executions: PostgresExecutions, leases: Iterator[Lease], database: Database, verdict: str | None, left: int
) -> None:
    ((one, lease),) = await claimed(executions, leases, 1)
    await begin(executions, one, lease, Hold(Caps(cost_per_day=1), DIME))

    await executions.requeue(
        one, lease, wait_s=0, kind=EventKind.RETRY, detail={}, failed=True, attempt_verdict=verdict
    )

    assert (await held(database))[0] == left


async def test_what_is_used_leaves_less_room_and_only_a_new_day_or_a_raised_cap_helps(
    executions: PostgresExecutions, leases: Iterator[Lease], budgets: PostgresBudgets, database: Database
) -> None:
    (one, lease), (other, _) = await claimed(executions, leases, 2)
    await begin(executions, one, lease, Hold(Caps(cost_per_day=1), DIME))
    await end(executions, one, lease, cost=0.95)

    tight = Hold(Caps(cost_per_day=1, cost_per_month=50), DIME)
    shortage = await budgets.shortage(other, tight)
    assert shortage is not None
    assert (shortage.cap, shortage.spent_out) == (Cap.COST_PER_DAY, True)
    tomorrow = await database.system().one(
        "SELECT ((now() AT TIME ZONE 'UTC')::date + 1)::timestamp AT TIME ZONE 'UTC' AS at"
    )
    assert tomorrow is not None
    assert shortage.frees_at == tomorrow["at"]
    assert await budgets.shortage(other, replace(tight, caps=Caps(cost_per_day=2))) is None
    await database.system().execute("UPDATE usage SET day = day - 1")
    assert await budgets.shortage(other, replace(tight, caps=Caps(cost_per_day=1))) is None


async def test_a_running_ones_hold_grows_while_there_is_room_and_no_further(
    executions: PostgresExecutions, leases: Iterator[Lease], budgets: PostgresBudgets, database: Database
) -> None:
    (one, lease), (other, _) = await claimed(executions, leases, 2)
    caps = Caps(cost_per_day=0.5)
    assert await begin(executions, one, lease, Hold(caps, DIME))
    assert await begin(executions, other, lease, Hold(caps, DIME))
    await executions.mark_running(one, lease, check_after_s=0)
    looking = next(leases)
    await executions.claim_checks(execution_id=one.id, limit=1, lease=looking)

    fits = await budgets.extend(one, looking, Hold(caps, Amount(0.4, 0)))
    smaller = await budgets.extend(one, looking, Hold(caps, Amount(0.2, 0)))
    too_much = await budgets.extend(one, looking, Hold(caps, Amount(0.45, 0)))

    assert (fits, smaller) == (None, None)
    assert too_much is not None
    assert (too_much.cap, too_much.spent_out) == (Cap.COST_PER_DAY, False)  # the other may give some back
    assert await held(database) == (2, 0.5)
    assert await database.system().one("SELECT waiting_for FROM executions WHERE id = %(id)s", {"id": one.id}) == {
        "waiting_for": "budget"
    }
    with pytest.raises(LeaseLostError):
        await budgets.extend(one, next(leases), Hold(caps, DIME))


async def test_of_two_that_pause_the_same_run_one_does(
    executions: PostgresExecutions, leases: Iterator[Lease], budgets: PostgresBudgets, database: Database
) -> None:
    ((one, lease),) = await claimed(executions, leases, 1)
    await begin(executions, one, lease, Hold(Caps(cost_per_day=1), DIME))
    await executions.mark_running(one, lease, check_after_s=0)
    looking = next(leases)
    await executions.claim_checks(execution_id=one.id, limit=1, lease=looking)
    run = used(0.3)
    pause = Pause(None, "so far", run.usage, run.usage_by_model, frozenset({"msg_a"}), 99, DIME)

    told = await asyncio.gather(
        *(budgets.pause(one, looking, pause, keep_s=60) for _ in range(3)), return_exceptions=True
    )

    assert sorted(isinstance(one, LeaseLostError) for one in told) == [False, True, True]
    assert await database.system().one("SELECT sum(cost)::float8 AS cost FROM usage") == {"cost": 0.3}
    row = await database.system().one("SELECT status, pauses, output FROM executions")
    assert row == {"status": "waiting_budget", "pauses": 1, "output": "so far"}


async def test_the_books_equal_a_recount(
    executions: PostgresExecutions, leases: Iterator[Lease], budgets: PostgresBudgets, database: Database
) -> None:
    caps = Caps(cost_per_day=100)
    ready = await claimed(executions, leases, 6)
    for one, lease in ready[:4]:
        await begin(executions, one, lease, Hold(caps, DIME))
    await end(executions, ready[0][0], ready[0][1], cost=0.3)
    # One whose attempt has ended without anybody giving its hold back, as after an error of ours.
    await database.system().execute(
        "UPDATE attempts SET ended_at = now() WHERE execution_id = %(id)s", {"id": ready[1][0].id}
    )
    await database.system().execute(
        "UPDATE executions SET status = 'queued', lease_owner = NULL WHERE id = %(id)s", {"id": ready[1][0].id}
    )
    await database.system().execute("UPDATE budget_holds SET placed_at = now() - interval '1 minute'")

    released = await asyncio.gather(*(budgets.release_stale() for _ in range(3)))

    assert sum(released) == 1
    books = await budgets.books(ORGANIZATION)
    recount = await database.system().one(
        """SELECT (SELECT sum(cost)::float8 FROM usage) AS used,
             (SELECT count(*) FROM attempts WHERE ended_at IS NULL) AS open"""
    )
    assert recount is not None
    assert (books.today.cost, books.holds) == (recount["used"], recount["open"])
    assert books.held.cost == pytest.approx(0.2)
