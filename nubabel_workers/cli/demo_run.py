"""What `nubabel demo` does: start everything, ask as people in Slack would, show what happens, check the answers."""

import asyncio
import re
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from rich.console import Console

from nubabel_workers.cli.demo_view import DemoView, Outcome
from nubabel_workers.client import AsyncNubabelClient, ProgressEvent
from nubabel_workers.client import Execution as ExecutionView
from nubabel_workers.domain.executions import FINAL
from nubabel_workers.embedded.processes import ProcessFailedError
from nubabel_workers.embedded.stack import Stack, StackOptions
from nubabel_workers.embedded.stack_opencode import OpenCodeKind
from nubabel_workers.embedded.stack_tenants import Tenant
from nubabel_workers.simulators.slack.model import Channel, Message, Workspace

_ANSWER_WITHIN_S = 60.0
_PERSON = "U0MINJI"
_SHOWN_STATES = {"running": "working"}
_OPENCODE_NAMES = {"simulator": "an OpenCode simulator", "real": "a real OpenCode server with a stub model"}
# A real server pays a second of CPU for each organization's directory; here two would wait for their turn at most.
_SETTINGS = {"opencode_directories_per_second": "5"}
_DIRECTIVE = re.compile(r"\s*\[\[.*\]\]", re.DOTALL)


@dataclass(frozen=True)
class Question:
    """One message of the demo. follows: label of the question in whose thread it is asked, once that is answered.

    What stands in [[…]] tells the stand-in for a model what to do; people are not shown it.
    """

    label: str
    organization: int  # position in the stack's tenants
    channel: str
    where: str
    text: str
    expects: str  # the answer contains this
    follows: str | None = None

    @property
    def shown(self) -> str:
        return _DIRECTIVE.sub("", self.text)


QUESTIONS = (
    Question(
        "English",
        0,
        "C0GENERAL",
        "#general",
        "@nubabel What changed in this release? [[delay=0.6]] [[text=Three things changed: **faster replies**, "
        "a *dead-letter* list for operators, and `nubabel doctor`.]]",
        "Three things changed",
    ),
    Question(
        "한국어",
        1,
        "C0DEPLOY",
        "#배포",
        "@nubabel 배포 전에 확인할 것을 알려 주세요 [[delay=0.8]] "
        "[[text=배포 전 점검: 1) 마이그레이션 2) 백업 3) 롤백 계획]]",
        "배포 전 점검",
    ),
    Question(
        "tool call",
        1,
        "D0MINJI",
        "a direct message",
        'Please say hello from a shell [[delay=0.3]] [[tool=bash {"command":"echo hello","description":"Say hello"}]] '
        "[[text=The shell said hello.]]",
        "The shell said hello",
    ),
    Question(
        "follow-up",
        0,
        "C0GENERAL",
        "the same thread",
        "@nubabel And which of them matters most?",
        "ECHO[4]",  # the model was shown four messages: it knows what came before
        follows="English",
    ),
)


@dataclass
class _Asked:
    """A question on its way. Times in seconds since Slack sent it."""

    question: Question
    tenant: Tenant
    message: Message
    answered: "asyncio.Future[Message]"  # the message that was asked, once its answer stands in the thread
    first_sign_s: float | None = None
    answered_s: float | None = None
    shown: dict[str, str] = field(default_factory=dict)  # ts of what the bot wrote -> its text

    @property
    def age_s(self) -> float:
        return time.monotonic() - self.message.posted_at


