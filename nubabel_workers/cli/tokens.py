"""`nubabel tokens` and `nubabel submit-keys`: what callers prove themselves with. Shown once, then only listed."""

from datetime import datetime
from typing import Annotated

import typer

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.invocation import (
    AsJson,
    OrganizationOption,
    actor,
    organization_or_all,
    run,
)
from nubabel_workers.cli.output import note, say, say_json, table
from nubabel_workers.cli.table_layout import Column
from nubabel_workers.cli.wording import ago
from nubabel_workers.domain.administration import IssuedSubmitKey, IssuedToken, SubmitKeySummary
from nubabel_workers.domain.tenants import ServiceToken

_DAY_S = 86_400.0

tokens = typer.Typer(help="Bearer tokens for the HTTP API: create, list, revoke.", no_args_is_help=True)
submit_keys = typer.Typer(
    help="Keys that sign submissions through the broker: create, list, revoke.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="What it is for, e.g. the calling service.")]


@tokens.command("create")
def create_token(
    context: typer.Context,
    name: NameArgument,
    organization: Annotated[
        str, typer.Option("--org", metavar="ORG", help="Organization that it acts for, by id or name.")
    ],
    days: Annotated[float | None, typer.Option("--days", help="Life in days; without it, until revoked.")] = None,
    as_json: AsJson = False,
) -> None:
    """Create a token. It is shown this once; only its hash is kept."""

    async def work(administration: Administration) -> IssuedToken:
        return await administration.tokens.create(
            name,
            organization=await administration.organizations.resolve(organization),
            expires_in_s=None if days is None else days * _DAY_S,
            actor=actor(context),
        )

    issued = run(context, work)
    text = issued.text.get_secret_value()
    if as_json:
        say_json({"token": issued.token, "text": text})
        return
    say(text)
    note(f"{issued.token.id}: keep it now, it is not shown again; to end it: nubabel tokens revoke {issued.token.id}")


@tokens.command("list")
def list_tokens(context: typer.Context, organization: OrganizationOption = None, as_json: AsJson = False) -> None:
    """List tokens, without their texts."""

    async def work(administration: Administration) -> tuple[list[ServiceToken], list[tuple[str, ...]]]:
        owner = await organization_or_all(administration, organization)
        found, now = await administration.tokens.list(owner), administration.clock.now()
        return found, [
            (
                one.id,
                one.name,
                _state(one, now),
                one.organization_id,
                ago(one.created_at, now),
                ago(one.expires_at, now),
            )
            for one in found
        ]

    found, rows = run(context, work)
    if as_json:
        say_json(found)
        return
    titles = ("ID", "NAME", "STATE", "ORGANIZATION", "CREATED", "EXPIRES")
    table([Column(title) for title in titles], rows, empty="no token yet: nubabel tokens create NAME --org ORG")


@tokens.command("revoke")
def revoke_token(
    context: typer.Context, token_id: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, tok_...")]
) -> None:
    """Revoke a token; it is refused everywhere within seconds."""

    async def work(administration: Administration) -> datetime:
        return await administration.tokens.revoke(token_id, actor=actor(context))

    run(context, work)
    say(f"revoked {token_id}: it is refused everywhere within seconds")


@submit_keys.command("create")
def create_submit_key(
    context: typer.Context,
    name: NameArgument,
    organization: Annotated[
        str, typer.Option("--org", metavar="ORG", help="Organization that it acts for, by id or name.")
    ],
    as_json: AsJson = False,
) -> None:
    """Create a submit key. Its secret is shown this once."""

    async def work(administration: Administration) -> IssuedSubmitKey:
        owner = await administration.organizations.resolve(organization)
        return await administration.submit_keys.create(name, organization=owner, actor=actor(context))

    issued = run(context, work)
    text = issued.text.get_secret_value()
    if as_json:
        say_json({"key": issued.key, "secret": text})
        return
    say(f"key id  {issued.key.id}")
    say(f"secret  {text}")
    note(f"keep the secret now, it is not shown again; to end it: nubabel submit-keys revoke {issued.key.id}")


@submit_keys.command("list")
def list_submit_keys(context: typer.Context, organization: OrganizationOption = None, as_json: AsJson = False) -> None:
    """List submit keys, without their secrets."""

    async def work(administration: Administration) -> tuple[list[SubmitKeySummary], list[tuple[str, ...]]]:
        owner = await organization_or_all(administration, organization)
        found, now = await administration.submit_keys.list(owner), administration.clock.now()
        return found, [
            (one.id, one.name, "revoked" if one.revoked_at else "active", one.organization_id, ago(one.created_at, now))
            for one in found
        ]

    found, rows = run(context, work)
    if as_json:
        say_json(found)
        return
    titles = ("ID", "NAME", "STATE", "ORGANIZATION", "CREATED")
    table(
        [Column(title) for title in titles], rows, empty="no submit key yet: nubabel submit-keys create NAME --org ORG"
    )


@submit_keys.command("revoke")
def revoke_submit_key(
    context: typer.Context, key_id: Annotated[str, typer.Argument(metavar="KEY", help="Its id, key_...")]
) -> None:
    """Revoke a submit key; what it signs is refused within seconds."""

    async def work(administration: Administration) -> datetime:
        return await administration.submit_keys.revoke(key_id, actor=actor(context))

    run(context, work)
    say(f"revoked {key_id}: what it signs is refused within seconds")


def _state(token: ServiceToken, now: datetime) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= now else "active"
