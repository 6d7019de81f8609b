"""Everything that is stored of one organization, as it was at one moment."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import psycopg
from psycopg.rows import dict_row

from nubabel_workers.adapters.storage.database import translated_errors
from nubabel_workers.adapters.storage.row_sets import TENANT_TABLES
from nubabel_workers.domain.ports.administration import OrganizationSnapshot

_AT_A_TIME = 500  # rows that are in memory
_SECRETS = """
    SELECT table_name, array_agg(column_name::text ORDER BY column_name) AS columns
    FROM information_schema.columns
    WHERE table_schema = 'public' AND data_type = 'bytea' AND table_name = ANY(%(tables)s)
    GROUP BY table_name
"""
_ONE_MOMENT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class PostgresOrganizationRows:
    """Reads as the tenant, so that row-level security decides what is in it.

    A connection of its own: a snapshot of everything takes longer than statements of the pools may.
    """

    def __init__(self, tenant_url: str, *, connect_timeout_s: int, application_name: str) -> None:
        self._tenant_url = tenant_url
        self._connect_timeout_s = connect_timeout_s
        self._application_name = application_name

    @asynccontextmanager
    async def snapshot(self, organization_id: str) -> AsyncIterator[OrganizationSnapshot]:
        with translated_errors():
            connection = await psycopg.AsyncConnection.connect(
                self._tenant_url,
                autocommit=True,
                row_factory=dict_row,
                connect_timeout=self._connect_timeout_s,
                application_name=self._application_name,
            )
        async with connection:
            with translated_errors():
                await connection.execute(_ONE_MOMENT)
                await connection.execute(
                    "SELECT set_config('nubabel.organization_id', %(id)s, true)", {"id": organization_id}
                )
                found = await connection.execute(_SECRETS, {"tables": list(TENANT_TABLES)})
                secrets = {row["table_name"]: tuple(row["columns"]) for row in await found.fetchall()}
            yield _Snapshot(connection, secrets)


class _Snapshot:
    """Implements ports.administration.OrganizationSnapshot. What is sealed or hashed is kept in columns of bytes."""

    tables = TENANT_TABLES

    def __init__(
        self, connection: "psycopg.AsyncConnection[dict[str, object]]", secrets: Mapping[str, tuple[str, ...]]
    ) -> None:
        self._connection = connection
        self.left_out = secrets

    async def rows(self, table: str) -> AsyncIterator[str]:
        if table not in TENANT_TABLES:
            raise ValueError(f"{table} is no table of tenants")
        with translated_errors():
            async with self._connection.cursor(name="rows") as cursor:
                cursor.itersize = _AT_A_TIME
                await cursor.execute(
                    f"SELECT (to_jsonb(t) - %(secrets)s::text[])::text AS row FROM {table} t",
                    {"secrets": list(self.left_out.get(table, ()))},
                )
                async for row in cursor:
                    yield str(row["row"])
