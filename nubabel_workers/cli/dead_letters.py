"""`nubabel dead-letters`: what was set aside, why, and what to do about it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.invocation import AsJson, OrganizationOption, actor, organization_or_all, run
from nubabel_workers.cli.output import Column, fields, heading, note, print_line, say, say_json, styled, table
from nubabel_workers.cli.wording import ago, clock_time, plain, plain_lines, shortened
from nubabel_workers.domain.administration import DeadLetterGroup
from nubabel_workers.domain.dead_letters import EXPLANATIONS, DeadLetter, DeadLetterReason, DeadLetterStatus
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.services.replay_dead_letters import MAX_REPLAYED_AT_ONCE, Replayed, ReplayOutcome

commands = typer.Typer(help="Dead letters: list by reason, show, replay, discard.", no_args_is_help=True)

_ERROR_CHARACTERS = 90

DeadLetterArgument = Annotated[str, typer.Argument(metavar="DEAD_LETTER", help="Its id, dlq_...")]
ReasonOption = Annotated[DeadLetterReason | None, typer.Option("--reason", help="Only those set aside for this.")]


@commands.command("list")
def list_some(
    context: typer.Context,
    organization: OrganizationOption = None,
    reason: ReasonOption = None,
    status: Annotated[DeadLetterStatus, typer.Option(help="Open ones, or settled ones.")] = DeadLetterStatus.OPEN,
    every: Annotated[bool, typer.Option("--all", help="Each one, not grouped by reason.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters: in groups by reason, or each one with --all or --reason."""
    if every or reason is not None:
        _list_each(context, organization, status, reason, limit, as_json=as_json)
    else:
        _list_groups(context, organization, status, as_json=as_json)


@commands.command()
def show(context: typer.Context, dead_letter_id: DeadLetterArgument, as_json: AsJson = False) -> None:
    """Show one dead letter with its raw payload."""

    async def work(administration: Administration) -> tuple[DeadLetter, datetime]:
        return await administration.dead_letters.show(dead_letter_id), administration.clock.now()

    letter, now = run(context, work)
    if as_json:
        say_json(letter)
    else:
        _print(letter, now)


