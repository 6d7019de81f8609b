"""`nubabel limits`: what organizations may use."""

from typing import Annotated, Any

import typer

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.invocation import AsJson, OrganizationArgument, actor, run
from nubabel_workers.cli.output import note, say, say_json, table
from nubabel_workers.cli.table_layout import Column
from nubabel_workers.cli.wording import plain
from nubabel_workers.domain.decimals import in_full
from nubabel_workers.domain.limits import LIMIT_NAMES, parse_change
from nubabel_workers.services.manage_limits import LimitsReport

commands = typer.Typer(help="Limits: show and set what an organization may use.", no_args_is_help=True)


@commands.command()
def show(context: typer.Context, organization: OrganizationArgument, as_json: AsJson = False) -> None:
    """Show an organization's limits and where each comes from."""

    async def work(administration: Administration) -> LimitsReport:
        found = await administration.organizations.resolve(organization)
        return administration.limits.of(found)

    _print(run(context, work), as_json)


@commands.command("set")
def set_limits(
    context: typer.Context,
    organization: OrganizationArgument,
    changes: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE...", help="A number, `none` (no limit) or `unset` (the plan decides)."),
    ],
    as_json: AsJson = False,
) -> None:
    """Change limits. Every process obeys within seconds."""
    change = parse_change(changes)

    async def work(administration: Administration) -> LimitsReport:
        found = await administration.organizations.resolve(organization)
        return await administration.limits.change(found.id, change, actor=actor(context))

    _print(run(context, work), as_json)


def _print(report: LimitsReport, as_json: bool) -> None:
    if as_json:
        say_json(report)
        return
    rows = [
        (name, _words(getattr(report.limits, name)), "own" if name in report.own else f"plan {plain(report.plan)}")
        for name in LIMIT_NAMES
    ]
    say(f"{report.organization_id}, plan {plain(report.plan)}")
    table([Column(title) for title in ("LIMIT", "VALUE", "FROM")], rows, empty="")
    note_unknown_plan(report)


def note_unknown_plan(report: LimitsReport) -> None:
    """No refusal: a plan may be described after somebody has agreed on it, and every machine reads its own file."""
    if not report.plan_known:
        note(f"nobody described the plan {plain(report.plan)!r}: `default` serves it (NUBABEL_PLANS_FILE)")


def _words(value: Any) -> str:
    return "none" if value is None else f"{value:,}".replace(",", "_") if isinstance(value, int) else in_full(value)
