"""Everything that the ways in use, wired over the adapters: once per process."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from config.metrics import ProcessMetrics
from config.settings import Settings
from nubabel_workers.adapters.analysis_rules import load_rules
from nubabel_workers.adapters.model_prices import load_prices
from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.bootstrap.adapters import Adapters, open_adapters
from nubabel_workers.bootstrap.intake import accept_submission, process_slack_events, submit_execution, submit_group
from nubabel_workers.bootstrap.policies import context_limits, maintenance_pace, naming
from nubabel_workers.bootstrap.runs import (
    answer_by_call,
    complete_executions,
    deliver_notifications,
    dispatch_executions,
    keep_budgets,
)
from nubabel_workers.bootstrap.servers import follow_instance, keep_directories, watch_servers
from nubabel_workers.domain.ports import Incident
from nubabel_workers.services.accept_slack_event import AcceptSlackEvent
from nubabel_workers.services.accept_submission import AcceptSubmission
from nubabel_workers.services.admit_requests import AdmitRequests
from nubabel_workers.services.answer_by_call import AnswerByCall
from nubabel_workers.services.apply_busy_policy import ApplyBusyPolicy
from nubabel_workers.services.apply_rollout import ApplyRollout
from nubabel_workers.services.cancel_execution import CancelExecution
from nubabel_workers.services.cancel_group import CancelGroup
from nubabel_workers.services.complete_executions import CompleteExecutions
from nubabel_workers.services.count_usage import CountUsage
from nubabel_workers.services.deliver_notifications import DeliverNotifications
from nubabel_workers.services.dispatch_executions import DispatchExecutions
from nubabel_workers.services.end_execution import EndExecution
from nubabel_workers.services.follow_instance import FollowInstance
from nubabel_workers.services.gather_context import GatherContext
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.keep_budgets import KeepBudgets
from nubabel_workers.services.keep_directories import KeepDirectories
from nubabel_workers.services.maintain import Maintain
from nubabel_workers.services.mask_prompt import MaskPrompt
from nubabel_workers.services.plan_runs import PlanRuns
from nubabel_workers.services.process_slack_events import ProcessSlackEvents
from nubabel_workers.services.read_capabilities import ReadCapabilities
from nubabel_workers.services.read_execution import ReadExecution
from nubabel_workers.services.read_limits import ReadLimits
from nubabel_workers.services.read_waiting import ReadWaiting
from nubabel_workers.services.reconcile_instance import ReconcileInstance
from nubabel_workers.services.refuse_asks import RefuseAsks
from nubabel_workers.services.report_foreign_ids import ReportForeignIds
from nubabel_workers.services.report_foreign_session import ReportForeignSession
from nubabel_workers.services.report_servers import ReportServers
from nubabel_workers.services.reuse_answers import ReuseAnswers
from nubabel_workers.services.run_deadlines import RunDeadlines
from nubabel_workers.services.settle_groups import SettleGroups
from nubabel_workers.services.stop_stray_runs import StopStrayRuns
from nubabel_workers.services.submit_execution import SubmitExecution
from nubabel_workers.services.submit_group import SubmitGroup
from nubabel_workers.services.watch_servers import WatchServers


@dataclass(frozen=True)
class Services(Adapters):
    """Everything that the ways in use. Built once per process."""

    leases: LeaseHolder
    accept_slack_event: AcceptSlackEvent
    process_slack_events: ProcessSlackEvents
    submit_execution: SubmitExecution
    submit_group: SubmitGroup
    accept_submission: AcceptSubmission
    read_execution: ReadExecution
    read_waiting: ReadWaiting
    cancel_execution: CancelExecution
    cancel_group: CancelGroup
    settle_groups: SettleGroups
    read_capabilities: ReadCapabilities
    answer_by_call: AnswerByCall
    apply_rollout: ApplyRollout
    dispatch_executions: DispatchExecutions
    complete_executions: CompleteExecutions
    deliver_notifications: DeliverNotifications
    report_servers: ReportServers
    keep_budgets: KeepBudgets
    keep_directories: KeepDirectories
    reconcile_instance: ReconcileInstance
    follow_instance: FollowInstance
    watch_servers: WatchServers
    maintain: Maintain
    foreign_ids: ReportForeignIds


@asynccontextmanager
async def open_services(
    settings: Settings, *, application_name: str, metrics: ProcessMetrics | None = None
) -> AsyncIterator[Services]:
    """Wire everything for one process and close it again. Connects to nothing that isn't used.

    application_name: how PostgreSQL shows this process's connections.
    """
    async with AsyncExitStack() as stack:
        metrics = metrics or ProcessMetrics(organizations=settings.metrics_organizations)
        for incident in Incident:
            metrics.count(incident, times=0)  # what appears with its first event has not grown, as alerts see it
        adapters = await open_adapters(settings, metrics, application_name, stack)
        services = wire(adapters)
        stack.push_async_callback(services.foreign_ids.close)  # the last to close: others report until they have
        services.leases.start()
        stack.push_async_callback(services.leases.stop)
        stack.push_async_callback(services.answer_by_call.close)
        yield services


def wire(a: Adapters) -> Services:
    """Adapters in, services out. Nothing is started or connected here."""
    settings = a.settings
    leases = LeaseHolder(a.maintenance, a.clock, a.chance, lease_s=settings.lease_s)
    settle = SettleGroups(a.groups, a.hints)
    reuse = ReuseAnswers(a.answers, a.tenants, a.clock)
    end = EndExecution(a.executions, a.hints, a.progress, settle, reuse, a.metrics, a.clock)
    cancel = CancelExecution(a.executions, end, a.hints)
    busy_policy = ApplyBusyPolicy(a.executions, cancel, end)
    with naming("analysis_rules_file"):
        rules = load_rules(settings.analysis_rules_file, main_agent=settings.opencode_agent_prefix)
    organization_limits = ReadLimits(a.tenants, a.plans)
    admission = AdmitRequests(organization_limits, a.admission, a.throttle, a.clock)
    submit = submit_execution(a, admission, busy_policy, rules)
    asks = RefuseAsks(a.executions, a.servers)
    strays = StopStrayRuns(a.executions, a.servers, a.metrics)
    report = ReportServers(a.breakers, a.waiting, a.hints)
    audit = PostgresAuditTrail(a.database)
    foreign = ReportForeignSession(audit, a.metrics)
    foreign_ids = ReportForeignIds(a.id_owners, audit, a.metrics, a.throttle)
    with naming("model_prices_file"):
        count_usage = CountUsage(load_prices(settings.model_prices_file))
    budgets = keep_budgets(a, organization_limits, count_usage)
    deadlines = RunDeadlines(organization_limits, rules, default_s=settings.run_deadline_s)
    plan_runs = PlanRuns(budgets, deadlines, rules)
    masking = MaskPrompt(a.cipher.derived_key("prompt-masking"), a.documents)
    context = GatherContext(a.messenger, a.tenants, a.throttle, limits=context_limits(settings))
    calls = answer_by_call(a, end, budgets, count_usage, plan_runs, reuse, leases, context, masking)
    waiting = ReadWaiting(a.admission, a.instances, organization_limits)
    watch = watch_servers(a)
    directories = keep_directories(a)
    reconcile = ReconcileInstance(a.executions, a.instances, a.servers, asks, strays, directories, report, a.hints)
    return Services(
        **vars(a),
        leases=leases,
        accept_slack_event=AcceptSlackEvent(a.tenants, a.inbound, a.hints, a.chance),
        process_slack_events=process_slack_events(a, admission, leases, cancel, busy_policy, budgets, foreign_ids),
        submit_execution=submit,
        submit_group=submit_group(a, submit, admission, busy_policy),
        accept_submission=accept_submission(a, submit, foreign_ids),
        read_execution=ReadExecution(a.executions),
        read_waiting=waiting,
        cancel_execution=cancel,
        cancel_group=CancelGroup(a.groups, cancel, settle),
        settle_groups=settle,
        read_capabilities=ReadCapabilities(a.instances, a.servers, rules, a.clock),
        answer_by_call=calls,
        apply_rollout=ApplyRollout(a.calls, a.rollout),
        dispatch_executions=dispatch_executions(
            a, end, foreign, report, budgets, directories, calls, reuse, plan_runs, leases, strays, context, masking
        ),
        complete_executions=complete_executions(a, end, foreign, report, budgets, count_usage, leases),
        deliver_notifications=deliver_notifications(a, leases, cancel),
        report_servers=report,
        keep_budgets=budgets,
        keep_directories=directories,
        reconcile_instance=reconcile,
        follow_instance=follow_instance(a, reconcile, asks, report, budgets, watch),
        watch_servers=watch,
        maintain=Maintain(
            a.maintenance,
            a.executions,
            end,
            reconcile,
            waiting,
            a.breakers,
            a.hints,
            a.metrics,
            pace=maintenance_pace(settings),
        ),
        foreign_ids=foreign_ids,
    )
