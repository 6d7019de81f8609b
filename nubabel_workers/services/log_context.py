"""What every log line about an execution carries, from whichever use case it comes."""

from contextlib import AbstractContextManager

import structlog

from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.trace import trace_id_of


def about(execution: Execution) -> AbstractContextManager[object]:
    """Binds correlation, trace, organization, session and execution while the block runs."""
    return structlog.contextvars.bound_contextvars(
        correlation_id=execution.correlation_id,
        trace_id=trace_id_of(execution.traceparent),
        organization_id=execution.organization_id,
        session_id=execution.session_id,
        execution_id=execution.id,
    )
