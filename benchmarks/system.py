"""The system under measurement: a Stack whose Slack and OpenCode run in processes of their own."""

import asyncio
import itertools
import os
import secrets
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio as redis
from pydantic import SecretStr

from benchmarks import usage
from benchmarks.processes.commands import Remote, started
from nubabel_workers.adapters.storage import schema
from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.processes import StartProcess
from nubabel_workers.embedded.stack import Stack, StackOptions
from nubabel_workers.embedded.stack_environment import HOST

ORGANIZATIONS = {"Acme": 5, "Hanbit": 5, "Borealis": 5, "Namsan": 5}
EVENTS_PATH = "/slack/events"
UNLIMITED = 10_000  # the most that may be said of a server
_UNACCEPTED = 1000
_FLOOR_DATABASE = "floor"
_FLOOR_CACHE = "/7"
_LOOK_EVERY_S = 0.5

# An answer of 200 words in about 240 frames, at the pace of a fast model.
TOKENS = 200
DELAY_S = 0.5
GAP_S = 0.01
TYPICAL = ""
AT_ONCE = "[[delay=0]] [[gap=0]]"


def teams_of(number: int, count: int) -> list[str]:
    """Slack's ids of the workspaces of organization `number`, as the stack gives them."""
    return [f"T{number:03d}{copy:03d}" for copy in range(1, count + 1)]


TEAMS = [team for number, count in enumerate(ORGANIZATIONS.values(), start=1) for team in teams_of(number, count)]


@dataclass(frozen=True)
class Limits:
    """None: as simulated servers without limits."""

    capacity_runs: int = UNLIMITED
    submits_per_second: int = UNLIMITED
    posts_per_channel_per_s: float | None = None


@dataclass(frozen=True)
class OpenCodeElsewhere:
    """A simulator in a process of its own."""

    url: str
    password: SecretStr = field(repr=False)
    username: str = "opencode"


@dataclass(frozen=True)
class Job:
    """Monotonic seconds. opencode_s: how long OpenCode itself worked on it."""

    number: int
    said: float
    accepted: float
    replied: float
    opencode_s: float

    @property
    def added_s(self) -> float:
        return self.replied - self.accepted - self.opencode_s


@dataclass(frozen=True)
class Outcome:
    """What became of one load. doubled: messages with more than one answer. notes: what else Slack saw."""

    jobs: Sequence[Job]
    asked: int
    unanswered: int
    doubled: int
    notes: Mapping[str, int]

    @property
    def problems(self) -> list[str]:
        found = [f"{self.unanswered} of {self.asked} unanswered"] if self.unanswered else []
        return found + ([f"{self.doubled} answered more than once"] if self.doubled else [])

    @property
    def per_s(self) -> float:
        """Answers a second, from the first accepted to the last replied."""
        if not self.jobs:
            return 0.0
        return len(self.jobs) / (max(j.replied for j in self.jobs) - min(j.accepted for j in self.jobs))


@dataclass(frozen=True)
class Reading:
    """CPU seconds by process, and counters of the stores and logs, at one moment."""

    cpu: Mapping[str, float]
    counts: Mapping[str, float]

    def since(self, earlier: "Reading") -> "Reading":
        return Reading(
            {name: value - earlier.cpu.get(name, 0.0) for name, value in self.cpu.items()},
            {name: value - earlier.counts.get(name, 0.0) for name, value in self.counts.items()},
        )


