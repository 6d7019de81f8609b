"""The same Celery app without guards: shows which messages a stock worker of the installed version does not survive."""

import os
import time
from pathlib import Path

from celery import Celery, signals

from config.celery_app import create_celery_app
from config.logging import configure_logging
from config.queues import TaskName
from config.settings import load_settings


def __getattr__(name: str) -> Celery:
    if name != "app":
        raise AttributeError(name)
    settings = load_settings(None)
    configure_logging(process="worker", log_format="json")
    signals.setup_logging.connect(lambda **_signal: None, weak=False)
    app = create_celery_app(settings)

    @app.task(name=str(TaskName.DISPATCH))
    def dispatch(row_id: str) -> str:
        if row_id == "slow":
            time.sleep(5)
        with (Path(os.environ["NBT_DIR"]) / "done").open("a", encoding="utf-8") as done:
            done.write(f"{row_id}\n")
        return f"1 dispatched {row_id}"

    return app
