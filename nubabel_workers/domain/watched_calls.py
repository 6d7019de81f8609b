"""A call behind a circuit breaker: whether it may go, and what became of it told to the breaker.

For those who see a whole call and its error; the OpenCode adapter, which sees each HTTP response, tells of those.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nubabel_workers.domain.circuit_breaker import CLOSED, CallKind, CallOutcome
from nubabel_workers.domain.ports import CircuitBreakers

_WHILE_TRIED_S = 1.0  # somebody else's call is the probe


async def away_for_s(breakers: CircuitBreakers, name: str) -> float | None:
    """Seconds for which nothing may go there; None: something may, if only a probe, which this does not take."""
    gate = (await breakers.gates()).get(name, CLOSED)
    return None if gate.lets_all or gate.lets_probe else max(gate.wait_s, _WHILE_TRIED_S)


async def wait_to_pass_s(breakers: CircuitBreakers, name: str) -> float | None:
    """Seconds for which no call may go there; None: it may, and is the probe where one is wanted.

    Whoever may go says report() afterwards, also when nothing was called: another may be the probe then.
    """
    gate = (await breakers.gates()).get(name, CLOSED)
    if gate.lets_all or (gate.lets_probe and await breakers.take_probe(name)):
        return None
    return max(gate.wait_s, _WHILE_TRIED_S)


@contextmanager
def watched(
    breakers: CircuitBreakers,
    name: str,
    kind: CallKind,
    *,
    told_by: Callable[[BaseException, float], CallOutcome | None],
    now: Callable[[], float],
) -> Iterator[None]:
    """One call. told_by: what an error after so many seconds says of who was called; None: nothing. now: in seconds."""
    began = now()
    outcome: CallOutcome | None = CallOutcome.SERVED
    try:
        yield
    except BaseException as error:
        outcome = told_by(error, now() - began)
        raise
    finally:
        if outcome is not None:
            breakers.saw(name, kind, outcome, began_ago_s=now() - began)
