"""Migrations as a command makes them: as the database's owner."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import errors
from pydantic import SecretStr
from sqlalchemy.exc import DBAPIError

from config.settings import SYSTEM_ROLE, TENANT_ROLE
from nubabel_workers.adapters.storage import schema
from nubabel_workers.cli.command_settings import command_settings
from nubabel_workers.domain.errors import InvalidInputError, UnavailableError


@dataclass(frozen=True)
class OwnerMigrations:
    """Migrations by Alembic."""

    database_url: SecretStr
    role_urls: Sequence[tuple[str, SecretStr]]  # role -> the settings' URL for it, where there is one

    def head(self) -> str:
        return schema.head_revision()

    def current(self) -> str | None:
        with _translated():
            return schema.current_revision(self.database_url.get_secret_value())

    def up(self, revision: str) -> None:
        with _translated():
            schema.upgrade(self.database_url.get_secret_value(), revision)

    def down(self, revision: str) -> None:
        with _translated():
            schema.downgrade(self.database_url.get_secret_value(), revision)

    def set_role_passwords(self) -> list[str]:
        """Give each role the password that the settings' URL for it contains; the roles that got one."""
        done = []
        for role, url in self.role_urls:
            parts = urlsplit(url.get_secret_value())
            if parts.username == role and parts.password:
                with _translated():
                    schema.set_role_password(self.database_url.get_secret_value(), role, unquote(parts.password))
                done.append(role)
        return done


def open_migrations() -> OwnerMigrations:
    settings = command_settings()
    given = [(TENANT_ROLE, settings.tenant_database_url), (SYSTEM_ROLE, settings.system_database_url)]
    return OwnerMigrations(settings.database_url, [(role, url) for role, url in given if url is not None])


@contextmanager
def _translated() -> Iterator[None]:
    """Alembic's errors come wrapped by SQLAlchemy, those of a statement of our own as they are."""
    try:
        yield
    except (DBAPIError, psycopg.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(cause, errors.InsufficientPrivilege):
            raise InvalidInputError(
                "NUBABEL_DATABASE_URL must name the owner of the tables, who may change roles; "
                "with Docker Compose only the service migrate has it: docker compose run --rm migrate"
            ) from error
        if isinstance(cause, errors.LockNotAvailable):
            raise UnavailableError("a table was in use for too long and nothing was changed: run it again") from error
        if isinstance(cause, psycopg.OperationalError):
            raise UnavailableError("the database cannot be reached as NUBABEL_DATABASE_URL says") from error
        raise