class Demo:
    """Asks its questions in a running stack and watches what comes of them."""

    def __init__(self, stack: Stack, view: DemoView, questions: Sequence[Question] = QUESTIONS) -> None:
        self._stack = stack
        self._view = view
        self._questions = questions
        self._answered: dict[str, asyncio.Future[Message]] = {}
        self._asked: list[_Asked] = []

    async def run(self) -> list[Outcome]:
        """All questions at once, follow-ups when their time comes; the outcomes in the questions' order."""
        loop = asyncio.get_running_loop()
        self._answered = {question.label: loop.create_future() for question in self._questions}
        self._stack.slack.world.watchers.append(self._watch)
        try:
            return list(await asyncio.gather(*(self._ask(question) for question in self._questions)))
        finally:
            self._stack.slack.world.watchers.remove(self._watch)

    async def _ask(self, question: Question) -> Outcome:
        tenant = self._stack.tenants[question.organization]
        thread_ts = (await self._answered[question.follows]).ts if question.follows is not None else None
        self._view.asked(question.label, where=f"{question.where} of {tenant.organization.name}", text=question.shown)
        message = self._stack.slack.say(
            question.text, team=tenant.team, channel=question.channel, user=_PERSON, thread_ts=thread_ts
        )
        asked = _Asked(question, tenant, message, self._answered[question.label])
        self._asked.append(asked)
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                execution = await self._follow(asked)
                await asked.answered
        except TimeoutError:
            asked.answered.cancel()
            return _outcome(asked, "no answer", 0, f"no answer as expected within {_ANSWER_WITHIN_S:g} s")
        problem = "" if execution.succeeded else f"ended as {execution.status}"
        return _outcome(asked, execution.status.value, execution.attempt, problem)

    async def _follow(self, asked: _Asked) -> ExecutionView:
        """Show the execution's events as the gateway tells them, until it is over."""
        label, last = asked.question.label, ("queued", "")
        execution_id = await self._stack.execution_of(asked.tenant, asked.question.channel, asked.message)
        self._view.moved(label, "queued", execution_id)
        token = asked.tenant.token
        async with (
            AsyncNubabelClient(self._stack.api_url, token) as client,
            aclosing(client.events(execution_id)) as events,
        ):
            async for event in events:
                if event.execution is not None:
                    self._view.moved(label, event.execution.status.value, execution_id)
                    return event.execution
                shown = _shown_event(event)
                if shown is not None and shown != last:
                    last = shown
                    self._view.moved(label, *shown)
        raise ProcessFailedError(f"the events of {execution_id} ended without its end")

    def _watch(self, workspace: Workspace, channel: Channel, message: Message | None) -> None:
        """Slack's side: every change of a message comes by here."""
        if message is None:
            return
        for asked in self._asked:
            here = workspace.team_id == asked.tenant.team and channel.id == asked.question.channel
            if here and message is asked.message and message.reactions:
                self._signed(asked, "reaction " + " ".join(f":{name}:" for name in message.reactions))
            if here and _is_reply(message, asked):
                self._signed(asked, "message")
                self._replied(asked, channel, message)

    def _signed(self, asked: _Asked, sign: str) -> None:
        if asked.first_sign_s is None:
            asked.first_sign_s = asked.age_s
            self._view.moved(asked.question.label, "first sign", sign)

    def _replied(self, asked: _Asked, channel: Channel, message: Message) -> None:
        """A message of the bot: the answer, or the progress message that is edited meanwhile and removed at the end."""
        label, text = asked.question.label, message.body
        if message.ts not in channel.messages:
            if asked.shown.pop(message.ts, None) is not None:
                self._view.moved(label, "progress", "the message is removed again")
        elif asked.answered.done():
            return
        elif asked.question.expects in text:
            asked.answered_s = asked.age_s
            self._view.replied(label, text)
            asked.answered.set_result(asked.message)
        elif asked.shown.get(message.ts) != text:
            asked.shown[message.ts] = text
            self._view.moved(label, "progress", " ".join(text.split()))


def _shown_event(event: ProgressEvent) -> tuple[str, str] | None:
    """(state, detail) in the demo's words; None for what isn't shown."""
    if event.type == "state":
        status = str(event.data.get("status"))
        return None if status in FINAL else (_SHOWN_STATES.get(status, status), "")
    if event.type == "tool":
        return "tool", f"{event.data.get('tool')} {event.data.get('status')}"
    return None


def _is_reply(message: Message, asked: _Asked) -> bool:
    return message.bot_id is not None and message.root_ts == asked.message.root_ts and message.ts > asked.message.ts


def _outcome(asked: _Asked, status: str, attempts: int, problem: str) -> Outcome:
    return Outcome(
        question=asked.question.label,
        organization=asked.tenant.organization.name,
        status=status,
        attempts=attempts,
        first_sign_s=asked.first_sign_s,
        answered_s=asked.answered_s,
        problem=problem,
    )


async def demo(opencode: OpenCodeKind, console: Console) -> int:
    """Returns the exit code: 0 when every question was answered as it should be."""
    view = DemoView(console)
    view.section("Starting")
    began = time.monotonic()
    if opencode == "real":
        view.note("installing the real OpenCode from npm where that has not been done yet …")
    async with Stack(StackOptions(opencode=opencode, settings=_SETTINGS)) as stack:
        view.note(f"{', '.join(stack.processes.names())}")
        view.note(f"with Valkey, PostgreSQL, a local Slack and {_OPENCODE_NAMES[opencode]}")
        view.note(f"ready after {time.monotonic() - began:.1f} s")
        view.section("People ask in Slack")
        outcomes = await Demo(stack, view).run()
        view.summary(outcomes)
    view.note("everything that was started is stopped")
    return int(any(outcome.problem for outcome in outcomes))
