"""Which orchestrator answers a request: OpenCode, or for a share of organizations or sessions another one.

The choice follows from the names alone, so every process makes the same one, and a larger share keeps whoever was in a
smaller one: 10 -> 50 -> 100 moves only those that are added, and back again only those that leave.
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

_FORM = re.compile(
    r"(?P<orchestrator>delegate|fallback):(?P<percent>\d{1,3}(\.\d{1,2})?)(:(?P<by>session|organization))?"
)
_BUCKETS = 10_000  # a hundredth of a percent each


class Orchestrator(StrEnum):
    """Who works on a request."""

    OPENCODE = "opencode"  # a session on an OpenCode server; no worker waits for it
    DELEGATE = "delegate"  # another service that speaks the bridge contract, POST /delegate_task
    FALLBACK = "fallback"  # a model asked directly; a fixed sentence where none is configured


class RolloutBy(StrEnum):
    """What is moved as a whole."""

    SESSION = "session"  # a conversation
    ORGANIZATION = "organization"


@dataclass(frozen=True)
class Rollout:
    """orchestrator gets that many percent of them (0 to 100), OpenCode the rest."""

    orchestrator: Orchestrator = Orchestrator.OPENCODE
    percent: float = 100.0
    by: RolloutBy = RolloutBy.SESSION

    @classmethod
    def parse(cls, text: str) -> Self:
        """`opencode`, or `delegate:10:session`: orchestrator, percent, and what is counted (session when left out).

        Raises ValueError that says what fits.
        """
        if text == Orchestrator.OPENCODE:
            return cls()
        found = _FORM.fullmatch(text)
        if found is None or float(found["percent"]) > 100:  # noqa: PLR2004 - percent
            raise ValueError(
                "must be opencode, or delegate or fallback with a percentage and session or organization, "
                "e.g. delegate:10:session"
            )
        by = RolloutBy(found["by"] or RolloutBy.SESSION)
        return cls(Orchestrator(found["orchestrator"]), float(found["percent"]), by)

    def choose(self, organization_id: str, session_key: str) -> Orchestrator:
        """Who answers requests of this session."""
        if self.orchestrator is Orchestrator.OPENCODE:
            return Orchestrator.OPENCODE
        name = organization_id if self.by is RolloutBy.ORGANIZATION else f"{organization_id}\n{session_key}"
        return self.orchestrator if _bucket(name) < self.percent * _BUCKETS / 100 else Orchestrator.OPENCODE

    @property
    def others(self) -> Orchestrator | None:
        """Who besides OpenCode gets something; None: nobody."""
        return self.orchestrator if self.orchestrator is not Orchestrator.OPENCODE and self.percent > 0 else None

    @property
    def only(self) -> Orchestrator | None:
        """Who gets everything; None: there are two."""
        if self.others is None:
            return Orchestrator.OPENCODE
        return self.others if self.percent == 100 else None  # noqa: PLR2004 - percent

    @property
    def without_opencode(self) -> str | None:
        """Words for operators where nobody is answered by OpenCode; None where somebody is."""
        if self.only in {None, Orchestrator.OPENCODE}:
            return None
        return f"none is needed: {self.only} answers everything (NUBABEL_ROLLOUT)"


EVERYTHING_ON_OPENCODE = Rollout()


def _bucket(name: str) -> int:
    # Not Python's own hash, which differs from process to process.
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % _BUCKETS