@commands.command()
def replay(
    context: typer.Context,
    dead_letter_id: Annotated[
        str | None, typer.Argument(metavar="[DEAD_LETTER]", help="Its id; or choose several with the options.")
    ] = None,
    organization: OrganizationOption = None,
    reason: ReasonOption = None,
    every: Annotated[bool, typer.Option("--all", help="All open ones, whatever the reason.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 100,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be replayed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make what was set aside ready again. Harmless for what has succeeded since: it is left as it is."""
    several = every or reason is not None or organization is not None
    if (dead_letter_id is None) is not several:
        raise InvalidInputError("name one dead letter, or choose several with --reason, --org or --all")

    async def work(administration: Administration) -> Sequence[Replayed]:
        service = administration.dead_letters
        if dead_letter_id is not None:
            return [await service.replay_one(dead_letter_id, dry_run=dry_run, actor=actor(context))]
        owner = await organization_or_all(administration, organization)
        return await service.replay_matching(
            organization_id=owner.id if owner else None,
            reason=reason,
            limit=limit,
            dry_run=dry_run,
            actor=actor(context),
        )

    replayed = run(context, work)
    if as_json:
        say_json([{"id": one.dead_letter.id, "outcome": one.outcome} for one in replayed])
        return
    for one in replayed:
        say(f"{one.dead_letter.id}  {one.outcome}  {one.dead_letter.subject_id or ''}".rstrip())
    _sum_up(replayed)


@commands.command()
def discard(
    context: typer.Context,
    dead_letter_id: DeadLetterArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with it.")],
    as_json: AsJson = False,
) -> None:
    """Put a dead letter away for good. It is kept until its retention ends."""

    async def work(administration: Administration) -> DeadLetter:
        return await administration.dead_letters.discard(dead_letter_id, note=reason, actor=actor(context))

    letter = run(context, work)
    if as_json:
        say_json(letter)
    else:
        say(f"discarded {letter.id}")


def _list_groups(context: typer.Context, organization: str | None, status: DeadLetterStatus, *, as_json: bool) -> None:
    async def work(administration: Administration) -> tuple[Sequence[DeadLetterGroup], datetime]:
        owner = await organization_or_all(administration, organization)
        groups = await administration.dead_letters.groups(organization_id=owner.id if owner else None, status=status)
        return groups, administration.clock.now()

    groups, now = run(context, work)
    if as_json:
        say_json(groups)
        return
    if not groups:
        say(f"no {status} dead letters")
    for group in groups:
        print_line((f"{group.count:>5}  {group.reason}", "bold"), (f"  {group.queue}  {group.task}", ""))
        say(f"        {EXPLANATIONS[group.reason]}")
        say(f"        newest {ago(group.newest, now)}, oldest {ago(group.oldest, now)}")
        say(f"        e.g. {group.sample_id}: {shortened(group.sample_error, _ERROR_CHARACTERS)}")
    if groups:
        note("each of a group: nubabel dead-letters list --reason REASON")
        note("try them again:  nubabel dead-letters replay --reason REASON --dry-run")


def _list_each(
    context: typer.Context,
    organization: str | None,
    status: DeadLetterStatus,
    reason: DeadLetterReason | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    async def work(administration: Administration) -> tuple[list[DeadLetter], datetime]:
        owner = await organization_or_all(administration, organization)
        found = await administration.dead_letters.list(
            organization_id=owner.id if owner else None, status=status, reason=reason, limit=limit
        )
        return found, administration.clock.now()

    found, now = run(context, work)
    if as_json:
        say_json(found)
        return
    columns = [Column(title) for title in ("ID", "REASON", "QUEUE", "SUBJECT", "SET ASIDE")]
    table(
        [*columns, Column("ERROR", whole=False)],
        [
            (one.id, one.reason.value, one.queue, one.subject_id or "raw message", ago(one.created_at, now), one.error)
            for one in found
        ],
        empty=f"no {status} dead letters",
    )


def _print(letter: DeadLetter, now: datetime) -> None:
    print_line((f"{letter.id}  ", "bold"), (letter.status.value, styled(letter.status.value)))
    say()
    fields(
        {
            "reason": f"{letter.reason}: {EXPLANATIONS[letter.reason]}",
            "error": letter.error,
            "queue": letter.queue,
            "task": letter.task,
            "subject": f"{letter.subject_kind} {letter.subject_id or ''}",
            "organization": letter.organization_id or "unknown",
            "attempts": str(letter.attempts),
            "set aside": f"{clock_time(letter.created_at)} UTC ({ago(letter.created_at, now)})",
        }
    )
    if letter.resolved_at is not None:
        settled = f"{letter.status} by {letter.resolved_by} at {clock_time(letter.resolved_at)} UTC"
        say(f"{plain(settled)}. {plain(letter.note or '')}")
    if letter.headers:
        heading("Headers")
        fields({plain(name): str(value) for name, value in letter.headers.items()})
    if letter.payload:
        heading("Raw payload")
        say(plain_lines(letter.payload))
    if letter.status is DeadLetterStatus.OPEN:
        note(f"nubabel dead-letters replay {letter.id}, or: nubabel dead-letters discard {letter.id} --reason WHY")


def _sum_up(replayed: Sequence[Replayed]) -> None:
    if not replayed:
        say("no open dead letters fit")
    if any(one.outcome is ReplayOutcome.RAW_MESSAGE for one in replayed):
        note("raw messages cannot be replayed: mend their producer, let it send again, and discard them")
    if len(replayed) >= MAX_REPLAYED_AT_ONCE:
        note("there may be more: run it again")
