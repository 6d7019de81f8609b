"""Process: the local Slack, and the people in it who write to @nubabel.

`open {port, events_url, signing_secret, teams, posts_per_s}`; `load {...}` -> what became of each message;
`stop {numbers, how}` -> message number -> when its author took it back.
"""

import asyncio
import random
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import uvloop

from benchmarks.processes.commands import Json, serve
from nubabel_workers.simulators.slack import Message, SlackSimulator, SlackSimulatorOptions, Workspace
from nubabel_workers.simulators.slack.limits import RateLimits
from nubabel_workers.simulators.slack.model import Channel

_CHANNELS_PER_TEAM = 10
_USERS_PER_TEAM = 7
_QUESTIONS = (
    "please read the latest deployment notes and tell us in a few sentences what changed and whether we must act",
    "어제 올라온 오류 보고서를 읽고 원인과 다음 단계를 짧게 정리해 주세요",
)
_BETWEEN_STOPS_S = 0.05
_SETTLE_S = 1.0  # for what follows an answer: signs that go, answers that should not have come


@dataclass(slots=True)
class _Job:
    """Times are monotonic seconds."""

    number: int
    said: float
    event_ids: list[str]
    accepted: float | None = None
    replied: float | None = None
    answers: int = 0

    def as_json(self) -> Json:
        return {
            "number": self.number,
            "said": self.said,
            "accepted": self.accepted,
            "replied": self.replied,
            "answers": self.answers,
        }


@dataclass(slots=True)
class _Load:
    """What is going on between the first message of a load and its last answer."""

    wanted: int
    jobs: dict[str, _Job] = field(default_factory=dict)  # by the thread's root
    by_event: dict[str, _Job] = field(default_factory=dict)
    posts: set[str] = field(default_factory=set)
    notes: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    answered: int = 0
    one_accepted: asyncio.Event = field(default_factory=asyncio.Event)
    one_answered: asyncio.Event = field(default_factory=asyncio.Event)
    all_answered: asyncio.Event = field(default_factory=asyncio.Event)


