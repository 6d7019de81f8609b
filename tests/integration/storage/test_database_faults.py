"""A database that hangs, breaks, is slow or has no connection left: every wait ends, with the right word, and heals."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from nubabel_workers.domain.errors import ConnectionLostError, TransientError, UnavailableError
from tests.faulty_network import FaultyNetwork, network_before, socket_of, through
from tests.waiting import eventually_true

pytestmark = pytest.mark.integration

LIMITS = DatabaseLimits(
    pool_min=0,
    pool_max=3,
    connect_timeout_s=2,
    acquire_timeout_s=0.5,
    statement_timeout_s=0.5,
    lock_timeout_s=0.2,
    idle_in_transaction_timeout_s=7,
    transit_s=0.3,
)
ONE_CONNECTION = replace(LIMITS, pool_max=1)
PREPARED_AFTER = 5  # psycopg's default: the sixth time a statement is prepared
_ENDS_WITHIN_S = 2.5  # by LIMITS 0.8 s for the answer, 0.5 s for a connection; the rest is for a slow machine


@asynccontextmanager
async def opened(url: str, limits: DatabaseLimits = LIMITS) -> AsyncIterator[Database]:
    database = Database(url, url, limits, application_name="tests")
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def network(database_url: str) -> AsyncIterator[FaultyNetwork]:
    async with network_before(socket_of(database_url)) as running:
        yield running


@pytest.fixture
async def database(network: FaultyNetwork, database_url: str) -> AsyncIterator[Database]:
    async with opened(through(network, database_url)) as connected:
        yield connected


async def answers(database: Database) -> bool:
    try:
        return await database.system().one("SELECT 1 AS one") == {"one": 1}
    except TransientError:
        return False


async def test_a_server_that_hangs_is_given_up_and_used_again_when_it_is_back(
    network: FaultyNetwork, database: Database
) -> None:
    statements = database.tenant("org_a")
    await statements.one("SELECT 1")
    network.hang()
    began = time.monotonic()

    with pytest.raises(ConnectionLostError):
        await statements.one("SELECT 1")
    with pytest.raises(UnavailableError, match="no connection in time"):
        await statements.one("SELECT 1")

    assert time.monotonic() - began < _ENDS_WITHIN_S
    network.heal()
    await eventually_true(lambda: answers(database), timeout_s=5, what="the database is used again")


async def test_cancelling_does_not_wait_for_a_server_that_hangs(network: FaultyNetwork, database: Database) -> None:
    await database.system().one("SELECT 1")
    network.hang()
    began = time.monotonic()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await database.system().one("SELECT 1")

    assert time.monotonic() - began < 0.4
    network.heal()


async def test_a_cancelled_statement_costs_its_own_connection_and_no_other(database: Database) -> None:
    before = await connections(database)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await database.system().one("SELECT pg_sleep(0.3)")

    after = await connections(database)
    assert len(before & after) == LIMITS.pool_max - 1


async def connections(database: Database) -> set[int]:
    """Of all that the pool may have, the process that serves each."""
    statement = "SELECT pg_backend_pid() AS pid, pg_sleep(0.1)"
    rows = await asyncio.gather(*(database.system().one(statement) for _ in range(LIMITS.pool_max)))
    return {row["pid"] for row in rows if row}


async def test_after_a_restart_of_the_server_one_failure_is_enough(network: FaultyNetwork, database: Database) -> None:
    await asyncio.gather(*(database.system().one("SELECT pg_sleep(0.05)") for _ in range(LIMITS.pool_max)))
    network.cut()
    network.heal()

    outcomes = [await answers(database) for _ in range(LIMITS.pool_max + 1)]

    assert outcomes == [False, True, True, True]


async def test_a_server_that_lives_drops_the_statement_of_a_client_that_is_gone(
    database_url: str, network: FaultyNetwork, database: Database
) -> None:
    patient = DatabaseLimits(pool_min=0, statement_timeout_s=30)
    async with opened(through(network, database_url), patient) as other:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await other.system().one("SELECT pg_sleep(20)")

    async def is_gone() -> bool:
        found = "SELECT count(*) AS n FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(20)%'"
        return await database.system().one(found) == {"n": 0}

    await eventually_true(is_gone, timeout_s=6, what="the statement is given up")


async def test_a_slow_statement_is_ended_by_the_server(database: Database) -> None:
    with pytest.raises(TransientError, match="too long"):
        await database.system().one("SELECT pg_sleep(10)")

    assert await answers(database)


async def test_a_lock_is_waited_for_briefly(database_url: str, database: Database) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as holder:
        await holder.execute("LOCK TABLE organizations")
        began = time.monotonic()

        with pytest.raises(TransientError, match="too long"):
            await database.system().execute("UPDATE organizations SET name = name")

        assert time.monotonic() - began < LIMITS.statement_timeout_s


@pytest.mark.parametrize("tries_behind_the_lock", [1, 2 * PREPARED_AFTER])
async def test_statements_that_could_not_be_prepared_behind_a_lock_run_afterwards(
    database_url: str, tries_behind_the_lock: int
) -> None:
    async with opened(database_url, ONE_CONNECTION) as database:
        scope = database.tenant("org_one")
        statements = ["UPDATE organizations SET name = 'x'", "SELECT name FROM organizations"]
        async with await psycopg.AsyncConnection.connect(database_url) as locker:
            for _ in range(PREPARED_AFTER):
                await asyncio.gather(*map(scope.all, statements))
            await locker.execute("LOCK TABLE organizations IN EXCLUSIVE MODE")
            for _ in range(tries_behind_the_lock):
                with pytest.raises(TransientError, match="took too long"):
                    await scope.all(statements[0])
            await locker.rollback()

            for _ in range(2 * PREPARED_AFTER):
                assert await asyncio.gather(*map(scope.all, statements)) == [[], []]


@asynccontextmanager
async def read_only(database_url: str) -> AsyncIterator[None]:
    """What is connected meanwhile stays read-only afterwards, as when another server took over."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        setting = sql.SQL("ALTER DATABASE {} {} default_transaction_read_only {}")
        name = sql.Identifier(connection.info.dbname)
        await connection.execute(setting.format(name, sql.SQL("SET"), sql.SQL("= on")))
        try:
            yield
        finally:
            await connection.execute(setting.format(name, sql.SQL("RESET"), sql.SQL("")))


