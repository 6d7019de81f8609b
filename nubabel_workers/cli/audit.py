"""`nubabel audit`: who changed what."""

from typing import Annotated

import typer

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.invocation import AsJson, OrganizationOption, organization_or_all, run
from nubabel_workers.cli.output import Column, say_json, table
from nubabel_workers.cli.wording import clock_time
from nubabel_workers.domain.administration import AuditEntry


def audit(
    context: typer.Context,
    organization: OrganizationOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the last changes that operators and Slack made."""

    async def work(administration: Administration) -> list[AuditEntry]:
        owner = await organization_or_all(administration, organization)
        return await administration.audit.list(organization_id=owner.id if owner else None, limit=limit)

    entries = run(context, work)
    if as_json:
        say_json(entries)
        return
    columns = [Column(title) for title in ("AT (UTC)", "ACTOR", "ACTION", "SUBJECT", "ORGANIZATION")]
    table(
        [*columns, Column("DETAIL", whole=False)],
        [
            (
                clock_time(one.at),
                one.actor,
                one.action,
                one.subject,
                one.organization_id or "-",
                ", ".join(f"{name} {value}" for name, value in one.detail.items() if value is not None),
            )
            for one in entries
        ],
        empty="nothing was changed yet",
    )
