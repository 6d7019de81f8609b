"""Builds a worker's Celery app: guards, tasks, and what has to start and stop with the process."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import structlog
from celery import Celery, signals

from config.celery_app import CONNECT_TIMEOUT_S, create_celery_app
from config.metrics import ProcessMetrics, serve_metrics
from config.queues import QUEUE_OF_TASK, TaskName
from config.settings import Settings, SettingsError
from nubabel_workers.adapters.broker import connection
from nubabel_workers.adapters.broker.guards import install_guards
from nubabel_workers.adapters.broker.parking import Parking
from nubabel_workers.domain.dead_letters import NewDeadLetter
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.entry import leave_loaded_alone
from tasks.base import QueueTask, TaskDefinition, TaskSurroundings
from tasks.runtime import WorkerRuntime

S = TypeVar("S")

_KEEP_TIMEOUT_S = 3.0  # parking happens in the consumer's own loop, where nothing else goes on meanwhile

log = structlog.get_logger(__name__)


def build_worker(
    settings: Settings,
    tasks: Sequence[TaskDefinition[S]],
    open_services: Callable[[ProcessMetrics], AbstractAsyncContextManager[S]],
    *,
    keep: Callable[[S, NewDeadLetter], Any],
) -> Celery:
    """The app for `celery worker`. Nothing is opened until a worker starts.

    open_services: told where to count. keep: the coroutine function that writes a dead letter.
    """
    app = create_celery_app(settings)
    metrics = ProcessMetrics(organizations=settings.metrics_organizations)
    runtime = WorkerRuntime(lambda: open_services(metrics))
    parking = Parking(
        lambda letter: runtime.run(lambda services: keep(services, letter), timeout_s=_KEEP_TIMEOUT_S),
        connection.connect(
            settings.broker_url.get_secret_value(),
            timeout_s=_KEEP_TIMEOUT_S,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            ca_file=settings.redis_ca_file,
        ),
        park_task=str(TaskName.PARK),
        park_queue=str(QUEUE_OF_TASK[TaskName.PARK]),
        on_parked=metrics.parked,
    )
    surroundings = TaskSurroundings(runtime, parking, settings.task_timeout_s, metrics.task)
    install_guards(app, parking)
    for task in tasks:
        app.register_task(QueueTask(task, surroundings))
    _tie_to_the_worker(settings, runtime, metrics)
    return app


def _tie_to_the_worker(settings: Settings, runtime: WorkerRuntime[Any], metrics: ProcessMetrics) -> None:
    """Celery's signals are global: one worker per process."""
    stops: list[Callable[[], None]] = []

    def leave_logging_alone(**_signal: Any) -> None:
        """A connected receiver keeps Celery from setting up logging of its own."""

    def start(sender: Any, **_signal: Any) -> None:
        sender.quiet = True  # Celery's banner is no log line, and printing it onto a full disk would end the worker
        try:
            runtime.start()
            stops.append(runtime.close)
            if settings.metrics_port is not None:
                stops.append(serve_metrics(metrics, host=settings.metrics_host, port=settings.metrics_port).close)
        except (InvalidInputError, SettingsError) as error:
            stop()
            sys.stderr.write(f"{error}\n")
            raise SystemExit(2) from None
        except Exception:
            stop()
            log.exception("worker.cannot_start")
            raise SystemExit(1) from None  # Celery would log anything else and go on without services

    def is_ready(**_signal: Any) -> None:
        leave_loaded_alone()

    def stop(**_signal: Any) -> None:
        while stops:
            stops.pop()()

    signals.setup_logging.connect(leave_logging_alone, weak=False)
    signals.worker_init.connect(start, weak=False)
    signals.worker_ready.connect(is_ready, weak=False)
    signals.worker_shutdown.connect(stop, weak=False)
