"""`python -m nubabel_workers.gateway.socket_mode`: process `slack`. Run two, so that one is always connected."""

import sys

import structlog

from config.metrics import ProcessMetrics
from config.settings import Settings
from nubabel_workers.adapters.slack.socket_mode import SocketModeReceiver
from nubabel_workers.bootstrap import open_services
from nubabel_workers.entry import run_process, serving_metrics, stop_on_signals
from nubabel_workers.gateway.configured_workspace import configured_workspace
from nubabel_workers.gateway.slack_ingress import build_slack_app

log = structlog.get_logger(__name__)


async def run(settings: Settings) -> None:
    stop = stop_on_signals()
    if settings.slack_mode != "socket" or settings.slack_app_token is None:
        # The Procfile starts this process in every installation; it rests where Slack calls the gateway instead.
        log.info("slack.socket_mode_not_used", slack_mode=settings.slack_mode)
        with serving_metrics(settings, ProcessMetrics()):  # by which it is known to live
            await stop.wait()
        return
    async with open_services(settings, application_name="nubabel-slack") as services:
        receiver = SocketModeReceiver(
            build_slack_app(services),
            settings.slack_app_token,
            base_url=settings.slack_api_base_url,
            timeout_s=settings.slack_timeout_s,
        )
        with serving_metrics(settings, services.metrics):
            async with configured_workspace(services):
                await receiver.run(stop)


if __name__ == "__main__":
    sys.exit(run_process("slack", run))
