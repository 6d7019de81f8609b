"""How executions get to whoever answers them, and from there to their end and to the people."""

from nubabel_workers.adapters.cache.circuit_breakers import OF_ORCHESTRATORS
from nubabel_workers.adapters.storage.budgets import PostgresBudgets
from nubabel_workers.bootstrap.adapters import Adapters, breakers_of
from nubabel_workers.bootstrap.policies import batch_limits, retry_policy
from nubabel_workers.domain.budgets import Amount
from nubabel_workers.services.answer_by_call import AnswerByCall, CallLimits
from nubabel_workers.services.call_orchestrator import CallOrchestrator, CallPace
from nubabel_workers.services.cancel_execution import CancelExecution
from nubabel_workers.services.complete_executions import CheckLimits, CompleteExecutions
from nubabel_workers.services.count_usage import CountUsage
from nubabel_workers.services.deliver_notifications import DeliverNotifications
from nubabel_workers.services.deliver_to_slack import DeliverToSlack
from nubabel_workers.services.dispatch_executions import DispatchExecutions
from nubabel_workers.services.end_execution import EndExecution
from nubabel_workers.services.gather_context import GatherContext
from nubabel_workers.services.heed_orchestrators import HeedOrchestrators
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.keep_budgets import BudgetLimits, KeepBudgets
from nubabel_workers.services.keep_directories import KeepDirectories
from nubabel_workers.services.mask_prompt import MaskPrompt
from nubabel_workers.services.observe_runs import ObserveRuns
from nubabel_workers.services.plan_runs import PlanRuns
from nubabel_workers.services.read_limits import ReadLimits
from nubabel_workers.services.report_foreign_session import ReportForeignSession
from nubabel_workers.services.report_servers import ReportServers
from nubabel_workers.services.reuse_answers import ReuseAnswers
from nubabel_workers.services.stop_stray_runs import StopStrayRuns
from nubabel_workers.services.submit_prompt import RunLimits, SubmitPrompt


def keep_budgets(a: Adapters, organization_limits: ReadLimits, count_usage: CountUsage) -> KeepBudgets:
    settings = a.settings
    limits = BudgetLimits(
        first_hold=Amount(settings.budget_first_hold_usd, settings.budget_first_hold_tokens),
        keep_s=settings.budget_pause_h * 3600.0,
        answer_by_s=settings.answer_by_s,
        economy_from=settings.economy_from,
        economy_category=settings.economy_category,
        economy_run_s=settings.economy_run_s,
        button_cost=settings.budget_button_usd,
    )
    return KeepBudgets(
        PostgresBudgets(a.database),
        a.executions,
        organization_limits,
        count_usage,
        a.progress,
        a.hints,
        a.clock,
        a.chance,
        limits=limits,
    )


def answer_by_call(
    a: Adapters,
    end: EndExecution,
    budgets: KeepBudgets,
    count_usage: CountUsage,
    plan_runs: PlanRuns,
    reuse: ReuseAnswers,
    leases: LeaseHolder,
    context: GatherContext,
    masking: MaskPrompt,
) -> AnswerByCall:
    heed = HeedOrchestrators(breakers_of(a, OF_ORCHESTRATORS), a.calls, a.hints)
    call = CallOrchestrator(
        a.executions,
        a.calls,
        a.orchestrators,
        context,
        masking,
        budgets,
        count_usage,
        plan_runs,
        reuse,
        heed,
        end,
        a.mappings,
        a.progress,
        a.chance,
        a.clock,
        retry=retry_policy(a.settings, "orchestration"),
        pace=CallPace(
            lone_deliveries=a.settings.max_lone_deliveries, earlier_turns_bytes=a.settings.earlier_turns_bytes
        ),
    )
    limits = CallLimits(places=a.settings.orchestrator_calls)
    return AnswerByCall(a.executions, a.calls, call, heed, a.rollout, leases, a.hints, limits=limits)


def dispatch_executions(
    a: Adapters,
    end: EndExecution,
    foreign: ReportForeignSession,
    report: ReportServers,
    budgets: KeepBudgets,
    directories: KeepDirectories,
    calls: AnswerByCall,
    reuse: ReuseAnswers,
    plan_runs: PlanRuns,
    leases: LeaseHolder,
    strays: StopStrayRuns,
    context: GatherContext,
    masking: MaskPrompt,
) -> DispatchExecutions:
    settings = a.settings
    limits = RunLimits(
        submit_timeout_s=min(settings.opencode_read_timeout_s, settings.lease_s),
        earlier_turns_bytes=settings.earlier_turns_bytes,
        default_model=settings.opencode_default_model,
    )
    return DispatchExecutions(
        a.executions,
        end,
        a.instances,
        SubmitPrompt(
            a.executions,
            a.servers,
            a.mappings,
            context,
            leases,
            strays,
            a.metrics,
            foreign,
            masking,
            budgets,
            directories,
            plan_runs,
            limits=limits,
        ),
        a.progress,
        a.throttle,
        a.breakers,
        report,
        a.waiting,
        budgets,
        calls,
        reuse,
        leases,
        a.hints,
        a.chance,
        a.clock,
        retry=retry_policy(settings, "orchestration"),
        limits=batch_limits(settings),
    )


def complete_executions(
    a: Adapters,
    end: EndExecution,
    foreign: ReportForeignSession,
    report: ReportServers,
    budgets: KeepBudgets,
    count_usage: CountUsage,
    leases: LeaseHolder,
) -> CompleteExecutions:
    return CompleteExecutions(
        a.executions,
        end,
        foreign,
        ObserveRuns(
            a.executions,
            a.instances,
            a.servers,
            leases,
            a.metrics,
            a.breakers,
            report,
            count_usage,
        ),
        budgets,
        a.mappings,
        a.waiting,
        a.progress,
        leases,
        a.hints,
        a.chance,
        retry=retry_policy(a.settings, "orchestration"),
        limits=batch_limits(a.settings),
        checks=CheckLimits(model_retries=a.settings.opencode_model_retries, stalled_s=a.settings.run_stalled_s),
        default_model=a.settings.opencode_default_model,
    )


def deliver_notifications(a: Adapters, leases: LeaseHolder, cancel: CancelExecution) -> DeliverNotifications:
    slack = DeliverToSlack(
        a.messenger,
        a.tenants,
        a.notifications,
        a.throttle,
        leases,
        a.metrics,
        read_quota_per_minute=a.settings.slack_read_quota_per_minute,
    )
    return DeliverNotifications(
        a.notifications,
        a.tenants,
        slack,
        a.webhooks,
        cancel,
        leases,
        a.hints,
        a.chance,
        a.clock,
        retry=retry_policy(a.settings, "notifications"),
        limits=batch_limits(a.settings),
    )
