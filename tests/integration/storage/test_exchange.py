"""Statements in one round trip: prepared once, in their scope, large ones too; what a migration changes is noticed."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from nubabel_workers.adapters.storage import exchange
from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from nubabel_workers.domain.errors import TransientError

pytestmark = pytest.mark.integration

_PREPARED = "SELECT statement FROM pg_prepared_statements"
_SEVERAL_BUFFERS = 8_000_000  # more than a socket takes at once


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """With one connection, so that each statement meets what the earlier ones left there."""
    opened = Database(database_url, database_url, DatabaseLimits(pool_min=1, pool_max=1), application_name="tests")
    await opened.open()
    yield opened
    await opened.close()


async def test_a_statement_is_prepared_when_it_is_met_first_and_only_once(database: Database) -> None:
    for number in range(3):
        assert await database.tenant("org_a").one("SELECT %(n)s::int AS n", {"n": number}) == {"n": number}

    statements = [row["statement"] for row in await database.tenant("org_a").all(_PREPARED)]

    assert statements.count("SELECT $1::int AS n") == 1


async def test_a_statement_that_took_long_is_planned_anew_and_leaves_no_old_plan_behind(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "_KEEP_PLAN_S", 0.0)
    names = "SELECT name, statement FROM pg_prepared_statements WHERE statement LIKE 'SELECT pg_sleep%%'"
    for _ in range(3):
        await database.system().all("SELECT pg_sleep(%(s)s::float8) AS slept", {"s": 0.06})
        assert await database.system().one("SELECT %(n)s::int AS n", {"n": 1}) == {"n": 1}

    await database.system().all("SELECT pg_sleep(%(s)s::float8) AS slept", {"s": 0.0})

    (left,) = await database.system().all(names)
    await database.system().all("SELECT pg_sleep(%(s)s::float8) AS slept", {"s": 0.0})
    assert await database.system().all(names) == [left]  # what is quick keeps its plan


async def test_the_scope_ends_with_its_statement(database: Database) -> None:
    shown = "SELECT current_setting('nubabel.organization_id', true) AS scope"

    assert await database.tenant("org_a").one(shown) == {"scope": "org_a"}
    assert await database.tenant("org_b").one(shown) == {"scope": "org_b"}
    assert not (await database.system().one(shown) or {})["scope"]


async def test_a_parameter_that_is_named_twice_is_sent_once_and_percent_signs_are_escaped(database: Database) -> None:
    row = await database.system().one("SELECT %(a)s::text || '%%' || %(b)s || %(a)s AS text", {"a": "x", "b": "y"})

    assert row == {"text": "x%yx"}


async def test_a_statement_that_failed_after_it_was_prepared_runs_the_next_time(database: Database) -> None:
    scope = database.tenant("org_a")
    for divisor, answer in ((0, None), (2, {"n": 5}), (0, None), (5, {"n": 2})):
        if answer is None:
            with pytest.raises(psycopg.errors.DivisionByZero):
                await scope.one("SELECT 10 / %(divisor)s::int AS n", {"divisor": divisor})
        else:
            assert await scope.one("SELECT 10 / %(divisor)s::int AS n", {"divisor": divisor}) == answer


async def test_a_statement_that_cannot_be_prepared_fails_each_time_and_harms_no_other(database: Database) -> None:
    for _ in range(2):
        with pytest.raises(psycopg.errors.UndefinedTable):
            await database.tenant("org_a").one("SELECT * FROM nothing_of_that_name")

    assert await database.tenant("org_a").one("SELECT 1 AS one") == {"one": 1}


async def test_what_no_socket_takes_at_once_is_written_and_read_in_pieces(database: Database) -> None:
    text = "x" * _SEVERAL_BUFFERS

    row = await database.tenant("org_a").one("SELECT %(text)s::text AS text", {"text": text})

    assert row == {"text": text}


async def test_a_failure_at_the_commit_is_a_failure(database: Database) -> None:
    await database.system().execute("CREATE TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    with pytest.raises(psycopg.errors.UniqueViolation):
        await database.tenant("org_a").execute("INSERT INTO late VALUES (1), (1)")

    assert await database.system().one("SELECT count(*) AS n FROM late") == {"n": 0}


async def test_after_a_migration_changed_what_a_statement_returns_one_failure_is_enough(database: Database) -> None:
    scope = database.system()
    await scope.execute("CREATE TABLE changing (a int)")
    await scope.execute("INSERT INTO changing VALUES (1)")
    assert await scope.all("SELECT * FROM changing") == [{"a": 1}]
    await scope.execute("ALTER TABLE changing ADD COLUMN b int")

    with pytest.raises(TransientError, match="out of date"):
        await scope.all("SELECT * FROM changing")

    assert await scope.all("SELECT * FROM changing") == [{"a": 1, "b": None}]


async def test_a_server_that_ends_the_connection_during_a_statement_says_so_for_certain(database: Database) -> None:
    with pytest.raises(TransientError):
        await database.system().one("SELECT pg_terminate_backend(pg_backend_pid())")

    assert await database.system().one("SELECT 1 AS one") == {"one": 1}