class System:
    """A running stack and the processes around it."""

    def __init__(
        self, stack: Stack, slack: Remote, opencode: Remote, server: OpenCodeElsewhere, log_lines: Counter[str]
    ) -> None:
        self.stack = stack
        self.server = server
        self.slack = slack
        self.opencode = opencode
        self._log_lines = log_lines
        self._numbers = itertools.count(1)

    async def load(self, count: int, directive: str = TYPICAL, *, timeout_s: float = 60.0, **how: float) -> Outcome:
        """Send messages and wait for the answers. how: see processes.slack."""
        return await self._outcome(await self._send(count, directive, wait=True, timeout_s=timeout_s, **how), count)

    async def send(self, count: int, directive: str, *, timeout_s: float) -> None:
        """Send messages as fast as they are accepted, for timeout_s at most; `rest` waits for the answers."""
        await self._send(count, directive, wait=False, timeout_s=timeout_s, unaccepted=_UNACCEPTED)

    async def rest(self, count: int, *, timeout_s: float) -> Outcome:
        return await self._outcome(await self.slack.ask("rest", timeout_s=timeout_s), count)

    async def accepted(self) -> int:
        """How many messages of the last load Slack has our 200 for."""
        report = await self.slack.ask("rest", timeout_s=0.0)
        return sum(job["accepted"] is not None for job in report["jobs"])

    async def load_floor(self, floor: "Floor", count: int, directive: str = TYPICAL, **how: float) -> Outcome:
        """The same for the straight line: Slack's events go to it as long as the load lasts."""
        await self.slack.ask("send_events_to", events_url=floor.events_url)
        try:
            report = await self._send(count, directive, wait=True, timeout_s=60.0, **how)
        finally:
            await self.slack.ask("send_events_to", events_url=f"{self.stack.api_url}{EVENTS_PATH}")
        return outcome_of(report, await floor.opencode.ask("runs"), count)

    async def _send(self, count: int, directive: str, **how: Any) -> Any:
        numbers = [next(self._numbers) for _ in range(count)]
        return await self.slack.ask("load", first=numbers[0], count=count, directive=directive, **how)

    async def _outcome(self, report: Any, asked: int) -> Outcome:
        return outcome_of(report, await self.opencode.ask("runs"), asked)

    # --- readings -------------------------------------------------------------------------------------------------

    def ours(self) -> dict[str, int]:
        return {name: self.stack.processes.pid(name) for name in self.stack.processes.names()}

    def around(self) -> dict[str, int]:
        return {
            "valkey": self.stack.valkey.process.pid,
            "postgresql": self.stack.postgres.process.pid,
            "opencode simulator": self.opencode.pid,
            "slack simulator + load": self.slack.pid,
        }

    async def read(self) -> Reading:
        cpu = {name: usage.cpu_s(pids) for name, pids in usage.families(self.ours() | self.around()).items()}
        cpu["bench"] = usage.cpu_s([os.getpid()])
        return Reading(cpu, await self._counts())

    async def _counts(self) -> dict[str, float]:
        """Round trips by kind. The reading itself costs a few."""
        async with redis.Redis.from_url(self.stack.valkey.broker_url) as client:
            commands = await client.info("commandstats")
        row = await self.stack.services.database.system().one(
            "SELECT sum(xact_commit + xact_rollback)::float8 AS transactions FROM pg_stat_database"
        )
        calls = {name.removeprefix("cmdstat_"): value["calls"] for name, value in commands.items()}
        return {
            "transactions": row["transactions"] if row else 0.0,
            "valkey commands": sum(calls.values()),
            "messages": calls.get("lpush", 0),
            "log lines": sum(self._log_lines.values()),
        }

    def memory(self) -> dict[str, int]:
        """Bytes of each of our processes."""
        return {name: usage.memory_bytes(pids) for name, pids in usage.families(self.ours()).items()}

    async def in_flight(self) -> int:
        return await self._count("SELECT count(*) AS n FROM executions WHERE status = 'running'")

    async def until_running(self, count: int, *, timeout_s: float) -> int:
        """Wait until so many are in flight, or the time is over; how many were."""
        ends_at = time.monotonic() + timeout_s
        peak = await self.in_flight()
        while peak < count and time.monotonic() < ends_at:
            await asyncio.sleep(_LOOK_EVERY_S)
            peak = max(peak, await self.in_flight())
        return peak

    async def until_idle(self, *, timeout_s: float) -> None:
        """Wait until nothing is in flight, or the time is over."""
        ends_at = time.monotonic() + timeout_s
        while await self.in_flight() and time.monotonic() < ends_at:  # noqa: ASYNC110  # a count gives no event
            await asyncio.sleep(_LOOK_EVERY_S)

    async def kept(self) -> int:
        """Messages that are on their way to an answer, wherever they are."""
        return await self._count(
            """
            SELECT (SELECT count(*) FROM executions WHERE status IN ('queued', 'dispatching', 'running'))
              + (SELECT count(*) FROM inbound_events WHERE status = 'ready') AS n
            """
        )

    async def _count(self, statement: str) -> int:
        row = await self.stack.services.database.system().one(statement)
        return int(row["n"]) if row else 0


