"""How servers are doing, in memory. A report is a minute after the one before it."""

from dataclasses import dataclass, field

from nubabel_workers.domain.server_vitals import MemoryHistory, MemorySample, Vital

_EVERY_S = 60.0


@dataclass
class FakeVitals:
    """error: raised by every call."""

    samples: dict[tuple[str, str], list[MemorySample]] = field(default_factory=dict)  # (server, process)
    strains: dict[tuple[str, Vital], str] = field(default_factory=dict)
    told: list[tuple[str, Vital, str | None]] = field(default_factory=list)
    lags: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None

    async def add_memory(self, instance_id: str, *, process: str, resident_bytes: int, keep_s: float) -> MemoryHistory:
        self._fail()
        samples = self.samples.setdefault((instance_id, process), [])
        samples.append(MemorySample(len(samples) * _EVERY_S, resident_bytes))
        kept = [one for one in samples if one.at_s >= samples[-1].at_s - keep_s]
        return MemoryHistory(kept, strained=(instance_id, Vital.MEMORY) in self.strains)

    async def set_strain(self, instance_id: str, vital: Vital, reason: str | None) -> None:
        self._fail()
        self.told.append((instance_id, vital, reason))
        if reason is None:
            self.strains.pop((instance_id, vital), None)
        else:
            self.strains[instance_id, vital] = reason

    async def set_event_lag(self, instance_id: str, lag_s: float) -> None:
        self._fail()
        self.lags[instance_id] = lag_s

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error
