"""The rig's book: entries of the load generator and of both simulators, as they come in."""

import asyncio
import re
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nubabel_workers.domain.wording import Language, say
from nubabel_workers.simulators.opencode.engine import Engine
from nubabel_workers.simulators.opencode.state import Run, SimulatedSession
from nubabel_workers.simulators.slack.model import Channel, Json, Message, SlackWorld, Workspace
from tests.faults.chaos.ledger import Job, ModelRun, Saying, Told

_NUMBER = re.compile(r"answer #(\d+)#")
_REFERENCE = "\N{NUL}"
_STEP = '[[tool=bash {"command":"sleep 0.2","description":"x"}]]'
_DEAR = "[[usage=50000,0]]"  # five cents, of which the simulated model takes a dollar per million tokens


def directive(number: int, delay_s: float) -> str:
    """What makes the simulated model answer with the job's number, after a while."""
    return f"[[delay={delay_s:.2f}]] [[text=answer #{number}#]]"


def dear_directive(number: int, delay_s: float, *, steps: int) -> str:
    """The same after so many steps, each of which costs as much as the answer; one that was paused goes on with it."""
    return f"[[goes_on]] {_STEP * steps} {_DEAR} {directive(number, delay_s)}"


def number_in(text: str) -> int | None:
    """The last job that a text names: the newest one, where earlier turns are quoted before it."""
    found = _NUMBER.findall(text)
    return int(found[-1]) if found else None


def _beginnings(*keys: str) -> tuple[str, ...]:
    named = dict.fromkeys(("reference", "allowed", "wait_s"), _REFERENCE)
    said = (say(key, Language.ENGLISH, **named) for key in keys)
    return tuple(words.partition(_REFERENCE)[0] for words in said)


_APOLOGIES = _beginnings("failed", "deadline", "too_late", "no_answer")
_REFUSALS = _beginnings(
    *("rejected_busy", "stopped", "replaced"),
    *("refused_requests_per_minute", "refused_queued", "refused_sessions"),
)
_REPEATED = say("repeated", Language.ENGLISH)


def saying_of(text: str) -> Saying:
    """What kind of message of the bot this is, by the words that people read."""
    if text.startswith(_APOLOGIES):
        return Saying.APOLOGY
    if text.startswith(_REFUSALS):
        return Saying.REFUSAL
    if number_in(text) is None:
        return Saying.NOTICE
    return Saying.REPEAT if _REPEATED in text else Saying.ANSWER


@dataclass(slots=True)
class Book:
    """jobs: by number. calls: the Slack simulator's log of Web API calls. changed_at: when anything last happened."""

    jobs: dict[int, Job] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    runs: defaultdict[int, list[ModelRun]] = field(default_factory=lambda: defaultdict(list))
    calls: list[Json] = field(default_factory=list)
    wipes: list[float] = field(default_factory=list)
    changed_at: float = field(default_factory=time.monotonic)
    has_outcome: defaultdict[int, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    accepted: defaultdict[int, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))
    by_event: dict[str, Job] = field(default_factory=dict)

    def add(self, job: Job) -> Job:
        self.jobs[job.number] = job
        return job

    def accept(self, job: Job, at: float) -> None:
        if job.accepted_at is None:
            job.accepted_at = at
        self.accepted[job.number].set()
        self.touch()

    def tell(self, one: Told) -> None:
        self.told.append(one)
        self.touch()
        if one.job is not None:
            self.has_outcome[one.job].set()

    def touch(self) -> None:
        self.changed_at = time.monotonic()


class SlackObserver:
    """Writes into the book what the local Slack sees: acknowledgements, calls and what the bot posts."""

    def __init__(self, book: Book, world: SlackWorld) -> None:
        self._book = book
        self._threads: dict[tuple[str, str, str], str] = {}  # team, channel, root -> thread
        self._seen: set[tuple[str, str, str]] = set()
        self._asked: dict[int, Message] = {}
        world.log = _Log(self._logged)
        world.watchers.append(self._changed)

    def follow(self, job: Job, message: Message, event_ids: Sequence[str], *, team: str, channel: str) -> None:
        """Directly after a person wrote the message that is the job."""
        self._threads[team, channel, message.root_ts] = job.thread
        self._asked[job.number] = message
        self._book.by_event |= dict.fromkeys(event_ids, job)

    def is_worked_on(self, job: Job) -> bool:
        """Whether the bot's working sign is still on the question."""
        message = self._asked.get(job.number)
        return message is not None and bool(message.reactions)

    def _logged(self, entry: Json) -> None:
        match entry["kind"]:
            case "delivered":
                if (job := self._book.by_event.get(entry["event_id"])) is not None:
                    self._book.accept(job, entry["at"])
            case "delivery_failed":
                if (job := self._book.by_event.get(entry["event_id"])) is not None:
                    job.not_accepted = str(entry["reason"])
            case "call":
                self._book.calls.append(entry)
                self._book.touch()

    def _changed(self, workspace: Workspace, channel: Channel, message: Message | None) -> None:
        """Each message of the bot counts once, when it first stands there: also one that is deleted later."""
        if message is None or message.bot_id is None or message.ts not in channel.messages:
            return
        key = (workspace.team_id, channel.id, message.ts)
        thread = self._threads.get((workspace.team_id, channel.id, message.root_ts))
        if key in self._seen or thread is None:
            return
        self._seen.add(key)
        self._book.tell(Told(message.posted_at, saying_of(message.body), thread, number_in(message.body)))


class _Log(deque[Json]):
    """The local Slack's log, shown to somebody as it grows, and kept by nobody."""

    def __init__(self, show: Callable[[Json], None]) -> None:
        super().__init__(maxlen=0)
        self._show = show

    def append(self, entry: Any) -> None:
        self._show(entry)


class RunObserver:
    """Writes into the book each run of the simulated OpenCode that asked the model."""

    def __init__(self, book: Book, engine: Engine) -> None:
        self._book = book
        self._start = engine.start
        engine.start = self.start  # type: ignore[method-assign]  # the simulator itself needs no such clock

    def start(self, session: SimulatedSession) -> Run:
        is_new = session.run is None
        run = self._start(session)
        user = session.newest_user()
        number = _number_of_job(session)
        if is_new and run.task is not None and user is not None and number is not None:
            began, message_id = time.monotonic(), user.id
            run.task.add_done_callback(lambda _task: self._ended(session, number, message_id, began))
        return run

    def _ended(self, session: SimulatedSession, number: int, message_id: str, began: float) -> None:
        last = session.last_assistant()
        answered = last is not None and last.info["parentID"] == message_id and last.is_final
        self._book.runs[number].append(ModelRun(number, began, time.monotonic(), answered=answered))
        self._book.touch()


def _number_of_job(session: SimulatedSession) -> int | None:
    """The newest prompt that names one: what goes on after a pause is only told to continue."""
    numbers = (number_in(message.text) for message in reversed(session.messages.values()) if message.is_user)
    return next((number for number in numbers if number is not None), None)
