"""What Prometheus reads at /metrics: this process's requests, and the state of the whole system from rows and queues.

Counts over all rows come from the database, so they are the same whichever gateway is asked; they are read at most
every few seconds, however often somebody scrapes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Protocol

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from nubabel_workers.domain.circuit_breaker import BreakerState
from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.ports import Clock, MaintenanceStore, OpenExecutions
from nubabel_workers.domain.tenants import Instance

CONTENT_TYPE = CONTENT_TYPE_LATEST
_READ_TIMEOUT_S = 3.0
_NAMED_ORGANIZATIONS = 20
_OTHERS = "other"
_STATE_NUMBERS = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}

log = structlog.get_logger(__name__)


class QueueLengths(Protocol):
    """How many messages wait at the broker."""

    async def lengths(self) -> Mapping[str, int]:
        """Queue -> messages."""
        ...


BreakerStates = Callable[[], Awaitable[Mapping[str, BreakerState]]]
"""Every OpenCode server's circuit breaker."""

RegisteredServers = Callable[[], Awaitable[Sequence[Instance]]]


class GatewayMetrics:
    """What this gateway counts. registry: the process's own, never the library's global one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        labels = ("method", "route")
        self._requests = Counter(
            "nubabel_http_requests", "Requests answered.", (*labels, "status"), registry=self.registry
        )
        self._duration = Histogram(
            "nubabel_http_request_duration_seconds",
            "Time until the answer was complete; for event streams that is their whole life.",
            labels,
            registry=self.registry,
        )
        self._streams = Gauge(
            "nubabel_http_event_streams",
            "Open event streams, and callers that wait for a result.",
            registry=self.registry,
        )
        self._submissions = Counter(
            "nubabel_submissions", "Requests at the door.", ("source", "outcome"), registry=self.registry
        )

    def request(self, method: str, route: str, status: int, duration_s: float) -> None:
        self._requests.labels(method, route, str(int(status))).inc()
        self._duration.labels(method, route).observe(duration_s)

    def submission(self, source: str, outcome: str) -> None:
        self._submissions.labels(source, outcome).inc()

    def stream_opened(self) -> None:
        self._streams.inc()

    def stream_closed(self) -> None:
        self._streams.dec()


class SystemGauges(Collector):
    """Rows and queues as gauges. refresh() reads them; collect() hands out what was read last."""

    def __init__(
        self,
        maintenance: MaintenanceStore,
        queues: QueueLengths,
        breakers: BreakerStates,
        servers: RegisteredServers,
        clock: Clock,
        *,
        organizations: Sequence[str] = (),
        max_age_s: float = 5.0,
    ) -> None:
        """organizations: shown by their names always, beside the busiest."""
        self._maintenance = maintenance
        self._queues = queues
        self._breakers = breakers
        self._servers = servers
        self._clock = clock
        self._always = organizations
        self._max_age_s = max_age_s
        self._rows: Mapping[str, float] = {}
        self._busiest: Sequence[OpenExecutions] = ()
        self._lengths: Mapping[str, int] = {}
        self._states: Mapping[str, BreakerState] = {}
        self._registered: Sequence[Instance] = ()
        self._up = {"database": False, "broker": False}
        self._read_at: float | None = None
        self._reading = asyncio.Lock()

    async def refresh(self) -> None:
        async with self._reading:
            now = self._clock.monotonic()
            if self._read_at is not None and now - self._read_at < self._max_age_s:
                return
            await asyncio.gather(self._read_rows(), self._read_busiest(), self._read_lengths(), self._read_states())
            self._read_at = self._clock.monotonic()

    async def _read_rows(self) -> None:
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                self._rows = await self._maintenance.gauges()
                self._registered = await self._servers()
            self._up["database"] = True
        except (NubabelError, TimeoutError) as error:
            self._lost("database", error)
            self._rows, self._registered = {}, ()

    async def _read_busiest(self) -> None:
        """Adds up a day's usage: where that takes too long, nothing else is missed, and what was read last stays."""
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                self._busiest = await self._maintenance.busiest(limit=_NAMED_ORGANIZATIONS, always=self._always)
        except (NubabelError, TimeoutError) as error:
            log.warning("metrics.busiest_unread", error=str(error) or type(error).__name__)

    async def _read_lengths(self) -> None:
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                self._lengths = await self._queues.lengths()
            self._up["broker"] = True
        except (NubabelError, TimeoutError) as error:
            self._lost("broker", error)
            self._lengths = {}

    async def _read_states(self) -> None:
        try:
            async with asyncio.timeout(_READ_TIMEOUT_S):
                self._states = await self._breakers()
        except (NubabelError, TimeoutError):  # the servers are rows: "database" tells
            self._states = {}

    def _lost(self, source: str, error: Exception) -> None:
        self._up[source] = False
        log.warning("metrics.source_unavailable", source=source, error=str(error) or type(error).__name__)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        up = GaugeMetricFamily("nubabel_metrics_source_up", "1 when the last reading worked.", labels=("source",))
        for source, is_up in self._up.items():
            up.add_metric((source,), float(is_up))
        yield up
        lengths = GaugeMetricFamily("nubabel_queue_messages", "Messages waiting at the broker.", labels=("queue",))
        for queue, length in sorted(self._lengths.items()):
            lengths.add_metric((queue,), length)
        yield lengths
        states = GaugeMetricFamily(
            "nubabel_opencode_breaker_state", "0 closed, 1 half open, 2 open.", labels=("instance",)
        )
        for instance, state in sorted(self._states.items()):
            states.add_metric((instance,), _STATE_NUMBERS[state])
        yield states
        yield from self._by_server()
        yield self._by_organization()
        yield from self._spent_and_waited()
        for name, value in sorted(self._rows.items()):
            yield GaugeMetricFamily(metric_name(name), "Read from the database.", value=value)

    def _by_server(self) -> Iterator[GaugeMetricFamily]:
        """Of what nobody knows there is no sample."""
        label = ("instance",)
        memory = GaugeMetricFamily("nubabel_opencode_memory_bytes", "Memory that the process has.", labels=label)
        lag = GaugeMetricFamily("nubabel_opencode_event_lag_seconds", "How late its events come.", labels=label)
        strained = GaugeMetricFamily("nubabel_opencode_strained", "1: it answers and is not well.", labels=label)
        for server in self._registered:
            if server.memory_bytes is not None:
                memory.add_metric((server.id,), server.memory_bytes)
            if server.event_lag_s is not None:
                lag.add_metric((server.id,), server.event_lag_s)
            strained.add_metric((server.id,), float(bool(server.strain)))
        yield from (memory, lag, strained)

    @property
    def _shown(self) -> Sequence[OpenExecutions]:
        return self._busiest if self._up["database"] else ()

    def _by_organization(self) -> GaugeMetricFamily:
        """The busiest ones by name, all others as one: however many there are, the number of series is bounded."""
        found = GaugeMetricFamily(
            "nubabel_organization_executions", "Executions that are not over.", labels=("organization", "state")
        )
        for state, total in (("queued", "executions_queued"), ("in_flight", "executions_in_flight")):
            named = {one.organization_id: getattr(one, state) for one in self._shown}
            for organization_id, count in named.items():
                found.add_metric((organization_id, state), count)
            found.add_metric((_OTHERS, state), max(0.0, self._rows.get(total, 0.0) - sum(named.values())))
        return found

    def _spent_and_waited(self) -> Iterator[GaugeMetricFamily]:
        """Of the same organizations. What all others come to is not known without adding up everybody."""
        label = ("organization",)
        oldest = GaugeMetricFamily(
            "nubabel_organization_oldest_queued_seconds", "How long its oldest that could start waits.", labels=label
        )
        cost = GaugeMetricFamily("nubabel_organization_cost_today_usd", "Of what ended this day (UTC).", labels=label)
        tokens = GaugeMetricFamily("nubabel_organization_tokens_today", "Of what ended this day (UTC).", labels=label)
        for one in self._shown:
            oldest.add_metric((one.organization_id,), one.oldest_queued_s)
            cost.add_metric((one.organization_id,), one.cost_today)
            tokens.add_metric((one.organization_id,), one.tokens_today)
        yield from (oldest, cost, tokens)


def metric_name(name: str) -> str:
    """Source of the form: https://prometheus.io/docs/practices/naming/ (prefix, unit spelled out)."""
    return f"nubabel_{name.removesuffix('_s')}_seconds" if name.endswith("_s") else f"nubabel_{name}"


def exposition(metrics: GatewayMetrics) -> bytes:
    return generate_latest(metrics.registry)
