"""One clock for everybody that stands still until it is moved: the loop's, the processes', the database's, Slack's.

The database's `now()` is replaced by a function of the same name in a schema that is searched before PostgreSQL's own.
Each transaction is a microsecond later than the one before, as rows in production never have quite the same time.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from tests.faults.stateful.stepping import SteppableLoop

EPOCH = datetime(2040, 1, 1, tzinfo=UTC)  # after every real time that slips in

_INSTALL = """
CREATE SCHEMA clock;
CREATE TABLE clock.moment (at timestamptz NOT NULL, first_transaction bigint NOT NULL);
INSERT INTO clock.moment VALUES ('-infinity', 0);
CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT at + (pg_current_xact_id()::text::bigint - first_transaction) * interval '1 microsecond' FROM clock.moment
$$;
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT clock.now()';
GRANT USAGE ON SCHEMA clock TO PUBLIC;
GRANT SELECT ON clock.moment TO PUBLIC;
"""
_SET = "UPDATE clock.moment SET at = %s, first_transaction = pg_current_xact_id()::text::bigint"


def install(database_url: str) -> None:
    """Into an empty database, before its tables are made: their defaults are to use it as well."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(_INSTALL)
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("ALTER DATABASE {} SET search_path = public, clock, pg_catalog").format(name))


class StoppedClock:
    """Implements ports.Clock; `advance` moves it for all."""

    def __init__(self, loop: SteppableLoop, rows: psycopg.Connection[Any]) -> None:
        self.on_advance: Callable[[], None] = lambda: None
        self._loop = loop
        self._rows = rows
        self._started = loop.time()
        loop.on_advance = self._tell_the_time
        self.restart()

    def restart(self) -> None:
        self._started = self._loop.time()
        self._tell_the_time()

    def advance(self, seconds: float) -> None:
        self._loop.advance(seconds)

    def _tell_the_time(self) -> None:
        self._rows.execute(_SET, (self.now(),))
        self.on_advance()

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        return self._loop.time() - self._started
