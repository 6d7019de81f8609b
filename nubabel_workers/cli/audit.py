"""`nubabel audit`: who changed what."""

from typing import Annotated, Any

import orjson
import typer

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.invocation import AsJson, OrganizationOption, organization_or_all, run
from nubabel_workers.cli.output import say_json, table
from nubabel_workers.cli.table_layout import Column
from nubabel_workers.cli.wording import clock_time
from nubabel_workers.domain.administration import AuditEntry
from nubabel_workers.domain.errors import NotFoundError


def audit(
    context: typer.Context,
    organization: OrganizationOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show the last changes that operators and Slack made."""

    async def work(administration: Administration) -> list[AuditEntry]:
        try:
            owner = await organization_or_all(administration, organization)
        except NotFoundError:  # of one that was erased, entries are left under its id
            entries = await administration.audit.list(organization_id=organization, limit=limit)
            if not entries:
                raise
            return entries
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
                ", ".join(f"{name} {_shown(value)}" for name, value in one.detail.items() if value is not None),
            )
            for one in entries
        ],
        empty="nothing was changed yet",
    )


def _shown(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