@dataclass(frozen=True)
class Floor:
    """The straight line, on the stores and the Slack of a running system."""

    process: Remote
    opencode: Remote
    events_url: str

    def cpu_s(self) -> float:
        return usage.cpu_s([self.process.pid])


@asynccontextmanager
async def running_floor(system: System) -> AsyncIterator[Floor]:
    stack = system.stack
    database_url = await asyncio.to_thread(stack.postgres.ensure_database, _FLOOR_DATABASE)
    await asyncio.to_thread(schema.upgrade, database_url)
    values = {name.removeprefix("NUBABEL_").lower(): value for name, value in stack.environment.items()}
    values |= {"database_url": database_url, "cache_url": stack.valkey.cache_url.rpartition("/")[0] + _FLOOR_CACHE}
    async with AsyncExitStack() as parts:
        opencode = await parts.enter_async_context(started("benchmarks.processes.opencode"))
        process = await parts.enter_async_context(started("benchmarks.processes.floor"))
        server = await open_opencode(opencode)
        events_url = await process.ask(
            "open",
            settings=values,
            opencode_url=server.url,
            opencode_password=server.password.get_secret_value(),
        )
        yield Floor(process, opencode, events_url)


def outcome_of(report: Any, runs: Mapping[str, Sequence[float]], asked: int) -> Outcome:
    jobs = []
    for job in report["jobs"]:
        run = runs.get(str(job["number"]))
        if job["replied"] is not None and job["accepted"] is not None and run is not None:
            jobs.append(Job(job["number"], job["said"], job["accepted"], job["replied"], run[1] - run[0]))
    return Outcome(
        jobs=jobs,
        asked=asked,
        unanswered=len(report["jobs"]) - sum(job["replied"] is not None for job in report["jobs"]),
        doubled=sum(job["answers"] > 1 for job in report["jobs"]),
        notes=report["notes"],
    )


@asynccontextmanager
async def running_system(
    *, task_events: bool, limits: Limits | None = None, start_process: StartProcess = subprocess.Popen
) -> AsyncIterator[System]:
    """start_process: another way to start the processes of the stack."""
    limits = limits or Limits()
    log_lines: Counter[str] = Counter()

    def count(process: str, _line: str) -> None:
        log_lines[process] += 1

    async with AsyncExitStack() as parts:
        slack, opencode = await asyncio.gather(
            parts.enter_async_context(started("benchmarks.processes.slack")),
            parts.enter_async_context(started("benchmarks.processes.opencode")),
        )
        server = await open_opencode(opencode)
        slack_port = free_port()
        stack = Stack(
            StackOptions(
                opencode_servers=0,
                servers_elsewhere=[server],
                capacity_runs=limits.capacity_runs,
                submits_per_second=limits.submits_per_second,
                slack="events",
                organizations=ORGANIZATIONS,
                settings={
                    "slack_api_base_url": f"http://{HOST}:{slack_port}/api",
                    "worker_send_events": str(task_events).lower(),
                    "egress_allow": HOST,  # the MCP server of the tool calls
                    "opencode_directories_per_second": "1000",  # a simulated server loads one in no time
                },
            ),
            on_line=count,
            start_process=start_process,
        )
        await slack.ask(
            "open",
            port=slack_port,
            events_url=f"{stack.api_url}{EVENTS_PATH}",
            signing_secret=stack.secrets.signing_secret,
            teams=TEAMS,
            posts_per_s=limits.posts_per_channel_per_s,
        )
        await parts.enter_async_context(stack)
        yield System(stack, slack, opencode, server, log_lines)


async def open_opencode(process: Remote) -> OpenCodeElsewhere:
    password = secrets.token_urlsafe(16)
    url = await process.ask("open", delay_s=DELAY_S, tokens=TOKENS, gap_s=GAP_S, password=password)
    return OpenCodeElsewhere(url, SecretStr(password))
