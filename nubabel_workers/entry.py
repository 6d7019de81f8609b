"""How every process of ours begins and ends: settings, logging, event loop, signals, metrics."""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
import uvloop

from config.logging import configure_logging
from config.metrics import ProcessMetrics, serve_metrics
from config.settings import Settings, SettingsError, load_settings
from nubabel_workers.domain.errors import InvalidInputError

log = structlog.get_logger(__name__)


def run_process(name: str, run: Callable[[Settings], Coroutine[Any, Any, None]]) -> int:
    """Run an async process of the Procfile until it ends; returns the exit code.

    2: the settings, or what they name (a file, an address), are not valid.
    """
    settings = settings_or_none()
    if settings is None:
        return 2
    configure_logging(process=name, level=settings.log_level, log_format=settings.log_format)
    leave_loaded_alone()
    try:
        uvloop.run(run(settings))
    except (InvalidInputError, SettingsError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


def leave_loaded_alone() -> None:
    """The collector looks no more at what is loaded, which stays to the end: a look through all that is imported stops
    a process for 0.15 s (measured), in the middle of somebody's answer.
    """
    gc.freeze()


def settings_or_none() -> Settings | None:
    """The settings, or None after having said on stderr what is wrong with them."""
    try:
        return load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return None


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set: the process finishes what it is at and ends."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def ask(name: str) -> None:
        log.info("process.stopping", signal=name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number.name)
    return stop


@contextmanager
def serving_metrics(settings: Settings, metrics: ProcessMetrics) -> Iterator[None]:
    """Serve this process's metrics while the block runs, if the settings give it a port."""
    if settings.metrics_port is None:
        yield
        return
    server = serve_metrics(metrics, host=settings.metrics_host, port=settings.metrics_port)
    try:
        yield
    finally:
        server.close()
