"""Connections to PostgreSQL, one pool per role, and the scope that every statement runs in.

A statement runs in one round trip, the tenant's scope and the statement together, as one transaction (`exchange.py`).
That is why statements here are written to be complete by themselves: one per state change.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import set_json_dumps
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from nubabel_workers.adapters.storage.connection import BoundedConnection, bounded_connection
from nubabel_workers.adapters.storage.exchange import Answer, Params, Within
from nubabel_workers.adapters.storage.storable import storable, storable_json
from nubabel_workers.domain.errors import ConnectionLostError, TransientError, UnavailableError

Pool = AsyncConnectionPool[BoundedConnection]

_CLIENT_CHECK_S = 2.0  # how often a server that works for us looks whether we are still there
_PREPARED_IN_VAIN = (psycopg.errors.InvalidSqlStatementName, psycopg.errors.FeatureNotSupported)
_GOOD_FOR_NOTHING_MORE = (*_PREPARED_IN_VAIN, psycopg.errors.ReadOnlySqlTransaction)


@dataclass(frozen=True)
class DatabaseLimits:
    """Time limits in seconds; every wait on the database has one.

    The server keeps those of statements, locks and idle transactions, and unread_s, after which it ends a transaction
    whose result nobody reads: a statement that waits to be read is beyond its own limit, and keeps its locks. transit_s
    later we no longer wait for an answer: a server that lives should be the one to end its statements.
    """

    pool_min: int = 1
    pool_max: int = 10
    connect_timeout_s: int = 5
    acquire_timeout_s: float = 5.0
    statement_timeout_s: float = 5.0
    lock_timeout_s: float = 3.0
    idle_in_transaction_timeout_s: float = 15.0
    unread_s: float = 10.0
    transit_s: float = 2.0


class Database:
    """Two pools: `tenant(organization_id)` and `system()` give the scope to run statements in."""

    def __init__(self, tenant_url: str, system_url: str, limits: DatabaseLimits, *, application_name: str) -> None:
        self._tenant_pool = _pool(tenant_url, limits, application_name)
        self._system_pool = _pool(system_url, limits, application_name)

    async def open(self) -> None:
        """Start the pools. Doesn't wait for the server: a process starts while the database is away."""
        await self._tenant_pool.open(wait=False)
        await self._system_pool.open(wait=False)

    async def close(self) -> None:
        await self._tenant_pool.close(timeout=5)
        await self._system_pool.close(timeout=5)

    def tenant(self, organization_id: str, *, locked: bool = False) -> "Scope":
        """Statements that see the rows of this organization only, by row-level security.

        locked: one at a time, over all processes, each seeing what the one before has changed.
        """
        return Scope(self._tenant_pool, Within(organization_id, lock=organization_id if locked else None))

    def system(self, *, alone: str | None = None, walks: bool = False) -> "Scope":
        """Statements of ingress, claims and the scheduler, across organizations.

        alone: one at a time of those that say the same, over all processes, each seeing what the one before has
        changed. walks: they find the first few of what waits by an index, however many wait.
        """
        return Scope(self._system_pool, Within(lock=alone, walks=walks))

    def unscoped_tenant(self) -> "Scope":
        """The tenant role without any organization: sees nothing. For the readiness check and tests."""
        return Scope(self._tenant_pool, Within())


class Scope:
    """Runs single statements, each its own transaction."""

    def __init__(self, pool: Pool, within: Within) -> None:
        self._pool = pool
        self._within = within

    async def all(self, statement: str, params: Params | None = None) -> list[dict[str, Any]]:
        return (await self._run(statement, params)).rows

    async def one(self, statement: str, params: Params | None = None) -> dict[str, Any] | None:
        rows = (await self._run(statement, params)).rows
        return rows[0] if rows else None

    async def execute(self, statement: str, params: Params | None = None) -> int:
        """Return the number of rows that were touched."""
        return (await self._run(statement, params)).touched

    async def _run(self, statement: str, params: Params | None) -> Answer:
        if params is not None:
            params = {name: storable(value) for name, value in params.items()}
        with translated_errors():
            connection = await self._pool.getconn()
            try:
                return await connection.run(statement, params, self._within)
            except BaseException as error:
                await _heal(self._pool, connection, error)
                raise
            finally:
                await self._pool.putconn(connection)


async def _heal(pool: Pool, connection: BoundedConnection, error: BaseException) -> None:
    """When a server went away all its connections are dead; each would cost somebody a failure, and one that hangs a
    whole time limit. So the first that is found dead ends those that rest in the pool. One whose user was cancelled
    says nothing about the others: under load, to connect them all anew would make what is late still later.

    What was prepared on a connection may be out of date: a migration has changed what the statement returns. One that
    was opened while another server took over may stay read-only for good. That one alone is ended: a server that takes
    no writes still takes connections, and would be flooded with them while each write ends all.
    """
    if connection.closed and not _is_cancelled():
        await pool.drain()
    elif isinstance(error, _GOOD_FOR_NOTHING_MORE):
        await connection.close()


class translated_errors:  # noqa: N801 - reads as a statement
    """The database away, slow, full or read-only is a TransientError; anything else is a bug and stays what it is.

    A cancelled statement's connection is closed, and psycopg tells of that instead of the cancellation.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, psycopg.Error) and _is_cancelled():
            raise asyncio.CancelledError from error
        if isinstance(error, PoolTimeout):
            raise UnavailableError("the database gave no connection in time") from error
        if isinstance(error, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
            raise TransientError("the database took too long") from error
        if isinstance(error, psycopg.errors.SerializationFailure | psycopg.errors.DeadlockDetected):
            raise TransientError("the database asked to try again") from error
        if isinstance(error, _PREPARED_IN_VAIN):
            raise TransientError("what was prepared on the connection is out of date") from error
        if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
            raise UnavailableError("the database takes no writes now") from error
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
            if error.sqlstate is None:
                raise ConnectionLostError("the connection to the database was lost in the middle") from error
            raise UnavailableError("the database cannot be reached") from error


def _is_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # no event loop
        return False
    return task is not None and task.cancelling() > 0


def _pool(url: str, limits: DatabaseLimits, application_name: str) -> Pool:
    options = " ".join(
        f"-c {name}={int(seconds * 1000)}"
        for name, seconds in {
            "statement_timeout": limits.statement_timeout_s,
            "lock_timeout": limits.lock_timeout_s,
            "idle_in_transaction_session_timeout": limits.idle_in_transaction_timeout_s,
            "client_connection_check_interval": _CLIENT_CHECK_S,
            "tcp_user_timeout": limits.unread_s,
        }.items()
    )
    return AsyncConnectionPool(
        url,
        open=False,
        min_size=limits.pool_min,
        max_size=limits.pool_max,
        timeout=limits.acquire_timeout_s,
        max_idle=300,
        reconnect_timeout=2,  # then the next request tries at once; longer, and attempts back off to many seconds
        kwargs={
            "autocommit": True,
            "row_factory": dict_row,
            "connect_timeout": limits.connect_timeout_s,
            "application_name": application_name,
            "options": options,
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 15_000,
        },
        connection_class=bounded_connection(limits.statement_timeout_s + limits.transit_s),
        configure=_configure,
        check=None,
    )


async def _configure(connection: BoundedConnection) -> None:
    set_json_dumps(storable_json, connection)
