"""The recount of a chaos run: quiet rows are in order, and each thing that was not given back is seen."""

from collections.abc import AsyncIterator

import pytest

from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from tests.faults.chaos.recount import off_by_something
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url, database_url, DatabaseLimits(pool_min=0), application_name="tests")
    await opened.open()
    await add_organization(opened, "org_a")
    yield opened
    await opened.close()


async def test_what_is_over_and_was_billed_is_in_order(database: Database) -> None:
    await add_execution(database, ExecutionSeed("exe_1", "org_a", status="completed"))
    await add_execution(database, ExecutionSeed("exe_2", "org_a", status="queued"))

    assert await off_by_something(database) == []


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("UPDATE executions SET status = 'running'", "1 executions that occupy a place"),
        ("UPDATE executions SET lease_owner = 'lse_1', lease_until = now()", "1 leases of executions"),
        (
            """UPDATE executions SET usage = '{"input_tokens": 3, "output_tokens": 0}'""",
            "1 executions whose usage is not the sum of what was billed",
        ),
        (
            """INSERT INTO attempts (execution_id, number, organization_id, ended_at, usage)
               VALUES ('exe_1', 1, 'org_a', now(), '{"input_tokens": 3, "output_tokens": 0, "cost": 0.5}')""",
            "1 organizations whose bill is not the sum of their attempts",
        ),
        (
            "INSERT INTO attempts (execution_id, number, organization_id) VALUES ('exe_1', 1, 'org_a')",
            "1 attempts that are open",
        ),
        (
            """INSERT INTO budget_holds (execution_id, organization_id, cost, tokens)
               VALUES ('exe_1', 'org_a', 1, 1)""",
            "1 holds of money",
        ),
    ],
)
async def test_what_was_not_given_back_is_seen(database: Database, spoil: str, says: str) -> None:
    await add_execution(database, ExecutionSeed("exe_1", "org_a", status="completed"))

    await database.system().execute(spoil)

    assert await off_by_something(database) == [says]
