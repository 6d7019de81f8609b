"""One migrated database for many tests, emptied between them: a new one for each costs hundreds of times as much."""

from collections.abc import Callable

import psycopg
from psycopg import sql

_SESSIONS_LEFT = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
_SEQUENCES = """
SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'
"""
_VERSION_TABLE = "alembic_version"
# Whatever a test may change of a schema changes one of these.
_SCHEMA = """
SELECT
  (SELECT array_agg((oid, relname, relnatts, relrowsecurity, relforcerowsecurity, relhastriggers, relacl::text)::text
    ORDER BY oid) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
  (SELECT array_agg(oid ORDER BY oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace),
  (SELECT array_agg(nspname ORDER BY nspname) FROM pg_namespace),
  (SELECT array_agg(version_num) FROM alembic_version)
"""


class ReusedDatabase:
    """create: makes a migrated database, and returns its owner's URL. drop: removes it."""

    def __init__(self, create: Callable[[], str], drop: Callable[[str], None]) -> None:
        self._create = create
        self._drop = drop
        self._url: str | None = None
        self._schema: object = None

    def empty(self) -> str:
        """The URL of the database, without rows and sessions, its sequences at one.

        Of a new one, if the last test changed its schema.
        """
        if self._url is not None and not self._emptied(self._url):
            self.close()
        if self._url is None:
            self._url = self._create()
            with psycopg.connect(self._url) as connection:
                self._schema = connection.execute(_SCHEMA).fetchone()
        return self._url

    def close(self) -> None:
        if self._url is not None:
            self._drop(self._url)
            self._url = None

    def _emptied(self, url: str) -> bool:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_SESSIONS_LEFT)
            if connection.execute(_SCHEMA).fetchone() != self._schema:
                return False
            tables = [name for (name,) in connection.execute(_TABLES) if name != _VERSION_TABLE]
            connection.execute("SET session_replication_role = replica")  # no foreign key is looked at
            deletions = [sql.SQL("DELETE FROM {}").format(sql.Identifier(table)) for table in tables]
            connection.execute(sql.SQL(";").join(deletions))
            connection.execute(_SEQUENCES)
        return True
