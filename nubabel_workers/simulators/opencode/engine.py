"""The run loop of the simulated server: what happens between a prompt and `session.idle`.

Order of events, stored messages and error behaviour follow opencode 1.18.33, compared by the contract tests.
"""

import asyncio
import functools
import itertools
import random
from collections import deque
from collections.abc import Awaitable, Callable
from enum import Enum, auto

import structlog

from nubabel_workers.simulators.opencode import wire_forms
from nubabel_workers.simulators.opencode.config import Faults, SimulatorConfig
from nubabel_workers.simulators.opencode.directives import (
    TOOL_STEP_TOKENS,
    ReportedUsage,
    Script,
    ToolCall,
    script_of,
)
from nubabel_workers.simulators.opencode.identifiers import IdSource, now_ms
from nubabel_workers.simulators.opencode.state import (
    CONTINUING_FINISHES,
    Json,
    Message,
    Run,
    SimulatedSession,
    Store,
)
from nubabel_workers.simulators.opencode.telling import Teller
from nubabel_workers.simulators.opencode.tool_runs import ToolRunner

log = structlog.get_logger(__name__)

_USABLE_CONTEXT_TOKENS = 95_904  # the stub model's 100,000 minus its longest answer
_RETRYABLE_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
_MAX_RETRY_WAIT_S = 30.0
_TRACES_KEPT = 1000
_MAX_DOUBLINGS = 16
_JITTER = 0.25
_TICK_S = 0.02  # words of a slow answer are sent in bursts of this length at the finest
_CONTINUE = "Continue if you have next steps, or stop and ask for clarification if you are unsure how to proceed."
_COMPACTED_FOR_SIZE = (
    "The previous request exceeded the provider's size limit due to large media attachments. The conversation was "
    "compacted and media files were removed from context.\n\n"
)


Work = Callable[[SimulatedSession, Run], Awaitable[None]]


class _Next(Enum):
    """What follows a model step."""

    STEP = auto()
    IDLE = auto()
    NOTHING = auto()  # the step has failed and told so itself


