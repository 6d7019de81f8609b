"""`nubabel orgs`: organizations and their policies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from nubabel_workers.adapters.zip_archive import new_zip_archive
from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.instances import note_unserved
from nubabel_workers.cli.invocation import AsJson, OrganizationArgument, actor, run
from nubabel_workers.cli.limits import note_unknown_plan
from nubabel_workers.cli.output import fields, heading, note, say, say_json, table
from nubabel_workers.cli.table_layout import Column
from nubabel_workers.cli.wording import ago, clock_time, counted, plain
from nubabel_workers.domain.administration import AuditEntry, SubmitKeySummary, WorkspaceSummary
from nubabel_workers.domain.masking import MaskingPolicy
from nubabel_workers.domain.tenants import (
    BusyPolicy,
    NearCap,
    Organization,
    PolicyChange,
    RepeatedQuestions,
    ServersPolicy,
    ServiceToken,
)
from nubabel_workers.domain.unserved import Unserved
from nubabel_workers.services.erase_organization import Erased
from nubabel_workers.services.export_organization import Exported
from nubabel_workers.services.manage_limits import LimitsReport

_CHANGES_SHOWN = 10

_NONE = "none"

commands = typer.Typer(
    help="Organizations: create, list, show, set their policies, disable, export, erase.", no_args_is_help=True
)

BusyOption = Annotated[
    BusyPolicy | None,
    typer.Option("--busy", help="What a follow-up does while its session is still working."),
]
PlanOption = Annotated[str | None, typer.Option("--plan", help="A name for what was agreed on.")]


@commands.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A name that no other organization has.")],
    busy: BusyOption = None,
    plan: PlanOption = None,
    as_json: AsJson = False,
) -> None:
    """Create an organization."""

    async def work(administration: Administration) -> tuple[Organization, LimitsReport]:
        new = await administration.organizations.create(
            name, plan=plan or "default", busy_policy=busy or BusyPolicy.QUEUE, actor=actor(context)
        )
        return new, administration.limits.of(new)

    created, limits = run(context, work)
    note_unknown_plan(limits)
    if as_json:
        say_json(created)
        return
    say(f"created {created.id} ({created.name})")
    note(f"next: nubabel workspaces add {created.id}, or nubabel tokens create NAME --org {created.id}")


@commands.command("list")
def list_all(context: typer.Context, as_json: AsJson = False) -> None:
    """List all organizations."""

    async def work(administration: Administration) -> tuple[list[Organization], list[tuple[str, ...]]]:
        found, now = await administration.organizations.list(), administration.clock.now()
        return found, [(*_listed(one), ago(one.created_at, now)) for one in found]

    found, rows = run(context, work)
    if as_json:
        say_json(found)
        return
    titles = ("ID", "NAME", "STATE", "WHEN BUSY", "SERVERS", "PLAN", "CREATED")
    table([Column(title) for title in titles], rows, empty="no organization yet: nubabel orgs create NAME")


@commands.command()
def show(context: typer.Context, organization: OrganizationArgument, as_json: AsJson = False) -> None:
    """Show an organization with its workspaces, tokens and keys."""

    async def work(administration: Administration) -> OrganizationView:
        found = await administration.organizations.resolve(organization)
        return OrganizationView(
            found,
            workspaces=await administration.workspaces.list(found),
            tokens=await administration.tokens.list(found),
            submit_keys=await administration.submit_keys.list(found),
            limits=administration.limits.of(found),
            changes=await administration.audit.list(organization_id=found.id, limit=_CHANGES_SHOWN),
        )

    view = run(context, work)
    if as_json:
        say_json(view)
    else:
        _print(view)


@commands.command()
def disable(context: typer.Context, organization: OrganizationArgument) -> None:
    """Refuse everything new of an organization; what it has running goes on."""

    async def work(administration: Administration) -> Organization:
        found = await administration.organizations.resolve(organization)
        return await administration.organizations.disable(found, actor=actor(context))

    found = run(context, work)
    say(f"disabled {found.id} ({found.name}): its tokens, keys and workspaces are refused within seconds")
    note(f"undo: nubabel orgs enable {found.id}")


@commands.command()
def enable(context: typer.Context, organization: OrganizationArgument) -> None:
    """Serve a disabled organization again."""

    async def work(administration: Administration) -> Organization:
        found = await administration.organizations.resolve(organization)
        return await administration.organizations.enable(found, actor=actor(context))

    found = run(context, work)
    say(f"enabled {found.id} ({found.name})")


@commands.command()
def export(
    context: typer.Context,
    organization: OrganizationArgument,
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="A zip file that does not exist yet.")],
    as_json: AsJson = False,
) -> None:
    """Write everything that is stored of an organization into an archive, without secrets."""

    async def work(administration: Administration) -> Exported:
        found = await administration.organizations.resolve(organization)
        with new_zip_archive(to) as archive:
            return await administration.export.run(found, archive, actor=actor(context))

    exported = run(context, work)
    if as_json:
        say_json(exported)
        return
    say(f"exported {_counted(exported.rows)} to {to}")
    note("it holds personal data: it can be read by its owner only, keep it that way")


@commands.command()
def erase(
    context: typer.Context,
    organization: OrganizationArgument,
    confirm: Annotated[str, typer.Option("--confirm", metavar="NAME", help="The organization's name once more.")],
    as_json: AsJson = False,
) -> None:
    """Delete everything of an organization, for good. Run it again if it was interrupted."""

    async def work(administration: Administration) -> Erased:
        found = await administration.organizations.resolve(organization)
        return await administration.erase.run(found, confirmed=confirm, actor=actor(context))

    erased = run(context, work)
    if as_json:
        say_json(erased)
        return
    say(
        f"erased {organization}: {_counted(erased.rows)}, {counted(erased.opencode_sessions, 'OpenCode session')}, "
        f"{counted(erased.directories, 'directory', 'directories')} there, "
        f"{counted(erased.connections, 'connection')}"
    )


@commands.command("set-policy")
def set_policy(
    context: typer.Context,
    organization: OrganizationArgument,
    busy: BusyOption = None,
    plan: PlanOption = None,
    masking: Annotated[
        MaskingPolicy | None,
        typer.Option("--masking", help="Keys, card numbers, mail addresses and national ids in prompts."),
    ] = None,
    servers: Annotated[
        ServersPolicy | None,
        typer.Option("--servers", help="Where it runs: on servers for everybody, or only on its own."),
    ] = None,
    near_cap: Annotated[
        NearCap | None,
        typer.Option("--near-cap", help="When most of a day's or month's budget is used: go on, or save."),
    ] = None,
    repeated: Annotated[
        RepeatedQuestions | None,
        typer.Option("--repeated-questions", help="Answered lately, word for word: run again, or the same answer."),
    ] = None,
    approvers: Annotated[
        str | None,
        typer.Option(
            "--budget-approvers",
            metavar="U1,U2",
            help="Slack user ids of those who get a button to allow more where a budget is used up; none: nobody.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change how an organization is served."""
    change = PolicyChange(busy, plan, masking, servers, near_cap, repeated, _user_ids(approvers))

    async def work(administration: Administration) -> tuple[Organization, LimitsReport, Unserved | None]:
        found = await administration.organizations.resolve(organization)
        changed = await administration.organizations.set_policy(found, change, actor=actor(context))
        unserved = await administration.unserved.of(changed) if servers is not None else None
        return changed, administration.limits.of(changed), unserved

    changed, limits, unserved = run(context, work)
    if plan is not None:
        note_unknown_plan(limits)
    if unserved is not None:
        note_unserved(unserved)
    if as_json:
        say_json(changed)
        return
    served = f"when busy {changed.busy_policy}, plan {changed.plan}, masking {changed.masking}"
    saving = (
        f"near a cap {changed.near_cap}, repeated questions {changed.repeated_questions}, "
        f"budget approvers {_named(changed.budget_approvers)}"
    )
    say(f"{changed.id} ({changed.name}): {served}, servers {changed.servers}, {saving}")


