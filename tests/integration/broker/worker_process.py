"""A Celery worker as its own process, for the tests of this folder."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from config.queues import QueueName
from nubabel_workers.embedded.processes import ChildProcess
from tests.forking import ForkedProcess
from tests.integration.broker.conftest import KEY
from tests.waiting import wait_for


class WorkerProcess:
    """Consumes queues from broker_url; see worker_app for the files in directory."""

    def __init__(
        self,
        directory: Path,
        broker_url: str,
        cache_url: str,
        *,
        app: str = "tests.integration.broker.worker_app",
        environment: dict[str, str] | None = None,
        queues: Sequence[str] = tuple(QueueName),
        arguments: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.process = ChildProcess(
            [
                *("celery", "-A", app, "worker", "--pool", "threads", "--concurrency", "4"),
                *("--without-gossip", "--without-mingle", "-n", "test@%h", "-Q", ",".join(queues)),
                *arguments,
            ],
            cwd=Path.cwd(),
            log_path=directory / "worker.log",
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("NUBABEL_")},
                "NBT_DIR": str(directory),
                "NUBABEL_ENVIRONMENT": "development",
                "NUBABEL_DATABASE_URL": "postgresql://owner@localhost/nubabel",
                "NUBABEL_BROKER_URL": broker_url,
                "NUBABEL_CACHE_URL": cache_url,
                "NUBABEL_ENCRYPTION_KEYS": KEY,
                **(environment or {}),
            },
            start=ForkedProcess,
        )
        self.process.wait_until(lambda: " ready." in self.log(), timeout_s=30)

    def log(self) -> str:
        return (self.directory / "worker.log").read_text(encoding="utf-8", errors="replace")

    def done(self) -> list[str]:
        return self._lines("done")

    def parked(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self._lines("parked")]

    def services(self) -> list[str]:
        return self._lines("services")

    @property
    def reconnects(self) -> int:
        return self.log().count("Connection to broker lost") + self.log().count("Trying to re-establish")

    def wait_for_done(self, line: str, *, timeout_s: float = 10) -> None:
        wait_for(lambda: line in self.done(), timeout_s=timeout_s, what=f"{line!r} done")

    def stop(self) -> None:
        self.process.stop(grace_s=15)

    def _lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
