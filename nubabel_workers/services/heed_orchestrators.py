"""Leave an orchestrator in peace for a while whose calls fail: one breaker for each, shared by all processes."""

import asyncio
from functools import partial

import structlog

from nubabel_workers.domain.circuit_breaker import CallKind, CallOutcome
from nubabel_workers.domain.errors import NubabelError, RateLimitedError, TransientError, UncertainError
from nubabel_workers.domain.ports import CircuitBreakers, HintPublisher
from nubabel_workers.domain.ports.orchestrators import Call, CallableOrchestrator, CallAnswer, CallStore
from nubabel_workers.domain.rollout import Orchestrator
from nubabel_workers.domain.watched_calls import away_for_s, wait_to_pass_s, watched
from nubabel_workers.services.wake_waiting import wake_in_steps

log = structlog.get_logger(__name__)

# A caller may allow its request less, which says nothing of the orchestrator that did not make it.
_HANGS_AFTER_S = 60.0


class HeedOrchestrators:
    """Ask wait_s() before anything of a call is written down, then answer(), or not_called()."""

    def __init__(
        self,
        breakers: CircuitBreakers,
        calls: CallStore,
        hints: HintPublisher,
        *,
        hangs_after_s: float = _HANGS_AFTER_S,
    ) -> None:
        self._breakers = breakers
        self._calls = calls
        self._hints = hints
        self._hangs_after_s = hangs_after_s

    async def wait_s(self, orchestrator: Orchestrator) -> float | None:
        """Seconds for which no call may go there; None: it may, and is the probe where one is wanted."""
        return await wait_to_pass_s(self._breakers, orchestrator.value)

    async def put_off_if_away(self, orchestrator: Orchestrator) -> int | None:
        """While no call may go there, what is ready waits together: how many; None: a call may go."""
        wait_s = await away_for_s(self._breakers, orchestrator.value)
        return None if wait_s is None else await self._calls.put_off(orchestrator, wait_s=wait_s)

    async def answer(
        self, orchestrator: Orchestrator, called: CallableOrchestrator, call: Call, *, timeout_s: float
    ) -> CallAnswer:
        """Raises what the call raises, TimeoutError after timeout_s seconds.

        A call that is cancelled says nothing of the orchestrator, nor one that had little time.
        """
        now = asyncio.get_running_loop().time
        try:
            with watched(self._breakers, orchestrator.value, CallKind.PROMPT, told_by=self._told_by, now=now):
                async with asyncio.timeout(timeout_s):
                    return await called.answer(call, timeout_s=timeout_s)
        finally:
            await self._report()

    def _told_by(self, error: BaseException, after_s: float) -> CallOutcome | None:
        """A refusal is an answer, a limit as well."""
        if isinstance(error, NubabelError):
            failed = isinstance(error, TransientError | UncertainError) and not isinstance(error, RateLimitedError)
            return CallOutcome.FAILED if failed else CallOutcome.SERVED
        hangs = isinstance(error, TimeoutError) and after_s >= self._hangs_after_s
        return CallOutcome.FAILED if hangs else None

    async def not_called(self) -> None:
        """What kept it from being called is no affair of the orchestrator's: another may be the probe."""
        await self._report()

    async def _report(self) -> None:
        for name in await self._breakers.report():
            try:
                woken = await wake_in_steps(partial(self._calls.wake, Orchestrator(name)), self._hints)
            except NubabelError as error:  # their own wait ends soon, too
                log.warning("orchestrator.waiting_not_woken", orchestrator=name, error=str(error))
                continue
            log.info("orchestrator.back", orchestrator=name, woken=woken)
