"""`nubabel connections`: organizations' connections to MCP servers."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import typer
from pydantic import SecretStr

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.command_line import EXIT_FAILED
from nubabel_workers.cli.invocation import (
    AsJson,
    OrganizationArgument,
    OrganizationOption,
    actor,
    organization_or_all,
    read_secret,
    run,
)
from nubabel_workers.cli.output import fields, note, print_line, say, say_json, styled, table
from nubabel_workers.cli.table_layout import Column
from nubabel_workers.cli.wording import ago, clock_time, plain
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.tool_connections import (
    PRESETS,
    Authentication,
    AuthorizationLink,
    ConnectionCheck,
    ConnectionDetails,
    NewConnection,
    Removal,
)
from nubabel_workers.domain.tools import ConnectionStatus
from nubabel_workers.services.connections import Connections

T = TypeVar("T")

commands = typer.Typer(
    help="Connections to tools (MCP servers): add, authorize, check, say what may be used, disable, remove.",
    no_args_is_help=True,
)

ConnectionArgument = Annotated[str, typer.Argument(metavar="CONNECTION", help="Its id, mcp_..., or provider name.")]
TokenEnv = Annotated[str | None, typer.Option("--token-env", metavar="VARIABLE", help="Read it from this variable.")]


@commands.command()
def add(
    context: typer.Context,
    organization: OrganizationArgument,
    preset: Annotated[
        str | None, typer.Argument(metavar="[PROVIDER]", help=f"A known one: {', '.join(PRESETS)}.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Any MCP server at a public https address.")] = None,
    command: Annotated[str | None, typer.Option(help="A server of the catalogue (NUBABEL_TOOL_COMMANDS_FILE).")] = None,
    name: Annotated[str | None, typer.Option(help="What the agent calls it by; needed with --url.")] = None,
    auth: Annotated[Authentication | None, typer.Option(help="How it authenticates, where there is a choice.")] = None,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Read its token from standard input (hidden when typed).")
    ] = False,
    token_env: TokenEnv = None,
    token_header: Annotated[
        str | None, typer.Option(metavar="NAME", help="Send it in this header, as it is; else as Bearer token.")
    ] = None,
    variable: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME", help="Hand this variable of the shell to a command server; repeatable."),
    ] = None,
    client_id: Annotated[str | None, typer.Option(help="OAuth client, where the provider registers none.")] = None,
    client_secret_env: Annotated[
        str | None, typer.Option(metavar="VARIABLE", help="Read that client's secret from this variable.")
    ] = None,
    scope: Annotated[str | None, typer.Option(help="What to ask for, instead of what the server says.")] = None,
    tool: Annotated[list[str] | None, typer.Option("--tool", help="Allow this tool only; repeatable.")] = None,
    as_json: AsJson = False,
) -> None:
    """Connect an organization to a server of tools."""
    secrets = {one: _variable(one) for one in variable or ()}
    if token_stdin or token_env:
        secrets["token"] = read_secret("the token", variable=token_env)
    new = NewConnection(
        preset=preset,
        url=url,
        command_name=command,
        provider=name,
        authentication=auth,
        secrets=secrets,
        client_id=client_id,
        client_secret=_variable(client_secret_env) if client_secret_env else None,
        scope=scope,
        allowed_tools=tool or None,
        token_header=token_header,
    )

    async def work(connections: Connections, organization_id: str) -> ConnectionDetails:
        return await connections.manage.add(organization_id, new, actor=actor(context))

    added = _for_organization(context, organization, work)
    if as_json:
        say_json(_as_json(added))
        return
    connection = added.connection
    say(f"added {connection.id} ({connection.provider}): {connection.status}")
    if connection.status is ConnectionStatus.PENDING_AUTHORIZATION:
        note(f"next: nubabel connections authorize {connection.organization_id} {connection.provider}")
    else:
        note(f"next: nubabel connections check {connection.organization_id} {connection.provider}")


@commands.command("list")
def list_all(context: typer.Context, organization: OrganizationOption = None, as_json: AsJson = False) -> None:
    """List connections of all organizations, or of one."""

    async def work(administration: Administration) -> tuple[list[ConnectionDetails], list[tuple[str, ...]]]:
        chosen = await organization_or_all(administration, organization)
        found = await administration.connections().manage.list(chosen.id if chosen else None)
        return found, [_row(one, ago(one.checked_at, administration.clock.now())) for one in found]

    found, rows = run(context, work)
    if as_json:
        say_json([_as_json(one) for one in found])
        return
    titles = ("ID", "ORGANIZATION", "PROVIDER", "STATE", "BY", "DEFAULT", "TOOLS", "HEALTH", "CHECKED")
    table(
        [*(Column(title) for title in titles), Column("DETAIL", whole=False)],
        rows,
        empty="no connection yet: nubabel connections add ORG notion",
    )


@commands.command()
def show(
    context: typer.Context, organization: OrganizationArgument, connection: ConnectionArgument, as_json: AsJson = False
) -> None:
    """Show a connection; its credentials are never shown."""

    async def work(connections: Connections, organization_id: str) -> ConnectionDetails:
        return await connections.manage.find(organization_id, connection)

    _print(_for_organization(context, organization, work), as_json=as_json)


@commands.command()
def allow(
    context: typer.Context,
    organization: OrganizationArgument,
    connection: ConnectionArgument,
    tools: Annotated[list[str] | None, typer.Argument(metavar="[TOOL]...", help="The tools that may be used.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every tool that it has, now and later.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say which of its tools may be used."""
    if every == bool(tools):
        raise InvalidInputError("name tools, or give --all")

    async def work(connections: Connections, organization_id: str) -> ConnectionDetails:
        return await connections.manage.allow(
            organization_id, connection, None if every else tools, actor=actor(context)
        )

    _print(_for_organization(context, organization, work), as_json=as_json)


