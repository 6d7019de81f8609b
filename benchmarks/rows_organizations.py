"""Rows of a thousand organizations: what they cost beside twenty, how they share a fleet that has room for two hundred,
and what the door costs a new request while a hundred thousand others wait.
"""

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import psycopg
from pydantic import SecretStr

from benchmarks.figures import Report, median_ms, percentile
from benchmarks.processes.commands import started
from benchmarks.requests import at_pace, database_now, organization_of, submitted
from benchmarks.rows_backlog import SEED_EXECUTIONS, SEED_ORGANIZATIONS, SEED_SESSIONS
from benchmarks.sizes import Sizes
from benchmarks.system import OpenCodeElsewhere, System
from nubabel_workers.bootstrap import Services
from nubabel_workers.domain.placement import AWAY
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.embedded.stack import STACK_DATABASE, Stack, StackOptions

_FEW = 20
_PER_S = 30
_RUN = "[[delay=0.2]] [[gap=0]] [[tokens=20]]"
_SERVERS = 10
_TURNOVER_PER_S = 5.0  # organizations; ten servers load ten directories a second at most
_REST_S = 60.0
_LOOK_EVERY_S = 0.5
_AIM_RATIO = 1.5
_MS, _US = 1000.0, 1e6

_ROOM_FOR_ALL = "UPDATE instances SET max_directories = 2 * %(organizations)s"
_TIMES = """
SELECT extract(epoch FROM running_since - created_at)::float8 AS start_s,
  extract(epoch FROM finished_at - created_at)::float8 AS answer_s
FROM executions WHERE status = 'completed' AND created_at >= %(since)s
"""
_NOT_ANSWERED = "SELECT count(*)::int AS n FROM executions WHERE status <> 'completed' AND created_at >= %(since)s"
_OPEN = "SELECT count(*)::int AS n FROM executions WHERE finished_at IS NULL AND created_at >= %(since)s"
_LOADED = "SELECT count(*)::int AS n FROM instance_directories"
# Each of these can be set by an organization; nothing of it runs, and what is counted is never the limit.
_COUNTED = """
UPDATE organizations SET limits =
  '{"in_flight": 0, "queued": 1000000, "sessions": 1000000, "requests_per_minute": 1000000}' WHERE id = %(id)s
"""
# What waits for a server that is away: nobody runs it meanwhile.
_PUT_OFF = (
    "UPDATE executions SET waiting_for = %(away)s, not_before = now() + interval '1 hour' WHERE request_hash = ''"
)
_WAIT_NO_MORE = (
    "DELETE FROM executions WHERE request_hash = ''",
    "DELETE FROM sessions WHERE session_key LIKE 'key_%'",
)


async def measure_organizations(system: System, sizes: Sizes, report: Report) -> None:
    """One request of each, one after the other, at a steady pace; the same number from twenty beside it."""
    services, row = system.stack.services, f"{sizes.organizations:,} organizations"
    organizations = await _added(services, sizes.organizations)
    await services.database.system().execute(_ROOM_FOR_ALL, {"organizations": sizes.organizations})
    few = list(itertools.islice(itertools.cycle(organizations[:_FEW]), len(organizations)))
    loads = {f"{_FEW} organizations": few, f"{row}, their first": organizations, row: organizations}
    answers: dict[str, float] = {}
    cpu: dict[str, float] = {}
    await _ask(services, few[: sizes.warm_up], per_s=_PER_S)
    await system.until_idle(timeout_s=_REST_S)
    for name, asking in loads.items():
        before, since = await system.read(), await database_now(services)
        await _ask(services, asking, per_s=_PER_S)
        await _all_over(services, since)
        spent = (await system.read()).since(before)
        cpu[name] = sum(spent.cpu[one] for one in system.ours()) * _MS / len(asking)
        answers[name] = await _tell_times(services, report, name, since)
        report.add("organizations", f"{name}: CPU of all our processes, per execution", cpu[name], "ms")
    ratio = answers[row] / answers[f"{_FEW} organizations"]
    report.add("organizations", f"{row} by {_FEW}, answer, p95", ratio, "times", aim=_AIM_RATIO)
    ratio = cpu[row] / cpu[f"{_FEW} organizations"]
    report.add("organizations", f"{row} by {_FEW}, CPU", ratio, "times", aim=_AIM_RATIO)


async def measure_turnover(sizes: Sizes, report: Report) -> None:
    """On ten servers as they come: each carries twenty organizations' directories and loads one a second."""
    async with _fleet() as stack:
        services, name = stack.services, f"{sizes.turnover:,} organizations on {_SERVERS} servers"
        organizations = await _added(services, sizes.turnover)
        since = await database_now(services)
        await _ask(services, organizations, per_s=_TURNOVER_PER_S)
        loaded = await _number(services, _LOADED)
        await _all_over(services, since)
        await _tell_times(services, report, name, since)
        report.add("organizations", f"{name}: places that were taken at the end", loaded, "directories")


