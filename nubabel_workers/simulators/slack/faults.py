"""Wrong turns on demand: which call goes wrong, how, and how often."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


class FaultKind(StrEnum):
    RATE_LIMITED = "rate_limited"  # HTTP 429 with Retry-After: seconds
    HTTP_STATUS = "http_status"  # that status with an HTML page, nothing done
    ERROR = "error"  # HTTP 200, ok: false, code; nothing done
    ERROR_AFTER = "error_after"  # the same answer although the call took effect (internal_error does that)
    CLOSED = "closed"  # connection closed before handling
    LOST_ANSWER = "lost_answer"  # handled, then the connection is closed
    TAKEN_LATE = "taken_late"  # handled only after `seconds`, whether or not the caller still waits
    LATE = "late"  # handled, answered after `seconds`
    HTML = "html"  # handled, but the answer is an HTML page with status 200
    NOT_JSON = "not_json"  # handled, but the body is not the JSON that its content type promises


@dataclass(slots=True)
class Fault:
    """Applies to the next `times` calls of `method` (`*`: any), optionally of one team or channel only."""

    method: str
    kind: FaultKind
    times: int = 1
    code: str = "internal_error"
    status: int = 500
    seconds: float = 1.0
    team: str | None = None
    channel: str | None = None

    def befalling(self, team: str) -> "Fault":
        """The same for one team, to be planned: a planned fault counts its own uses down."""
        return replace(self, team=team)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "Fault":
        known = {name: raw[name] for name in cls.__slots__ if name in raw}
        return cls(**{**known, "kind": FaultKind(raw["kind"])})


class Faults:
    def __init__(self) -> None:
        self._planned: list[Fault] = []

    def plan(self, fault: Fault) -> None:
        self._planned.append(fault)

    def clear(self) -> None:
        self._planned.clear()

    def take(self, method: str, team: str | None, channel: str | None) -> Fault | None:
        """The fault for this call, if one is planned; counts it as used."""
        for fault in self._planned:
            if fault.method not in {"*", method} or fault.team not in {None, team}:
                continue
            if fault.channel in {None, channel}:
                fault.times -= 1
                if fault.times <= 0:
                    self._planned.remove(fault)
                return fault
        return None
