"""How requests come in: from Slack, callers and the broker."""

from nubabel_workers.bootstrap.adapters import Adapters
from nubabel_workers.bootstrap.policies import batch_limits, retry_policy
from nubabel_workers.domain.analysis import Rules
from nubabel_workers.services.accept_submission import AcceptSubmission
from nubabel_workers.services.admit_requests import AdmitRequests
from nubabel_workers.services.allow_by_button import AllowByButton
from nubabel_workers.services.apply_busy_policy import ApplyBusyPolicy
from nubabel_workers.services.cancel_execution import CancelExecution
from nubabel_workers.services.hold_leases import LeaseHolder
from nubabel_workers.services.keep_budgets import KeepBudgets
from nubabel_workers.services.process_slack_events import ProcessSlackEvents
from nubabel_workers.services.report_foreign_ids import ReportForeignIds
from nubabel_workers.services.submit_execution import SubmitExecution
from nubabel_workers.services.submit_group import SubmitGroup


def submit_execution(
    a: Adapters, admission: AdmitRequests, busy_policy: ApplyBusyPolicy, rules: Rules
) -> SubmitExecution:
    return SubmitExecution(
        a.executions,
        a.tenants,
        admission,
        busy_policy,
        a.hints,
        a.chance,
        rules,
        a.instances,
        a.egress.check_url,
        answer_by_s=a.settings.answer_by_s,
        max_prompt_bytes=a.settings.max_prompt_bytes,
    )


def submit_group(
    a: Adapters, one: SubmitExecution, admission: AdmitRequests, busy_policy: ApplyBusyPolicy
) -> SubmitGroup:
    return SubmitGroup(
        a.groups,
        one,
        admission,
        busy_policy,
        a.hints,
        a.chance,
        answer_by_s=a.settings.answer_by_s,
        max_requests=a.settings.max_batch_requests,
    )


def accept_submission(a: Adapters, submit: SubmitExecution, foreign_ids: ReportForeignIds) -> AcceptSubmission:
    return AcceptSubmission(
        a.tenants,
        a.dead_letters,
        submit,
        foreign_ids,
        a.clock,
        a.chance,
        trusted_organization_id=a.settings.trusted_broker_organization,
    )


def process_slack_events(
    a: Adapters,
    admission: AdmitRequests,
    leases: LeaseHolder,
    cancel: CancelExecution,
    busy_policy: ApplyBusyPolicy,
    budgets: KeepBudgets,
    foreign_ids: ReportForeignIds,
) -> ProcessSlackEvents:
    return ProcessSlackEvents(
        a.inbound,
        a.executions,
        a.tenants,
        admission,
        cancel,
        busy_policy,
        AllowByButton(a.executions, a.tenants, budgets, foreign_ids),
        leases,
        a.hints,
        a.chance,
        retry=retry_policy(a.settings, "slack_events"),
        limits=batch_limits(a.settings),
        answer_by_s=a.settings.answer_by_s,
    )
