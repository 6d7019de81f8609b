"""What the services that work on claimed rows share: how much they take, and the line that Flower shows."""

from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchLimits:
    """batch: rows per claim. rows_per_task: after that many a task ends and leaves the rest to the next hint.

    lone_deliveries: how often a suspect row is tried alone before it is set aside.
    """

    batch: int = 32
    rows_per_task: int = 256
    lone_deliveries: int = 5


class Tally:
    """Counts what happened to which rows; as text: `3 dispatched exe_a exe_b exe_c; 1 again exe_d`."""

    _SHOWN = 4

    def __init__(self) -> None:
        self._rows: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, word: str, row_id: str) -> None:
        self._rows[word].append(row_id)

    @property
    def total(self) -> int:
        return sum(len(ids) for ids in self._rows.values())

    def __str__(self) -> str:
        parts = []
        for word, ids in self._rows.items():
            shown = " ".join(ids[: self._SHOWN]) + (" …" if len(ids) > self._SHOWN else "")
            parts.append(f"{len(ids)} {word} {shown}")
        return "; ".join(parts) or "nothing to do"
