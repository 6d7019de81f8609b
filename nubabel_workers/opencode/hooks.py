"""Ready hooks for a client's `on_call`: figures of its requests, and a line per request for debugging.

A hook is called after each call, in the caller's thread, and must neither block nor raise.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from nubabel_workers.adapters.opencode.client import CallReport, OnCall

_FIRST_ERROR_STATUS = 400


@dataclass(frozen=True, slots=True)
class CallFigures:
    """Of one kind of call. failures: refused, or without an answer."""

    calls: int = 0
    failures: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0

    @property
    def average_s(self) -> float:
        return self.seconds / self.calls if self.calls else 0.0


class CallMetrics:
    """Counts calls by name; threads and clients may share one."""

    def __init__(self) -> None:
        self._figures: dict[str, CallFigures] = {}
        self._lock = threading.Lock()

    def __call__(self, report: CallReport) -> None:
        with self._lock:
            known = self._figures.get(report.name, CallFigures())
            self._figures[report.name] = CallFigures(
                calls=known.calls + 1,
                failures=known.failures + has_failed(report),
                seconds=known.seconds + report.seconds,
                slowest_s=max(known.slowest_s, report.seconds),
            )

    def snapshot(self) -> Mapping[str, CallFigures]:
        """Name of the call -> its figures so far."""
        with self._lock:
            return dict(self._figures)

    def total(self) -> CallFigures:
        figures = self.snapshot().values()
        return CallFigures(
            calls=sum(f.calls for f in figures),
            failures=sum(f.failures for f in figures),
            seconds=sum(f.seconds for f in figures),
            slowest_s=max((f.slowest_s for f in figures), default=0.0),
        )


def has_failed(report: CallReport) -> bool:
    return report.status is None or report.status >= _FIRST_ERROR_STATUS


def log_calls(logger: logging.Logger, level: int = logging.DEBUG) -> OnCall:
    """A line per call: name, path, status, time, sizes. Bodies only where the client was made `with_bodies`."""

    def log(report: CallReport) -> None:
        status = "no answer" if report.sent else "not sent"
        logger.log(
            level,
            "opencode %s: %s %s -> %s in %.0f ms, %d bytes out, %d in",
            report.name,
            report.method,
            report.path,
            report.status if report.status is not None else status,
            report.seconds * 1000,
            report.request_bytes,
            report.answer_bytes,
        )
        for what, body in (("sent", report.request_body), ("answered", report.answer_body)):
            if body:
                logger.log(level, "opencode %s %s: %s", report.name, what, body.decode("utf-8", "replace"))

    return log


def each_of(*hooks: OnCall) -> OnCall:
    """One hook of several, called in this order."""

    def call(report: CallReport) -> None:
        for hook in hooks:
            hook(report)

    return call
