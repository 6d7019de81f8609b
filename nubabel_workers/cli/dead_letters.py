"""`nubabel dead-letters`: what was set aside, why, and what to do about it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.command_line import EXIT_FAILED
from nubabel_workers.cli.dead_letter_view import print_each, print_groups, print_history
from nubabel_workers.cli.invocation import AsJson, OrganizationOption, actor, organization_or_all, run
from nubabel_workers.cli.output import note, say, say_json
from nubabel_workers.cli.wording import duration, plain
from nubabel_workers.domain.administration import DeadLetterGroup, DeadLetterHistory, DeadLetterPage
from nubabel_workers.domain.dead_letters import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterReason,
    DeadLetterStatus,
    DiscardReport,
    Replayed,
    ReplayOutcome,
    ReplayReport,
)
from nubabel_workers.domain.errors import InvalidInputError

commands = typer.Typer(help="Dead letters: list by cause, show, replay, discard.", no_args_is_help=True)

DeadLetterArgument = Annotated[str, typer.Argument(metavar="DEAD_LETTER", help="Its id, dlq_...")]
OneArgument = Annotated[
    str | None, typer.Argument(metavar="[DEAD_LETTER]", help="Its id; or choose several with the options.")
]
ReasonOption = Annotated[DeadLetterReason | None, typer.Option("--reason", help="Only those set aside for this.")]
CauseOption = Annotated[
    str | None, typer.Option("--cause", help="Only those whose error begins with this word, e.g. deadline_exceeded.")
]
QueueOption = Annotated[str | None, typer.Option("--queue", help="Only those of this queue.")]
TaskOption = Annotated[str | None, typer.Option("--task", help="Only those of this task.")]
SinceOption = Annotated[datetime | None, typer.Option("--since", help="Only those set aside at or after this (UTC).")]
UntilOption = Annotated[datetime | None, typer.Option("--until", help="Only those set aside before this (UTC).")]
AllOption = Annotated[bool, typer.Option("--all", help="All open ones, whatever the cause.")]
LimitOption = Annotated[int, typer.Option(help="At most so many.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Only say what would happen.")]


@commands.command("list")
def list_some(
    context: typer.Context,
    organization: OrganizationOption = None,
    reason: ReasonOption = None,
    cause: CauseOption = None,
    queue: QueueOption = None,
    task: TaskOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    status: Annotated[DeadLetterStatus, typer.Option(help="Open ones, or settled ones.")] = DeadLetterStatus.OPEN,
    every: Annotated[bool, typer.Option("--all", help="Each one, not grouped by cause.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters: in groups by cause, or each one with --all or another choice."""

    async def groups(administration: Administration) -> tuple[Sequence[DeadLetterGroup], datetime]:
        owner = await organization_or_all(administration, organization)
        found = await administration.dead_letters.groups(organization_id=owner.id if owner else None, status=status)
        return found, administration.clock.now()

    async def each(administration: Administration) -> tuple[DeadLetterPage, datetime]:
        chosen = await _filter(administration, organization, reason, cause, queue, task, since, until)
        found = await administration.dead_letters.page(chosen, status=status, limit=limit)
        return found, administration.clock.now()

    if every or any((reason, cause, queue, task, since, until)):
        page, now = run(context, each)
        if as_json:
            say_json(page.letters)
        else:
            print_each(page, status, now)
        return
    found, now = run(context, groups)
    if as_json:
        say_json(found)
    else:
        print_groups(found, status, now)


@commands.command()
def show(context: typer.Context, dead_letter_id: DeadLetterArgument, as_json: AsJson = False) -> None:
    """Show one dead letter: the reason in plain words, its payload, what happened before."""

    async def work(administration: Administration) -> tuple[DeadLetterHistory, datetime]:
        found = await administration.dead_letters.show(dead_letter_id, actor=actor(context))
        return found, administration.clock.now()

    history, now = run(context, work)
    if as_json:
        say_json(history)
    else:
        print_history(history, now)


