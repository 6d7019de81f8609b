"""The command `nubabel`: every way for operators and developers into the system."""

from importlib.metadata import version
from typing import Annotated

import typer

from nubabel_workers.cli import (
    batches,
    connections,
    dead_letters,
    executions,
    instances,
    limits,
    orgs,
    secrets,
    tokens,
    tool_calls,
    workspaces,
)
from nubabel_workers.cli.audit import audit
from nubabel_workers.cli.budget import budget
from nubabel_workers.cli.command_line import CommandLine
from nubabel_workers.cli.demo import command as demo
from nubabel_workers.cli.doctor import doctor
from nubabel_workers.cli.enqueue import enqueue
from nubabel_workers.cli.invocation import from_system
from nubabel_workers.cli.migrate import migrate
from nubabel_workers.cli.restored import restored
from nubabel_workers.cli.up import command as up
from nubabel_workers.cli.usage import usage

app = typer.Typer(
    cls=CommandLine,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Run and look after nubabel-workers. `nubabel doctor` says whether everything is well.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nubabel-workers {version('nubabel-workers')}")
        raise typer.Exit


@app.callback()
def nubabel(
    context: typer.Context,
    actor: Annotated[
        str | None, typer.Option(help="Who acts, for the audit log; without it, the system's user.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    if context.obj is None:
        context.obj = from_system(actor)


app.command("up")(up)
app.command("demo")(demo)
app.command()(doctor)
app.command()(migrate)
app.command()(restored)
app.command()(enqueue)
app.add_typer(executions.commands, name="executions")
app.add_typer(batches.commands, name="batches")
app.add_typer(dead_letters.commands, name="dead-letters")
app.add_typer(orgs.commands, name="orgs")
app.add_typer(limits.commands, name="limits")
app.add_typer(workspaces.commands, name="workspaces")
app.add_typer(tokens.tokens, name="tokens")
app.add_typer(tokens.submit_keys, name="submit-keys")
app.add_typer(secrets.webhooks, name="webhooks")
app.add_typer(secrets.keys, name="keys")
app.add_typer(instances.commands, name="instances")
app.add_typer(connections.commands, name="connections")
app.add_typer(tool_calls.commands, name="tool-calls")
app.command()(usage)
app.command()(budget)
app.command()(audit)
