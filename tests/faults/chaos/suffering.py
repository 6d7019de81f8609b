"""What a run had to suffer, as it was. Pure values, monotonic seconds."""

from dataclasses import dataclass

from tests.faults.chaos.plan import FaultKind


@dataclass(frozen=True, slots=True)
class Suffered:
    """ended: when the rig had stopped doing harm, or had repaired it."""

    kind: FaultKind
    target: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Takeover:
    """A worker killed while it held a job. waited_s: from SIGKILL to the next call for it; None: none was seen."""

    worker: str
    waited_s: float | None
