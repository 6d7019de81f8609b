"""The settings as the values that adapters and services take: limits, times, policies."""

from collections.abc import Iterator
from contextlib import contextmanager

from config.settings import PREFIX, Settings
from nubabel_workers.adapters.opencode.transport import Timeouts
from nubabel_workers.adapters.storage.database import DatabaseLimits
from nubabel_workers.adapters.storage.turns import FairPolicy
from nubabel_workers.domain.circuit_breaker import BreakerPolicy
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.retry import RetryPolicy
from nubabel_workers.services.batches import BatchLimits
from nubabel_workers.services.gather_context import ContextLimits
from nubabel_workers.services.maintain import MaintenancePace

_DAY_S = 86_400.0


@contextmanager
def naming(setting: str) -> Iterator[None]:
    """What is wrong with a setting's value, or in the file that it names, is said with its variable."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{PREFIX}{setting.upper()}: {error}") from error


def database_limits(settings: Settings) -> DatabaseLimits:
    return DatabaseLimits(
        pool_min=settings.database_pool_min,
        pool_max=settings.database_pool_max,
        connect_timeout_s=settings.database_connect_timeout_s,
        acquire_timeout_s=settings.database_acquire_timeout_s,
        statement_timeout_s=settings.database_statement_timeout_s,
        lock_timeout_s=settings.database_lock_timeout_s,
        idle_in_transaction_timeout_s=settings.database_idle_in_transaction_timeout_s,
    )


def opencode_timeouts(settings: Settings) -> Timeouts:
    read_s = settings.opencode_read_timeout_s
    return Timeouts(connect_s=settings.opencode_connect_timeout_s, read_s=read_s, total_s=2 * read_s)


def fair_policy(settings: Settings) -> FairPolicy:
    return FairPolicy(
        half_life_s=settings.fair_half_life_s,
        expected_run_s=settings.fair_expected_run_s,
        aged_after_s=settings.fair_aged_after_s,
        kept_free=settings.fair_kept_free,
        batch_share=settings.batch_share,
    )


def breaker_policy(settings: Settings) -> BreakerPolicy:
    return BreakerPolicy(
        failures_in_a_row=settings.breaker_failures,
        failing_share=settings.breaker_failing_share,
        window_s=settings.breaker_window_s,
        first_wait_s=settings.breaker_first_wait_s,
        max_wait_s=settings.breaker_max_wait_s,
        # As long as one call may take: whoever holds the probe may have been killed, and all others wait for it.
        probe_s=settings.opencode_connect_timeout_s + settings.opencode_read_timeout_s,
    )


def retry_policy(settings: Settings, queue: str) -> RetryPolicy:
    return RetryPolicy(
        max_attempts=getattr(settings, f"retry_{queue}_max_attempts"),
        first_wait_s=getattr(settings, f"retry_{queue}_first_wait_s"),
        max_wait_s=getattr(settings, f"retry_{queue}_max_wait_s"),
    )


def batch_limits(settings: Settings) -> BatchLimits:
    return BatchLimits(batch=settings.claim_batch, lone_deliveries=settings.max_lone_deliveries)


def context_limits(settings: Settings) -> ContextLimits:
    return ContextLimits(
        read_quota_per_minute=settings.slack_read_quota_per_minute,
        read_page=settings.slack_read_page_size,
        max_files=settings.max_files,
        max_file_bytes=settings.max_file_bytes,
    )


def maintenance_pace(settings: Settings) -> MaintenancePace:
    return MaintenancePace(
        hint_after_s=settings.scheduler_hint_after_s,
        reconcile_s=settings.scheduler_reconcile_s,
        late_notice_s=settings.late_notice_s,
        keep_idempotency_keys_s=settings.idempotency_keep_h * 3600.0,
        retention_s={
            "inbound_events": settings.retention_inbound_days * _DAY_S,
            "notifications": settings.retention_inbound_days * _DAY_S,
            "executions": settings.retention_executions_days * _DAY_S,
            "execution_groups": settings.retention_executions_days * _DAY_S,
            "sessions": settings.retention_executions_days * _DAY_S,
            "tool_calls": settings.retention_tool_calls_days * _DAY_S,
            "dead_letters": settings.retention_dead_letters_days * _DAY_S,
            "audit_log": settings.retention_audit_days * _DAY_S,
        },
    )