class _People:
    def __init__(self, parts: AsyncExitStack) -> None:
        self._parts = parts
        self._slack = SlackSimulator()
        self._teams: list[str] = []
        self._load = _Load(0)

    async def open(self, given: Json) -> str:
        self._teams = given["teams"]
        options = SlackSimulatorOptions(
            port=given["port"],
            signing_secret=given["signing_secret"],
            teams=self._teams,
            limits=RateLimits(posts_per_channel_per_s=given["posts_per_s"]),
        )
        self._slack = SlackSimulator(options)
        world = self._slack.world
        world.note = self._note  # type: ignore[method-assign]  # its own log would grow with every call
        world.watchers.append(self._changed)
        await self._parts.enter_async_context(self._slack)
        self._slack.send_events_to(given["events_url"])
        return self._slack.base_url

    async def send_events_to(self, given: Json) -> None:
        if self._slack.http is not None:
            await self._slack.http.close()
        self._slack.send_events_to(given["events_url"])

    async def load(self, given: Json) -> Json:
        """Send `count` messages, numbered from `first` on; directive: what the simulated model is told.

        How they come: per_s (that many a second, each somewhere in its share of it), in_flight (the next when one is
        answered), unaccepted (the next when fewer than that many wait for our 200), or none of these (all at once).
        """
        load = self._load = _Load(given["count"])
        numbers = range(given["first"], given["first"] + given["count"])
        started = time.monotonic()
        with suppress(TimeoutError):  # the report shows who has no answer
            async with asyncio.timeout(given["timeout_s"]):
                for position, number in enumerate(numbers):
                    await self._wait_for_turn(load, given, started, position)
                    self._say(load, number, given["directive"])
                if given["wait"]:
                    await load.all_answered.wait()
                    await asyncio.sleep(_SETTLE_S)
        return self._report()

    async def stop(self, given: Json) -> dict[int, float]:
        """how: `word`, said in the thread, or `deletion` of the question. One after the other; monotonic seconds."""
        at: dict[int, float] = {}
        wanted = set(given["numbers"])
        for ts, job in list(self._load.jobs.items()):
            if job.number in wanted:
                at[job.number] = time.monotonic()
                self._take_back(job.number, ts, given["how"])
                await asyncio.sleep(_BETWEEN_STOPS_S)
        return at

    def _take_back(self, number: int, ts: str, how: str) -> None:
        workspace, channel, user = self._place(number)
        if how == "deletion":
            self._slack.world.delete_by_person(workspace, channel, ts)
        else:
            self._slack.world.say(workspace, channel, user, "stop", thread_ts=ts)

    async def rest(self, given: Json) -> Json:
        """Wait for the answers of a load that was sent without waiting."""
        with suppress(TimeoutError):
            async with asyncio.timeout(given["timeout_s"]):
                await self._load.all_answered.wait()
                await asyncio.sleep(_SETTLE_S)
        return self._report()

    def _report(self) -> Json:
        load = self._load
        return {"jobs": [job.as_json() for job in load.jobs.values()], "notes": load.notes}

    async def _wait_for_turn(self, load: _Load, given: Json, started: float, position: int) -> None:
        if (per_s := given.get("per_s")) is not None:
            rng = random.Random(position)
            due = started + (position + rng.random()) / per_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        elif (in_flight := given.get("in_flight")) is not None:
            while position - load.answered >= in_flight:
                load.one_answered.clear()
                await load.one_answered.wait()
        elif (unaccepted := given.get("unaccepted")) is not None:
            while position - load.accepted >= unaccepted:
                load.one_accepted.clear()
                await load.one_accepted.wait()
        elif position % 20 == 0:
            await asyncio.sleep(0)

    def _say(self, load: _Load, number: int, directive: str) -> None:
        workspace, channel, user = self._place(number)
        text = f"@nubabel job {number}: {_QUESTIONS[number % len(_QUESTIONS)]} {directive}"
        said = time.monotonic()
        message, event_ids = self._slack.world.say(workspace, channel, user, text)
        job = _Job(number, said, event_ids)
        load.jobs[message.ts] = job
        load.by_event.update(dict.fromkeys(event_ids, job))

    def _place(self, number: int) -> tuple[Workspace, str, str]:
        """Workspace, channel and author of a message."""
        place = number // len(self._teams)
        workspace = self._slack.world.workspace(self._teams[number % len(self._teams)])
        return workspace, f"C{place % _CHANNELS_PER_TEAM:08d}", f"U{place % _USERS_PER_TEAM:08d}"

    def _note(self, kind: str, **fields: Any) -> None:
        if kind == "delivered":
            job = self._load.by_event.get(fields["event_id"])
            if job is not None and job.accepted is None:  # the first of the two events of a mention
                job.accepted = time.monotonic()
                self._load.accepted += 1
                self._load.one_accepted.set()
        elif kind == "call":
            self._load.notes[f"{fields['method']} {fields.get('error') or 'ok'}"] += 1
        elif kind in {"delivery_failed", "event_lost"}:
            self._load.notes[kind] += 1

    def _changed(self, _workspace: Workspace, _channel: Channel, message: Message | None) -> None:
        load = self._load
        if message is None or message.bot_id is None or message.ts in load.posts:
            return
        job = load.jobs.get(message.root_ts)
        if job is None:
            return
        load.posts.add(message.ts)
        job.answers += 1
        if job.replied is None:
            job.replied = time.monotonic()
            load.answered += 1
            load.one_answered.set()
            if load.answered == load.wanted:
                load.all_answered.set()


async def main() -> None:
    async with AsyncExitStack() as parts:
        people = _People(parts)
        await serve(
            {
                "open": people.open,
                "send_events_to": people.send_events_to,
                "load": people.load,
                "rest": people.rest,
                "stop": people.stop,
            }
        )


if __name__ == "__main__":
    uvloop.run(main())
