"""How many callers may follow executions at once."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from nubabel_workers.gateway.metrics import GatewayMetrics
from nubabel_workers.gateway.problems import ProblemError

_LATER = {"retry-after": "5"}


class StreamCounter:
    """How many streams and waits each organization has open in this process; each holds a connection to the cache."""

    def __init__(self, metrics: GatewayMetrics, *, per_organization: int, at_once: int) -> None:
        self._metrics = metrics
        self._per_organization = per_organization
        self._at_once = at_once
        self._open: Counter[str] = Counter()

    def check_room(self, organization_id: str) -> None:
        """Raises ProblemError when one more would be too many."""
        if self._open[organization_id] >= self._per_organization:
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                "too_many_streams",
                "your organization follows too many executions at once; close some",
                headers=_LATER,
            )
        if self._open.total() >= self._at_once:
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "streams_exhausted",
                "too many streams are open; try again",
                headers=_LATER,
            )

    def has_room(self, organization_id: str) -> bool:
        try:
            self.check_room(organization_id)
        except ProblemError:
            return False
        return True

    @contextmanager
    def counted(self, organization_id: str) -> Iterator[None]:
        """One more, while the block runs."""
        self._open[organization_id] += 1
        self._metrics.stream_opened()
        try:
            yield
        finally:
            self._open[organization_id] -= 1
            if not self._open[organization_id]:
                del self._open[organization_id]
            self._metrics.stream_closed()
