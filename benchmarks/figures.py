"""What a run found, and how it is shown: tables in Markdown, figures as JSON."""

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

_MS = 1000.0


@dataclass(frozen=True)
class Figure:
    """One line of the table. value, aim and floor in the unit. None: there is none.

    An aim is met by a value below it; by one that is not below it where at_least.
    """

    row: str
    what: str
    value: float | None
    unit: str
    aim: float | None = None
    floor: float | None = None
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.aim is None:
            return ""
        return "met" if self.value is not None and (self.value < self.aim) is not self.at_least else "MISSED"

    @property
    def shown_aim(self) -> str:
        if self.aim is None:
            return ""
        return f"{'>=' if self.at_least else '<'} {_shown(self.aim)}"


@dataclass
class Report:
    """Figures in the order of their rows. split: table name -> line -> column -> figure."""

    machine: Mapping[str, Any]
    figures: list[Figure] = field(default_factory=list)
    split: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(
        self,
        row: str,
        what: str,
        value: float | None,
        unit: str,
        *,
        aim: float | None = None,
        floor: float | None = None,
        at_least: bool = False,
    ) -> None:
        self.figures.append(Figure(row, what, value, unit, aim, floor, at_least))

    def add_column(self, table: str, column: str, values: Mapping[str, float]) -> None:
        lines = self.split.setdefault(table, {})
        for line, value in values.items():
            lines.setdefault(line, {})[column] = value

    def as_json(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "figures": [
                {
                    "row": one.row,
                    "what": one.what,
                    "value": one.value,
                    "unit": one.unit,
                    "aim": one.aim,
                    "aim_is": "at least" if one.at_least else "below",
                    "floor": one.floor,
                    "verdict": one.verdict,
                }
                for one in self.figures
            ],
            "tables": self.split,
            "notes": self.notes,
            "problems": self.problems,
        }

    def as_markdown(self) -> str:
        parts = [", ".join(f"{name} {value}" for name, value in self.machine.items())]
        parts.append(
            _table(
                ("row", "measured", "value", "floor", "aim", ""),
                [
                    (
                        one.row,
                        one.what,
                        f"{_shown(one.value)} {one.unit}",
                        _shown(one.floor) if one.floor is not None else "",
                        one.shown_aim,
                        one.verdict,
                    )
                    for one in self.figures
                ],
            )
        )
        for name, lines in self.split.items():
            columns = list(dict.fromkeys(column for values in lines.values() for column in values))
            rows = [(line, *(_shown(values.get(column)) for column in columns)) for line, values in lines.items()]
            parts.append(f"**{name}**\n\n" + _table(("", *columns), rows))
        parts.extend(self.notes)
        parts.extend(f"PROBLEM: {problem}" for problem in self.problems)
        return "\n\n".join(parts) + "\n"


def percentile(values: Iterable[float], share: float) -> float | None:
    """The value below which that share of the values lies; None without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


async def median_ms(call: Callable[[], Awaitable[object]], calls: int) -> float:
    """Of so many, one after the other."""
    taken = []
    for _ in range(calls):
        started = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - started)
    return median(taken) * _MS


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (head, *rows)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
