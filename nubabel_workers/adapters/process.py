"""This process's clock and randomness, as the ports want them."""

import os
import random
import time
from datetime import UTC, datetime

from nubabel_workers.domain.ids import RANDOM_BYTES, compose_id
from nubabel_workers.domain.trace import SPAN_ID_BYTES, TRACE_ID_BYTES, TraceContext


class SystemClock:
    """Implements ports.Clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """CLOCK_MONOTONIC: goes on while the process is stopped by a signal, which a lease depends on."""
        return time.monotonic()


class SystemChance:
    """Implements ports.Chance."""

    def jitter(self) -> float:
        return random.random()  # noqa: S311 - spreads retries; nothing secret depends on it

    def new_id(self, prefix: str) -> str:
        return compose_id(prefix, time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES))

    def new_traceparent(self) -> str:
        return str(TraceContext.new(os.urandom(TRACE_ID_BYTES + SPAN_ID_BYTES)))
