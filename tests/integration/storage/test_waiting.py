"""Executions that wait together: put off in one statement, each with its reason in the timeline once."""

import asyncio

import pytest

from nubabel_workers.adapters.storage.calls import PostgresCalls
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.waiting import PostgresWaiting
from nubabel_workers.domain.rollout import Orchestrator
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration


@pytest.fixture
async def waiting(database: Database) -> PostgresWaiting:
    await add_organization(database, "org_a")
    return PostgresWaiting(database, away="server away", pace="pace")


async def seed(database: Database, count: int, *, first: int = 1, organization: str = "org_a") -> None:
    for number in range(first, first + count):
        await add_execution(database, ExecutionSeed(f"exe_{number:02d}", organization, status="queued"))


async def waits(database: Database) -> list[float]:
    """Seconds from now, by position."""
    rows = await database.system().all(
        "SELECT extract(epoch FROM not_before - now())::float8 AS s FROM executions ORDER BY position"
    )
    return [row["s"] for row in rows]


async def test_what_is_spaced_out_comes_at_the_servers_pace_in_its_order(
    waiting: PostgresWaiting, database: Database
) -> None:
    await seed(database, 6)

    assert await waiting.space_out(None, per_s=2) == 6

    assert await waits(database) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], abs=0.4)


async def test_what_comes_later_is_placed_behind_what_has_its_moment(
    waiting: PostgresWaiting, database: Database
) -> None:
    await seed(database, 4)
    await waiting.space_out(None, per_s=0.1)
    await seed(database, 1, first=5)

    assert await waiting.space_out(None, per_s=0.1) == 1

    assert (await waits(database))[-1] == pytest.approx(50, abs=5)


async def test_who_has_few_is_not_placed_behind_who_has_many(waiting: PostgresWaiting, database: Database) -> None:
    await add_organization(database, "org_b")
    await seed(database, 20)
    await waiting.space_out(None, per_s=0.1)
    await seed(database, 2, first=21, organization="org_b")

    await waiting.space_out(None, per_s=0.1)

    assert (await waits(database))[-2:] == pytest.approx([10, 30], abs=5)  # first, and third after the first of both


async def test_what_is_spaced_out_together_alternates(waiting: PostgresWaiting, database: Database) -> None:
    await add_organization(database, "org_b")
    await seed(database, 3)
    await seed(database, 2, first=4, organization="org_b")

    await waiting.space_out(None, per_s=0.1)

    assert await waits(database) == pytest.approx([10, 30, 50, 10, 30], abs=5)


@pytest.mark.parametrize(("pool", "put_off"), [(None, ["org_a"]), ("org_b", ["org_b"]), ("org_c", [])])
async def test_only_those_of_the_pool_wait_for_it(
    waiting: PostgresWaiting, database: Database, pool: str | None, put_off: list[str]
) -> None:
    await add_organization(database, "org_b")
    await database.system().execute("UPDATE organizations SET servers = 'dedicated' WHERE id = 'org_b'")
    await seed(database, 1)
    await seed(database, 1, first=2, organization="org_b")

    assert await waiting.put_off(pool, wait_s=60) == len(put_off)

    late = await database.system().all("SELECT organization_id FROM executions WHERE not_before > now()")
    assert [row["organization_id"] for row in late] == put_off


async def test_the_timeline_says_once_what_is_waited_for(waiting: PostgresWaiting, database: Database) -> None:
    await seed(database, 1)

    for _ in range(2):
        await waiting.space_out(None, per_s=1000)
        await database.system().execute("UPDATE executions SET not_before = now()")

    (event,) = await database.system().all("SELECT kind, detail FROM execution_events")
    assert event == {"kind": "waiting", "detail": {"reason": "pace"}}


async def test_next_in_line_is_the_first_that_a_place_would_start(waiting: PostgresWaiting, database: Database) -> None:
    await add_organization(database, "org_b")
    await seed(database, 1)
    await seed(database, 1, first=2, organization="org_b")

    first = await waiting.next_in_line()
    await database.system().execute("UPDATE executions SET not_before = now() + interval '1 h' WHERE id = 'exe_01'")
    second = await waiting.next_in_line()
    await database.system().execute("UPDATE executions SET status = 'running'")

    assert (first, second, await waiting.next_in_line()) == ("exe_01", "exe_02", None)


# --- for an orchestrator that is away ---


async def test_what_waits_for_an_orchestrator_is_put_off_together_and_comes_back_one_by_one(
    waiting: PostgresWaiting, database: Database
) -> None:
    calls = PostgresCalls(database)
    await seed(database, 8)
    await database.system().execute("UPDATE executions SET orchestrator = 'fallback' WHERE id <> 'exe_08'")

    assert await calls.put_off(Orchestrator.FALLBACK, wait_s=100) == 7

    first, *others, on_opencode = await waits(database)
    assert first == pytest.approx(100, abs=5)
    assert all(95 <= one <= 200 for one in others)
    assert len(set(others)) == len(others)
    assert on_opencode <= 0


async def test_the_timeline_says_once_that_an_orchestrator_is_away(
    waiting: PostgresWaiting, database: Database
) -> None:
    calls = PostgresCalls(database)
    await seed(database, 2)
    await database.system().execute("UPDATE executions SET orchestrator = 'fallback', status = 'running'")
    await database.system().execute("UPDATE executions SET status = 'queued' WHERE id = 'exe_01'")

    put_off = []
    for _ in range(2):
        put_off.append(await calls.put_off(Orchestrator.FALLBACK, wait_s=100))
        await database.system().execute("UPDATE executions SET not_before = now()")

    events = await database.system().all("SELECT execution_id, kind, detail FROM execution_events")
    assert events == [{"execution_id": "exe_01", "kind": "waiting", "detail": {"reason": "orchestrator away"}}]
    assert put_off == [1, 1]


async def test_of_two_that_put_off_at_once_each_row_is_put_off_by_one(
    waiting: PostgresWaiting, database: Database
) -> None:
    calls = PostgresCalls(database)
    await seed(database, 20)
    await database.system().execute("UPDATE executions SET orchestrator = 'fallback'")

    counted = await asyncio.gather(*(calls.put_off(Orchestrator.FALLBACK, wait_s=100) for _ in range(2)))

    assert sum(counted) == 20
    assert min(await waits(database)) > 90
