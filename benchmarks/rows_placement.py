"""Row of placement: ten servers of different speed, of which one dies, one hangs and one leaks under load."""

import asyncio
import secrets
import shlex
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from benchmarks.figures import Report, percentile
from benchmarks.processes.commands import Remote, started
from benchmarks.requests import organization_of, submitted
from benchmarks.sizes import Sizes
from benchmarks.system import OpenCodeElsewhere
from nubabel_workers.domain.credentials import callback_key_text
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.embedded.stack import Stack, StackOptions

_DELAYS_S = (3.0, 1.5, 6.0, 2.25, 4.5, 1.5, 3.0, 6.0, 2.25, 4.5)  # a run of each server; neighbours differ
_DIES, _HANGS, _LEAKS = 0, 3, 5
_WHAT = {_DIES: "dies", _HANGS: "hangs", _LEAKS: "leaks"}
_CAPACITY_RUNS = 10
_PER_S = 16.0
_WARM_UP_S = 4.0
_SETTLED_S = 5.0  # the first runs of a slow server take as long to be counted
_DOWN_S = 10.0
_LEAK_BYTES_PER_S = 60_000_000
_TELL_EVERY_S = 0.5
_LOOK_EVERY_S = 0.2
_REST_S = 90.0
_STOPS_WITHIN_S = 1.0  # what was being placed at that moment
_AIM_RATIO = 1.5
_ROW = "placement"
_OVER = {"completed", "failed", "cancelled", "rejected"}
_SETTINGS = {
    "opencode_restart_command": f"{shlex.quote(sys.executable)} "
    f"{shlex.quote(str(Path(__file__).parent / 'processes' / 'restart.py'))} {{url}}",
    "opencode_restart_after_s": "4",
    "opencode_drain_s": "30",
    "opencode_stream_idle_s": "4",
    "opencode_read_timeout_s": "3",
    "opencode_memory_window_s": "6",
    "opencode_memory_within_s": "40",
}

_WORK = """
SELECT instance_id, count(*)::int AS runs FROM executions
WHERE status = 'completed' AND finished_at BETWEEN to_timestamp(%(since)s) AND to_timestamp(%(until)s)
GROUP BY instance_id
"""
_ANSWERS = """
SELECT extract(epoch FROM finished_at - created_at)::float8 AS answer_s, extract(epoch FROM created_at)::float8 AS at
FROM executions WHERE status = 'completed'
"""
_BEGUN_THERE = """
SELECT count(*)::int AS n FROM attempts
WHERE instance_id = %(id)s AND number = 1 AND started_at BETWEEN to_timestamp(%(since)s) AND to_timestamp(%(until)s)
"""
_DRAINED_S = """
SELECT COALESCE(extract(epoch FROM max(e.finished_at)) - %(unfit_at)s, 0)::float8 AS n
FROM executions e JOIN attempts a ON a.execution_id = e.id
WHERE a.instance_id = %(id)s AND a.started_at <= to_timestamp(%(unfit_at)s)
  AND e.finished_at > to_timestamp(%(unfit_at)s)
"""
_STATES = "SELECT status, count(*)::int AS n FROM executions GROUP BY status"
_REPEATS = "SELECT count(*)::int AS n FROM attempts WHERE number > 1"


@dataclass
class _Seen:
    """Of one server that was harmed: Unix seconds of what was first seen after that."""

    harmed_at: float
    unfit_at: float | None = None
    fit_at: float | None = None
    reason: str = ""


@dataclass
class _Fleet:
    stack: Stack
    process: Remote
    ids: Sequence[InstanceId]  # of the servers, in the order of their delays
    seen: dict[int, _Seen] = field(default_factory=dict)

    @property
    def all_back(self) -> bool:
        return all(one.fit_at is not None for one in self.seen.values())

    async def harm(self) -> None:
        """All three within a moment."""
        await self.process.ask("crash", server=_DIES, down_s=_DOWN_S)
        await self.process.ask("fault", server=_HANGS, values={"slow_s": 3600, "mute_events": True})
        await self.process.ask("fault", server=_LEAKS, values={"leak_bytes_per_s": _LEAK_BYTES_PER_S})
        self.seen = {server: _Seen(time.time()) for server in _WHAT}

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            found = {one.id: one for one in await self.stack.services.instances.loads()}
            for server, seen in self.seen.items():
                one, now = found[self.ids[server]], time.time()
                if seen.unfit_at is None and not one.is_fit:
                    seen.unfit_at, seen.reason = now, one.strain or one.health_detail
                if seen.unfit_at is not None and seen.fit_at is None and one.is_fit:
                    seen.fit_at = now
            await asyncio.sleep(_LOOK_EVERY_S)

    async def number(self, statement: str, **params: object) -> float:
        row = await self.stack.services.database.system().one(statement, params)
        return float(row["n"]) if row else 0.0

    async def states(self) -> dict[str, int]:
        rows = await self.stack.services.database.system().all(_STATES)
        return {row["status"]: row["n"] for row in rows}


async def measure_placement(sizes: Sizes, report: Report) -> None:
    async with _fleet() as fleet:
        watching = asyncio.create_task(fleet.watch())
        try:
            warm_up = await _load(fleet, _WARM_UP_S)
            await _all_over(fleet)
            began = time.time()
            calm = await _load(fleet, sizes.calm_s)
            harmed_at = time.time()
            await fleet.harm()
            asked = warm_up + calm + await _load(fleet, sizes.harmed_s)
            await _all_over(fleet)
        finally:
            watching.cancel()
        await _tell_shares(fleet, report, since=began + _SETTLED_S, until=harmed_at)
        await _tell_answers(fleet, report, since=began, harmed_at=harmed_at)
        await _tell_harmed(fleet, report)
        states = await fleet.states()
        report.add(_ROW, f"of {asked:,} requests, not answered", asked - states.get("completed", 0), "", aim=1)
        report.add(_ROW, "runs that were begun again", await fleet.number(_REPEATS), "")
        if states != {"completed": asked}:
            report.problems.append(f"placement: {asked} requests became {states}")


