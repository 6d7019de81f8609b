"""A claim reads few rows, however many wait, though nobody has analyzed its tables since they grew."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage import execution_statements as sql
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.exchange import _LOCK, _compiled
from nubabel_workers.adapters.storage.turns import FairPolicy, FairTurns
from nubabel_workers.domain.limits import parse_plans
from tests.integration.storage.seeds import pool_of

pytestmark = pytest.mark.integration

ROWS, ORGANIZATIONS = 4000, 20
FEW = 400
SEED_ORGANIZATIONS = """
INSERT INTO organizations (id, name) SELECT 'org_' || n, 'o' FROM generate_series(1, %(organizations)s) n
"""
SEED_SESSIONS = """
INSERT INTO sessions (id, organization_id, session_key, source)
SELECT 'ses_' || n, 'org_' || 1 + n %% %(organizations)s, 'key_' || n, 'api'
FROM generate_series(%(first)s::int, %(last)s::int) n
"""
SEED_EXECUTIONS = """
INSERT INTO executions (id, organization_id, session_id, source, prompt, reply, idempotency_key, request_hash,
  message_created_ms, answer_by)
SELECT 'exe_' || n, 'org_' || 1 + n %% %(organizations)s, 'ses_' || n, 'api', 'p', '{}', 'key_' || n, '', 0,
  now() + interval '1 hour'
FROM generate_series(%(first)s::int, %(last)s::int) n
"""


@pytest.fixture
def new_database_url(database_factory: Callable[..., str], migrated_template: str) -> str:
    """One that was never used: what the planner knows of a table outlives its rows."""
    return database_factory(template=migrated_template)


@pytest.mark.parametrize("taken_over", [False, True])
@pytest.mark.parametrize("planned_anew", [False, True])
@pytest.mark.parametrize("analyzed_when_small", [False, True])
async def test_a_claim_reads_few_of_many_rows(
    database: Database,
    new_database_url: str,
    taken_over: bool,
    planned_anew: bool,
    analyzed_when_small: bool,
) -> None:
    turns = FairTurns(database, parse_plans(), FairPolicy())
    asked = await turns.params("opencode", pool_of(ins_a=100_000))
    params = {"orchestrator": "opencode", "limit": 8, "lease": "lse_1", "lease_s": 10, **asked}
    params |= {"taken_over": taken_over, "aged_among": 0}
    statement = _compiled(sql.CLAIM_QUEUED, with_params=True)
    values = ", ".join(_literal(params[name]) for name in statement.names)
    explain = f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE claim ({values})".encode()
    with psycopg.connect(new_database_url, autocommit=True) as connection:
        connection.execute(SEED_ORGANIZATIONS, {"organizations": ORGANIZATIONS})
        seed(connection, first=1, last=3)
        if analyzed_when_small:
            connection.execute("ANALYZE executions")
        with connection.transaction():
            connection.execute(_LOCK.text.replace(b"$1", b"'claim'"))
            connection.execute(b"PREPARE claim AS " + statement.text)
            connection.execute(explain)
        seed(connection, first=4, last=ROWS)
        if planned_anew:
            connection.execute("DISCARD PLANS")

        with connection.transaction():
            connection.execute(_LOCK.text.replace(b"$1", b"'claim'"))
            (plan,) = connection.execute(explain).fetchone() or ({},)

    assert max(_rows_read(plan[0]["Plan"])) < FEW


def seed(connection: psycopg.Connection[Any], *, first: int, last: int) -> None:
    for statement in (SEED_SESSIONS, SEED_EXECUTIONS):
        connection.execute(statement, {"organizations": ORGANIZATIONS, "first": first, "last": last})


def _rows_read(node: Mapping[str, Any]) -> Iterator[float]:
    """Of each step of a plan: what it gave and what it threw away."""
    yield (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    for below in node.get("Plans", ()):
        yield from _rows_read(below)


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    if value == []:
        return "'{}'"
    return f"'{json.dumps(value.obj) if isinstance(value, Jsonb) else value}'"