WRITE = "UPDATE organizations SET name = name"


async def test_a_database_that_takes_no_writes_is_unavailable_for_them_and_still_read(database_url: str) -> None:
    async with read_only(database_url), opened(database_url) as database:
        for scope in (database.system(), database.tenant("org_one")):
            with pytest.raises(UnavailableError, match="no writes"):
                await scope.execute(WRITE)

        assert await answers(database)


async def test_a_connection_that_stayed_read_only_costs_one_failure(database_url: str) -> None:
    async with opened(database_url, ONE_CONNECTION) as database:
        async with read_only(database_url):
            assert await answers(database)

        with pytest.raises(UnavailableError, match="no writes"):
            await database.system().execute(WRITE)
        assert await database.system().execute(WRITE) == 0


async def test_a_refused_write_ends_no_other_connection(database_url: str) -> None:
    """While the server takes no writes, each would else connect all anew."""
    async with opened(database_url) as database, read_only(database_url):
        before = await connections(database)

        with pytest.raises(UnavailableError, match="no writes"):
            await database.system().execute(WRITE)

        assert len(before & await connections(database)) == LIMITS.pool_max - 1


async def test_a_pool_without_a_free_connection_refuses_in_time_and_recovers(database: Database) -> None:
    slow: list[Any] = [database.system().one("SELECT pg_sleep(0.4)") for _ in range(2 * LIMITS.pool_max)]
    more: list[Any] = [database.system().one("SELECT 1") for _ in range(20)]

    outcomes = await asyncio.gather(*slow, *more, return_exceptions=True)

    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert refused
    assert {type(outcome) for outcome in refused} == {UnavailableError}
    assert await answers(database)


@pytest.mark.parametrize("scope", [Database.system, Database.unscoped_tenant])
async def test_the_limits_reach_the_server(database: Database, scope: Callable[[Database], Any]) -> None:
    names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"]
    names += ["client_connection_check_interval"]

    row = await scope(database).one("SELECT " + ", ".join(f"current_setting('{name}') AS {name}" for name in names))

    assert row["statement_timeout"] == "500ms"
    assert row["lock_timeout"] == "200ms"
    assert row["idle_in_transaction_session_timeout"] == "7s"
    assert row["client_connection_check_interval"] == "2s"


async def test_whoever_is_cancelled_in_the_middle_of_a_statement_is_cancelled_and_sees_no_error(
    database_url: str,
) -> None:
    """Wherever it happens: while connecting, sending, waiting for the answer, or leaving the pipeline."""
    async with opened(database_url) as database:
        for step in range(200):
            statement = asyncio.create_task(database.tenant("org_1").one("SELECT 1 AS one"))
            await asyncio.sleep(step / 25_000)  # a little later each time
            statement.cancel()
            try:
                assert await statement == {"one": 1}
            except asyncio.CancelledError:
                continue

        assert await answers(database)
