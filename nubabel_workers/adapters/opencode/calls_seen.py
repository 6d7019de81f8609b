"""What a call says about its server's health, for the circuit breakers."""

from nubabel_workers.adapters.opencode.client import CallReport
from nubabel_workers.domain.circuit_breaker import CallKind, CallOutcome

_KINDS = {"submit_prompt": CallKind.PROMPT, "create_session": CallKind.SESSION}
_SERVER_ERROR = 500
_EXPERIMENTAL = frozenset({"offered_tools"})  # a route that OpenCode does not promise


def tells_of_health(report: CallReport) -> bool:
    return report.name not in _EXPERIMENTAL


def kind_of(report: CallReport) -> CallKind:
    return _KINDS.get(report.name, CallKind.LOOK)


def outcome_of(report: CallReport) -> CallOutcome:
    """A refusal (4xx, also 429) is an answer: the server is there and works."""
    if not report.sent:
        return CallOutcome.AWAY
    if report.status is None or report.status >= _SERVER_ERROR:
        return CallOutcome.FAILED
    return CallOutcome.SERVED
