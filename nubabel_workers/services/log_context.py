"""What every log line about a request carries, from whichever use case it comes, and every call to the outside."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import structlog

from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.trace import following


class Followed(Protocol):
    """A row that says of which request it is."""

    @property
    def correlation_id(self) -> str: ...
    @property
    def traceparent(self) -> str: ...
    @property
    def organization_id(self) -> str: ...


def about(execution: Execution) -> AbstractContextManager[object]:
    """Binds correlation, trace, organization, session and execution while the block runs."""
    return about_request(execution, session_id=execution.session_id, execution_id=execution.id)


@contextmanager
def about_request(row: Followed, **ids: str | None) -> Iterator[None]:
    """Binds a row's correlation, trace and organization, and the ids, while the block runs; calls carry its trace."""
    with (
        following(row.traceparent) as trace,
        structlog.contextvars.bound_contextvars(
            correlation_id=row.correlation_id,
            trace_id=None if trace is None else trace.trace_id,
            organization_id=row.organization_id,
            **ids,
        ),
    ):
        yield
