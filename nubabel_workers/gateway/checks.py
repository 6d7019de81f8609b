"""What /ready looks at. Each check returns words about what it found, or raises NubabelError."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from nubabel_workers.domain.errors import NotFoundError, NubabelError, PermanentError, UnavailableError
from nubabel_workers.domain.ports import CircuitBreakers, InstanceStore, OpenCodeServers
from nubabel_workers.domain.rollout import Rollout
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.gateway.readiness import Check

_ASKED_AT_MOST = 10
_SERVER_TIMEOUT_S = 1.5  # within the check's own limit: one server that hangs must not hide those that answer


def opencode_check(
    instances: InstanceStore, servers: OpenCodeServers, breakers: CircuitBreakers, rollout: Rollout
) -> Check:
    """At least one registered server answers; an open circuit breaker is told, and closes again by itself.

    Where the rollout gives OpenCode nothing, that none answers is no reason to take no requests.
    """

    async def check() -> str:
        active = [instance for instance in await instances.loads() if instance.status == "active"]
        try:
            return await some_answer(active)
        except NubabelError as error:
            if rollout.without_opencode is None:
                raise
            return f"{error}, and {rollout.without_opencode}"

    async def some_answer(active: Sequence[Instance]) -> str:
        if not active:
            raise PermanentError("no active OpenCode server is registered", code="no_instance")
        asked = sorted(active, key=lambda instance: not instance.is_fit)[:_ASKED_AT_MOST]
        answering = await _answering(asked, servers)
        if not answering:
            raise UnavailableError(f"none of {len(asked)} OpenCode servers answers")
        gates = await breakers.gates()
        held_back = sum(instance.id in gates for instance in active)
        return f"{answering} of {len(asked)} servers answer" + (f", {held_back} held back" if held_back else "")

    return check


async def _answering(asked: Sequence[Instance], servers: OpenCodeServers) -> int:
    async def answers(instance: Instance) -> bool:
        try:
            async with asyncio.timeout(_SERVER_TIMEOUT_S):
                await servers.server(instance).version()
        except (NubabelError, TimeoutError):
            return False
        return True

    return sum(await asyncio.gather(*(answers(instance) for instance in asked)))


def reach_server(instances: InstanceStore, servers: OpenCodeServers) -> Callable[[str], Awaitable[str]]:
    """Ask one server for its version, within the time of a check."""

    async def reach(instance_id: str) -> str:
        instance = await instances.lately(instance_id)
        if instance is None:
            raise NotFoundError("this OpenCode server is not registered any more")
        try:
            async with asyncio.timeout(_SERVER_TIMEOUT_S):
                return await servers.server(instance).version()
        except TimeoutError as error:
            raise UnavailableError(f"no answer within {_SERVER_TIMEOUT_S:g} s") from error

    return reach
