"""What every command is handed: the wired services, who acts, and how to read a secret."""

import asyncio
import getpass
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, TypeVar

import typer
from pydantic import SecretStr

from nubabel_workers.cli.administration import Administration, Migrations
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError, UnavailableError
from nubabel_workers.domain.foreign_ids import Naming, Sought
from nubabel_workers.domain.tenants import Organization

T = TypeVar("T")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
OrganizationArgument = Annotated[str, typer.Argument(metavar="ORG", help="Organization, by id or name.")]
OrganizationOption = Annotated[
    str | None, typer.Option("--org", metavar="ORG", help="Of this organization only, by id or name.")
]


@dataclass(frozen=True)
class Invocation:
    """Lives as `ctx.obj`; tests put their own in."""

    open_administration: Callable[[], AbstractAsyncContextManager[Administration]]
    open_migrations: Callable[[], Migrations]
    actor: str  # as written to the audit log, "cli:anna"


def from_system(actor: str | None) -> Invocation:
    """The real one. Settings are read and services built only when a command asks for them."""
    return Invocation(_open_administration, _open_migrations, actor or f"cli:{_user()}")


# Imported on use: wiring loads every adapter, migrations SQLAlchemy and Alembic; a help text needs neither.


def _open_administration() -> AbstractAsyncContextManager[Administration]:
    from nubabel_workers.cli.wiring import open_administration  # noqa: PLC0415

    return open_administration()


def _open_migrations() -> Migrations:
    from nubabel_workers.cli.migrations import open_migrations  # noqa: PLC0415

    return open_migrations()


def run(context: typer.Context, work: Callable[[Administration], Awaitable[T]]) -> T:
    """Open the services, do the work, close them again."""

    async def opened() -> T:
        async with invocation(context).open_administration() as administration:
            try:
                return await work(administration)
            except NotFoundError as error:
                if error.sought is not None:
                    await report_foreign(context, administration, error.sought)
                raise

    return asyncio.run(opened())


async def report_foreign(context: typer.Context, administration: Administration, sought: Sought) -> None:
    """Somebody typed one organization's name and, it may be, another's id."""
    await administration.foreign_ids.run(Naming(actor(context), context.command_path, sought))


def invocation(context: typer.Context) -> Invocation:
    found = context.obj
    if not isinstance(found, Invocation):
        raise UnavailableError("the command was started without its surroundings")
    return found


async def organization_or_all(administration: Administration, id_or_name: str | None) -> Organization | None:
    """The organization that was named; None when none was."""
    return None if id_or_name is None else await administration.organizations.resolve(id_or_name)


def actor(context: typer.Context) -> str:
    return invocation(context).actor


def read_secret(what: str, *, variable: str | None) -> SecretStr:
    """From the named environment variable, a pipe, or a hidden prompt; never from the command line, which others
    can see.
    """
    if variable is not None:
        text = os.environ.get(variable, "")
        if not text:
            raise InvalidInputError(f"the environment variable {variable} is empty")
    elif sys.stdin.isatty():
        text = getpass.getpass(f"{what} (not shown): ")
    else:
        text = sys.stdin.readline()
    text = text.strip()
    if not text:
        raise InvalidInputError(f"{what} is empty: pipe it in, or name its environment variable")
    return SecretStr(text)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return str(os.getuid())