@dataclass(frozen=True)
class OrganizationView:
    """What `orgs show` shows."""

    organization: Organization
    workspaces: Sequence[WorkspaceSummary]
    tokens: Sequence[ServiceToken]
    submit_keys: Sequence[SubmitKeySummary]
    limits: LimitsReport
    changes: Sequence[AuditEntry]


def _print(view: OrganizationView) -> None:
    one = view.organization
    fields(
        {
            "organization": one.id,
            "name": one.name,
            "state": _state(one),
            "when busy": one.busy_policy.value,
            "plan": one.plan if view.limits.plan_known else f"{one.plan} (not described: served as `default`)",
            "masking": one.masking.value,
            "servers": one.servers.value,
            "near a cap": one.near_cap.value,
            "repeated questions": one.repeated_questions.value,
            "budget approvers": _named(one.budget_approvers),
            "created": clock_time(one.created_at),
        }
    )
    heading("Slack workspaces")
    for workspace in view.workspaces:
        state = "active" if workspace.active else "ended"
        say(f"{workspace.id}  {plain(workspace.team_name)} ({workspace.team_id})  {state}")
    if not view.workspaces:
        say("none")
    heading("Credentials")
    for token in view.tokens:
        say(f"{token.id}  token {token.name}  {'revoked' if token.revoked_at else 'active'}")
    for key in view.submit_keys:
        say(f"{key.id}  submit key {key.name}  {'revoked' if key.revoked_at else 'active'}")
    if not view.tokens and not view.submit_keys:
        say("none")
    heading("Last changes")
    for change in view.changes:
        say(f"{clock_time(change.at)}  {change.actor}  {change.action}  {change.subject}")


def _user_ids(text: str | None) -> tuple[str, ...] | None:
    """None: not said. `none` says that there are none."""
    if text is None:
        return None
    return () if text == _NONE else tuple(part.strip() for part in text.split(","))


def _named(user_ids: Sequence[str]) -> str:
    return ",".join(user_ids) or _NONE


def _counted(rows: Mapping[str, int]) -> str:
    """`451 rows of 18 tables`; tables that have none don't count."""
    return f"{counted(sum(rows.values()), 'row')} of {counted(sum(map(bool, rows.values())), 'table')}"


def _listed(one: Organization) -> tuple[str, ...]:
    return one.id, one.name, _state(one), one.busy_policy.value, one.servers.value, one.plan


def _state(organization: Organization) -> str:
    return "active" if organization.disabled_at is None else "disabled"