async def measure_admission(system: System, sizes: Sizes, report: Report) -> None:
    """With nothing waiting, with a hundred thousand of a thousand organizations, and with all of them of one."""
    services = system.stack.services
    [one] = await _added(services, 1)
    await services.database.system().execute(_COUNTED, {"id": one.id})
    await _tell_admission(services, one, "with nothing waiting", sizes.lookups, report)
    await services.database.system().execute(SEED_ORGANIZATIONS, {"organizations": sizes.organizations})
    rows = f"with {sizes.waiting_rows:,} rows"
    # Not by the system's own connections: their statements end after seconds.
    owner = await psycopg.AsyncConnection.connect(system.stack.postgres.url(STACK_DATABASE), autocommit=True)
    async with owner:
        for organizations, how in ((sizes.organizations, f"{rows} waiting"), (1, f"{rows} of its own waiting")):
            await _seed(owner, {"organizations": organizations, "rows": sizes.waiting_rows, "away": AWAY})
            await _tell_admission(services, one, how, sizes.lookups, report)
            for statement in _WAIT_NO_MORE:
                await owner.execute(statement.encode())


async def _seed(connection: psycopg.AsyncConnection[Any], params: Mapping[str, Any]) -> None:
    for statement in (SEED_SESSIONS, SEED_EXECUTIONS, _PUT_OFF, "ANALYZE executions"):
        await connection.execute(statement.encode(), params if "%(" in statement else None)


async def _tell_admission(services: Services, organization: Organization, how: str, calls: int, report: Report) -> None:
    organization = await organization_of(services, organization.id)
    execution_id = await submitted(services, organization, _RUN)
    waiting = await services.executions.find(organization.id, execution_id)
    assert waiting is not None  # noqa: S101 - it was just accepted
    looks: dict[str, Callable[[], Awaitable[object]]] = {
        "counting one organization for its limits": lambda: services.admission.occupied(organization.id),
        "a request accepted and stored": lambda: submitted(services, organization, _RUN),
        "what one waits for, its place and start": lambda: services.read_waiting.of(waiting),
    }
    for name, look in looks.items():
        report.add("admission", f"{name}, {how}, median", await median_ms(look, calls) * _US / _MS, "us")


async def _added(services: Services, count: int) -> list[Organization]:
    await services.database.system().execute(SEED_ORGANIZATIONS, {"organizations": count})
    return [await organization_of(services, f"org_{number}") for number in range(1, count + 1)]


async def _ask(services: Services, organizations: Sequence[Organization], *, per_s: float) -> None:
    """One request of each."""
    await at_pace(organizations, lambda one: submitted(services, one, _RUN), per_s=per_s)


async def _all_over(services: Services, since: object) -> None:
    """Or the time is."""
    ends_at = time.monotonic() + _REST_S
    while await _number(services, _OPEN, since=since) and time.monotonic() < ends_at:  # noqa: ASYNC110 - no event
        await asyncio.sleep(_LOOK_EVERY_S)


async def _tell_times(services: Services, report: Report, name: str, since: object) -> float:
    """The answers' p95 in ms."""
    rows = await services.database.system().all(_TIMES, {"since": since})
    for what in ("start", "answer"):
        for share_name, share in (("p50", 0.5), ("p95", 0.95)):
            value = (percentile([row[f"{what}_s"] for row in rows], share) or 0.0) * _MS
            report.add("organizations", f"{name}: accepted to its {what}, {share_name}", value, "ms")
    if unanswered := await _number(services, _NOT_ANSWERED, since=since):
        report.problems.append(f"{name}: {unanswered:g} not answered")
    return value


async def _number(services: Services, statement: str, **params: object) -> float:
    row = await services.database.system().one(statement, params)
    return float(row["n"]) if row else 0.0


@asynccontextmanager
async def _fleet() -> AsyncIterator[Stack]:
    password = secrets.token_urlsafe(16)
    async with AsyncExitStack() as parts:
        process = await parts.enter_async_context(started("benchmarks.processes.fleet"))
        urls = await process.ask("open", delays_s=[0.2] * _SERVERS, password=password)
        options = StackOptions(
            opencode_servers=0,
            servers_elsewhere=[OpenCodeElsewhere(url, SecretStr(password)) for url in urls],
            copies={"flower": 0},
        )
        yield await parts.enter_async_context(Stack(options, on_line=lambda _process, _line: None))
