"""Leases: for how long a process may act on a row it claimed."""

from dataclasses import dataclass


@dataclass
class Lease:
    """A claim on a batch of rows.

    token: written into the rows; every later change of them is conditional on it. until_monotonic: the moment on
    this process's own monotonic clock (which goes on while the process is stopped) after which the rows may belong
    to another process. It is counted from before the claiming statement was sent, so it is never later than the
    database's own.
    """

    token: str
    until_monotonic: float

    def remaining_s(self, now_monotonic: float) -> float:
        return self.until_monotonic - now_monotonic