class Engine:
    """Runs sessions. One task per busy session, no timer per word."""

    def __init__(self, config: SimulatorConfig, store: Store, tell: Teller, ids: IdSource) -> None:
        self._faults = Faults()
        self.model_calls = 0
        self.before_answer: Callable[[], Awaitable[None]] | None = None  # each answer of the model waits for it
        self.helper_calls = 0
        self.aborts = 0
        self.traceparents: deque[str | None] = deque(maxlen=_TRACES_KEPT)  # of the prompts, as they came
        self.peak = 0
        self._config = config
        self._store = store
        self._tell = tell
        self._tools = ToolRunner(tell, store, ids, start=self.start)
        self._active: set[asyncio.Task[None]] = set()

    @property
    def faults(self) -> Faults:
        return self._faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self._tell.idle_twice = faults.duplicate_idle

    @property
    def active(self) -> int:
        return len(self._active)

    def take_fault(self, name: str) -> bool:
        """Whether one of the counted faults applies now; counts it down."""
        left = getattr(self.faults, name)
        if left > 0:
            self.faults = self.faults.changed({name: left - 1})
        return bool(left > 0)

    def start(self, session: SimulatedSession) -> Run:
        """Begin to work for the session's newest message, unless the session works already."""
        if session.run is None:
            session.run = run = Run()
            self._store.set_status(session, wire_forms.BUSY)
            run.task = asyncio.create_task(self._run(session, run, self._loop))
            self._active.add(run.task)
            run.task.add_done_callback(self._active.discard)
            self.peak = max(self.peak, len(self._active))
        return session.run

    def summarize(self, session: SimulatedSession, *, model: Json) -> "asyncio.Task[None]":
        """Compact an idle session because somebody asked for it; nothing goes on afterwards."""
        session.run = run = Run()
        run.task = task = asyncio.create_task(self._run(session, run, functools.partial(self._summarize, model=model)))
        self._active.add(task)
        task.add_done_callback(self._active.discard)
        return task

    def knows_model(self, model: Json) -> bool:
        return f"{model['providerID']}/{model['modelID']}" in self._config.models

    def abort(self, session: SimulatedSession) -> None:
        self.aborts += 1
        if session.run is None:
            self._tell.idle(session)
        elif session.run.task is not None:
            session.run.aborted = True
            session.run.task.cancel()
        for child in self._store.children(session.id):
            if child.run is not None:
                self.abort(child)

    def crash(self) -> None:
        """Everything in memory is gone; what was stored stays as it is."""
        for task in self._active:
            task.cancel()
        for session in self._store.sessions.values():
            session.run = None
            session.status = None
        self._store.busy.clear()
        self._store.asks.clear()

    # --- the loop ---------------------------------------------------------------------------------------------------

    async def _summarize(self, session: SimulatedSession, run: Run, *, model: Json) -> None:
        last = session.newest_user()
        agent = last.info["agent"] if last is not None else self._config.default_agent
        request = self._tell.add_user(session, agent=agent, model=model)
        self._tell.message(session, request)
        self._tell.add_part(session, request, "compaction", auto=False)
        await self._write_summary(session, run, request)
        self._tell.event(session, "session.compacted")
        self._tell.idle(session)

    async def _run(self, session: SimulatedSession, run: Run, work: Work) -> None:
        try:
            await work(session, run)
        except asyncio.CancelledError:
            if session.run is run:  # after a crash it is not
                self._end_aborted(session, run)
        except Exception:
            log.exception("opencode_simulator.run_failed", session_id=session.id)
            self._tell.idle(session)
        finally:
            if session.run is run:
                session.run = None

    async def _loop(self, session: SimulatedSession, run: Run) -> None:
        user = session.newest_user()
        if user is not None and not self.knows_model(user.info["model"]):
            self._end_without_model(session, user)
            return
        if self.take_fault("idle_without_answer"):
            self._tell.idle(session)
            return
        following = _Next.STEP
        while following is _Next.STEP:
            self._tell.busy(session)
            user, last = session.newest_user(), session.last_assistant()
            if user is None or (last is not None and last.info["parentID"] == user.id and last.is_final):
                break
            following = await self._step(session, run, user)
        if following is _Next.NOTHING:
            return
        self._tell.idle(session)
        if run.message is not None and user is not None:
            self._tell.session(session)
            self._tell.message(session, user)

    async def _step(self, session: SimulatedSession, run: Run, user: Message) -> _Next:
        """One call of the model. It answers the latest message in its context, whichever one the step is for."""
        asking = _asking(session)
        script = script_of(asking.text)
        message = self._tell.open_assistant(session, user)
        run.message, run.streamed = message, []
        self._tell.session(session)
        self._tell.message(session, user)
        self._tell.busy(session)
        if user.id not in run.counted:
            run.counted.add(user.id)
            self._store.model_runs[user.id] = self._store.model_runs.get(user.id, 0) + 1
        misbehaves = await self._ask_model(session, asking, script)
        if misbehaves and script.overflow:
            return await self._compact(session, run, message, overflow=True)
        error = _model_error(script, misbehaves=misbehaves)
        if error is not wire_forms.BAD_JSON and error is not None:
            return self._fail(session, message, error)
        self._tell.add_part(session, message, "step-start")
        if error is not None:
            return self._fail(session, message, error)
        words = script.words(
            context_messages=session.context_size(),
            last_text=asking.text,
            default_tokens=self._config.tokens,
            tool_result=session.context()[-1].tool_result,
        )
        if misbehaves and "mid" in {script.hang, script.drop}:
            return await self._break_off(session, run, message, script, words)
        self._think(session, message, script)
        if calls := script.tool_calls(_steps_since(session, asking)):
            return await self._tool_step(session, run, message, calls, script)
        return await self._answer(session, run, message, script, words)

    async def _ask_model(self, session: SimulatedSession, asking: Message, script: Script) -> bool:
        """Wait for the model's answer to begin, retrying as OpenCode does; whether it misbehaves."""
        text = asking.text
        for attempt in itertools.count(1):
            self.model_calls += 1
            times = session.prompts_seen.get(text, 0) + 1
            session.prompts_seen[text] = times
            misbehaves = times <= script.times
            if self.take_fault("stall"):
                await _for_ever()
            if self.before_answer is not None:
                await self.before_answer()
            await asyncio.sleep(self._config.delay_s if script.delay_s is None else script.delay_s)
            if not misbehaves:
                return False
            if script.hang == "at_once":
                await _for_ever()
            if script.drop != "at_once" and script.status not in _RETRYABLE_STATUSES:
                return True
            await self._wait_for_retry(session, script, attempt)
        raise AssertionError("the retries are endless")

    async def _wait_for_retry(self, session: SimulatedSession, script: Script, attempt: int) -> None:
        wait_s = min(self._config.retry_wait_s * 2 ** min(attempt - 1, _MAX_DOUBLINGS), _MAX_RETRY_WAIT_S)
        wait_s *= 1 + random.random() * _JITTER  # noqa: S311  # no secret depends on it
        if script.retry_after_s is not None:
            wait_s = script.retry_after_s
        message = f"stub error {script.status}" if script.status is not None else "Cannot connect to API"
        status = {"type": "retry", "attempt": attempt, "message": message, "next": now_ms() + int(wait_s * 1000)}
        self._tell.status(session, status)
        await asyncio.sleep(wait_s)
        self._tell.busy(session)

    # --- a step's content -------------------------------------------------------------------------------------------

    def _think(self, session: SimulatedSession, message: Message, script: Script) -> None:
        if script.reasoning:
            words = [f"think{n} " for n in range(script.reasoning)]
            part = self._tell.add_part(session, message, "reasoning", text="", time={"start": now_ms()})
            self._tell.deltas(session, part, words)
            self._tell.end_text(session, part, words)

    async def _tool_step(
        self, session: SimulatedSession, run: Run, message: Message, calls: tuple[ToolCall, ...], script: Script
    ) -> _Next:
        rejected = False
        for call in calls:
            rejected = await self._tools.run(session, message, call) or rejected
        await self._finish(session, message, "tool-calls", script.reported_usage(TOOL_STEP_TOKENS))
        return _Next.IDLE if rejected else await self._after(session, run, message)

    async def _answer(
        self, session: SimulatedSession, run: Run, message: Message, script: Script, words: list[str]
    ) -> _Next:
        part = self._tell.add_part(session, message, "text", text="", time={"start": now_ms()})
        gap_s = self._config.gap_s if script.gap_s is None else script.gap_s
        if gap_s <= 0:
            self._tell.deltas(session, part, words)
        else:
            await self._write_slowly(session, run, part, words, gap_s)
        self._tell.end_text(session, part, words)
        usage = script.reported_usage(len(words))
        if script.finish == "content_filter":
            await self._finish(session, message, "content-filter", usage, error=wire_forms.CONTENT_FILTER)
            self._tell.event(session, "session.error", error=wire_forms.CONTENT_FILTER)
            return _Next.IDLE
        await self._finish(session, message, script.finish, usage)
        return await self._after(session, run, message)

    async def _write_slowly(
        self, session: SimulatedSession, run: Run, part: Json, words: list[str], gap_s: float
    ) -> None:
        """Bursts of words, at the pace of gap_s, without a timer for each."""
        per_burst = max(1, round(_TICK_S / gap_s))
        for start in range(0, len(words), per_burst):
            burst = words[start : start + per_burst]
            self._tell.deltas(session, part, burst)
            run.streamed += burst
            await asyncio.sleep(gap_s * len(burst))
        run.streamed = []

    async def _break_off(
        self, session: SimulatedSession, run: Run, message: Message, script: Script, words: list[str]
    ) -> _Next:
        """A few words, then silence or a broken connection."""
        said = list(script.words_before_trouble(words))
        part = self._tell.add_part(session, message, "text", text="", time={"start": now_ms()})
        self._tell.deltas(session, part, said)
        run.streamed = said
        if script.hang is not None:
            await _for_ever()
        run.streamed = []
        self._tell.end_text(session, part, said)
        await self._finish(session, message, "unknown", None)
        return _Next.STEP

    async def _finish(
        self,
        session: SimulatedSession,
        message: Message,
        finish: str,
        usage: ReportedUsage | None,
        *,
        error: Json | None = None,
    ) -> None:
        if self.faults.idle_before_final_s and finish not in CONTINUING_FINISHES:
            self._tell.idle(session)
            await asyncio.sleep(self.faults.idle_before_final_s)
        self._tell.end_step(session, message, finish, usage, error=error)

    async def _after(self, session: SimulatedSession, run: Run, message: Message) -> _Next:
        if message.info["tokens"].get("total", 0) >= _USABLE_CONTEXT_TOKENS:
            return await self._compact(session, run, message, overflow=False)
        return _Next.STEP

    # --- compaction and ends ----------------------------------------------------------------------------------------

    async def _compact(self, session: SimulatedSession, run: Run, message: Message, *, overflow: bool) -> _Next:
        if overflow:
            self._tell.event(session, "session.error", error=wire_forms.OVERFLOW)
            self._tell.complete(session, message)
            self._tell.message(session, message)
        origin = session.messages[message.info["parentID"]]
        request = self._insert_user(session, origin)
        self._tell.add_part(session, request, "compaction", auto=True, overflow=overflow)
        await self._write_summary(session, run, request)
        going_on = self._insert_user(session, origin)
        text = _COMPACTED_FOR_SIZE + _CONTINUE if overflow else _CONTINUE
        self._tell.add_part(
            session, going_on, "text", synthetic=True, text=text, metadata={"compaction_continue": True}
        )
        self._tell.event(session, "session.compacted")
        return _Next.STEP

    async def _write_summary(self, session: SimulatedSession, run: Run, request: Message) -> None:
        self._tell.busy(session)
        summary = self._tell.open_assistant(session, request, summary=True)
        run.message = summary
        self.helper_calls += 1
        self._tell.add_part(session, summary, "step-start")
        part = self._tell.add_part(session, summary, "text", text="", time={"start": now_ms()})
        await asyncio.sleep(0)
        self._tell.deltas(session, part, ["Stub summary"])
        self._tell.end_text(session, part, ["Stub summary"])
        self._tell.end_step(session, summary, "stop", ReportedUsage(11, 2))

    def _insert_user(self, session: SimulatedSession, origin: Message) -> Message:
        """A user message that nobody sent."""
        message = self._tell.add_user(session, agent=origin.info["agent"], model=origin.info["model"])
        self._tell.message(session, message)
        return message

    def _fail(self, session: SimulatedSession, message: Message, error: Json) -> _Next:
        self._tell.event(session, "session.error", error=error)
        self._tell.idle(session)
        self._tell.complete(session, message, error=error)
        self._tell.message(session, message)
        self._tell.idle(session)
        return _Next.NOTHING

    def _end_aborted(self, session: SimulatedSession, run: Run) -> None:
        self._tell.event(session, "session.error", error=wire_forms.ABORTED)
        self._tell.idle(session)
        message = run.message
        if message is not None and "completed" not in message.info["time"]:
            for part in message.parts:
                if part["type"] == "text" and run.streamed:
                    self._tell.end_text(session, part, run.streamed)
                elif part["type"] == "tool" and part["state"]["status"] in {"pending", "running"}:
                    self._tell.tool_state(session, part, "completed", output="User aborted the command", title="")
            self._tell.complete(session, message, error=wire_forms.ABORTED)
            self._tell.message(session, message)
        self._tell.idle(session)

    def _end_without_model(self, session: SimulatedSession, user: Message) -> None:
        model = user.info["model"]
        name = f"Model not found: {model['providerID']}/{model['modelID']}."
        self._tell.busy(session)
        self._tell.event(session, "session.error", error=wire_forms.unknown_error(name))
        self._tell.idle(session)
        self._tell.event(session, "session.error", error=wire_forms.unknown_error(name, stack=True))


def _model_error(script: Script, *, misbehaves: bool) -> Json | None:
    """The error that the model's answer is, where OpenCode does not retry it."""
    if script.bad_json:
        return wire_forms.BAD_JSON
    return wire_forms.api_error(script.status) if misbehaves and script.status is not None else None


def _asking(session: SimulatedSession) -> Message:
    """The latest message of the context, or what it has to go on with where it says nothing else."""
    newest_first = [message for message in reversed(session.messages.values()) if message.is_user]
    directing = next((message for message in newest_first if script_of(message.text) != script_of("")), None)
    return directing if directing is not None and script_of(directing.text).goes_on else newest_first[0]


def _steps_since(session: SimulatedSession, asking: Message) -> int:
    """Tool steps that the model sees after the message it answers."""
    context = session.context()
    start = next((at for at, m in enumerate(context) if m is asking), -1)
    return sum(1 for m in context[start + 1 :] if m.tool_calls)


async def _for_ever() -> None:
    await asyncio.Event().wait()
