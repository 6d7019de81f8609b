"""`nubabel workspaces`: the Slack workspaces of organizations."""

from typing import Annotated

import typer

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.invocation import (
    AsJson,
    OrganizationArgument,
    OrganizationOption,
    actor,
    organization_or_all,
    read_secret,
    run,
)
from nubabel_workers.cli.output import say, say_json, table
from nubabel_workers.cli.table_layout import Column
from nubabel_workers.cli.wording import ago, counted
from nubabel_workers.domain.administration import WorkspaceSummary
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.services.manage_workspaces import EndedWorkspace

commands = typer.Typer(help="Slack workspaces: add by token or by link, list, remove.", no_args_is_help=True)


@commands.command()
def add(
    context: typer.Context,
    organization: OrganizationArgument,
    token_env: Annotated[
        str | None, typer.Option("--token-env", metavar="VARIABLE", help="Read the token from this variable.")
    ] = None,
    from_settings: Annotated[
        bool, typer.Option("--from-settings", help="Take the token of NUBABEL_SLACK_BOT_TOKEN.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Install the workspace that a bot token (xoxb-...) belongs to; again, to replace its token.

    The token is read from standard input (hidden when typed), never from the command line.
    """
    typed = None if from_settings else read_secret("the bot token", variable=token_env)

    async def work(administration: Administration) -> WorkspaceSummary:
        token = typed or administration.defaults.slack_bot_token
        if token is None:
            raise InvalidInputError("NUBABEL_SLACK_BOT_TOKEN is not set")
        found = await administration.organizations.resolve(organization)
        return await administration.workspaces.add(found, token, actor=actor(context))

    added = run(context, work)
    if as_json:
        say_json(added)
    else:
        say(f"installed {added.id}: {added.team_name} ({added.team_id}) for {added.organization_id}")


@commands.command()
def link(context: typer.Context, organization: OrganizationArgument) -> None:
    """Print a link under which somebody installs the app into a workspace for this organization; good for a day."""

    async def work(administration: Administration) -> str:
        if administration.installation is None:
            raise InvalidInputError(
                "links need NUBABEL_SLACK_CLIENT_ID, NUBABEL_SLACK_CLIENT_SECRET and NUBABEL_PUBLIC_URL"
            )
        return administration.installation.link(await administration.organizations.resolve(organization))

    say(run(context, work))


@commands.command("list")
def list_all(context: typer.Context, organization: OrganizationOption = None, as_json: AsJson = False) -> None:
    """List workspaces."""

    async def work(administration: Administration) -> tuple[list[WorkspaceSummary], list[tuple[str, ...]]]:
        owner = await organization_or_all(administration, organization)
        found, now = await administration.workspaces.list(owner), administration.clock.now()
        return found, [
            (
                one.id,
                one.team_name,
                one.team_id or f"all of {one.enterprise_id}",
                _state(one),
                one.organization_id,
                ago(one.installed_at, now),
            )
            for one in found
        ]

    found, rows = run(context, work)
    if as_json:
        say_json(found)
        return
    titles = ("ID", "NAME", "TEAM", "STATE", "ORGANIZATION", "INSTALLED")
    table([Column(title) for title in titles], rows, empty="no workspace yet: nubabel workspaces add ORG")


def _state(workspace: WorkspaceSummary) -> str:
    if workspace.active:
        return "active"
    return f"ended: {workspace.ended_reason}" if workspace.ended_reason else "ended"


@commands.command()
def remove(
    context: typer.Context,
    workspace_id: Annotated[str, typer.Argument(metavar="WORKSPACE", help="Its id, wsp_...")],
    reason: Annotated[str, typer.Option(help="Kept in the audit log and told to who still waits.")] = "removed",
    as_json: AsJson = False,
) -> None:
    """End a workspace: its events are refused, its token is forgotten, what it asked for is cancelled."""

    async def work(administration: Administration) -> EndedWorkspace:
        return await administration.workspaces.remove(workspace_id, actor=actor(context), reason=reason)

    ended = run(context, work)
    if as_json:
        say_json(ended)
    else:
        ended_with = counted(len(ended.cancelled), "execution")
        say(f"ended {ended.workspace.id} ({ended.workspace.team_name}); {ended_with} cancelled")
