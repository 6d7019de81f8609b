"""`nubabel instances`: the OpenCode servers."""

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from nubabel_workers.cli.administration import Administration
from nubabel_workers.cli.command_line import EXIT_FAILED
from nubabel_workers.cli.invocation import AsJson, actor, organization_or_all, read_secret, run
from nubabel_workers.cli.output import fields, note, print_line, say, say_json, styled, table
from nubabel_workers.cli.table_layout import Column
from nubabel_workers.cli.wording import ago, plain
from nubabel_workers.domain.circuit_breaker import CLOSED, Gate
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.placement import takes_now
from nubabel_workers.domain.tenants import Instance, InstanceChange, Organization, ServersPolicy
from nubabel_workers.domain.unserved import Unserved
from nubabel_workers.services.manage_instances import InstanceCheck, NewInstance

commands = typer.Typer(
    help="OpenCode servers: add, look at, change what they carry, take out of use, give callback keys.",
    no_args_is_help=True,
)

InstanceArgument = Annotated[str, typer.Argument(metavar="INSTANCE", help="Its id, ins_...")]
UsernameOption = Annotated[str | None, typer.Option(help="Basic authentication user, unless it is the default.")]
PasswordOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input (hidden when typed).")
]
PasswordVariableOption = Annotated[
    str | None, typer.Option("--password-env", metavar="VARIABLE", help="Read the password from this variable.")
]
CapacityOption = Annotated[int | None, typer.Option(help="Runs at once.")]
SubmitsOption = Annotated[int | None, typer.Option(help="Prompts per second.")]
DirectoriesOption = Annotated[
    int | None, typer.Option(help="Organizations that have their own directory loaded there at once.")
]


@commands.command()
def add(
    context: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where it listens, e.g. http://opencode:4096.")],
    username: UsernameOption = None,
    password_stdin: PasswordOption = False,
    password_env: PasswordVariableOption = None,
    directory: Annotated[
        str | None, typer.Option(help="Directory on that machine where sessions live; else the server's own.")
    ] = None,
    organization: Annotated[
        str | None, typer.Option("--org", metavar="ORG", help="Dedicate it to this organization.")
    ] = None,
    capacity: CapacityOption = None,
    submits_per_second: SubmitsOption = None,
    max_directories: DirectoriesOption = None,
    as_json: AsJson = False,
) -> None:
    """Register an OpenCode server and look at it. It gets work once it was found well, now or by the listener."""
    password: SecretStr | None = None
    if password_stdin or password_env:
        password = read_secret("the server's password", variable=password_env)

    async def work(administration: Administration) -> tuple[InstanceCheck, Organization | None]:
        defaults, owner = administration.defaults, await organization_or_all(administration, organization)
        new = NewInstance(
            url=url,
            username=username or defaults.opencode_username,
            password=password,
            capacity_runs=defaults.capacity_runs if capacity is None else capacity,
            submits_per_second=defaults.submits_per_second if submits_per_second is None else submits_per_second,
            max_directories=defaults.max_directories if max_directories is None else max_directories,
            directory=directory,
            organization=owner,
        )
        return await administration.instances.add(new, actor=actor(context)), owner

    found, owner = run(context, work)
    if as_json:
        say_json(_as_json(found))
    else:
        say(f"added {found.instance.id} ({found.instance.url})")
        _print_check(found)
        if found.problem is not None:
            note("it stays registered and gets no work until the listener finds it well; then by itself")
        if password is None:
            note("without a password, whoever reaches that server can use it")
        if owner is not None and owner.servers is not ServersPolicy.DEDICATED:
            note(f"its organization uses it once it may: nubabel orgs set-policy {owner.id} --servers dedicated")
    if found.problem is not None:
        raise typer.Exit(EXIT_FAILED)


