"""Bring the database to the newest schema, or back: Alembic, run from code so that no ini file is needed."""

from collections.abc import Callable
from importlib.resources import files

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql

from nubabel_workers.adapters.storage.models import Base

# Any number of processes may migrate at once; the lock makes them take turns (the number is arbitrary, ours alone).
_MIGRATION_LOCK = 7_203_511
# A change of a table waits for its readers, and everybody else behind it: rather it fails and is run again.
_LOCK_TIMEOUT_S = 10


def _config(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("nubabel_workers.adapters.storage") / "migrations"))
    config.attributes["connection"] = connection
    return config


def _engine(database_url: str) -> sa.Engine:
    url = sa.make_url(database_url).set(drivername="postgresql+psycopg")
    return sa.create_engine(url, poolclass=sa.NullPool, connect_args={"connect_timeout": 10})


def head_revision() -> str:
    """The newest revision that this code knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("no migration scripts were found beside the code")
    return head


def is_later(revision: str) -> bool:
    """Whether that revision of a database is of a later release than this code: nothing here knows it."""
    return revision not in {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}


def upgrade(database_url: str, revision: str = "head") -> None:
    """Migrate up as the database's owner. Safe to run at any number of places at once.

    A database that a later release has migrated stays as it is: releases side by side, or the way back to an earlier
    one, must work on the later schema.
    """

    def step(config: Config, connection: sa.Connection) -> None:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is None or not is_later(current):
            command.upgrade(config, revision)

    _run(database_url, step)


def downgrade(database_url: str, revision: str = "base") -> None:
    _run(database_url, lambda config, _connection: command.downgrade(config, revision))


def _run(database_url: str, step: Callable[[Config, sa.Connection], None]) -> None:
    engine = _engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        connection.execute(sa.text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'"))
        step(_config(connection), connection)
    engine.dispose()


def set_role_password(database_url: str, role: str, password: str) -> None:
    """Give a role the password that the settings' URL for it contains; the role must exist."""
    engine = _engine(database_url)
    with engine.begin() as connection:
        raw = connection.connection.driver_connection
        statement = sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
        raw.execute(statement)  # type: ignore[union-attr]
    engine.dispose()


def current_revision(database_url: str) -> str | None:
    engine = _engine(database_url)
    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    engine.dispose()
    return revision


def differences(database_url: str) -> list[object]:
    """What the models say and the database lacks, or the other way round; empty when they agree."""
    from alembic.autogenerate import compare_metadata  # noqa: PLC0415 - only the schema's own test needs it

    engine = _engine(database_url)
    with engine.connect() as connection:
        found = list(compare_metadata(MigrationContext.configure(connection), Base.metadata))
    engine.dispose()
    return found
