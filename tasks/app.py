"""The worker's Celery app: `celery -A tasks.app worker -P threads -Q <queue>`. Also what Flower connects with.

The one module that does something when imported: Celery's command line wants to find an app in it.
"""

import sys
from contextlib import AbstractAsyncContextManager
from typing import Any

from celery import Celery

from config.logging import configure_logging
from config.metrics import ProcessMetrics
from config.settings import SettingsError, load_settings
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.domain.dead_letters import NewDeadLetter
from tasks import dead_letters, notifications, orchestration, slack_events
from tasks.worker import build_worker

TASKS = (*slack_events.TASKS, *orchestration.TASKS, *notifications.TASKS, *dead_letters.TASKS)


async def _keep(services: Services, letter: NewDeadLetter) -> Any:
    return await services.dead_letters.add(letter)


def create_app() -> Celery:
    """The app with all tasks; exits with one clear message when the settings are not valid."""
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.exit(str(error))
    configure_logging(process="worker", level=settings.log_level, log_format=settings.log_format)

    def opened(metrics: ProcessMetrics) -> AbstractAsyncContextManager[Services]:
        return open_services(settings, application_name="nubabel-worker", metrics=metrics)

    return build_worker(settings, TASKS, opened, keep=_keep)


app = create_app()
