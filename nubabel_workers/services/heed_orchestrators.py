"""Leave an orchestrator in peace for a while whose calls fail: one breaker for each, shared by all processes."""

import asyncio

import structlog

from nubabel_workers.domain.circuit_breaker import CLOSED, CallKind, CallOutcome
from nubabel_workers.domain.errors import NubabelError, RateLimitedError, TransientError, UncertainError
from nubabel_workers.domain.hints import Hint, HintTask
from nubabel_workers.domain.ports import CircuitBreakers, HintPublisher
from nubabel_workers.domain.ports.orchestrators import Call, CallableOrchestrator, CallAnswer, CallStore
from nubabel_workers.domain.rollout import Orchestrator

log = structlog.get_logger(__name__)

_WHILE_TRIED_S = 1.0
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
        gate = (await self._breakers.gates()).get(orchestrator.value, CLOSED)
        if gate.lets_all or (gate.lets_probe and await self._breakers.take_probe(orchestrator.value)):
            return None
        return max(gate.wait_s, _WHILE_TRIED_S)

    async def answer(
        self, orchestrator: Orchestrator, called: CallableOrchestrator, call: Call, *, timeout_s: float
    ) -> CallAnswer:
        """Raises what the call raises, TimeoutError after timeout_s seconds.

        A call that is cancelled says nothing of the orchestrator, nor one that had little time.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        outcome: CallOutcome | None = CallOutcome.SERVED
        try:
            async with asyncio.timeout(timeout_s):
                return await called.answer(call, timeout_s=timeout_s)
        except NubabelError as error:
            outcome = _outcome_of(error)
            raise
        except BaseException as error:
            hangs = isinstance(error, TimeoutError) and loop.time() - began >= self._hangs_after_s
            outcome = CallOutcome.FAILED if hangs else None
            raise
        finally:
            if outcome is not None:
                self._breakers.saw(orchestrator.value, CallKind.PROMPT, outcome, began_ago_s=loop.time() - began)
            await self._report()

    async def not_called(self) -> None:
        """What kept it from being called is no affair of the orchestrator's: another may be the probe."""
        await self._report()

    async def _report(self) -> None:
        for name in await self._breakers.report():
            try:
                woken = await self._calls.wake(Orchestrator(name))
            except NubabelError as error:  # their own wait ends soon, too
                log.warning("orchestrator.waiting_not_woken", orchestrator=name, error=str(error))
                continue
            log.info("orchestrator.back", orchestrator=name, woken=len(woken))
            if woken:
                self._hints.publish(Hint(HintTask.DISPATCH, woken[0]))


def _outcome_of(error: NubabelError) -> CallOutcome:
    """A refusal is an answer, a limit as well."""
    failed = isinstance(error, TransientError | UncertainError) and not isinstance(error, RateLimitedError)
    return CallOutcome.FAILED if failed else CallOutcome.SERVED
