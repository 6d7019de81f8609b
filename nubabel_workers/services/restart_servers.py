"""Have OpenCode servers that stay away, or are not well, started anew by the operators' own command."""

import asyncio
from dataclasses import dataclass

import structlog

from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.ports import RestartStore, Supervisor
from nubabel_workers.domain.tenants import Instance

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RestartPace:
    """Seconds. after_s: how long a server is away or strained until it is started anew; every_s: until that is tried
    again; drain_s: how long a strained one that still has runs is waited for.
    """

    after_s: float = 60.0
    every_s: float = 300.0
    drain_s: float = 600.0


class RestartServers:
    """Any number of schedulers may run it: a restart is noted before it is begun, so each is begun once.

    One whose scheduler dies in between is tried again after every_s.
    """

    def __init__(self, instances: RestartStore, supervisor: Supervisor, *, pace: RestartPace) -> None:
        self._instances = instances
        self._supervisor = supervisor
        self._pace = pace

    async def run(self) -> int:
        """Return how many servers were told to start anew."""
        due = await self._instances.take_restarts(
            after_s=self._pace.after_s, every_s=self._pace.every_s, drain_s=self._pace.drain_s
        )
        await asyncio.gather(*(self._restart(instance) for instance in due))
        return len(due)

    async def _restart(self, instance: Instance) -> None:
        log.warning("opencode.restarting", instance_id=instance.id, reason=instance.strain or instance.health_detail)
        try:
            await self._supervisor.restart(instance)
        except NubabelError as error:  # the others must not wait for this one
            log.error("opencode.not_restarted", instance_id=instance.id, error=str(error))  # noqa: TRY400 - known
