"""Whether this gateway can do its work: each dependency looked at, all at once, each within its time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import structlog

from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.ports import Clock

log = structlog.get_logger(__name__)

# A check returns words about what it found, or raises NubabelError; both are shown to whoever asks.
Check = Callable[[], Awaitable[str]]


class State(StrEnum):
    OK = "ok"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    state: State
    latency_ms: float
    detail: str = ""


@dataclass(frozen=True)
class Report:
    findings: Mapping[str, Finding]

    @property
    def ready(self) -> bool:
        return all(finding.state is State.OK for finding in self.findings.values())


class Readiness:
    """Runs the checks; whoever asks again within max_age_s gets the same report, so that asking costs little."""

    def __init__(
        self, checks: Mapping[str, Check], clock: Clock, *, timeout_s: float = 2.0, max_age_s: float = 1.0
    ) -> None:
        self._checks = checks
        self._clock = clock
        self._timeout_s = timeout_s
        self._max_age_s = max_age_s
        self._last: tuple[float, Report] | None = None
        self._looking = asyncio.Lock()

    async def report(self) -> Report:
        async with self._looking:
            if self._last is not None and self._clock.monotonic() - self._last[0] < self._max_age_s:
                return self._last[1]
            findings = await asyncio.gather(*(self._look(name, check) for name, check in self._checks.items()))
            report = Report(dict(zip(self._checks, findings, strict=True)))
            self._last = (self._clock.monotonic(), report)
            return report

    async def _look(self, name: str, check: Check) -> Finding:
        started = time.perf_counter()
        state, detail = State.FAILED, ""
        try:
            async with asyncio.timeout(self._timeout_s):
                detail = await check()
            state = State.OK
        except TimeoutError:
            detail = f"no answer within {self._timeout_s:g} s"
        except NubabelError as error:
            detail = str(error)
        except Exception:
            detail = "the check itself failed"
            log.exception("readiness.check_crashed", check=name)
        if state is State.FAILED:
            log.warning("readiness.failed", check=name, detail=detail)
        return Finding(state, round((time.perf_counter() - started) * 1000, 1), detail)
