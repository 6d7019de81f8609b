"""What can be asked for: categories, agents and versions of the servers that are there now, skills of the rules."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from nubabel_workers.domain.analysis import Rules
from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.ports import Clock, InstanceStore, OpenCodeServer, OpenCodeServers
from nubabel_workers.domain.tenants import Instance

log = structlog.get_logger(__name__)

_SHARE_OF_EXPERIMENTAL = 0.7  # of the time to answer: so that what else the server said is kept


@dataclass(frozen=True)
class ServerCapabilities:
    """answered False: it was asked just now and said nothing; the rest is what was last known of it.

    categories: None where it does not tell them.
    """

    instance_id: str
    answered: bool
    version: str
    agents: Sequence[str]
    healthy: bool
    draining: bool
    checked_at: datetime | None
    categories: Sequence[str] | None = None


@dataclass(frozen=True)
class Named:
    name: str
    meaning: str


@dataclass(frozen=True)
class Capabilities:
    """of_rules: the categories that requests may name."""

    of_rules: Sequence[Named]
    skills: Sequence[Named]
    servers: Sequence[ServerCapabilities]

    @property
    def categories(self) -> Sequence[Named]:
        """Without those that no server has which takes new sessions; all, where one of these does not tell."""
        told = [one.categories for one in self.servers if not one.draining]
        had = {name for names in told if names is not None for name in names}
        return [one for one in self.of_rules if not told or None in told or one.name in had]

    @property
    def agents(self) -> list[str]:
        """Of any server that takes new sessions, in their order."""
        return list(dict.fromkeys(agent for one in self.servers if not one.draining for agent in one.agents))

    @property
    def versions(self) -> list[str]:
        return sorted({one.version for one in self.servers if one.version})


class ReadCapabilities:
    """Each server is asked within ask_s seconds, all at once; the answer is good for keep_s seconds."""

    def __init__(
        self,
        instances: InstanceStore,
        servers: OpenCodeServers,
        rules: Rules,
        clock: Clock,
        *,
        ask_s: float = 2.0,
        keep_s: float = 10.0,
    ) -> None:
        self._instances = instances
        self._servers = servers
        self._clock = clock
        self._ask_s = ask_s
        self._keep_s = keep_s
        self._categories = [Named(name, meaning) for name, meaning in rules.categories.items()]
        self._skills = [Named(name, meaning) for name, meaning in rules.skills.items()]
        self._known: tuple[float, list[tuple[Instance, ServerCapabilities]]] | None = None
        self._asking = asyncio.Lock()

    async def of(self, organization_id: str) -> Capabilities:
        """With the servers that this organization's requests run on. Raises TransientError without the database."""
        servers = await self._all()
        own = [found for instance, found in servers if instance.organization_id == organization_id]
        shared = [found for instance, found in servers if instance.organization_id is None]
        return Capabilities(self._categories, self._skills, own or shared)

    async def _all(self) -> list[tuple[Instance, ServerCapabilities]]:
        async with self._asking:
            if self._known is None or self._clock.monotonic() - self._known[0] >= self._keep_s:
                instances = await self._instances.loads()
                found = await asyncio.gather(*(self._ask(instance) for instance in instances))
                self._known = self._clock.monotonic(), list(zip(instances, found, strict=True))
            return self._known[1]

    async def _ask(self, instance: Instance) -> ServerCapabilities:
        known = ServerCapabilities(
            instance.id,
            answered=False,
            version=instance.version,
            agents=tuple(instance.agents),
            healthy=instance.is_fit,
            draining=instance.status != "active",
            checked_at=instance.checked_at,
        )
        server = self._servers.server(instance)
        try:
            async with asyncio.timeout(self._ask_s):
                version, agents, categories = await asyncio.gather(
                    server.version(), server.agents(instance.directory), self._categories_of(server, instance)
                )
        except (NubabelError, TimeoutError) as error:
            log.info("capabilities.server_silent", instance_id=instance.id, error_type=type(error).__name__)
            return known
        return replace(
            known,
            answered=True,
            version=version,
            agents=tuple(agents),
            categories=categories,
            checked_at=self._clock.now(),
        )

    async def _categories_of(self, server: OpenCodeServer, instance: Instance) -> Sequence[str] | None:
        """By a route that OpenCode calls experimental: without it they are unknown, and nothing else is."""
        try:
            async with asyncio.timeout(self._ask_s * _SHARE_OF_EXPERIMENTAL):
                return await server.categories(instance.directory)
        except (NubabelError, TimeoutError) as error:
            log.info("capabilities.categories_unknown", instance_id=instance.id, error_type=type(error).__name__)
            return None
