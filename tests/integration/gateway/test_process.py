"""Process `web` as the Procfile starts it."""

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from config.settings import Settings
from nubabel_workers.client import ConnectionFailedError, NubabelClient, ProgressEvent, RetryLimits
from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.processes import ChildProcess
from tests.integration.gateway.conftest import Gateway, environment_of
from tests.loopback import is_healthy
from tests.waiting import wait_for

pytestmark = pytest.mark.integration


async def test_it_serves_and_ends_open_streams_when_it_is_stopped(
    gateway: Gateway, settings: Settings, short_dir: Path
) -> None:
    token = await gateway.organization("org_one")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = short_dir / "web.log"
    process = ChildProcess(
        [sys.executable, "-m", "nubabel_workers.gateway"],
        cwd=Path.cwd(),
        log_path=log,
        env=environment_of(settings, http_port=port),
    )
    seen: list[ProgressEvent] = []
    try:
        process.wait_until(lambda: is_healthy(url), timeout_s=30)
        with NubabelClient(url, token, retries=RetryLimits(attempts=1)) as client:
            submitted = client.submit("Hello")
            events = client.events(submitted.id)
            reader = threading.Thread(target=lambda: _read(events, seen), daemon=True)
            reader.start()
            wait_for(lambda: seen)

            process.send_signal(signal.SIGTERM)

            assert process.wait(timeout_s=8)
            reader.join(5)
    finally:
        process.stop()

    lines = log.read_text(encoding="utf-8")
    assert process.returncode == 0, lines
    assert not reader.is_alive()
    assert '"level":"error"' not in lines, lines
    assert "Hello" not in lines
    assert token not in lines


async def test_without_file_descriptors_it_lives_on_and_serves_again(settings: Settings, short_dir: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = ChildProcess(
        ["/bin/sh", "-c", f"ulimit -n 48; exec {sys.executable} -m nubabel_workers.gateway"],
        cwd=Path.cwd(),
        log_path=short_dir / "web.log",
        env=environment_of(settings, http_port=port),
    )
    try:
        process.wait_until(lambda: is_healthy(url), timeout_s=30)
        crowd = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(80)]
        assert not is_healthy(url)

        for one in crowd:
            one.close()

        process.wait_until(lambda: is_healthy(url), timeout_s=10)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout_s=8)
    finally:
        process.stop()
    assert process.returncode == 0, process.log_tail()


def _read(events: Iterator[ProgressEvent], seen: list[ProgressEvent]) -> None:
    with suppress(ConnectionFailedError):
        seen.extend(events)
