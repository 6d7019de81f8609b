"""Rows written by another release, and text that PostgreSQL cannot hold."""

import json

import pytest
from psycopg.types.json import Jsonb

from nubabel_workers.adapters.process import SystemChance, SystemClock
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.executions import PostgresExecutions
from nubabel_workers.domain.leases import Lease
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration


async def claimed(database: Database) -> list[str]:
    executions = PostgresExecutions(database, SystemClock(), SystemChance(), lease_s=10)
    rows = await executions.claim_queued(execution_id=None, limit=10, lease=Lease("lse_1", 1e12))
    return [row.execution.id for row in rows]


async def seed(database: Database, execution_id: str, **columns: object) -> None:
    await add_execution(database, ExecutionSeed(execution_id, "org_a", columns=columns))


async def test_what_only_a_newer_release_knows_is_passed_over(database: Database) -> None:
    await add_organization(database, "org_a")
    await seed(database, "exe_1", overrides=Jsonb({"category": "quick", "mood": "good"}))

    assert await claimed(database) == ["exe_1"]


async def test_a_row_that_cannot_be_read_keeps_no_other_from_being_worked_on(database: Database) -> None:
    await add_organization(database, "org_a")
    await seed(database, "exe_1", attachments=Jsonb(["not an object"]))
    await seed(database, "exe_2")

    assert await claimed(database) == ["exe_2"]


async def test_text_is_stored_without_what_postgresql_cannot_hold(database: Database) -> None:
    row = await database.system().one(
        "SELECT %(text)s::text AS text, %(json)s AS json",
        {"text": "a\x00b\ud800", "json": Jsonb({"k\x00": ["\x00\x00é", "\ud800", "\\u0000", "\\\x00"]})},
    )

    assert row is not None
    assert row["text"] == "ab?"
    assert json.dumps(row["json"], ensure_ascii=False) == json.dumps(
        {"k": ["é", "?", "\\u0000", "\\"]}, ensure_ascii=False
    )
