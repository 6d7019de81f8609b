"""Judge how OpenCode servers that answer are doing: those that are not well get no new sessions while others are."""

import structlog

from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.ports import VitalsStore
from nubabel_workers.domain.server_vitals import EventLagJudge, EventLagLimits, MemoryLimits, Vital, memory_strain

log = structlog.get_logger(__name__)

_KEPT_WINDOWS = 1.2  # a little more than what is judged, so that the window is always covered


class WatchServers:
    """Each report twice, or in any order, does no harm: the newest samples decide."""

    def __init__(self, vitals: VitalsStore, *, memory: MemoryLimits, events: EventLagLimits) -> None:
        self._vitals = vitals
        self._memory = memory
        self._events = events
        self._judges: dict[str, EventLagJudge] = {}  # by server, of the stream that is open now
        self._told: dict[str, str | None] = {}  # by server, what the row says of its events; without an entry: unknown

    async def memory(self, instance_id: str, *, process: str, resident_bytes: int) -> str | None:
        """A server told how much its process has. process: its name for itself, new at each start. Returns what is
        wrong with it.
        """
        history = await self._vitals.add_memory(
            instance_id,
            process=process,
            resident_bytes=resident_bytes,
            keep_s=self._memory.window_s * _KEPT_WINDOWS,
        )
        reason = memory_strain(history, self._memory)
        if reason is not None or history.strained:
            await self._vitals.set_strain(instance_id, Vital.MEMORY, reason)
        if reason is not None and not history.strained:
            log.warning("opencode.strained", instance_id=instance_id, reason=reason)
        return reason

    async def connected(self, instance_id: str) -> None:
        """A new event stream begins without a verdict."""
        self._judges[instance_id] = EventLagJudge(self._events)
        self._told.pop(instance_id, None)
        await self._keep(instance_id, None)

    async def events(self, instance_id: str, lag_s: float) -> None:
        """lag_s: of the latest event of a check."""
        judge = self._judges.setdefault(instance_id, EventLagJudge(self._events))
        await self._keep(instance_id, judge.saw(lag_s), lag_s)

    async def _keep(self, instance_id: str, reason: str | None, lag_s: float | None = None) -> None:
        """The stream goes on also while nobody can write down how late it is."""
        try:
            if lag_s is not None:
                await self._vitals.set_event_lag(instance_id, round(lag_s, 1))
            if reason is None and self._told.get(instance_id, "unknown") is None:
                return
            await self._vitals.set_strain(instance_id, Vital.EVENTS, reason)
        except NubabelError as error:
            log.warning("opencode.lag_not_kept", instance_id=instance_id, error=str(error))
            return
        if reason is not None and not self._told.get(instance_id):
            log.warning("opencode.strained", instance_id=instance_id, reason=reason)
        self._told[instance_id] = reason
