"""Register OpenCode servers, take them out of use, look whether they are fit for work."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from pydantic import SecretStr

from nubabel_workers.domain.circuit_breaker import CLOSED, Gate
from nubabel_workers.domain.errors import (
    CredentialsError,
    InvalidInputError,
    NotFoundError,
    NubabelError,
    UnavailableError,
)
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.opencode_compatibility import incompatibility
from nubabel_workers.domain.ports import Chance, CircuitBreakers, InstanceStore, OpenCodeServers
from nubabel_workers.domain.ports.administration import InstanceRegistry
from nubabel_workers.domain.tenants import Instance, InstanceChange, Organization

_MAX_COUNT = 10_000


@dataclass(frozen=True)
class NewInstance:
    """What an operator says about a server. Counts left out have the settings' defaults."""

    url: str
    username: str
    password: SecretStr | None
    capacity_runs: int
    submits_per_second: int
    max_directories: int = 20
    directory: str | None = None
    organization: Organization | None = None  # dedicated to it; None is shared


@dataclass(frozen=True)
class InstanceCheck:
    """What a server answered. problem: None when it is fit for work; advice: what to do about it."""

    instance: Instance
    version: str = ""
    agents: tuple[str, ...] = ()
    problem: str | None = None
    advice: str = ""
    directories_path: str | None = None  # where it makes organizations' directories; None: it makes none


class ManageInstances:
    """main_agent: how the name of the agent begins that a server must have to get work."""

    def __init__(
        self,
        registry: InstanceRegistry,
        instances: InstanceStore,
        servers: OpenCodeServers,
        breakers: CircuitBreakers,
        chance: Chance,
        *,
        main_agent: str,
    ) -> None:
        self._registry = registry
        self._instances = instances
        self._servers = servers
        self._breakers = breakers
        self._chance = chance
        self._main_agent = main_agent

    async def add(self, new: NewInstance, *, actor: str) -> InstanceCheck:
        """Register a server and look at it; one that was removed comes back with the new values. It gets work once it
        was found well, now or by the listener.
        """
        url = checked_url(new.url)
        _check_counts(
            {
                "the capacity": new.capacity_runs,
                "submits per second": new.submits_per_second,
                "the number of directories": new.max_directories,
            }
        )
        before = await self._registry.by_url(url)
        if before is not None and before.status != "removed":
            raise InvalidInputError(f"{url} is registered already, as {before.id} ({before.status})")
        instance = Instance(
            id=before.id if before is not None else InstanceId(self._chance.new_id("ins")),
            url=url,
            username=new.username,
            password=new.password,
            directory=new.directory,
            organization_id=new.organization.id if new.organization else None,
            capacity_runs=new.capacity_runs,
            submits_per_second=new.submits_per_second,
            max_directories=new.max_directories,
            healthy=False,
            health_detail="nobody has looked at it yet",
        )
        added = await self._registry.add(instance, actor=actor)
        if added is None:
            raise InvalidInputError(
                f"{url} has just been registered by somebody else, or its organization is being erased"
            )
        found = await self._ask(added)
        await self._write_down(found)
        return found

    async def change(self, instance_id: str, change: InstanceChange, *, actor: str) -> InstanceCheck:
        """What it may carry and how to enter, from the next prompt on; with another user or password it is looked at.

        What runs or is loaded beyond a smaller number goes on until it ends or is idle.
        """
        _check_counts(
            {
                "the capacity": change.capacity_runs,
                "submits per second": change.submits_per_second,
                "the number of directories": change.max_directories,
            }
        )
        instance = await self._existing(instance_id)
        if not await self._registry.change(instance.id, change, actor=actor):
            raise InvalidInputError(f"{instance.id} was removed; add its URL again to bring it back")
        changed = await self._existing(instance_id)
        return await self.look_at(changed) if change.is_of_access else InstanceCheck(changed)

    async def list(self) -> list[Instance]:
        return await self._instances.loads()

    async def find(self, instance_id: str) -> Instance:
        """With its load. Raises NotFoundError."""
        return await self._existing(instance_id)

    async def gates(self) -> Mapping[str, Gate]:
        """Every server's circuit breaker."""
        not_closed = await self._breakers.gates()
        return {one.id: not_closed.get(one.id, CLOSED) for one in await self._instances.loads()}

    async def drain(self, instance_id: str, *, actor: str) -> Instance:
        """No new runs; what runs there goes on."""
        return await self._set_status(instance_id, "draining", actor=actor)

    async def activate(self, instance_id: str, *, actor: str) -> Instance:
        return await self._set_status(instance_id, "active", actor=actor)

    async def remove(self, instance_id: str, *, force: bool, actor: str) -> Instance:
        """Raises InvalidInputError while executions occupy it, unless forced: those will be run again elsewhere."""
        instance = await self._existing(instance_id)
        changed = await self._registry.set_status(instance.id, "removed", only_if_idle=not force, actor=actor)
        now = await self._existing(instance_id)
        if not changed and now.status != "removed":
            raise InvalidInputError(
                f"{now.in_flight} executions are running on {instance.id}: drain it and wait, or force the removal"
            )
        return now

    async def check(self, instance_id: str) -> InstanceCheck:
        """Ask the server for its version and agents, and write down what it said."""
        return await self.look_at(await self._existing(instance_id))

    async def look_at(self, instance: Instance) -> InstanceCheck:
        """That a server which others work with cannot be reached from here is said and not written down: their listener
        knows better.
        """
        found = await self._ask(instance)
        if instance.version and not found.version:
            return found
        await self._write_down(found)
        if found.problem is None and instance.strain:
            advice = f"it gets no new sessions while others are well: start the server at {instance.url} anew"
            return replace(found, problem=instance.strain, advice=advice)
        return found

    async def _write_down(self, found: InstanceCheck) -> None:
        await self._instances.report_health(
            found.instance.id,
            healthy=found.problem is None,
            detail=found.problem or "",
            version=found.version,
            agents=found.agents,
            directories_path=found.directories_path,
        )

    async def _ask(self, instance: Instance) -> InstanceCheck:
        if instance.unreadable:  # without its password the server would only refuse us
            return InstanceCheck(instance, problem=instance.health_detail, advice=_advice_without_key(instance))
        server = self._servers.server(instance)
        try:
            version = await server.version()
            agents = tuple(await server.agents(instance.directory))
            directories_path = await server.directories_path()
        except NubabelError as error:
            return InstanceCheck(instance, problem=str(error), advice=_advice_after(error, instance))
        if (lack := incompatibility(version, agents, main_agent=self._main_agent)) is not None:
            return InstanceCheck(instance, version, agents, lack.reason, lack.advice)
        return InstanceCheck(instance, version, agents, directories_path=directories_path)

    async def _set_status(self, instance_id: str, status: str, *, actor: str) -> Instance:
        instance = await self._existing(instance_id)
        if instance.status == "removed":
            raise InvalidInputError(f"{instance.id} was removed; add its URL again to bring it back")
        await self._registry.set_status(instance.id, status, only_if_idle=False, actor=actor)
        return await self._existing(instance_id)

    async def _existing(self, instance_id: str) -> Instance:
        instance = await self._registry.find(instance_id)
        if instance is None:
            raise NotFoundError(f"there is no OpenCode server {instance_id!r}; `nubabel instances list` shows them")
        return instance


