"""What processes other than web count (web: `nubabel_workers.gateway.metrics`), and their small metrics server.

Label values are names of ours only, never something that came in with a message.
"""

import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from http.server import HTTPServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client import start_http_server as start_prometheus_server
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from config.log_target import lines_lost
from config.settings import SettingsError

_EXECUTION_SECONDS = (1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_OTHERS = "other"
_TASK_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class _LogLines(Collector):
    """Counted where no registry is known: logging begins before everything else."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        lost = CounterMetricFamily("nubabel_log_lines_lost", "Log lines that could not be written, e.g. a full disk.")
        lost.add_metric([], lines_lost())
        yield lost


class ProcessMetrics:
    """Counters of one process, in a registry of its own."""

    def __init__(
        self, registry: CollectorRegistry | None = None, *, organizations: Collection[str] = frozenset()
    ) -> None:
        """organizations: counted by their names, which the operators chose; all others are one, `other`."""
        self.registry = registry or CollectorRegistry()
        self._named = frozenset(organizations)
        self.registry.register(_LogLines())
        self._tasks = Counter(
            "nubabel_tasks",
            "Task runs by outcome: done, again (a passing error), timeout, refused (bad arguments), failed (a bug).",
            ("task", "outcome"),
            registry=self.registry,
        )
        self._task_seconds = Histogram(
            "nubabel_task_duration_seconds",
            "Time that a task took in its worker.",
            ("task",),
            buckets=_TASK_SECONDS,
            registry=self.registry,
        )
        self._hints = Counter(
            "nubabel_hints",
            "Hints by outcome: published, suppressed (one is on its way already), failed (the row waits its turn).",
            ("task", "outcome"),
            registry=self.registry,
        )
        self._parked = Counter(
            "nubabel_parked_messages",
            "Broker messages set aside, by reason and by where they went: database, broker, log.",
            ("reason", "kept_in"),
            registry=self.registry,
        )
        self._incidents = Counter(
            "nubabel_incidents",
            "Rare things that were dealt with: late_prompt (posted by a process that had lost its lease), stray_run "
            "(a run on OpenCode that belonged to nobody, stopped), marked_repeat (a Slack post of unknown outcome), "
            "lease_takeover (a row of a process that was gone), foreign_session (a server spoke of another's session), "
            "foreign_id (a caller named what is another organization's), foreign_id_unseen (what a caller named could "
            "not be looked up).",
            ("kind",),
            registry=self.registry,
        )

        self._rounds = Gauge(
            "nubabel_last_round_timestamp_seconds",
            "When a process with periodic work last did it: a step of the scheduler's, or listen (the listener's).",
            ("work",),
            registry=self.registry,
        )
        self._breaker_openings = Counter(
            "nubabel_opencode_breaker_openings",
            "How often this process's calls made a server's circuit breaker open, or open again.",
            ("instance",),
            registry=self.registry,
        )

        self._executions_ended = Counter(
            "nubabel_executions_ended",
            "Executions that ended in this process, by who answered them (the rollout) and how they ended; canned: "
            "a fixed sentence stood for an answer.",
            ("orchestrator", "status"),
            registry=self.registry,
        )
        self._organization_ended = Counter(
            "nubabel_organization_executions_ended",
            "Executions that ended in this process, of the organizations that the settings name, and of all others.",
            ("organization", "status"),
            registry=self.registry,
        )
        self._execution_seconds = Histogram(
            "nubabel_execution_duration_seconds",
            "Time from an execution's acceptance to its end, by who answered it.",
            ("orchestrator",),
            buckets=_EXECUTION_SECONDS,
            registry=self.registry,
        )

    def execution_ended(self, orchestrator: str, status: str, *, organization_id: str, after_s: float) -> None:
        self._executions_ended.labels(orchestrator, status).inc()
        organization = organization_id if organization_id in self._named else _OTHERS
        self._organization_ended.labels(organization, status).inc()
        self._execution_seconds.labels(orchestrator).observe(max(0.0, after_s))

    def breaker_opened(self, instance: str) -> None:
        self._breaker_openings.labels(instance).inc()

    def task(self, task: str, outcome: str, duration_s: float) -> None:
        self._tasks.labels(task, outcome).inc()
        self._task_seconds.labels(task).observe(duration_s)

    def hint(self, task: str, outcome: str) -> None:
        self._hints.labels(task, outcome).inc()

    def count(self, incident: str, *, times: int = 1) -> None:
        self._incidents.labels(incident).inc(times)

    def round_done(self, work: str) -> None:
        self._rounds.labels(work).set_to_current_time()

    def parked(self, reason: str, kept_in: str) -> None:
        self._parked.labels(reason, kept_in).inc()


@dataclass(frozen=True)
class MetricsServer:
    """Serves /metrics until close()."""

    port: int
    close: Callable[[], None]


def serve_metrics(metrics: ProcessMetrics, *, host: str, port: int) -> MetricsServer:
    """Serve this process's metrics, with those of the process itself, from a daemon thread. Port 0: any free one.

    Raises SettingsError where that address cannot be listened on.
    """
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=metrics.registry)
    server: HTTPServer
    thread: threading.Thread
    try:
        server, thread = start_prometheus_server(port, addr=host, registry=metrics.registry)
    except OSError as error:
        raise SettingsError(
            f"NUBABEL_METRICS_HOST and NUBABEL_METRICS_PORT: {host}:{port} cannot be listened on: {error.strerror}"
        ) from error

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return MetricsServer(server.server_port, close)
