"""The listener process: shares the OpenCode servers with other listeners, one connection per server, and takes over."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from nubabel_workers.adapters.cache.leadership import RedisLeadership
from nubabel_workers.adapters.cache.progress import RedisProgress
from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.ports import Chance, ExecutionStore, InstanceStore
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.services.follow_instance import FollowInstance

log = structlog.get_logger(__name__)

_FIRST_WAIT_S = 0.2
_MAX_WAIT_S = 5.0
_WATCHED_FOR_S = 60.0
_LEAVE_S = 0.5


class Listener:
    """Holds a lease per server that it follows; a lease not renewed in time is another listener's."""

    def __init__(
        self,
        instances: InstanceStore,
        follow: FollowInstance,
        executions: ExecutionStore,
        leadership: RedisLeadership,
        progress: RedisProgress,
        chance: Chance,
        *,
        lease_s: float,
        on_round: Callable[[], None],
    ) -> None:
        """on_round is told of each round in which the others could be asked."""
        self._instances = instances
        self._follow = follow
        self._executions = executions
        self._leadership = leadership
        self._progress = progress
        self._chance = chance
        self._lease_s = lease_s
        self._round_s = lease_s / 4
        self._on_round = on_round
        self._following: dict[InstanceId, asyncio.Task[None]] = {}
        self._ours_until: dict[str, float] = {}  # server -> until when, on the loop's clock, nobody else can follow it
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._watched: dict[str, set[str]] = {}  # server -> sessions whose text somebody reads
        self._watched_until: dict[str, asyncio.TimerHandle] = {}  # session -> when nobody reads it any more

    async def run(self, stop: asyncio.Event) -> None:
        watching = asyncio.create_task(self._watch(), name="watched-executions")
        try:
            while not stop.is_set():
                await self._round()
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._round_s)
        finally:
            watching.cancel()
            await self._leave()

    async def _round(self) -> None:
        """Sign in, renew what is ours, take what is free up to a fair share, give up what is too much or gone."""
        try:
            known = {instance.id: instance for instance in await self._instances.loads()}
            fair = -(-len(known) // await self._leadership.members())
            for instance_id in [*self._following]:
                surplus = len(self._following) > fair
                if surplus or instance_id not in known or not await self._take_lease(instance_id):
                    await self._drop(instance_id)
            for instance in known.values():
                if len(self._following) < fair and instance.id not in self._following:
                    await self._take(instance)
            for instance_id in self._following:
                self._look_again(known[instance_id])
            self._on_round()
        except NubabelError as error:
            # Without the cache nobody can take over either: go on with what is followed now.
            log.warning("listener.round_failed", error=str(error))
            for instance_id in self._following:
                self._keep_what_nobody_took(instance_id)

    def _look_again(self, instance: Instance) -> None:
        """Beside the rounds, which have leases to renew."""
        if instance.id not in self._looking:
            task = self._looking[instance.id] = asyncio.create_task(self._corrected(instance))
            task.add_done_callback(lambda _: self._looking.pop(instance.id))

    async def _corrected(self, instance: Instance) -> None:
        try:
            await self._follow.look_again(instance)
        except NubabelError as error:
            log.warning("opencode.not_looked_at", instance_id=instance.id, error=str(error))

    async def _take(self, instance: Instance) -> None:
        if await self._take_lease(instance.id):
            log.info("listener.following", instance_id=instance.id)
            self._following[instance.id] = asyncio.create_task(
                self._follow_for_ever(instance.id), name=f"follow-{instance.id}"
            )

    async def _drop(self, instance_id: InstanceId) -> None:
        log.info("listener.left", instance_id=instance_id)
        task = self._following.pop(instance_id)
        self._ours_until.pop(instance_id, None)
        while not task.done():
            # Again if need be: a task group whose child fails at that moment swallows a cancellation (Python 3.11).
            task.cancel()
            await asyncio.wait({task}, timeout=_LEAVE_S)
        with suppress(NubabelError):
            await self._leadership.release(instance_id)

    async def _leave(self) -> None:
        for instance_id in [*self._following]:
            await self._drop(instance_id)
        with suppress(NubabelError):
            await self._leadership.leave()

    async def _follow_for_ever(self, instance_id: str) -> None:
        """Connect, follow until it breaks, connect again: at once after a good connection, then with backoff."""
        wait_s = _FIRST_WAIT_S
        watched = self._watched.setdefault(instance_id, set())
        while True:
            started = asyncio.get_running_loop().time()
            reason = await self._follow_once(instance_id, watched)
            if asyncio.get_running_loop().time() - started > _MAX_WAIT_S:
                wait_s = _FIRST_WAIT_S
            log.warning("opencode.stream_lost", instance_id=instance_id, error=reason, again_in_s=round(wait_s, 2))
            await asyncio.sleep(wait_s * (0.5 + self._chance.jitter()))
            wait_s = min(_MAX_WAIT_S, wait_s * 2)

    async def _follow_once(self, instance_id: str, watched: set[str]) -> str:
        """Return why it ended."""
        try:
            instance = await self._instances.find(instance_id)
            if instance is None:
                return "the server is not registered any more"
            reason = await self._follow_until_it_breaks(instance, watched)
            if await self._is_still_ours(instance_id):
                await self._follow.report_down(instance, reason)
        except NubabelError as error:
            return str(error)
        except Exception as error:
            log.exception("listener.follow_crashed", instance_id=instance_id)  # a deaf listener would keep its lease
            return type(error).__name__
        return reason

    async def _is_still_ours(self, instance_id: str) -> bool:
        """Who was frozen for longer than its lease hears of the end of a stream that another one has opened anew."""
        try:
            return await self._take_lease(instance_id)
        except NubabelError:
            return self._keep_what_nobody_took(instance_id)

    async def _take_lease(self, instance_id: str) -> bool:
        asked_at = asyncio.get_running_loop().time()
        ours = await self._leadership.take(instance_id)
        self._ours_until[instance_id] = asked_at + self._lease_s if ours else 0.0
        return ours

    def _keep_what_nobody_took(self, instance_id: str) -> bool:
        """Without the cache nobody can take over what was still ours when that was noticed; what was not by then may be
        another's.
        """
        now = asyncio.get_running_loop().time()
        if now >= self._ours_until.get(instance_id, 0.0):
            return False
        self._ours_until[instance_id] = now + self._lease_s
        return True

    async def _follow_until_it_breaks(self, instance: Instance, watched: set[str]) -> str:
        reason = "the stream ended"
        try:
            await self._follow.follow(instance, watched)
        except* NubabelError as errors:
            reason = "; ".join(str(error) for error in errors.exceptions)
        return reason

    async def _watch(self) -> None:
        """Text deltas cost CPU: they are read only for executions that somebody's stream has just asked for."""
        while True:
            try:
                async for execution_id in self._progress.watched():
                    await self._add_watched(execution_id)
            except NubabelError as error:
                log.warning("listener.watch_failed", error=str(error))
            await asyncio.sleep(1 + self._chance.jitter())

    async def _add_watched(self, execution_id: str) -> None:
        place = await self._executions.place_of(execution_id)
        if place is None or place[0] not in self._following:
            return
        instance_id, session_id = place
        self._watched.setdefault(instance_id, set()).add(session_id)
        if (earlier := self._watched_until.pop(session_id, None)) is not None:
            earlier.cancel()
        self._watched_until[session_id] = asyncio.get_running_loop().call_later(
            _WATCHED_FOR_S, self._forget_watched, instance_id, session_id
        )

    def _forget_watched(self, instance_id: str, session_id: str) -> None:
        self._watched[instance_id].discard(session_id)
        del self._watched_until[session_id]
