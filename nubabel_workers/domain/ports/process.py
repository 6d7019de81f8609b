"""Time and chance, which make a process's decisions differ from run to run, and what it counts."""

from datetime import datetime
from enum import StrEnum
from typing import Protocol


class Clock(Protocol):
    """This process's time. Times that two processes compare come from the database instead (DESIGN invariant 11)."""

    def now(self) -> datetime: ...
    def monotonic(self) -> float: ...


class Chance(Protocol):
    """Randomness, injected so that decisions can be tested."""

    def jitter(self) -> float:
        """A number in [0, 1)."""
        ...

    def new_id(self, prefix: str) -> str: ...

    def new_traceparent(self) -> str:
        """A new W3C trace context, as the header's value."""
        ...


class Ends(Protocol):
    """Executions that ended, counted by who answered them: what a rollout is judged by."""

    def execution_ended(self, orchestrator: str, status: str, *, organization_id: str, after_s: float) -> None:
        """status: as it ended; `canned` where a fixed sentence stood for an answer. after_s: since it was accepted."""
        ...


class Incident(StrEnum):
    """Rare things that are dealt with, and counted because a growing number says that something is wrong."""

    LATE_PROMPT = "late_prompt"  # posted to OpenCode by a process that had lost its lease meanwhile
    STRAY_RUN = "stray_run"  # a run on OpenCode that belonged to nobody: stopped
    LEASE_TAKEOVER = "lease_takeover"  # a row whose process was gone, or stopped for longer than its lease
    FOREIGN_SESSION = "foreign_session"  # an OpenCode server, or its plugin, spoke of a session that is another's
    FOREIGN_ID = "foreign_id"  # a caller named what is another organization's: it was told that there is no such thing
    FOREIGN_ID_UNSEEN = "foreign_id_unseen"  # an id that a caller's organization does not have: nobody saw whose it is
    MARKED_REPEAT = "marked_repeat"  # a Slack post of unknown outcome, posted once more and marked


class Incidents(Protocol):
    def count(self, incident: Incident, *, times: int = 1) -> None: ...
