"""Whether the database is fit to work with: reachable, on our schema, and closed to tenants' curiosity.

Each check returns words for people, or raises NubabelError that says what is wrong.
"""

import asyncio

import psycopg

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.row_sets import TENANT_TABLES
from nubabel_workers.domain.errors import PermanentError, UnavailableError


async def connect_as(url: str, *, timeout_s: int) -> str:
    """Connect once, outside any pool, so that the server's own words about a refusal are seen. For operators: the
    words name host and role (never the password).
    """
    try:
        async with await psycopg.AsyncConnection.connect(url, connect_timeout=timeout_s, autocommit=True) as connection:
            return f"PostgreSQL {connection.info.parameter_status('server_version')}"
    except psycopg.OperationalError as error:
        raise UnavailableError(" ".join(str(error).split())) from error


class PostgresReadiness:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def reachable(self) -> str:
        """Both roles can connect; the server's version."""
        await self._database.unscoped_tenant().one("SELECT 1")
        row = await self._database.system().one("SELECT current_setting('server_version') AS version")
        return f"PostgreSQL {row['version']}" if row else "PostgreSQL"

    async def schema_current(self) -> str:
        """On the schema of this release or of a later one, beside whose processes we go on working."""
        # Imported here: SQLAlchemy and Alembic take longer to load than most commands to run, and few look at this.
        from nubabel_workers.adapters.storage.schema import head_revision, is_later  # noqa: PLC0415

        wanted = await asyncio.to_thread(head_revision)
        exists = await self._database.system().one("SELECT to_regclass('public.alembic_version') AS table_name")
        if exists is None or exists["table_name"] is None:
            raise UnavailableError(f"the database is empty (revision {wanted} is needed)")
        row = await self._database.system().one("SELECT version_num FROM alembic_version")
        found = row["version_num"] if row else "none"
        if row is not None and await asyncio.to_thread(is_later, found):
            return f"revision {found}, of a later release"
        if found != wanted:
            raise UnavailableError(f"the schema is at revision {found}, this version needs {wanted}")
        return f"revision {found}"

    async def tenant_role_bound(self) -> str:
        """Row-level security holds for the tenant role: it is on, and the role is neither owner nor exempt."""
        row = await self._database.unscoped_tenant().one(
            """
            SELECT r.rolname, r.rolsuper OR r.rolbypassrls AS exempt,
              (SELECT coalesce(array_agg(c.relname::text ORDER BY c.relname), '{}') FROM pg_class c
               WHERE c.relnamespace = 'public'::regnamespace AND c.relname = ANY(%(tables)s)
                 AND (NOT c.relrowsecurity OR pg_has_role(r.oid, c.relowner, 'USAGE'))) AS open_tables
            FROM pg_roles r WHERE r.rolname = current_user
            """,
            {"tables": list(TENANT_TABLES)},
        )
        if row is None or row["exempt"]:
            raise PermanentError("the tenant role is exempt from row-level security", code="tenant_role_exempt")
        if row["open_tables"]:
            tables = ", ".join(row["open_tables"])
            raise PermanentError(f"{row['rolname']} can see every tenant's rows of: {tables}", code="tenant_role_open")
        return f"{row['rolname']} is bound by row-level security"