@commands.command("list")
def list_all(context: typer.Context, as_json: AsJson = False) -> None:
    """List servers: load, health, circuit breaker, what is wrong.

    HEARD OF: when the listener last heard of it, each half a minute while it is connected, or somebody looked at it.
    """

    async def work(administration: Administration) -> tuple[list[dict[str, Any]], list[tuple[str, ...]]]:
        found, now = await administration.instances.list(), administration.clock.now()
        gates = await administration.instances.gates()
        return [{**vars(one), "breaker": gates[one.id].state} for one in found], [
            (
                one.id,
                one.url,
                one.status,
                _health(one),
                gates[one.id].words,
                _runs(one),
                _directories(one),
                one.version or "-",
                one.organization_id or "shared",
                _memory(one),
                _lag(one),
                ago(one.checked_at, now),
                one.strain or one.health_detail,
            )
            for one in found
        ]

    found, rows = run(context, work)
    if as_json:
        say_json(found)
        return
    titles = (
        "ID",
        "URL",
        "STATE",
        "HEALTH",
        "BREAKER",
        "RUNS",
        "DIRECTORIES",
        "VERSION",
        "FOR",
        "MEMORY",
        "LAG",
        "HEARD OF",
    )
    table(
        [*(Column(title) for title in titles), Column("DETAIL", whole=False)],
        rows,
        empty="no OpenCode server yet: nubabel instances add http://host:4096",
    )


@commands.command()
def show(context: typer.Context, instance_id: InstanceArgument, as_json: AsJson = False) -> None:
    """Show one server: load, health, memory, how late its events come, and what is wrong with it."""

    async def work(administration: Administration) -> tuple[Instance, Gate, datetime]:
        found = await administration.instances.find(instance_id)
        gates = await administration.instances.gates()
        return found, gates.get(found.id, CLOSED), administration.clock.now()

    found, gate, now = run(context, work)
    if as_json:
        say_json({**vars(found), "breaker": gate.state})
        return
    fields(
        {
            "id": found.id,
            "url": found.url,
            "state": found.status,
            "health": _health(found),
            "because": found.strain or found.health_detail or "-",
            "breaker": gate.words,
            "runs": _runs(found),
            "memory": _memory(found),
            "events come": "-" if found.event_lag_s is None else f"{_lag(found)} late",
            "version": found.version or "-",
            "agents": ", ".join(found.agents) or "-",
            "directory": found.directory or "the server's own",
            "for": found.organization_id or "shared",
            "heard of": ago(found.checked_at, now),
        }
    )


