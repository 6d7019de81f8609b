"""Circuit breakers in memory and on the loop's clock: the domain's decisions, shared by all processes."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from nubabel_workers.domain.circuit_breaker import (
    BreakerPolicy,
    CallKind,
    CallOutcome,
    Gate,
    Seen,
    Standing,
    after,
    gate,
    with_probe,
)
from nubabel_workers.domain.errors import PermanentError, UnavailableError, UncertainError

_POLICY = BreakerPolicy()
_KINDS = {"submit": CallKind.PROMPT, "create_session": CallKind.SESSION}
Standings = dict[str, Standing]


class FakeBreakers:
    """Implements ports.CircuitBreakers for one process. standings: what all processes share."""

    def __init__(self, standings: Standings) -> None:
        self._standings = standings
        self._seen: dict[str, dict[CallKind, Seen]] = {}
        self._probing: set[str] = set()

    def saw(self, instance_id: str, kind: CallKind, outcome: CallOutcome, *, began_ago_s: float = 0.0) -> None:
        seen = self._seen.setdefault(instance_id, {})
        seen[kind] = seen.get(kind, Seen()).and_then(outcome, began_ago_s=began_ago_s)

    async def gates(self) -> Mapping[str, Gate]:
        found = {instance_id: gate(standing, _now()) for instance_id, standing in self._standings.items()}
        return {instance_id: one for instance_id, one in found.items() if not one.lets_all}

    async def take_probe(self, instance_id: str) -> bool:
        standing = self._standings.get(instance_id, Standing())
        taken = with_probe(standing, _now(), _POLICY)
        if taken is None:
            return gate(standing, _now()).lets_all
        self._standings[instance_id] = taken
        self._probing.add(instance_id)
        return True

    async def report(self) -> list[str]:
        return [instance_id for instance_id in {*self._seen, *self._probing} if self._share(instance_id)]

    def _share(self, instance_id: str) -> bool:
        before = self._standings.get(instance_id, Standing())
        probing = instance_id in self._probing
        self._probing.discard(instance_id)
        seen = self._seen.pop(instance_id, {})
        now = self._standings[instance_id] = after(before, seen, _now(), _POLICY, jitter=0.5, probing=probing)
        return before.until is not None and now.until is None


class Heeded:
    """An OpenCode server whose calls the breakers hear of."""

    def __init__(self, server: object, instance_id: str, breakers: FakeBreakers) -> None:
        self._server = server
        self._instance_id = instance_id
        self._breakers = breakers

    def __getattr__(self, method: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        call = getattr(self._server, method)

        async def heeded(*args: Any, **kwargs: Any) -> Any:
            outcome = CallOutcome.SERVED
            try:
                return await call(*args, **kwargs)
            except PermanentError:  # a refusal is an answer
                raise
            except UncertainError:
                outcome = CallOutcome.FAILED
                raise
            except UnavailableError:
                outcome = CallOutcome.AWAY
                raise
            finally:
                self._breakers.saw(self._instance_id, _KINDS.get(method, CallKind.LOOK), outcome)

        return heeded


def _now() -> float:
    return asyncio.get_running_loop().time()
