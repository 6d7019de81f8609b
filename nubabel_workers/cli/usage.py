"""`nubabel usage`: tokens and cost, by whom and for what."""

import sys
from datetime import datetime
from typing import Annotated

import typer

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.invocation import AsJson, OrganizationOption, organization_or_all, run
from nubabel_workers.cli.output import note, say_json, table
from nubabel_workers.cli.table_layout import Column
from nubabel_workers.cli.wording import plain
from nubabel_workers.domain.decimals import in_full
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.usage_report import Dimension, UsageLine, UsageReport, as_csv

_DAY = ["%Y-%m-%d"]
_PLACES = 4  # of dollars; more where a smaller amount has them


def usage(
    context: typer.Context,
    organization: OrganizationOption = None,
    by: Annotated[
        str,
        typer.Option(help="What lines are told apart by: organization, user, session, model, day; comma-separated."),
    ] = "organization",
    first: Annotated[
        datetime | None, typer.Option("--from", formats=_DAY, help="First day (UTC); else that of the month.")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=_DAY, help="Last day (UTC), included; else today.")
    ] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Print CSV instead of a table, in UTF-8 with a mark that spreadsheets want.")
    ] = False,
    no_bom: Annotated[bool, typer.Option("--no-bom", help="CSV without that mark, for programs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Tokens and cost, sub-agents included. `>=`: it was more, a run that broke off did not tell all."""
    divided = _dimensions(by)
    if no_bom and not csv:
        raise InvalidInputError("--no-bom belongs to --csv")

    async def work(administration: Administration) -> UsageReport:
        owner = await organization_or_all(administration, organization)
        return await administration.usage.run(
            organization_id=owner.id if owner else None,
            by=divided,
            first=first.date() if first else None,
            last=last.date() if last else None,
        )

    report = run(context, work)
    if as_json:
        say_json(_as_json(report))
    elif csv:
        sys.stdout.buffer.write(as_csv(report, bom=not no_bom).encode())  # UTF-8, whatever the terminal speaks
    else:
        _print(report)


def _dimensions(by: str) -> list[Dimension]:
    try:
        return [Dimension(name.strip()) for name in by.split(",") if name.strip()]
    except ValueError as error:
        raise InvalidInputError(f"--by takes {', '.join(Dimension)}, comma-separated") from error


def _as_json(report: UsageReport) -> dict[str, object]:
    lines = [
        {
            **{one.value: line.of(one) or None for one in report.query.by},
            **({"organization_name": line.organization_name} if Dimension.ORGANIZATION in report.query.by else {}),
            "executions": line.executions,
            "input_tokens": line.input_tokens,
            "output_tokens": line.output_tokens,
            "reasoning_tokens": line.reasoning_tokens,
            "cache_read_tokens": line.cache_read_tokens,
            "cache_write_tokens": line.cache_write_tokens,
            "total_tokens": line.total_tokens,
            "cost_usd": float(line.cost),
            "lower_bound": line.lower_bound,
            "cost_computed": line.cost_computed,
            "unpriced_tokens": line.unpriced_tokens,
        }
        for line in report.lines
    ]
    return {"from": report.query.first, "to": report.query.last, "lines": lines}


def _print(report: UsageReport) -> None:
    numbers = ("EXECUTIONS", "INPUT", "OUTPUT", "REASONING", "CACHE", "TOKENS", "USD")
    table(
        [*(Column(one.value.upper()) for one in report.query.by), *(Column(title, right=True) for title in numbers)],
        [(*(_named(line, one) for one in report.query.by), *_numbers(line)) for line in report.lines],
        empty="nothing was used",
    )
    note(f"{report.query.first} to {report.query.last}, UTC")
    if any(line.cost_computed for line in report.lines):
        note("~: some of it is computed from our prices of models, OpenCode named no cost")
    if unpriced := sum(line.unpriced_tokens for line in report.lines):
        note(f"{unpriced} tokens are of models without a known price (NUBABEL_MODEL_PRICES_FILE) and cost nothing here")


def _named(line: UsageLine, dimension: Dimension) -> str:
    if dimension is Dimension.ORGANIZATION and line.organization_name:
        return f"{plain(line.organization_name)} ({line.organization_id})"
    return line.of(dimension) or "-"


def _numbers(line: UsageLine) -> tuple[str, ...]:
    more, computed = ">=" if line.lower_bound else "", "~" if line.cost_computed else ""
    return (
        str(line.executions),
        str(line.input_tokens),
        str(line.output_tokens),
        str(line.reasoning_tokens),
        str(line.cache_read_tokens + line.cache_write_tokens),
        f"{more}{line.total_tokens}",
        f"{more}{computed}{in_full(line.cost, places=_PLACES)}",
    )
