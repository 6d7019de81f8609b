"""The button below a notice that a request waits for its budget: whoever may, lets that request cost more. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from typing import Self

from nubabel_workers.domain.decimals import in_full
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.notifications import Button
from nubabel_workers.domain.wording import Language, say

ALLOW_MORE = "nubabel_allow_more"  # the action's name on the wire: buttons that stand in threads keep it
MAX_APPROVERS = 100

_CENT, _STORED = Decimal("0.01"), Decimal("0.000000001")
_VALUE = re.compile(
    r"(?P<execution_id>exe_[0-9a-z_]{1,60}):(?P<replays>\d{1,6})\.(?P<pauses>\d{1,6})\.(?P<attempt>\d{1,6})"
    r":(?P<cost>\d{1,9}(?:\.\d{1,9})?)"
)
_SLACK_USER = re.compile(r"[UW][A-Z0-9]{2,30}")


@dataclass(frozen=True)
class BudgetButton:
    """replays, pauses, attempt: how often the request had been replayed, paused since, and run, when the button was
    shown. It is good for that wait alone. cost: US dollars that it says.
    """

    execution_id: str
    replays: int
    pauses: int
    attempt: int
    cost: float

    @classmethod
    def read(cls, value: str) -> Self | None:
        """None: not one of ours, or of a form that nobody reads any more."""
        found = _VALUE.fullmatch(value)
        if found is None:
            return None
        return cls(
            found["execution_id"],
            int(found["replays"]),
            int(found["pauses"]),
            int(found["attempt"]),
            float(found["cost"]),
        )

    @property
    def wait(self) -> str:
        """Which of the request's waits it is for."""
        return f"{self.replays}.{self.pauses}.{self.attempt}"

    def shown(self, language: Language) -> Button:
        usd = in_full(self.cost)
        return Button(ALLOW_MORE, f"{self.execution_id}:{self.wait}:{usd}", say("allow_more", language, usd=usd))


def cost_allowed(usual: float, *, step: float) -> float:
    """What a press allows (US dollars): no less than a step of the run, in whole cents, or it could not go on."""
    return max(usual, float(Decimal(step).quantize(_STORED).quantize(_CENT, ROUND_UP)))


def checked_approvers(user_ids: Sequence[str]) -> tuple[str, ...]:
    """Ids of people in Slack, each once. Raises InvalidInputError that says what does not fit."""
    for user_id in user_ids:
        if not _SLACK_USER.fullmatch(user_id):
            raise InvalidInputError(
                f"{user_id!r} is no Slack user id, like U024BE7LH: copy it from the person's profile"
            )
    if len(set(user_ids)) > MAX_APPROVERS:
        raise InvalidInputError(f"at most {MAX_APPROVERS} people may allow more")
    return tuple(dict.fromkeys(user_ids))
