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


def upgrade(database_url: str, revision: str = "head") -> None:
    """Migrate up as the database's owner. Safe to run at any number of places at once."""
    _run(database_url, lambda config: command.upgrade(config, revision))


def downgrade(database_url: str, revision: str = "base") -> None:
    _run(database_url, lambda config: command.downgrade(config, revision))


def _run(database_url: str, step: Callable[[Config], None]) -> None:
    engine = _engine(database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        step(_config(connection))
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
