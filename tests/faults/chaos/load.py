"""Who asks: people in Slack threads and upstream services over HTTP, from several organizations, in many turns."""

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from nubabel_workers.embedded.stack import Stack
from nubabel_workers.embedded.stack_tenants import Tenant
from nubabel_workers.simulators.slack.model import Message
from tests.faults.chaos.book import Book, SlackObserver, dear_directive, directive
from tests.faults.chaos.ledger import Job, Way
from tests.faults.chaos.upstream import Upstream

_CHANNELS_PER_TEAM = 20
_MAX_TURNS = 3
_MEAN_TURNS = 2.0
_MAX_WAIT_FOR_ANSWER_S = 20.0
_MEAN_STEPS, _MAX_STEPS = 2.0, 12  # of a spender's requests; few of them cost much more than most
_DEAR_DELAY_S = (0.1, 0.5)  # before each step
_MAX_BATCH = 4
_FAILING_IN_BATCH, _CANCELLING_BATCHES = 0.1, 0.5
_FAILS = "[[status=400]]"  # the model refuses for good


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """rate: jobs a second. http_share: of the conversations that come over HTTP. batch_share: of those, what comes in
    batches instead. Times in seconds.
    """

    seed: int
    duration_s: float
    rate: float
    http_share: float = 0.3
    impatient_share: float = 0.3  # of the follow-ups: asked before the answer came
    failing_share: float = 0.02
    oversized_share: float = 0.03  # of those over HTTP
    batch_share: float = 0.1
    delay_s: tuple[float, float] = (0.1, 2.0)


class Conversation(Protocol):
    def ask(self, number: int, text: str) -> Job: ...


class SlackThread:
    """One thread of a channel; every question mentions the bot."""

    def __init__(self, stack: Stack, book: Book, observer: SlackObserver, team: str, channel: str) -> None:
        self._stack = stack
        self._book = book
        self._observer = observer
        self.team = team
        self.channel = channel
        self.root: Message | None = None
        self._name = ""

    def ask(self, number: int, text: str, *, tellable: bool = True) -> Job:
        """tellable: False where the caller will see to it that nobody can answer there."""
        self._name = self._name or f"{self.team} {self.channel} {number}"
        way = Way.SOCKET if self.team in self._stack.options.socket_teams else Way.EVENTS
        job = self._book.add(Job(number, self._name, way, time.monotonic(), tellable=tellable))
        message, event_ids = self._stack.slack.world.say(
            self._stack.slack.workspace(self.team),
            self.channel,
            "U0PERSON",
            f"@nubabel {text}",
            thread_ts=self.root.ts if self.root is not None else None,
        )
        self._observer.follow(job, message, event_ids, team=self.team, channel=self.channel)
        self.root = self.root or message
        return job


class HttpTalk:
    """Requests of an upstream service with one session key."""

    def __init__(self, upstream: Upstream, book: Book, tenant: Tenant, session_key: str, way: Way) -> None:
        self._upstream = upstream
        self._book = book
        self._tenant = tenant
        self._session_key = session_key
        self._way = way

    def ask(self, number: int, text: str) -> Job:
        job = self._book.add(Job(number, f"{self._tenant.id} {self._session_key}", self._way, time.monotonic()))
        self._upstream.submit(self._tenant, job, text, session_key=self._session_key)
        return job


class Load:
    """Starts conversations at random times until the duration is over; a turn that is due then is not taken."""

    def __init__(
        self, stack: Stack, book: Book, observer: SlackObserver, upstream: Upstream, options: LoadOptions
    ) -> None:
        self._stack = stack
        self._book = book
        self._observer = observer
        self._upstream = upstream
        self._options = options
        self._chance = random.Random(f"load {options.seed}")
        self._numbers = itertools.count(1)
        self._ends_at = 0.0
        self._spender: Tenant | None = None

    async def run(self, tenants: Sequence[Tenant], *, spender: Tenant) -> None:
        """Returns when the duration is over and every conversation has come to its end.

        tenants: who asks. spender: the one of them whose requests cost something.
        """
        self._spender = spender
        self._ends_at = time.monotonic() + self._options.duration_s
        async with asyncio.TaskGroup() as conversations:
            while time.monotonic() < self._ends_at:
                conversations.create_task(self._converse(self._chance.choice(tenants)))
                await asyncio.sleep(self._chance.expovariate(self._options.rate / _MEAN_TURNS))

    def new_thread(self, tenant: Tenant, channel: str) -> SlackThread:
        return SlackThread(self._stack, self._book, self._observer, tenant.team, channel)

    def next_number(self) -> int:
        return next(self._numbers)

    async def _converse(self, tenant: Tenant) -> None:
        if self._chance.random() < self._options.http_share * self._options.batch_share:
            self._ask_batch(tenant)
            return
        talk = self._new_conversation(tenant)
        number = self.next_number()
        kind = self._chance.random()
        if isinstance(talk, HttpTalk) and kind < self._options.oversized_share:
            talk.ask(number, self._upstream.too_long(directive(number, 0)))
        elif kind < self._options.failing_share:
            talk.ask(number, f"{_FAILS} {directive(number, 0.1)}")  # alone: its apology names nobody
        else:
            await self._take_turns(tenant, talk, number)

    def _ask_batch(self, tenant: Tenant) -> None:
        """Some of them fail, and of some of those the rest is cancelled then."""
        asked = []
        for _ in range(self._chance.randint(2, _MAX_BATCH)):
            number = self.next_number()
            job = self._book.add(Job(number, f"{tenant.id} batch {number}", Way.BATCH, time.monotonic()))
            fails = self._chance.random() < _FAILING_IN_BATCH
            asked.append((job, f"{_FAILS} {directive(number, 0.1)}" if fails else self._text(tenant, number)))
        self._upstream.submit_batch(tenant, asked, cancel_rest=self._chance.random() < _CANCELLING_BATCHES)

    def _new_conversation(self, tenant: Tenant) -> Conversation:
        if self._chance.random() < self._options.http_share:
            key = f"talk-{self._options.seed}-{self.next_number()}"
            return HttpTalk(self._upstream, self._book, tenant, key, self._chance.choice([Way.WEBHOOK, Way.POLLING]))
        return self.new_thread(tenant, f"C{self._chance.randrange(_CHANNELS_PER_TEAM):08d}")

    async def _take_turns(self, tenant: Tenant, talk: Conversation, number: int) -> None:
        for _ in range(self._chance.randint(1, _MAX_TURNS)):
            job = talk.ask(number, self._text(tenant, number))
            if self._chance.random() >= self._options.impatient_share:
                await self._hear(job)
            await asyncio.sleep(self._chance.uniform(0.1, 1.0))
            if time.monotonic() > self._ends_at:
                return
            number = self.next_number()

    def _text(self, tenant: Tenant, number: int) -> str:
        if tenant is not self._spender:
            return directive(number, self._chance.uniform(*self._options.delay_s))
        steps = min(_MAX_STEPS, int(self._chance.expovariate(1 / _MEAN_STEPS)))
        return dear_directive(number, self._chance.uniform(*_DEAR_DELAY_S), steps=steps)

    async def _hear(self, job: Job) -> None:
        """Wait for the answer, but not for ever: people ask again."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_MAX_WAIT_FOR_ANSWER_S):
                await self._book.has_outcome[job.number].wait()
