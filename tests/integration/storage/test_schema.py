"""Migrations: from empty to head and back, at several places at once, and never apart from the models."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from nubabel_workers.adapters.storage import schema
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.models import Base
from nubabel_workers.adapters.storage.readiness import PostgresReadiness
from nubabel_workers.adapters.storage.row_sets import TENANT_TABLES

pytestmark = pytest.mark.integration


def tables(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    return {row[0] for row in rows} - {"alembic_version"}


def test_an_empty_database_comes_to_the_schema_of_the_models(empty_database_url: str) -> None:
    schema.upgrade(empty_database_url)

    assert schema.current_revision(empty_database_url) == schema.head_revision()
    assert schema.differences(empty_database_url) == []


def test_the_way_back_leaves_nothing_and_the_way_up_works_again(empty_database_url: str) -> None:
    schema.upgrade(empty_database_url)

    schema.downgrade(empty_database_url)

    assert tables(empty_database_url) == set()
    schema.upgrade(empty_database_url)
    assert tables(empty_database_url) == set(Base.metadata.tables)


def test_migrating_at_several_places_at_once_is_safe(empty_database_url: str) -> None:
    with ThreadPoolExecutor(3) as places:
        list(places.map(schema.upgrade, [empty_database_url] * 3))

    assert schema.current_revision(empty_database_url) == schema.head_revision()


def test_row_level_security_is_on_for_every_tenant_table(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT relname FROM pg_class WHERE relrowsecurity").fetchall()

    assert {row[0] for row in rows} == set(TENANT_TABLES)
    with_tenant = {name for name, table in Base.metadata.tables.items() if "organization_id" in table.columns}
    assert with_tenant - set(TENANT_TABLES) == {"instances"}  # shared or dedicated; read by the system role only


def test_what_refers_to_rows_that_expire_is_found_by_an_index(database_url: str) -> None:
    """Else each deleted row reads the whole table, and expiry takes longer than a statement may."""
    with psycopg.connect(database_url) as connection:
        without_index = connection.execute(
            """SELECT c.conrelid::regclass::text, c.conname FROM pg_constraint c
               WHERE c.contype = 'f' AND c.confrelid IN ('executions'::regclass, 'sessions'::regclass)
                 AND NOT EXISTS (
                   SELECT 1 FROM pg_index i
                   WHERE i.indrelid = c.conrelid AND i.indpred IS NULL AND i.indkey[0] = c.conkey[1])"""
        ).fetchall()

    assert without_index == []


async def test_on_the_schema_of_a_later_release_this_one_goes_on(database: Database, database_url: str) -> None:
    check = PostgresReadiness(database).schema_current
    with psycopg.connect(database_url, autocommit=True) as owner:
        owner.execute("UPDATE alembic_version SET version_num = 'of a later release'")

    schema.upgrade(database_url)

    assert schema.current_revision(database_url) == "of a later release"
    assert "of a later release" in await check()