@commands.command()
def repeat(
    context: typer.Context,
    organization: OrganizationArgument,
    connection: ConnectionArgument,
    tools: Annotated[list[str] | None, typer.Argument(metavar="[TOOL]...", help="These and no others.")] = None,
    never: Annotated[bool, typer.Option("--never", help="None of them.")] = False,
    as_told: Annotated[
        bool, typer.Option("--as-told", help="Those of which its server says so (the default).")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say which calls may be made again when nobody knows whether they took effect."""
    if [bool(tools), never, as_told].count(True) != 1:
        raise InvalidInputError("name tools, or give one of --never and --as-told")

    async def work(connections: Connections, organization_id: str) -> ConnectionDetails:
        return await connections.manage.set_repeatable(
            organization_id, connection, None if as_told else tools or (), actor=actor(context)
        )

    _print(_for_organization(context, organization, work), as_json=as_json)


@commands.command("set-default")
def set_default(
    context: typer.Context,
    organization: OrganizationArgument,
    connection: ConnectionArgument,
    off: Annotated[bool, typer.Option("--off", help="Make it the default no more.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make it the one that serves tool names which several connections have."""

    async def work(connections: Connections, organization_id: str) -> ConnectionDetails:
        return await connections.manage.set_default(organization_id, connection, default=not off, actor=actor(context))

    _print(_for_organization(context, organization, work), as_json=as_json)


@commands.command("set-token")
def set_token(
    context: typer.Context,
    organization: OrganizationArgument,
    connection: ConnectionArgument,
    token_env: TokenEnv = None,
) -> None:
    """Replace the token of a connection; it is read from standard input (hidden when typed)."""
    token = read_secret("the token", variable=token_env)

    async def work(connections: Connections, organization_id: str) -> ConnectionDetails:
        return await connections.manage.replace_secrets(
            organization_id, connection, {"token": token}, actor=actor(context)
        )

    changed = _for_organization(context, organization, work).connection
    say(f"{changed.id} ({changed.provider}) has a new token: {changed.status}")


@commands.command()
def authorize(
    context: typer.Context, organization: OrganizationArgument, connection: ConnectionArgument, as_json: AsJson = False
) -> None:
    """Print a link for the browser of somebody who may agree for the organization; again after a refusal."""

    async def work(connections: Connections, organization_id: str) -> AuthorizationLink:
        return await connections.authorize.begin(organization_id, connection, actor=actor(context))

    link = _for_organization(context, organization, work)
    if as_json:
        say_json(vars(link))
        return
    say(link.url)
    note(f"good once, for {link.expires_in_s / 60:.0f} minutes; open it and agree in the same browser")


@commands.command()
def check(
    context: typer.Context,
    organization: Annotated[str | None, typer.Argument(metavar="[ORG]", help="Without it, all of them.")] = None,
    connection: Annotated[
        str | None, typer.Argument(metavar="[CONNECTION]", help="Without it, all that are active.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask servers for their tools, and write down what came of it. Fails when one does not answer."""

    async def work(administration: Administration) -> list[ConnectionCheck]:
        chosen = await organization_or_all(administration, organization)
        manage = administration.connections().manage
        if chosen is not None and connection is not None:
            return [await manage.check(chosen.id, connection)]
        every = [one.connection for one in await manage.list(chosen.id if chosen else None)]
        active = [one for one in every if one.status is ConnectionStatus.ACTIVE]
        return list(await asyncio.gather(*(manage.check(one.organization_id, one.id) for one in active)))

    found = run(context, work)
    if as_json:
        say_json([{"connection": _as_json(one.details), "tools": one.tools, "problem": one.problem} for one in found])
    for one in [] if as_json else found:
        connection_ = one.details.connection
        word = "OK" if one.problem is None else "FAIL"
        detail = plain(one.details.health_detail)
        print_line((word.ljust(6), styled(word)), (f"{connection_.id} {connection_.provider}  {detail}", ""))
    if any(one.problem is not None for one in found):
        raise typer.Exit(EXIT_FAILED)


@commands.command()
def disable(context: typer.Context, organization: OrganizationArgument, connection: ConnectionArgument) -> None:
    """Stop its use; its credentials are kept."""

    async def work(connections: Connections, organization_id: str) -> ConnectionDetails:
        return await connections.manage.disable(organization_id, connection, actor=actor(context))

    disabled = _for_organization(context, organization, work).connection
    say(f"disabled {disabled.id} ({disabled.provider})")
    note(f"undo: nubabel connections enable {disabled.organization_id} {disabled.provider}")


@commands.command()
def enable(context: typer.Context, organization: OrganizationArgument, connection: ConnectionArgument) -> None:
    """Use a disabled connection again."""

    async def work(connections: Connections, organization_id: str) -> ConnectionDetails:
        return await connections.manage.enable(organization_id, connection, actor=actor(context))

    enabled = _for_organization(context, organization, work).connection
    say(f"{enabled.id} ({enabled.provider}): {enabled.status}")


@commands.command()
def remove(context: typer.Context, organization: OrganizationArgument, connection: ConnectionArgument) -> None:
    """Remove a connection with its credentials, and tell the provider, if it can be told."""

    async def work(connections: Connections, organization_id: str) -> Removal:
        return await connections.manage.remove(organization_id, connection, actor=actor(context))

    removal = _for_organization(context, organization, work)
    removed = removal.details.connection
    say(f"removed {removed.id} ({removed.provider})")
    if removal.provider_told:
        note("the provider has ended its access")
    else:
        note("the provider was not told: take the access away there as well")


def _for_organization(context: typer.Context, id_or_name: str, work: Callable[[Connections, str], Awaitable[T]]) -> T:
    async def found(administration: Administration) -> T:
        organization = await administration.organizations.resolve(id_or_name)
        return await work(administration.connections(), organization.id)

    return run(context, found)


def _variable(name: str) -> SecretStr:
    text = os.environ.get(name, "")
    if not text:
        raise InvalidInputError(f"the environment variable {name} is empty")
    return SecretStr(text)


def _print(details: ConnectionDetails, *, as_json: bool) -> None:
    if as_json:
        say_json(_as_json(details))
        return
    connection = details.connection
    fields(
        {
            "connection": connection.id,
            "organization": connection.organization_id,
            "provider": connection.provider,
            "leads to": connection.url or f"command {connection.command_name}",
            "authenticates by": details.authentication.value,
            "state": connection.status.value,
            **({"why": details.status_detail} if details.status_detail else {}),
            "default": "yes" if connection.is_default else "no",
            "allowed tools": _names(connection.allowed_tools, otherwise="all"),
            "repeatable tools": _names(connection.repeatable_tools, otherwise="as its server says"),
            **({"token header": details.token_header} if details.token_header else {}),
            "authorized at": details.issuer or "-",
            "scope": details.scope or "-",
            "token ends": clock_time(details.expires_at),
            "last check": details.health_detail or "-",
            "added": clock_time(details.created_at),
        }
    )


def _row(details: ConnectionDetails, checked: str) -> tuple[str, ...]:
    connection = details.connection
    health = {None: "-", True: "healthy", False: "unfit"}[details.healthy]
    return (
        connection.id,
        connection.organization_id,
        connection.provider,
        connection.status.value,
        details.authentication.value,
        "yes" if connection.is_default else "-",
        "all" if connection.allowed_tools is None else str(len(connection.allowed_tools)),
        health,
        checked,
        details.status_detail or details.health_detail,
    )


def _names(tools: frozenset[str] | None, *, otherwise: str) -> str:
    return otherwise if tools is None else ", ".join(sorted(tools)) or "none"


def _as_json(details: ConnectionDetails) -> dict[str, Any]:
    shown = {name: value for name, value in vars(details).items() if name != "connection"}
    return {**vars(details.connection), **shown}