@commands.command()
def replay(
    context: typer.Context,
    dead_letter_id: OneArgument = None,
    organization: OrganizationOption = None,
    reason: ReasonOption = None,
    cause: CauseOption = None,
    queue: QueueOption = None,
    task: TaskOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    every: AllOption = False,
    limit: LimitOption = 1000,
    pace: Annotated[float | None, typer.Option("--pace", help="So many per second; without it, all at once.")] = None,
    dry_run: DryRunOption = False,
    as_json: AsJson = False,
) -> None:
    """Make what was set aside ready again. Harmless for what has succeeded since: it is left as it is."""

    async def one(administration: Administration) -> Replayed:
        service = administration.dead_letters
        return await service.replay_one(str(dead_letter_id), dry_run=dry_run, actor=actor(context))

    async def several(administration: Administration) -> ReplayReport:
        chosen = await _filter(administration, organization, reason, cause, queue, task, since, until)
        service = administration.dead_letters
        return await service.replay_matching(
            chosen, limit=limit, pace_per_s=pace, dry_run=dry_run, actor=actor(context)
        )

    _check_one_or_several(
        dead_letter_id, several=every or any((organization, reason, cause, queue, task, since, until))
    )
    if dead_letter_id is not None:
        replayed = run(context, one)
        if as_json:
            say_json({"id": replayed.dead_letter.id, "outcome": replayed.outcome, "detail": replayed.words})
        else:
            say(f"{replayed.dead_letter.id}  {_spoken(replayed.outcome)}: {plain(replayed.words)}")
        if replayed.outcome is ReplayOutcome.NOT_REPLAYABLE:
            raise typer.Exit(EXIT_FAILED)
        return
    report = run(context, several)
    if as_json:
        say_json(report)
    else:
        _print_report(report)


@commands.command()
def discard(
    context: typer.Context,
    because: Annotated[str, typer.Option("--because", help="Why; kept with it.")],
    dead_letter_id: OneArgument = None,
    organization: OrganizationOption = None,
    reason: ReasonOption = None,
    cause: CauseOption = None,
    queue: QueueOption = None,
    task: TaskOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    every: AllOption = False,
    limit: LimitOption = 1000,
    dry_run: DryRunOption = False,
    as_json: AsJson = False,
) -> None:
    """Put dead letters away for good. They are kept until their retention ends."""

    async def one(administration: Administration) -> DeadLetter:
        service = administration.dead_letters
        return await service.discard_one(str(dead_letter_id), note=because, actor=actor(context))

    async def several(administration: Administration) -> DiscardReport:
        chosen = await _filter(administration, organization, reason, cause, queue, task, since, until)
        return await administration.dead_letters.discard_matching(
            chosen, note=because, limit=limit, dry_run=dry_run, actor=actor(context)
        )

    _check_one_or_several(
        dead_letter_id, several=every or any((organization, reason, cause, queue, task, since, until))
    )
    if dead_letter_id is not None:
        if dry_run:
            raise InvalidInputError("--dry-run is for several; look at one with: nubabel dead-letters show")
        letter = run(context, one)
        say_json(letter) if as_json else say(f"discarded {letter.id}")
        return
    report = run(context, several)
    if as_json:
        say_json(report)
        return
    say(f"{'would discard' if report.dry_run else 'discarded'} {report.discarded}")
    if report.more:
        note("there are more that fit: run it again")


async def _filter(
    administration: Administration,
    organization: str | None,
    reason: DeadLetterReason | None,
    cause: str | None,
    queue: str | None,
    task: str | None,
    since: datetime | None,
    until: datetime | None,
) -> DeadLetterFilter:
    owner = await organization_or_all(administration, organization)
    return DeadLetterFilter(
        organization_id=owner.id if owner else None,
        reason=reason,
        cause=cause,
        queue=queue,
        task=task,
        created_from=since.replace(tzinfo=UTC) if since else None,
        created_before=until.replace(tzinfo=UTC) if until else None,
    )


def _check_one_or_several(dead_letter_id: str | None, *, several: bool) -> None:
    if (dead_letter_id is None) is not several:
        raise InvalidInputError(
            "name one dead letter, or choose several with --reason, --cause, --org or --all (see --help)"
        )


def _spoken(outcome: str) -> str:
    return outcome.replace("_", " ")


def _print_report(report: ReplayReport) -> None:
    say(f"{'would replay' if report.dry_run else 'replayed'} {report.replayed}")
    if report.takes_s:
        say(f"the last one starts after {duration(report.takes_s)}")
    if report.nothing_to_do:
        say(f"nothing to do for {report.nothing_to_do}: what they are about has not failed any more")
    if report.sample:
        note(f"e.g. {' '.join(report.sample[:3])}")
    if report.not_replayable:
        note(
            f"{report.not_replayable} raw messages fit that cannot be replayed: mend their producer, let it send again,"
            " and discard them"
        )
    if report.more:
        note("there may be more: run it again when these are done")
