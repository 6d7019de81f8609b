"""The recount of a chaos run: quiet rows are in order, and each thing that was not given back is seen."""

from collections.abc import AsyncIterator

import pytest

from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from tests.faults.chaos.recount import off_by_something
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration

_GROUP = """
WITH grp AS (
  INSERT INTO execution_groups (id, organization_id, reply, idempotency_key, request_hash, state, finished_at)
  VALUES ('bat_1', 'org_a', '{"kind": "webhook"}', 'k', '', 'completed_with_failures', now())
), told AS (
  INSERT INTO notifications (id, organization_id, kind, destination, payload)
  VALUES ('ntf_1', 'org_a', 'webhook', '{}', '{"data": {"batch_id": "bat_1"}}')
)"""
_SERVER = """
INSERT INTO instances (id, url, max_directories, directories_path) VALUES ('ins_1', 'http://o', 0, '/srv/directories')
"""


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
            """WITH counted AS (UPDATE executions SET attempt = 1)
               INSERT INTO attempts (execution_id, number, organization_id, ended_at, usage)
               VALUES ('exe_1', 1, 'org_a', now(), '{"input_tokens": 3, "output_tokens": 0, "cost": 0.5}')""",
            "1 organizations whose bill is not the sum of their attempts",
        ),
        (
            """WITH counted AS (UPDATE executions SET attempt = 1)
               INSERT INTO attempts (execution_id, number, organization_id) VALUES ('exe_1', 1, 'org_a')""",
            "1 attempts that are open",
        ),
        ("UPDATE executions SET attempt = 1", "1 executions whose attempt is not their newest"),
        ("UPDATE executions SET pauses = 1", "1 executions whose pauses are not those of their timeline"),
        (
            "INSERT INTO execution_events (organization_id, execution_id, kind) VALUES ('org_a', 'exe_1', 'finished')",
            "1 executions that did not end once by their timeline",
        ),
        (
            """UPDATE executions SET usage = '{"cache_read_tokens": 1}'""",
            "1 executions whose usage is not the sum of what was billed",
        ),
        (
            f"{_GROUP} UPDATE executions SET group_id = 'bat_1'",
            "1 batches whose state is not what became of their executions",
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


async def test_a_batch_that_nobody_was_told_of_is_seen(database: Database) -> None:
    await database.system().execute(
        """
        INSERT INTO execution_groups (id, organization_id, reply, idempotency_key, request_hash, state, finished_at)
        VALUES ('bat_1', 'org_a', '{"kind": "webhook"}', 'k', '', 'completed', now())
        """
    )

    assert await off_by_something(database) == ["1 batches that are not told once"]


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("ready", ["1 servers with more directories than they may have"]),
        (
            "disposing",
            [
                "1 servers with more directories than they may have",
                "1 directories that were left while they were unloaded",
            ],
        ),
        ("disposed", []),
    ],
)
async def test_a_directory_too_many_is_seen(database: Database, state: str, says: list[str]) -> None:
    await database.system().execute(_SERVER)

    await database.system().execute(
        f"""
        INSERT INTO instance_directories (instance_id, organization_id, path, state, changed_at)
        VALUES ('ins_1', 'org_a', '/srv/directories/org_a', '{state}', now() - interval '4 minutes')
        """
    )

    assert await off_by_something(database) == says


async def test_a_session_in_a_directory_without_a_row_is_seen(database: Database) -> None:
    await database.system().execute(_SERVER)

    await database.system().execute(
        """
        INSERT INTO sessions (
          id, organization_id, session_key, source, instance_id, opencode_session_id, opencode_directory)
        VALUES ('ses_1', 'org_a', 'k', 'api', 'ins_1', 'oc_1', '/srv/directories/org_a')
        """
    )

    assert await off_by_something(database) == ["1 directories of sessions that have no row"]
