"""Erase everything of one organization. Every step may be repeated, and by two at once: what died is run again.

What comes in first is shut, then what runs is stopped, then traces elsewhere are removed, and the rows that know of
them go last.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from nubabel_workers.domain.errors import InvalidInputError, NotFoundError, NubabelError, TransientError
from nubabel_workers.domain.ports import InstanceStore, OpenCodeDirectories
from nubabel_workers.domain.ports.administration import Erasure, OpenCodeSessions, OrganizationCache
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.manage_connections import ManageConnections

log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 0.5
_CONNECTIONS = "mcp_connections"
_AUTHORIZATIONS = "mcp_authorizations"


@dataclass(frozen=True)
class ErasureTimes:
    """Seconds. settle_s: what other processes remember of an organization that is enabled; hand_over_s: how long
    a prompt that is just being submitted is waited for; unload_s: until a directory on a server that was loaded just
    now can be unloaded.
    """

    settle_s: float = 6.0
    hand_over_s: float = 60.0
    unload_s: float = 1.0


@dataclass(frozen=True)
class Erased:
    """rows: how many this run deleted, by table; the entry that stays in the audit log says the same."""

    rows: Mapping[str, int]
    opencode_sessions: int = 0
    directories: int = 0  # on OpenCode servers
    connections: int = 0


class EraseOrganization:
    def __init__(
        self,
        erasure: Erasure,
        cache: OrganizationCache,
        sessions: OpenCodeSessions,
        directories: OpenCodeDirectories,
        instances: InstanceStore,
        connections: Callable[[], ManageConnections],
        *,
        times: ErasureTimes,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """connections: asked for only when the organization has any."""
        self._erasure = erasure
        self._cache = cache
        self._sessions = sessions
        self._directories = directories
        self._instances = instances
        self._connections = connections
        self._times = times
        self._sleep = sleep

    async def run(self, organization: Organization, *, confirmed: str, actor: str) -> Erased:
        """Raises InvalidInputError when the name is not confirmed or servers are dedicated to it; TransientError when
        something could not be removed now: nothing that is needed to find it has been deleted then.
        """
        if confirmed != organization.name:
            raise InvalidInputError(f"to erase {organization.name!r} with everything, confirm its name: --confirm NAME")
        await self._shut(organization, actor)
        await self._stop_work(organization.id)
        sessions = await self._delete_sessions(organization.id)
        # After its sessions: to delete one loads its directory, which makes what is missing.
        directories = await self._delete_directories(organization.id)
        # While the rows still tell under which names.
        await self._cache.forget(await self._erasure.names(organization.id))
        rows: Counter[str] = Counter()
        connections = await self._remove_connections(organization.id, rows, actor)
        for table in self._erasure.tables:
            await self._delete_rows(organization.id, table, rows)
        await self._cache.forget({organization.id})
        with_itself = {**rows, "organizations": 1}
        if not await self._erasure.finish(organization.id, with_itself, actor=actor):
            log.info("organization.erased_by_another", organization_id=organization.id)
            return Erased(dict(rows), sessions, directories, connections)
        return Erased(with_itself, sessions, directories, connections)

    async def _shut(self, organization: Organization, actor: str) -> None:
        """From now on its tokens, keys, workspaces are refused; other processes may not know it for a moment."""
        begun = await self._erasure.begin(organization.id, actor=actor)
        if begun is None:
            own = await self._erasure.own_servers(organization.id)
            if own:
                raise InvalidInputError(
                    f"OpenCode servers are dedicated to {organization.name!r}: {', '.join(own)}; "
                    "remove them first (nubabel instances remove), they must not serve others with what they hold"
                )
            raise NotFoundError(f"the organization {organization.id} does not exist any more")
        await self._sleep(max(0.0, self._times.settle_s - begun.for_s))

    async def _stop_work(self, organization_id: str) -> None:
        """What is queued never starts. A prompt on its way is waited for: afterwards its session is known."""
        waited_s = 0.0
        while True:
            await self._erasure.end_open(organization_id)
            held = await self._erasure.held(organization_id)
            if not held:
                return
            if waited_s >= self._times.hand_over_s:
                raise TransientError(f"{held} of its requests are being submitted by workers: run it again in a while")
            await self._sleep(_LOOK_EVERY_S)
            waited_s += _LOOK_EVERY_S

    async def _delete_sessions(self, organization_id: str) -> int:
        """With what runs in them. A server that was removed from ours is asked too, and nothing waits for it."""
        by_server: dict[str, list[str]] = defaultdict(list)
        for instance_id, session_id in await self._erasure.opencode_sessions(organization_id):
            by_server[instance_id].append(session_id)
        deleted, away = 0, []
        for instance_id, session_ids in by_server.items():
            instance = await self._instances.find(instance_id)
            if instance is None:
                continue
            try:
                for session_id in session_ids:
                    await self._sessions.delete(instance, session_id)
                    deleted += 1
            except NubabelError as error:
                log.warning(
                    "opencode.session_not_deleted",
                    organization_id=organization_id,
                    instance_id=instance_id,
                    error=str(error),
                )
                away += [instance_id] if instance.status != "removed" else []
        if away:
            raise TransientError(
                f"sessions on {', '.join(away)} could not be deleted: run it again when that server answers, "
                "or remove it first (nubabel instances remove --force)"
            )
        return deleted

    async def _delete_directories(self, organization_id: str) -> int:
        """With the files that its agents wrote. A server that was removed from ours is asked too, as for sessions."""
        deleted, away = 0, []
        for directory in await self._erasure.directories(organization_id):
            instance = await self._instances.find(directory.instance_id)
            if instance is None:
                continue
            try:
                await self._directories.delete(instance, directory.path)
                deleted += 1
            except NubabelError as error:
                log.warning(
                    "opencode.directory_not_deleted",
                    organization_id=organization_id,
                    instance_id=instance.id,
                    error=str(error),
                )
                away += [instance.id] if instance.status != "removed" else []
        if away:
            raise TransientError(
                f"its directories on {', '.join(away)} could not be deleted: run it again when that server answers, "
                "or remove it first (nubabel instances remove --force)"
            )
        return deleted

    async def _remove_connections(self, organization_id: str, rows: Counter[str], actor: str) -> int:
        """With their tokens, which are revoked where the provider has a place for that.

        Authorizations that were begun go first, so that none of them still brings a token.
        """
        await self._delete_rows(organization_id, _AUTHORIZATIONS, rows)
        if not await self._erasure.has_connections(organization_id):
            return 0
        manage = self._connections()
        removed = 0
        for details in await manage.list(organization_id):
            try:
                removal = await manage.remove(organization_id, details.connection.id, actor=actor)
            except NotFoundError:
                continue  # somebody else erases it too
            removed += not removal.by_another
        rows.update({_CONNECTIONS: removed} if removed else {})
        return removed

    async def _delete_rows(self, organization_id: str, table: str, rows: Counter[str]) -> None:
        while deleted := await self._erasure.delete_some(organization_id, table):
            rows.update(deleted)
