"""How OpenCode servers are followed, watched, kept tidy and started anew."""

from nubabel_workers.adapters.opencode.servers import HttpOpenCodeDirectories
from nubabel_workers.adapters.supervisor import CommandSupervisor
from nubabel_workers.bootstrap.adapters import Adapters
from nubabel_workers.domain.server_vitals import EventLagLimits, MemoryLimits
from nubabel_workers.services.follow_instance import FollowInstance
from nubabel_workers.services.keep_budgets import KeepBudgets
from nubabel_workers.services.keep_directories import DirectoryPace, KeepDirectories
from nubabel_workers.services.reconcile_instance import ReconcileInstance
from nubabel_workers.services.refuse_asks import RefuseAsks
from nubabel_workers.services.report_servers import ReportServers
from nubabel_workers.services.restart_servers import RestartPace, RestartServers
from nubabel_workers.services.watch_servers import WatchServers

_RESTART_LIMIT_S = 45.0  # shorter than a scheduler's step may take
_RESTARTED_AGAIN = 5.0  # a server needs longer to come back than to be noticed as away


def keep_directories(a: Adapters) -> KeepDirectories:
    pace = DirectoryPace(a.settings.opencode_directories_per_second, a.settings.opencode_directory_idle_s)
    return KeepDirectories(a.directories, HttpOpenCodeDirectories(a.servers), a.instances, a.throttle, pace=pace)


def follow_instance(
    a: Adapters,
    reconcile: ReconcileInstance,
    asks: RefuseAsks,
    report: ReportServers,
    budgets: KeepBudgets,
    watch: WatchServers,
) -> FollowInstance:
    return FollowInstance(
        a.events,
        a.servers,
        a.instances,
        a.executions,
        a.notifications,
        a.progress,
        reconcile,
        asks,
        a.breakers,
        report,
        budgets,
        watch,
        a.hints,
        main_agent=a.settings.opencode_agent_prefix,
        progress_pace_s=a.settings.slack_progress_interval_s,
    )


def watch_servers(a: Adapters) -> WatchServers:
    settings = a.settings
    memory = MemoryLimits(
        bound_bytes=settings.opencode_memory_bound_bytes,
        within_s=settings.opencode_memory_within_s,
        window_s=settings.opencode_memory_window_s,
    )
    events = EventLagLimits(limit_s=settings.opencode_event_lag_s, checks=settings.opencode_event_lag_checks)
    return WatchServers(a.vitals, memory=memory, events=events)


def restart_servers(services: Adapters) -> RestartServers | None:
    """None where the settings have no command for it."""
    settings = services.settings
    if settings.opencode_restart_command is None:
        return None
    after_s = settings.opencode_restart_after_s
    return RestartServers(
        services.instances,
        CommandSupervisor(settings.opencode_restart_command, limit_s=_RESTART_LIMIT_S),
        pace=RestartPace(after_s, every_s=_RESTARTED_AGAIN * after_s, drain_s=settings.opencode_drain_s),
    )