def _advice_without_key(instance: Instance) -> str:
    return (
        "put the key back into NUBABEL_ENCRYPTION_KEYS, behind the first; only if it is lost, give the password again: "
        f"nubabel instances set {instance.id} --password-stdin"
    )


def _advice_after(error: NubabelError, instance: Instance) -> str:
    """What to do about a server of which nothing was heard but this."""
    match error:
        case CredentialsError():
            wrong = "these are not its user and password" if instance.password is not None else "it wants a password"
            return (
                f"{wrong}; give those that it was started with (OPENCODE_SERVER_USERNAME and OPENCODE_SERVER_PASSWORD "
                f"there): nubabel instances set {instance.id} --password-stdin, with --username if that is another"
            )
        case UnavailableError():
            return (
                f"see whether a server runs at {instance.url} and can be reached from here; were the address wrong: "
                f"nubabel instances remove {instance.id}, then add the right one"
            )
        case _:
            return f"see whether what answers at {instance.url} is an OpenCode server"


def _check_counts(counts: Mapping[str, int | None]) -> None:
    for name, count in counts.items():
        if count is not None and not 1 <= count <= _MAX_COUNT:
            raise InvalidInputError(f"{name} must be at least 1 and at most {_MAX_COUNT}")


def checked_url(text: str) -> str:
    """The server's address without a slash at its end. Raises InvalidInputError."""
    parts = urlsplit(text.strip())
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise InvalidInputError("an OpenCode server's URL looks like http://host:4096 or https://host")
    if parts.username or parts.password:
        raise InvalidInputError("leave the password out of the URL: it is read from standard input or the environment")
    if parts.query or parts.fragment:
        raise InvalidInputError("an OpenCode server's URL has no ?query and no #fragment")
    return text.strip().rstrip("/")
