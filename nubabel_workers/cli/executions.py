"""`nubabel executions`: what is asked, where it stands, why it takes so long."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import typer

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.command_line import EXIT_FAILED
from nubabel_workers.cli.invocation import AsJson, OrganizationOption, actor, organization_or_all, run
from nubabel_workers.cli.output import fields, heading, note, print_line, say, say_json, styled, table
from nubabel_workers.cli.table_layout import Column
from nubabel_workers.cli.wording import ago, clock_time, duration, plain, plain_lines, shortened
from nubabel_workers.domain.administration import Delivery, ExecutionSummary
from nubabel_workers.domain.decimals import in_full
from nubabel_workers.domain.errors import InvalidInputError, NotFoundError
from nubabel_workers.domain.executions import FINAL, Execution, Status
from nubabel_workers.domain.timeline import Span, Step, narrate, time_spent
from nubabel_workers.domain.waiting import Waiting
from nubabel_workers.services.cancel_by_operator import BrokenOffError, CancelReport
from nubabel_workers.services.cancel_execution import Cancellation

commands = typer.Typer(
    help="Executions: list, show with timeline, cancel, let one go on that waits for its budget.", no_args_is_help=True
)

_PROMPT_CHARACTERS = 60
_BAR_CHARACTERS = 30

ExecutionArgument = Annotated[str, typer.Argument(metavar="EXECUTION", help="Its id, exe_...")]


@commands.command("list")
def list_some(
    context: typer.Context,
    organization: OrganizationOption = None,
    statuses: Annotated[
        list[Status] | None, typer.Option("--status", help="Only in this state; repeatable.", show_choices=True)
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 30,
    as_json: AsJson = False,
) -> None:
    """List executions, newest first."""

    async def work(administration: Administration) -> tuple[list[ExecutionSummary], datetime]:
        owner = await organization_or_all(administration, organization)
        found = await administration.reports.list(
            organization_id=owner.id if owner else None,
            statuses=frozenset(statuses) if statuses else None,
            limit=limit,
        )
        return found, administration.clock.now()

    found, now = run(context, work)
    if as_json:
        say_json(found)
        return
    columns = [Column(title) for title in ("ID", "STATUS", "FROM", "ACCEPTED", "TOOK")]
    table(
        [*columns, Column("WHY", whole=False), Column("PROMPT", whole=False)],
        [
            (
                one.id,
                one.status.value,
                one.source,
                ago(one.created_at, now),
                duration(((one.finished_at or now) - one.created_at).total_seconds()),
                one.error.code if one.error else one.waiting_for or "",
                shortened(one.prompt_start, _PROMPT_CHARACTERS),
            )
            for one in found
        ],
        empty="no executions",
    )


@dataclass(frozen=True)
class ExecutionStory:
    """What `executions show` shows."""

    execution: Execution
    waiting: Waiting | None
    time_spent: Sequence[Span]
    timeline: Sequence[Step]
    deliveries: Sequence[Delivery]


@commands.command()
def show(context: typer.Context, execution_id: ExecutionArgument, as_json: AsJson = False) -> None:
    """Show one execution: where it stands, where its time went, what happened."""

    async def work(administration: Administration) -> tuple[ExecutionStory, datetime]:
        owner = await _owner(administration, execution_id)
        execution = await administration.read.by_id(owner, execution_id)
        events = await administration.read.timeline(owner, execution_id)
        busy = await administration.reports.session_wait(owner, execution_id)
        now = administration.clock.now()
        until = None if execution.status in FINAL else now
        story = ExecutionStory(
            execution,
            await administration.waiting.of(execution),
            time_spent(events, session_wait=busy, until=until),
            narrate(events),
            await administration.reports.deliveries(owner, execution_id),
        )
        return story, now

    story, now = run(context, work)
    if as_json:
        say_json(story)
    else:
        _print_story(story, now)


@commands.command()
def cancel(
    context: typer.Context,
    execution_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[EXECUTION]...", help="Their ids, exe_...; or use --all-queued."),
    ] = None,
    organization: OrganizationOption = None,
    all_queued: Annotated[
        bool, typer.Option("--all-queued", help="Everything that waits in the queue of the organization of --org.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="With --all-queued: at most so many.")] = 1000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --all-queued: only say how many.")] = False,
    reason: Annotated[str, typer.Option(help="Kept in the timeline.")] = "cancelled by an operator",
    as_json: AsJson = False,
) -> None:
    """Cancel executions, down to OpenCode's abort. One that does not exist fails the command, not the others."""
    named = list(execution_ids or ())
    _check_named_or_queued(named, organization, all_queued=all_queued, dry_run=dry_run)
    if len(named) == 1:
        _cancel_one(context, named[0], reason, as_json=as_json)
        return

    async def work(administration: Administration) -> CancelReport:
        service = administration.cancel_by_operator
        if organization is None:
            return await service.several(named, reason=reason, actor=actor(context))
        owner = await administration.organizations.resolve(organization)
        return await service.queued_of(owner.id, limit=limit, dry_run=dry_run, reason=reason, actor=actor(context))

    try:
        report = run(context, work)
    except BrokenOffError as error:
        _say_cancelled(error.report, as_json=as_json)
        raise
    _say_cancelled(report, as_json=as_json)
    if report.unknown:
        raise typer.Exit(EXIT_FAILED)


