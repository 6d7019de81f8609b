"""`nubabel keys` and `nubabel webhooks`: keys for secrets at rest, secrets that sign webhooks."""

import re
from collections.abc import Sequence
from secrets import token_bytes
from typing import Annotated

import typer
from pydantic import SecretStr

from nubabel_workers.adapters.storage.encryption import generate_key
from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.command_line import EXIT_FAILED
from nubabel_workers.cli.invocation import AsJson, OrganizationArgument, actor, run
from nubabel_workers.cli.output import complain, note, say, say_json
from nubabel_workers.domain.administration import RotationReport
from nubabel_workers.domain.credentials import ENTROPY_BYTES, WEBHOOK_OVERLAP_S, operator_setting, operator_token_text
from nubabel_workers.domain.errors import InvalidInputError

_OPERATOR_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")

_NAMED_ROWS = 5  # in a sentence

keys = typer.Typer(help="Encryption keys and operators' tokens: generate, rotate.", no_args_is_help=True)
webhooks = typer.Typer(help="Webhooks to upstream services: give an organization a new secret.", no_args_is_help=True)


@keys.command()
def generate() -> None:
    """Print a new key for NUBABEL_ENCRYPTION_KEYS. Needs no settings and stores nothing."""
    say(generate_key().get_secret_value())


@keys.command()
def operator_token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is for, as the audit log will say: night-shift.")],
) -> None:
    """Print a new token for /v1/operator, and its line for NUBABEL_OPERATOR_TOKENS. Stores nothing.

    To replace one: add the new line beside the old one, restart web, hand the token over, take the old line out.
    """
    if not _OPERATOR_NAME.fullmatch(name):
        raise InvalidInputError("a name has up to 40 lower-case letters, digits and _ . -")
    text = operator_token_text(token_bytes(ENTROPY_BYTES))
    say(f"token    {text.get_secret_value()}")
    say(f"setting  {operator_setting(name, text)}")
    note("keep the token now, it is not shown again; the setting holds its digest only")


@keys.command()
def rotate(context: typer.Context, as_json: AsJson = False) -> None:
    """Re-encrypt every stored secret with the first key. Safe to repeat, and to run while the system works.

    To replace a key: put a new one in front of NUBABEL_ENCRYPTION_KEYS everywhere, restart, rotate, then take the old
    one out.
    """

    async def work(administration: Administration) -> RotationReport:
        return await administration.keys.rotate(actor=actor(context))

    report = run(context, work)
    if as_json:
        say_json(report)
    else:
        say(f"{report.rotated} secrets re-encrypted, {report.current} were under the first key already")
    if report.unreadable:
        complain(_words_for_unreadable(report.unreadable))
        raise typer.Exit(EXIT_FAILED)
    note("keys behind the first one are not needed any more")


def _words_for_unreadable(unreadable: Sequence[tuple[str, str]]) -> str:
    rows = list(dict.fromkeys(f"{table} {row_id}" for table, row_id in unreadable))
    more = f" and {len(rows) - _NAMED_ROWS} more" if len(rows) > _NAMED_ROWS else ""
    return (
        f"{len(unreadable)} secrets were encrypted with a key that is not in NUBABEL_ENCRYPTION_KEYS: put that key"
        f" back, behind the first, and rotate again. They are of {', '.join(rows[:_NAMED_ROWS])}{more}"
    )


@webhooks.command()
def secret(
    context: typer.Context,
    organization: OrganizationArgument,
    end_old: Annotated[bool, typer.Option("--end-old", help="Make none: end the one before the newest.")] = False,
    end_now: Annotated[
        bool, typer.Option("--end-now", help="One has leaked: make one, and end every other at once.")
    ] = False,
    keep_old: Annotated[
        bool,
        typer.Option("--keep-old", help="Nobody has the newest: replace it, the one before signs on."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Give an organization a new secret for its webhooks, shown this once. For a day the one before signs as well.

    Webhooks carry a signature with each of the two until then: a receiver takes the new one over when it likes. A third
    is refused meanwhile.
    """
    if end_old + end_now + keep_old > 1:
        raise InvalidInputError("give one of --end-old, --end-now and --keep-old")

    async def work(administration: Administration) -> tuple[str, SecretStr | bool]:
        organizations = administration.organizations
        found = await organizations.resolve(organization)
        if end_old:
            return found.id, await organizations.end_previous_webhook_secret(found, actor=actor(context))
        if keep_old:
            return found.id, await organizations.replace_newest_webhook_secret(found, actor=actor(context))
        overlap_s = 0 if end_now else WEBHOOK_OVERLAP_S
        return found.id, await organizations.new_webhook_secret(found, actor=actor(context), overlap_s=overlap_s)

    organization_id, done = run(context, work)
    if isinstance(done, bool):
        say("nothing is signed with the old secret any more, within seconds" if done else "there was no old secret")
        return
    if as_json:
        say_json({"organization_id": organization_id, "secret": done.get_secret_value()})
        return
    say(done.get_secret_value())
    if end_now:
        note("keep it now, it is not shown again; the one before is not used any more, within seconds")
        return
    how_long = "as long as it would have" if keep_old else f"for {WEBHOOK_OVERLAP_S / 3600:.0f} h"
    note(f"keep it now, it is not shown again; one before it, if any, signs as well {how_long}, or until")
    note(f"nubabel webhooks secret {organization_id} --end-old")
