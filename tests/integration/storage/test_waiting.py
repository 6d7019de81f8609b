"""Executions that wait together: put off in one statement, each with its reason in the timeline once."""

import pytest

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.waiting import PostgresWaiting
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration


@pytest.fixture
async def waiting(database: Database) -> PostgresWaiting:
    await add_organization(database, "org_a")
    return PostgresWaiting(database, away="server away", pace="pace")


async def seed(database: Database, count: int, *, first: int = 1) -> None:
    for number in range(first, first + count):
        await add_execution(database, ExecutionSeed(f"exe_{number:02d}", "org_a", status="queued"))


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

    assert await waiting.space_out(per_s=2) == 6

    assert await waits(database) == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], abs=0.4)


async def test_what_comes_later_is_placed_behind_what_has_its_moment(
    waiting: PostgresWaiting, database: Database
) -> None:
    await seed(database, 4)
    await waiting.space_out(per_s=0.1)
    await seed(database, 1, first=5)

    assert await waiting.space_out(per_s=0.1) == 1

    assert (await waits(database))[-1] == pytest.approx(50, abs=5)


async def test_the_timeline_says_once_what_is_waited_for(waiting: PostgresWaiting, database: Database) -> None:
    await seed(database, 1)

    for _ in range(2):
        await waiting.space_out(per_s=1000)
        await database.system().execute("UPDATE executions SET not_before = now()")

    (event,) = await database.system().all("SELECT kind, detail FROM execution_events")
    assert event == {"kind": "waiting", "detail": {"reason": "pace"}}