def _check_named_or_queued(named: Sequence[str], organization: str | None, *, all_queued: bool, dry_run: bool) -> None:
    if bool(named) is all_queued:
        raise InvalidInputError("name executions, or choose what an organization has queued: --org ORG --all-queued")
    if all_queued is not (organization is not None):
        raise InvalidInputError("--all-queued takes --org ORG, and the other way round")
    if dry_run and not all_queued:
        raise InvalidInputError("--dry-run is for --all-queued; look at one with: nubabel executions show")


def _cancel_one(context: typer.Context, execution_id: str, reason: str, *, as_json: bool) -> None:
    async def work(administration: Administration) -> Cancellation:
        return await administration.cancel_by_operator.one(execution_id, reason=reason, actor=actor(context))

    cancellation = run(context, work)
    execution = cancellation.execution
    if as_json:
        say_json(execution)
    elif execution.status is Status.CANCELLED and not cancellation.was_over:
        say(f"cancelled {execution.id}")
    elif execution.status in FINAL:
        say(f"{execution.id} was over already: {execution.status}")
    else:
        say(f"{execution.id} is {execution.status}: OpenCode is told to stop")
        note(f"look: nubabel executions show {execution.id}")


def _say_cancelled(report: CancelReport, *, as_json: bool) -> None:
    if as_json:
        say_json(report)
        return
    others = [
        f"{len(ids)} {what}"
        for ids, what in (
            (report.stopping, "running: OpenCode is told to stop"),
            (report.over, "over already"),
            (report.unknown, "unknown"),
            (report.in_doubt, "in doubt"),
            (report.not_tried, "not tried"),
        )
        if ids
    ]
    say("; ".join([f"{'would cancel' if report.dry_run else 'cancelled'} {len(report.cancelled)}", *others]))
    for execution_id in report.unknown:
        note(f"there is no execution {plain(execution_id)!r}")
    for execution_id in report.in_doubt:
        note(f"look: nubabel executions show {execution_id}; then run it again, what is cancelled stays as it is")
    if report.more:
        note("there are more in the queue: run it again")


@commands.command()
def resume(
    context: typer.Context,
    execution_id: ExecutionArgument,
    cost: Annotated[float, typer.Option("--usd", min=0.000001, help="What it may cost more, in US dollars.")],
    as_json: AsJson = False,
) -> None:
    """Let an execution go on that waits for its organization's budget. Its own ceiling then counts, not the caps."""

    async def work(administration: Administration) -> Execution:
        owner = await _owner(administration, execution_id)
        await administration.budgets.allow(owner, execution_id, cost=cost, actor=actor(context))
        return await administration.read.by_id(owner, execution_id)

    execution = run(context, work)
    if as_json:
        say_json(execution)
    else:
        say(f"{execution.id} goes on, for at most {in_full(cost)} US dollars more")


async def _owner(administration: Administration, execution_id: str) -> str:
    owner = await administration.reports.organization_of(execution_id)
    if owner is None:
        raise NotFoundError(f"there is no execution {execution_id!r}; `nubabel executions list` shows them")
    return owner


def _print_story(story: ExecutionStory, now: datetime) -> None:
    one = story.execution
    end = one.finished_at or now
    total = duration((end - one.created_at).total_seconds())
    so_far = "" if one.finished_at else " so far"
    print_line((f"{one.id}  ", "bold"), (one.status.value, styled(one.status.value)), (f"  {total}{so_far}", ""))
    say()
    fields(
        {
            "organization": one.organization_id,
            "session": one.session_id,
            **({"batch": one.group_id} if one.group_id else {}),
            "from": one.source + (f", {one.user_id}" if one.user_id else ""),
            "accepted": f"{clock_time(one.created_at)} UTC ({ago(one.created_at, now)})",
            "answer by": f"{clock_time(one.answer_by)} UTC",
            "server": f"{one.instance_id or 'none yet'}  {one.opencode_session_id or ''}",
            "attempts": str(one.attempt),
            "correlation": one.correlation_id or "-",
            "prompt": shortened(one.prompt, 2 * _PROMPT_CHARACTERS),
        }
    )
    if story.waiting is not None:
        heading("What it waits for")
        say(story.waiting.words)
    if one.error is not None:
        heading("Why it ended like this")
        say(f"{one.error.code}: {plain(one.error.detail or one.cancel_reason or one.error.message)}")
    heading("Where the time went")
    _print_spans(story.time_spent)
    heading("What happened (seconds since accepted)")
    for step in story.timeline:
        say(f"{step.since_start_s:>10.3f}  {plain(step.words)}")
    if story.deliveries:
        heading("What was told (UTC)")
        for told in story.deliveries:
            _print_delivery(told)
    if one.output:
        heading("Answer")
        say(plain_lines(one.output))
    for said in one.notes:
        say(f"({plain(said)})")


def _print_spans(spans: Sequence[Span]) -> None:
    longest = max((span.seconds for span in spans), default=0.0) or 1.0
    for span in spans:
        bar = "█" * round(span.seconds / longest * _BAR_CHARACTERS)
        print_line(
            (f"{duration(span.seconds):>12}  ", "bold"),
            (bar.ljust(_BAR_CHARACTERS), "cyan"),
            (f"  {plain(span.words)}", ""),
        )


def _print_delivery(told: Delivery) -> None:
    notes = [
        f"{told.failures} failures" if told.failures else "",
        "marked as a possible repeat" if told.possibly_repeated else "",
        plain(told.error or ""),
    ]
    print_line(
        (f"{told.kind:<10}", ""),
        (f"{told.status:<10}", styled(told.status)),
        (f"{clock_time(told.sent_at):<20}", ""),
        (", ".join(filter(None, notes)), "dim"),
    )
