"""`nubabel batches`: requests that were accepted together and are told in one reply."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.invocation import AsJson, OrganizationOption, actor, organization_or_all, run
from nubabel_workers.cli.output import fields, note, print_line, say, say_json, styled, table
from nubabel_workers.cli.table_layout import Column
from nubabel_workers.cli.wording import ago, clock_time, duration
from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.errors import NotFoundError
from nubabel_workers.domain.executions import FINAL
from nubabel_workers.domain.groups import ExecutionGroup, GroupItem, GroupState, GroupSummary

commands = typer.Typer(help="Dispatched batches: list, show, cancel.", no_args_is_help=True)

BatchArgument = Annotated[str, typer.Argument(metavar="BATCH", help="Its id, bat_...")]


@commands.command("list")
def list_some(
    context: typer.Context,
    organization: OrganizationOption = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 30,
    as_json: AsJson = False,
) -> None:
    """List batches, newest first."""

    async def work(administration: Administration) -> tuple[Sequence[GroupSummary], datetime]:
        owner = await organization_or_all(administration, organization)
        found = await administration.groups.list(organization_id=owner.id if owner else None, limit=limit)
        return found, administration.clock.now()

    found, now = run(context, work)
    if as_json:
        say_json(found)
        return
    table(
        [Column(title) for title in ("ID", "STATE", "ENDED", "FAILED", "ACCEPTED", "TOOK")],
        [
            (
                one.id,
                one.state.value,
                f"{one.ended} of {one.executions}",
                str(one.failed),
                ago(one.created_at, now),
                duration(((one.finished_at or now) - one.created_at).total_seconds()),
            )
            for one in found
        ],
        empty="no batches",
    )


@commands.command()
def show(context: typer.Context, batch_id: BatchArgument, as_json: AsJson = False) -> None:
    """Show one batch: where each of its executions stands."""

    async def work(administration: Administration) -> tuple[ExecutionGroup, datetime]:
        owner = await _owner(administration, batch_id)
        return await administration.cancel_group.find(owner, batch_id), administration.clock.now()

    group, now = run(context, work)
    if as_json:
        say_json(group)
    else:
        _print(group, now)


@commands.command()
def cancel(
    context: typer.Context,
    batch_id: BatchArgument,
    reason: Annotated[str, typer.Option(help="Kept in the timelines.")] = "cancelled by an operator",
    as_json: AsJson = False,
) -> None:
    """Cancel what has not ended of a batch, down to OpenCode's abort."""

    async def work(administration: Administration) -> tuple[ExecutionGroup, bool]:
        owner = await _owner(administration, batch_id)
        was_over = (await administration.cancel_group.find(owner, batch_id)).state is not GroupState.RUNNING
        group = await administration.cancel_group.cancel(owner, batch_id, reason=reason)
        entry = AuditEntry(actor(context), AuditAction.BATCH_CANCELLED, owner, batch_id, detail={"reason": reason})
        await administration.audit.add(entry)
        return group, was_over

    group, was_over = run(context, work)
    if as_json:
        say_json(group)
    elif was_over:
        say(f"{group.id} was over already: {group.state}")
    elif group.state is GroupState.RUNNING:
        say(f"{group.id} is still running: OpenCode is told to stop")
        note(f"look: nubabel batches show {group.id}")
    else:
        say(f"{group.id} has ended: {group.state}")


async def _owner(administration: Administration, batch_id: str) -> str:
    owner: str | None = await administration.groups.organization_of(batch_id)
    if owner is None:
        raise NotFoundError(f"there is no batch {batch_id!r}; `nubabel batches list` shows them")
    return owner


def _why(item: GroupItem) -> str:
    if item.error is not None:
        return item.error.code
    return "asked to stop" if item.cancel_requested and item.status not in FINAL else ""


def _print(group: ExecutionGroup, now: datetime) -> None:
    took = duration(((group.finished_at or now) - group.created_at).total_seconds())
    print_line((f"{group.id}  ", "bold"), (group.state.value, styled(group.state.value)), (f"  {took}", ""))
    say()
    fields(
        {
            "organization": group.organization_id,
            "accepted": f"{clock_time(group.created_at)} UTC ({ago(group.created_at, now)})",
            "when one fails": "the others go on" if group.on_failure.value == "report" else "the others are cancelled",
        }
    )
    say()
    table(
        [Column("EXECUTION"), Column("STATUS"), Column("SESSION"), Column("WHY", whole=False)],
        [(item.execution_id, item.status.value, item.session_id, _why(item)) for item in group.items],
        empty="its executions are gone",
    )
    note("one of them: nubabel executions show EXECUTION")