async def _load(fleet: _Fleet, seconds: float) -> int:
    """New sessions at a steady pace; how many were accepted."""
    services, tenant = fleet.stack.services, fleet.stack.tenants[0]
    organization = await organization_of(services, tenant.id)
    began, count = time.monotonic(), int(seconds * _PER_S)
    for number in range(count):
        await asyncio.sleep(max(0.0, began + number / _PER_S - time.monotonic()))
        await submitted(services, organization, "hello")
    return count


async def _all_over(fleet: _Fleet) -> None:
    """Or the time is."""
    ends_at = time.monotonic() + _REST_S
    while time.monotonic() < ends_at and (  # noqa: ASYNC110 - rows give no event
        set(await fleet.states()) - _OVER or not fleet.all_back
    ):
        await asyncio.sleep(_LOOK_EVERY_S)


async def _tell_shares(fleet: _Fleet, report: Report, *, since: float, until: float) -> None:
    rows = await fleet.stack.services.database.system().all(_WORK, {"since": since, "until": until})
    runs = {row["instance_id"]: row["runs"] for row in rows}
    work = [runs.get(one, 0) / max(1, sum(runs.values())) for one in fleet.ids]
    speed = [1 / delay_s / sum(1 / one for one in _DELAYS_S) for delay_s in _DELAYS_S]
    names = [f"{number + 1}: {delay_s:g} s a run" for number, delay_s in enumerate(_DELAYS_S)]
    table = "Work of ten servers while all are well, percent"
    for column, values in (("of the work", work), ("of the speed", speed)):
        report.add_column(table, column, {name: 100 * value for name, value in zip(names, values, strict=True)})
    ratios = [one / other for one, other in zip(work, speed, strict=True)]
    furthest = max(max(one, 1 / one if one else float("inf")) for one in ratios)
    report.add(
        _ROW, "a server's share of the work by its share of the speed, furthest", furthest, "times", aim=_AIM_RATIO
    )


async def _tell_answers(fleet: _Fleet, report: Report, *, since: float, harmed_at: float) -> None:
    rows = await fleet.stack.services.database.system().all(_ANSWERS)
    calm = [row["answer_s"] for row in rows if since <= row["at"] < harmed_at]
    harmed = [row["answer_s"] for row in rows if row["at"] >= harmed_at]
    for what, values in (("all are well", calm), ("one dies, one hangs, one leaks", harmed)):
        report.add(_ROW, f"accepted to answered while {what}, p50", percentile(values, 0.5), "s")
        report.add(_ROW, f"accepted to answered while {what}, p95", percentile(values, 0.95), "s")
    report.add(_ROW, "the longest of all", max(calm + harmed, default=None), "s")


async def _tell_harmed(fleet: _Fleet, report: Report) -> None:
    for server, seen in fleet.seen.items():
        what = f"the server that {_WHAT[server]}"
        report.add(_ROW, f"{what}, until it is found", _after(seen.harmed_at, seen.unfit_at), "s")
        report.add(_ROW, f"{what}, from there until it is fit again", _after(seen.unfit_at, seen.fit_at), "s")
        report.notes.append(f"placement: {what}: {seen.reason or 'was not found'}")
        if seen.unfit_at is None:
            continue
        drained_s = await fleet.number(_DRAINED_S, id=fleet.ids[server], unfit_at=seen.unfit_at)
        report.add(_ROW, f"{what}, from there until all that it had is answered", drained_s, "s")
        until = seen.fit_at or time.time()
        begun = await fleet.number(
            _BEGUN_THERE, id=fleet.ids[server], since=seen.unfit_at + _STOPS_WITHIN_S, until=until - _LOOK_EVERY_S
        )
        report.add(_ROW, f"{what}, sessions begun there meanwhile", begun, "", aim=1)


def _after(one: float | None, other: float | None) -> float | None:
    return other - one if one is not None and other is not None else None


@asynccontextmanager
async def _fleet() -> AsyncIterator[_Fleet]:
    password = secrets.token_urlsafe(16)
    async with AsyncExitStack() as parts:
        process = await parts.enter_async_context(started("benchmarks.processes.fleet"))
        urls = await process.ask("open", delays_s=_DELAYS_S, password=password)
        options = StackOptions(
            opencode_servers=0,
            servers_elsewhere=[OpenCodeElsewhere(url, SecretStr(password)) for url in urls],
            capacity_runs=_CAPACITY_RUNS,
            organizations={"Acme": 1},
            copies={"flower": 0},
            settings=_SETTINGS,
        )
        stack = await parts.enter_async_context(Stack(options, on_line=lambda _process, _line: None))
        ids = await _bridged(stack, process, urls)
        yield _Fleet(stack, process, ids)


async def _bridged(stack: Stack, process: Remote, urls: Sequence[str]) -> list[InstanceId]:
    """Give each server a key to tell its memory with; their ids, in the order of urls."""
    known = {one.url: one.id for one in await stack.services.instances.loads()}
    ids = [known[url] for url in urls]
    keys = [callback_key_text(secrets.token_bytes(32)) for _ in ids]
    for instance_id, key in zip(ids, keys, strict=True):
        await stack.services.instances.add_callback_key(instance_id, key, actor="bench")
    told = [(instance_id, key.get_secret_value()) for instance_id, key in zip(ids, keys, strict=True)]
    await process.ask("bridge", url=stack.api_url, keys=told, every_s=_TELL_EVERY_S)
    return ids