@commands.command()
def check(
    context: typer.Context,
    instance_id: Annotated[str | None, typer.Argument(metavar="[INSTANCE]", help="Its id; without it, all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask servers for version and agents. Fails when one is unfit.

    What they answer is written down; that one which the listener works with cannot be reached from here is only said.
    """

    async def work(administration: Administration) -> list[InstanceCheck]:
        if instance_id is not None:
            return [await administration.instances.check(instance_id)]
        every = await administration.instances.list()
        return list(await asyncio.gather(*(administration.instances.look_at(one) for one in every)))

    found = run(context, work)
    if as_json:
        say_json([_as_json(one) for one in found])
    else:
        for one in found:
            _print_check(one)
    if any(one.problem is not None for one in found):
        raise typer.Exit(EXIT_FAILED)


@commands.command("set")
def set_values(
    context: typer.Context,
    instance_id: InstanceArgument,
    capacity: CapacityOption = None,
    submits_per_second: SubmitsOption = None,
    max_directories: DirectoriesOption = None,
    username: UsernameOption = None,
    password_stdin: PasswordOption = False,
    password_env: PasswordVariableOption = None,
    as_json: AsJson = False,
) -> None:
    """Change what a server may carry and how to enter it, at once. With another user or password it is looked at.

    What runs or is loaded there beyond a smaller number goes on until it ends or is idle.
    """
    wants_password = password_stdin or password_env is not None
    change = InstanceChange(capacity, submits_per_second, max_directories, username)
    if change.is_empty and not wants_password:
        raise InvalidInputError("nothing to change: give an option; `nubabel instances set --help` shows them")
    if wants_password:
        change = replace(change, password=read_secret("the server's password", variable=password_env))

    async def work(administration: Administration) -> InstanceCheck:
        return await administration.instances.change(instance_id, change, actor=actor(context))

    found = run(context, work)
    if as_json:
        say_json(_as_json(found))
    else:
        one = found.instance
        say(
            f"{one.id} takes {one.capacity_runs} runs at once, {one.submits_per_second} prompts a second, "
            f"{one.max_directories} directories"
        )
        if change.is_of_access:
            _print_check(found)
    if found.problem is not None:
        raise typer.Exit(EXIT_FAILED)


@commands.command()
def drain(context: typer.Context, instance_id: InstanceArgument) -> None:
    """Give a server no new runs; what runs there goes on."""

    async def work(administration: Administration) -> tuple[Instance, Unserved | None]:
        drained = await administration.instances.drain(instance_id, actor=actor(context))
        return drained, await administration.unserved.beside(drained)

    drained, unserved = run(context, work)
    say(f"draining {drained.id}: executions that still run there: {drained.in_flight}")
    note(f"then: nubabel instances remove {drained.id}, or nubabel instances activate {drained.id}")
    if unserved is not None:
        note_unserved(unserved)


@commands.command()
def activate(context: typer.Context, instance_id: InstanceArgument) -> None:
    """Use a drained server again."""

    async def work(administration: Administration) -> Instance:
        return await administration.instances.activate(instance_id, actor=actor(context))

    say(f"active again: {run(context, work).id}")


@commands.command()
def remove(
    context: typer.Context,
    instance_id: InstanceArgument,
    force: Annotated[bool, typer.Option("--force", help="Even while executions run there.")] = False,
) -> None:
    """Take a server out of use for good; its sessions continue elsewhere, without what the server remembered."""

    async def work(administration: Administration) -> tuple[Instance, Unserved | None]:
        removed = await administration.instances.remove(instance_id, force=force, actor=actor(context))
        return removed, await administration.unserved.beside(removed)

    removed, unserved = run(context, work)
    say(f"removed {removed.id}")
    if unserved is not None:
        note_unserved(unserved)


@commands.command()
def callback_key(
    context: typer.Context,
    instance_id: InstanceArgument,
    end_old: Annotated[
        bool, typer.Option("--end-old", help="Make none: end the one before the newest, which alone stays good.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Give a server's plugin a new key to sign its calls with, shown this once. The one before stays good beside it.

    To replace a key: make one, give it to the server (NUBABEL_BRIDGE_KEY), restart it, then --end-old.
    """

    async def work(administration: Administration) -> SecretStr | bool:
        if end_old:
            return await administration.callback_keys.end_previous(instance_id, actor=actor(context))
        return await administration.callback_keys.create(instance_id, actor=actor(context))

    done = run(context, work)
    if isinstance(done, bool):
        say("the old key is refused within seconds" if done else "there was no old key")
        return
    if as_json:
        say_json({"instance_id": instance_id, "callback_key": done.get_secret_value()})
        return
    say(done.get_secret_value())
    note("keep it now, it is not shown again; one before it, if any, stays good. When the server has this one:")
    note(f"nubabel instances callback-key {instance_id} --end-old")


def note_unserved(unserved: Unserved) -> None:
    """What was asked for is done; this is what follows from it, and what helps."""
    note(f"beware: {plain(unserved.words)}")
    note(f"→ {unserved.advice}")


def _print_check(found: InstanceCheck) -> None:
    word, detail = ("OK", f"version {found.version}, {len(found.agents)} agents")
    if found.problem is not None:
        word, detail = "FAIL", found.problem
    print_line((word.ljust(6), styled(word)), (f"{found.instance.id} {found.instance.url}  {plain(detail)}", ""))
    if found.advice:
        say(f"{'':<6}→ {plain(found.advice)}")


def _as_json(found: InstanceCheck) -> dict[str, object]:
    return {
        "instance": found.instance,
        "version": found.version,
        "agents": found.agents,
        "problem": found.problem,
        "advice": found.advice,
    }


def _runs(instance: Instance) -> str:
    """`3/50`; while a server that came back is taken back slowly `3/12 of 50`."""
    takes = takes_now(instance)
    whole = f" of {instance.capacity_runs}" if takes < instance.capacity_runs else ""
    return f"{instance.in_flight}/{takes}{whole}"


def _directories(instance: Instance) -> str:
    """`3/20`; `one` where all organizations share the server's own, or it is dedicated to one."""
    if instance.organization_id is not None or instance.directories_path is None:
        return "one"
    return f"{instance.directories_taken}/{instance.max_directories}"


def _health(instance: Instance) -> str:
    if instance.given_up:
        return "given up"
    if not instance.healthy:
        return "refused" if instance.refused else "unfit"
    return "strained" if instance.strain else "healthy"


def _memory(instance: Instance) -> str:
    """`-`: its plugin tells nothing."""
    return "-" if instance.memory_bytes is None else f"{instance.memory_bytes / 1e9:.1f} GB"


def _lag(instance: Instance) -> str:
    """How late its events come."""
    return "-" if instance.event_lag_s is None else f"{instance.event_lag_s:.1f} s"
