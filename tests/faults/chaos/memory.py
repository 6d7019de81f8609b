"""How much memory each process uses over time, and whether it keeps growing."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from nubabel_workers.embedded.stack import Stack

_MIB = 1024 * 1024
_WARM_UP_SHARE = 0.3  # of the samples: caches fill, pools open
_LATE_SHARE = 2 / 3  # what grows because something still fills grows less in the last third
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """at: monotonic seconds."""

    at: float
    rss_mib: float


@dataclass(slots=True)
class MemoryLog:
    samples: defaultdict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    async def follow(self, stack: Stack, *, every_s: float) -> None:
        """Until cancelled."""
        while True:
            for name in stack.processes.names():
                with suppress(psutil.NoSuchProcess):
                    rss = psutil.Process(stack.processes.pid(name)).memory_info().rss
                    self.samples[name].append(Sample(time.monotonic(), rss / _MIB))
            await asyncio.sleep(every_s)


def growth_mib_per_minute(samples: Sequence[Sample], *, warm_up: float = _WARM_UP_SHARE) -> float:
    """Slope of the line through the samples after that share of them, by least squares; 0 for fewer than two."""
    warm = samples[int(len(samples) * warm_up) :]
    if len(warm) < 2:
        return 0.0
    mean_at = sum(one.at for one in warm) / len(warm)
    mean_rss = sum(one.rss_mib for one in warm) / len(warm)
    spread = sum((one.at - mean_at) ** 2 for one in warm)
    return _MINUTE_S * sum((one.at - mean_at) * (one.rss_mib - mean_rss) for one in warm) / spread if spread else 0.0


def memory_table(samples: Mapping[str, Sequence[Sample]]) -> str:
    titles = f"{'first':>8} {'warm':>8} {'last':>8} {'growth a minute':>16} {'in the last third':>18}"
    lines = [f"  {'memory, MiB':<24} {titles}"]
    for name, its_own in sorted(samples.items()):
        first, last = its_own[0].rss_mib, its_own[-1].rss_mib
        warm = its_own[int(len(its_own) * _WARM_UP_SHARE)].rss_mib
        growth, late = growth_mib_per_minute(its_own), growth_mib_per_minute(its_own, warm_up=_LATE_SHARE)
        lines.append(f"  {name:<24} {first:>8.1f} {warm:>8.1f} {last:>8.1f} {growth:>+16.2f} {late:>+18.2f}")
    return "\n".join(lines)
