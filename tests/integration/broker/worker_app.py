"""The Celery app of the worker processes that these tests start: the real one, with tasks that write to files.

NUBABEL_* as for any process; NBT_DIR is the folder of the files:
done (one line per task run), parked (one dead letter in JSON per line); while `database-down` exists nothing is kept.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from celery import Celery

from config.logging import configure_logging
from config.metrics import ProcessMetrics
from config.queues import TaskName
from config.settings import load_settings
from nubabel_workers.adapters.broker.parking import dead_letter_from_json, dead_letter_to_json
from nubabel_workers.domain.dead_letters import NewDeadLetter
from nubabel_workers.domain.errors import InvalidInputError, UnavailableError
from tasks.base import Carries, TaskDefinition
from tasks.worker import build_worker


@dataclass(frozen=True)
class Files:
    directory: Path

    def append(self, name: str, line: bytes) -> None:
        descriptor = os.open(self.directory / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, line + b"\n")
        finally:
            os.close(descriptor)


async def dispatch(files: Files, row_id: str, _delivery_id: str) -> str:
    if row_id == "slow":
        await asyncio.sleep(30)
    if row_id == "bug":
        raise KeyError("a bug of ours")
    files.append("done", row_id.encode())
    return f"1 dispatched {row_id}"


async def process(files: Files, row_id: str, _delivery_id: str) -> str:
    files.append("done", row_id.encode())
    return f"1 processed {row_id}"


async def submit(files: Files, content: dict[str, Any], delivery_id: str) -> str:
    if content.get("bug"):
        raise KeyError("a bug of ours")
    if content.get("refuse"):
        raise InvalidInputError("not like this")
    if (files.directory / "database-down").exists():
        raise UnavailableError("the database cannot be reached")
    files.append("done", f"{delivery_id} {content['prompt']}".encode())
    return "1 accepted"


async def keep(files: Files, letter: NewDeadLetter) -> None:
    if (files.directory / "database-down").exists():
        raise UnavailableError("the database cannot be reached")
    files.append("parked", orjson.dumps(dead_letter_to_json(letter)))


async def park(files: Files, content: dict[str, Any], _delivery_id: str) -> str:
    await keep(files, dead_letter_from_json(content))
    return "1 kept"


async def deliver(files: Files, row_id: str, _delivery_id: str) -> str:
    """For measurements: nothing but the hop."""
    if row_id.startswith("written"):
        files.append("done", row_id.encode())
    if row_id == "last":
        files.append("done", str(time.monotonic()).encode())
    return "1 delivered"


@asynccontextmanager
async def open_files(_metrics: ProcessMetrics) -> AsyncIterator[Files]:
    files = Files(Path(os.environ["NBT_DIR"]))
    files.append("services", b"opened")
    yield files
    files.append("services", b"closed")


TASKS: tuple[TaskDefinition[Files], ...] = (
    TaskDefinition(TaskName.PROCESS_SLACK_EVENTS, process),
    TaskDefinition(TaskName.DISPATCH, dispatch),
    TaskDefinition(TaskName.DELIVER, deliver),
    TaskDefinition(TaskName.SUBMIT, submit, Carries.CONTENT),
    TaskDefinition(TaskName.PARK, park, Carries.CONTENT),
)


def __getattr__(name: str) -> Celery:
    """`celery -A` asks for `app`; nobody who only imports this file starts anything."""
    if name != "app":
        raise AttributeError(name)
    settings = load_settings(None)
    configure_logging(process="worker", level=settings.log_level, log_format="json")
    return build_worker(settings, TASKS, open_files, keep=keep)
