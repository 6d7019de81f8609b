"""`nubabel migrate`: bring the database's schema to this version, or look at it."""

from enum import StrEnum
from typing import Annotated

import typer

from nubabel_workers.cli.administration import Migrations
from nubabel_workers.cli.command_line import EXIT_FAILED
from nubabel_workers.cli.invocation import AsJson, invocation
from nubabel_workers.cli.output import note, say, say_json
from nubabel_workers.domain.errors import InvalidInputError


class Direction(StrEnum):
    UP = "up"
    DOWN = "down"
    STATUS = "status"


def migrate(
    context: typer.Context,
    direction: Annotated[Direction, typer.Argument(help="up: to the newest; down: back; status: only look.")] = (
        Direction.UP
    ),
    to: Annotated[str | None, typer.Option("--to", metavar="REVISION", help="Stop there.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm a step down, which deletes data.")] = False,
    as_json: AsJson = False,
) -> None:
    """Migrate the database, as its owner (NUBABEL_DATABASE_URL). Safe to run anywhere, any number of times.

    Going up also gives the two roles the passwords that NUBABEL_TENANT_DATABASE_URL and NUBABEL_SYSTEM_DATABASE_URL
    contain. `status` fails when the schema is not this version's.
    """
    migrations = invocation(context).open_migrations()
    passwords: list[str] = []
    if direction is Direction.UP:
        migrations.up(to or "head")
        passwords = migrations.set_role_passwords()
    elif direction is Direction.DOWN:
        _down(migrations, to, confirmed=yes)
    current, head = migrations.current(), migrations.head()
    if as_json:
        say_json({"revision": current, "newest": head, "passwords_set": passwords})
    else:
        say(f"the schema is at revision {current or 'none'}" + ("" if current == head else f", the newest is {head}"))
        if passwords:
            note(f"passwords set for {', '.join(passwords)}")
    if direction is Direction.STATUS and current != head:
        raise typer.Exit(EXIT_FAILED)


def _down(migrations: Migrations, to: str | None, *, confirmed: bool) -> None:
    if to is None:
        raise InvalidInputError("say how far down: --to REVISION, or --to base for an empty database")
    if not confirmed:
        raise InvalidInputError(f"going down to {to} deletes data for good: add --yes")
    migrations.down(to)
