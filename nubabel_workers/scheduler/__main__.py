"""`python -m nubabel_workers.scheduler`: any number of these may run."""

import asyncio
import sys

from config.settings import Settings
from nubabel_workers.bootstrap import open_services, restart_servers
from nubabel_workers.entry import run_process, serving_metrics, stop_on_signals
from nubabel_workers.scheduler.process import repeat

_ROLLOUT_S = 30.0  # it is set when processes start; requests that others accepted meanwhile follow soon


async def run(settings: Settings) -> None:
    stop = stop_on_signals()
    tick, retention = settings.scheduler_tick_s, settings.scheduler_retention_interval_s
    slowly = settings.scheduler_reconcile_s
    async with open_services(settings, application_name="nubabel-scheduler") as services:
        maintain, budgets, settle = services.maintain, services.keep_budgets, services.settle_groups
        directories = services.keep_directories
        with serving_metrics(settings, services.metrics):
            done = services.metrics.round_done
            restart = restart_servers(services)
            restarts = (
                [repeat("restart_servers", restart.run, every_s=tick, stop=stop, on_done=done)] if restart else []
            )
            await asyncio.gather(
                *restarts,
                repeat("publish_overdue", maintain.publish_overdue, every_s=tick, stop=stop, on_done=done),
                repeat("keep_deadlines", maintain.keep_deadlines, every_s=tick, stop=stop, on_done=done),
                repeat("settle_batches", settle.settle_due, every_s=tick, stop=stop, on_done=done),
                repeat("keep_budgets", budgets.resume_those_with_room, every_s=tick, stop=stop, on_done=done),
                repeat("apply_rollout", services.apply_rollout.run, every_s=_ROLLOUT_S, stop=stop, on_done=done),
                repeat("dispose_directories", directories.dispose_idle, every_s=slowly, stop=stop, on_done=done),
                repeat("reconcile", maintain.reconcile, every_s=tick, stop=stop, on_done=done),
                repeat("expire", maintain.expire, every_s=retention, stop=stop, on_done=done),
            )


if __name__ == "__main__":
    sys.exit(run_process("scheduler", run))
