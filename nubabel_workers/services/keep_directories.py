"""Have an organization's own directory ready on a shared server before its session is there; unload idle ones.

A place is taken before a directory is made, and given back after it is unloaded: whoever dies in between leaves a row
that says so, which the next one, or the scheduler, goes on with.
"""

import asyncio
from dataclasses import dataclass
from weakref import WeakValueDictionary

import structlog

from nubabel_workers.domain.directories import (
    PREPARING,
    ROOM,
    Directory,
    DirectoryState,
    DirectoryWaitError,
    own_directory,
)
from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.ports import DirectoryStore, InstanceStore, OpenCodeDirectories, Throttle
from nubabel_workers.domain.tenants import Instance

log = structlog.get_logger(__name__)

_PACE_WINDOW_S = 1.0
_IDLE_BATCH = 10


@dataclass(frozen=True)
class DirectoryPace:
    """per_second: directories that one server loads. idle_s: seconds without a prompt after which one is unloaded."""

    per_second: int = 1
    idle_s: float = 3600.0


class KeepDirectories:
    def __init__(
        self,
        store: DirectoryStore,
        directories: OpenCodeDirectories,
        instances: InstanceStore,
        throttle: Throttle,
        *,
        pace: DirectoryPace,
    ) -> None:
        self._store = store
        self._directories = directories
        self._instances = instances
        self._throttle = throttle
        self._pace = pace
        self._being_made: WeakValueDictionary[Directory, asyncio.Lock] = WeakValueDictionary()

    async def for_session_of(self, instance: Instance, execution: Execution) -> str | None:
        """Where its session is on that server, which is ready then, or where a new one is to be; errors as below.

        A session stays in the directory that it began in.
        """
        if execution.opencode_session_id is None or execution.instance_id != instance.id:
            return await self.for_new_session(instance, execution.organization_id)
        own = own_directory(instance, execution.organization_id)
        if own is not None and execution.opencode_directory == own.path:
            await self._prepare(instance, own)
        return execution.opencode_directory

    async def for_new_session(self, instance: Instance, organization_id: str) -> str | None:
        """Where a new session of the organization lives on that server; None is the server's own directory.

        Raises DirectoryWaitError while there is no place for it or others are being loaded, and what the OpenCode port
        raises.
        """
        own = own_directory(instance, organization_id)
        if own is None:
            return instance.directory
        await self._prepare(instance, own)
        return own.path

    async def loaded_on(self, instance: Instance) -> list[str]:
        """Organizations' directories that are loaded there: to ask about them loads nothing."""
        return [] if instance.directories_path is None else await self._store.ready_on(instance.id)

    async def dispose_idle(self) -> int:
        """Unload what nobody has used for long, and what somebody began to unload and did not end; how many."""
        taken = await self._store.take_idle(idle_s=self._pace.idle_s, limit=_IDLE_BATCH)
        disposed = 0
        for directory in taken:
            instance = await self._instances.find(directory.instance_id)
            try:
                await self._dispose(instance, directory)
                disposed += 1
            except NubabelError as error:  # its row says so: it is tried again
                log.warning("directory.not_disposed", instance_id=directory.instance_id, error=str(error))
        return disposed

    async def _prepare(self, instance: Instance, own: Directory) -> None:
        if own.organization_id in instance.just_used:  # as was read a moment ago, before the execution was claimed
            return
        if await self._state(instance, own) is DirectoryState.READY:
            return
        lock = self._being_made.setdefault(own, asyncio.Lock())
        async with lock:  # a burst of one organization's requests waits for the first of them
            if await self._state(instance, own) is not DirectoryState.READY:
                await self._make(instance, own)

    async def _state(self, instance: Instance, own: Directory) -> DirectoryState:
        """Its place is taken, at the cost of an idle one's if need be."""
        state = await self._store.take(own)
        if state is None:  # full; or another one has taken it in this moment, which the next statement sees
            state = await self._store.take(own)
        if state is None and (idle := await self._store.displace(instance.id)) is not None:
            await self._dispose(instance, idle)
            state = await self._store.take(own)
        if state is None:
            raise DirectoryWaitError(ROOM)
        if state is DirectoryState.DISPOSING:
            raise DirectoryWaitError(PREPARING)
        return state

    async def _make(self, instance: Instance, own: Directory) -> None:
        granted = await self._throttle.take(
            f"directories:{instance.id}", per_s=_PACE_WINDOW_S, limit=self._pace.per_second
        )
        if granted == 0:
            raise DirectoryWaitError(PREPARING)
        await self._directories.prepare(instance, own.path)
        await self._store.made(own)
        log.info("directory.ready", instance_id=own.instance_id, organization_id=own.organization_id)

    async def _dispose(self, instance: Instance | None, directory: Directory) -> None:
        """A server that was removed from ours is not asked any more."""
        if instance is not None and instance.status != "removed":
            await self._directories.dispose(instance, directory.path)
        await self._store.disposed(directory)
        log.info("directory.disposed", instance_id=directory.instance_id, organization_id=directory.organization_id)
