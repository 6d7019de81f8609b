"""`python -m tests.e2e.skewed SECONDS MODULE [ARGUMENT...]`: run a module with a clock that is ahead.

Wall clock only, as seen through `time` and our own Clock: monotonic clocks of a machine are never off. What C code asks
the system for by itself, such as libpq, sees the true time.
"""

import runpy
import sys
import time
from datetime import UTC, datetime, timedelta

from nubabel_workers.adapters.process import SystemClock


def skew(ahead_s: float) -> None:
    true_s, true_ns = time.time, time.time_ns

    def now(self: SystemClock) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=ahead_s)

    time.time = lambda: true_s() + ahead_s
    time.time_ns = lambda: true_ns() + int(ahead_s * 1e9)
    SystemClock.now = now  # type: ignore[method-assign]


if __name__ == "__main__":
    _, seconds, module, *arguments = sys.argv
    skew(float(seconds))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
