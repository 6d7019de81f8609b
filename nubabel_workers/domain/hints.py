"""Hints: broker messages that say "this row is ready". Any of them may be lost, late or doubled."""

from dataclasses import dataclass
from enum import StrEnum


class HintTask(StrEnum):
    """The tasks that a hint can wake. The values travel on the wire; `config.queues` says which queue each takes."""

    PROCESS_SLACK_EVENTS = "slack_events.process"
    DISPATCH = "orchestration.dispatch"
    COMPLETE = "orchestration.complete"
    DELIVER = "notifications.deliver"


# How late a sign that work goes on may be: nobody's answer waits for it, and one hint serves all that come meanwhile.
SIGN_WAIT_S = 0.15

# A request behind so many of its own organization starts no sooner for a hint of its own, as no claim takes more of
# them: in a flood one hint serves all that come in this time.
LONG_LINE = 32
LINE_WAIT_S = 0.15


@dataclass(frozen=True, slots=True)
class Hint:
    """Wake `task`; row_id is the row to take first, its task takes others that are ready as well.

    may_wait_s: for how long the publisher may hold it back, so that one message serves several rows.
    """

    task: HintTask
    row_id: str
    organization_id: str | None = None
    may_wait_s: float = 0.0


def turn_hint(execution_id: str, organization_id: str, *, line_is_long: bool) -> Hint:
    """Of a request that was just accepted. line_is_long: LONG_LINE of its organization wait already."""
    may_wait_s = LINE_WAIT_S if line_is_long else 0.0
    return Hint(HintTask.DISPATCH, execution_id, organization_id, may_wait_s=may_wait_s)
