"""`python -m nubabel_workers.listener`: run two, so that one takes over from the other."""

import os
import socket
import sys

from config.settings import Settings
from nubabel_workers.adapters.cache.leadership import RedisLeadership
from nubabel_workers.bootstrap import open_services
from nubabel_workers.entry import run_process, serving_metrics, stop_on_signals
from nubabel_workers.listener.process import Listener


async def run(settings: Settings) -> None:
    stop = stop_on_signals()
    async with open_services(settings, application_name="nubabel-listener") as services:
        listener = Listener(
            services.instances,
            services.follow_instance,
            services.executions,
            RedisLeadership(
                services.cache,
                "listeners",
                f"{socket.gethostname()}-{os.getpid()}-{services.chance.new_id('lsn')}",
                lease_s=settings.listener_lease_s,
            ),
            services.progress,
            services.chance,
            lease_s=settings.listener_lease_s,
            on_round=lambda: services.metrics.round_done("listen"),
        )
        with serving_metrics(settings, services.metrics):
            await listener.run(stop)


if __name__ == "__main__":
    sys.exit(run_process("listener", run))
