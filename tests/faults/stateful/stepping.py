"""Service calls that stop where a test wants: every call through a port is a place to pause, to fail or to die.

A `Call` is one entry into a service. It runs through a number of gates (each port call has one before and one after
its effect) and then waits until it is let on, is cancelled, or its process is killed. Time is virtual: a loop that
can be moved ahead, so that every time limit in the services and adapters fires as it would in production.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from enum import StrEnum
from typing import Any

from nubabel_workers.domain.errors import NubabelError, UnavailableError, UncertainError

_current: ContextVar["Call | None"] = ContextVar("call", default=None)
_QUIET_TURNS = 12  # more than the longest chain of callbacks between two gates
_LONGEST_NAP_S = 2.0  # services sleep shorter than this; whoever waits longer waits for something else


class Killed(BaseException):
    """Nothing of ours catches this: what would have come next never happens, as after SIGKILL."""


class Fate(StrEnum):
    """What becomes of a call at the gate it was sent to."""

    PAUSE = "pause"  # a slow or stopped process; the world goes on
    FAIL = "fail"  # that port call fails: before its effect, or its answer is lost
    CANCEL = "cancel"  # the task's time limit
    KILL = "kill"  # SIGKILL


class SteppableLoop(asyncio.SelectorEventLoop):
    """An event loop whose time stands still until it is moved: what happens depends on no machine's speed."""

    def __init__(self) -> None:
        super().__init__()
        self.on_advance: Callable[[], None] = lambda: None
        self._now_s = 0.0

    def time(self) -> float:
        # The loop asks for the time while it is being made.
        return getattr(self, "_now_s", 0.0)

    def advance(self, seconds: float) -> None:
        self._now_s += seconds
        self.on_advance()

    def next_timer_in_s(self) -> float | None:
        """Seconds until the next timer; None when there is none."""
        due = [handle.when() for handle in self._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        return max(0.0, min(due) - self.time()) if due else None


class Process:
    """What dies together: its calls, and whatever its services keep in memory."""

    def __init__(self) -> None:
        self.alive = True
        self.calls: list[Call] = []

    def kill(self) -> None:
        self.alive = False
        for call in self.calls:
            call.die()


class Call:
    """One entry into a service, from its first line to its end."""

    def __init__(self, stepper: "Stepper", process: Process, name: str, gates: int | None, fate: Fate) -> None:
        """gates: after so many, fate strikes; None: it runs to its end."""
        self.name = name
        self.process = process
        self.result: Any = None
        self.error: BaseException | None = None
        self.task: asyncio.Task[None] | None = None
        self.at = ""  # the gate at which fate struck
        self._stepper = stepper
        self._left = gates
        self._fate = fate
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def done(self) -> bool:
        return self.task is not None and self.task.done()

    @property
    def paused(self) -> bool:
        return any(not one.done() for one in self._waiting)

    async def run(self, work: Coroutine[Any, Any, Any], then: Callable[[Any], None] | None) -> None:
        _current.set(self)
        try:
            self.result = await work
            if then is not None and self.process.alive:
                then(self.result)
        except Killed as error:
            self.error = error
        except asyncio.CancelledError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - judged by the machine
            self.error = error

    async def pass_gate(self, where: str, *, after: bool) -> None:
        """Go on, or wait, or raise what fate has for this call."""
        if not self.process.alive:
            raise Killed
        if self._left is None:
            return
        if self._left > 0:
            self._left -= 1
            return
        self.at = f"{'after' if after else 'before'} {where}"
        if self._fate is Fate.FAIL:
            self._left = None
            raise failure(where, after=after)
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def strike(self) -> None:
        """What follows the pause, where fate wants more than that."""
        if self.paused and self._fate is Fate.KILL:
            self.process.kill()
        elif self.paused and self._fate is Fate.CANCEL:
            self.cancel()

    def go_on(self, gates: int | None, fate: Fate = Fate.PAUSE) -> None:
        self.at = ""
        self._let_on(gates, fate)

    def _let_on(self, gates: int | None, fate: Fate) -> None:
        self._left, self._fate = gates, fate
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def cancel(self) -> None:
        """As by the time limit of its task: the coroutine ends, its process lives on."""
        if self.task is not None:
            self.task.cancel()
        self._let_on(None, Fate.PAUSE)

    def die(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_exception(Killed())
        if self.task is not None:
            self.task.cancel()


def failure(where: str, *, after: bool) -> NubabelError:
    """What an adapter raises when the other side is away, or when its answer is lost."""
    lost = after and where in {"opencode.submit", "slack.post"}
    return UncertainError(f"{where}: no answer") if lost else UnavailableError(f"{where}: cannot be reached")


class Stepper:
    """Runs calls up to their gates; between two of its steps nothing moves."""

    def __init__(self, loop: SteppableLoop) -> None:
        self.calls: list[Call] = []
        self._loop = loop
        self._in_flight = 0
        self._landed = asyncio.Event()

    async def start(
        self,
        process: Process,
        name: str,
        work: Coroutine[Any, Any, Any],
        *,
        gates: int | None = None,
        fate: Fate = Fate.PAUSE,
        then: Callable[[Any], None] | None = None,
    ) -> Call:
        call = Call(self, process, name, gates, fate)
        process.calls.append(call)
        self.calls.append(call)
        call.task = self._loop.create_task(call.run(work, then))
        await self.settle()
        call.strike()
        await self.settle()
        return call

    async def settle(self) -> None:
        """Until every call has ended, waits at a gate, or for one that does. Naps of the services are cut short."""
        while True:
            await self._drain()
            napping = [call for call in self.calls if not call.done and not call.paused]
            if not napping:
                break
            nap_s = self._loop.next_timer_in_s()
            if nap_s is None or nap_s > _LONGEST_NAP_S:
                self._check_waits_for_another(napping)
                break
            self._loop.advance(nap_s + 0.001)

    def _check_waits_for_another(self, napping: list[Call]) -> None:
        for call in napping:
            if not any(other.paused for other in call.process.calls):
                raise AssertionError(f"{call.name} waits for something that is not a gate: {call.task}")

    def collect(self) -> list[Call]:
        """The calls that ended since the last time."""
        ended = [call for call in self.calls if call.done]
        self.calls = [call for call in self.calls if not call.done]
        for call in ended:
            call.process.calls.remove(call)
        return ended

    async def through(
        self, where: str, effect: Callable[..., Coroutine[Any, Any, Any]], *args: Any, **kwargs: Any
    ) -> Any:
        """One call through a port."""
        call = _current.get()
        if call is None:
            return await effect(*args, **kwargs)
        await call.pass_gate(where, after=False)
        self._in_flight += 1
        try:
            result = await effect(*args, **kwargs)
        finally:
            self._in_flight -= 1
            self._landed.set()
        await call.pass_gate(where, after=True)
        return result

    async def _drain(self) -> None:
        quiet = 0
        while quiet < _QUIET_TURNS:
            if self._in_flight:
                self._landed.clear()
                await self._landed.wait()
                quiet = 0
            else:
                await asyncio.sleep(0)
                quiet += 1


class Gated:
    """A port's implementation with a gate before and after each of its calls.

    timeout_s: of each call, as its adapter keeps it; one among the arguments wins. It runs from before the first gate
    to after the second.
    """

    def __init__(self, stepper: Stepper, name: str, real: object, *, timeout_s: float | None = None) -> None:
        self._stepper = stepper
        self._name = name
        self._real = real
        self._timeout_s = timeout_s

    def __getattr__(self, method: str) -> Any:
        real = getattr(self._real, method)
        if not asyncio.iscoroutinefunction(real):
            return real

        async def through(*args: Any, **kwargs: Any) -> Any:
            where = f"{self._name}.{method}"
            try:
                async with asyncio.timeout(kwargs.get("timeout_s", self._timeout_s)):
                    return await self._stepper.through(where, real, *args, **kwargs)
            except TimeoutError:
                raise failure(where, after=True) from None

        return through
