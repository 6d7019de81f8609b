"""What was used, summed up by organization, user, session, model and day, as values and as CSV. Pure."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum

from nubabel_workers.domain.errors import InvalidInputError

MOST_DAYS = 366
MOST_LINES = 10_000
_BOM = "\ufeff"
# What spreadsheets take for the beginning of a formula, their wide forms too.
# Source: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA_BEGINNINGS = tuple("=+-@|\uff1d\uff0b\uff0d\uff20")


class Dimension(StrEnum):
    """What the lines of a report are told apart by."""

    ORGANIZATION = "organization"
    USER = "user"
    SESSION = "session"
    MODEL = "model"
    DAY = "day"


@dataclass(frozen=True)
class UsageQuery:
    """first, last: days (UTC), both included. by: none is one line in all. organization_id: None for all of them."""

    first: date
    last: date
    by: tuple[Dimension, ...] = ()
    organization_id: str | None = None

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise InvalidInputError("the range of days ends before it begins", code="bad_range")
        if (self.last - self.first).days >= MOST_DAYS:
            raise InvalidInputError(f"a range has at most {MOST_DAYS} days", code="bad_range")
        if len(set(self.by)) < len(self.by):
            raise InvalidInputError("a report is divided by each thing once", code="bad_division")


@dataclass(frozen=True)
class UsageLine:
    """Of a dimension that the report is not divided by: None; so is a user whom nobody named.

    cost: US dollars. lower_bound: it was more, nobody told how much. cost_computed: some of the cost is from our
    prices, not OpenCode's own number. unpriced_tokens: cost nothing here, since nobody knows a price of their model.
    """

    organization_id: str | None
    user_id: str | None
    session_id: str | None
    model: str | None
    day: date | None
    executions: int
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cost: Decimal
    lower_bound: bool
    cost_computed: bool
    unpriced_tokens: int
    organization_name: str | None = None  # where the report is divided by organization

    @property
    def total_tokens(self) -> int:
        return (
            self.input_tokens
            + self.output_tokens
            + self.reasoning_tokens
            + self.cache_read_tokens
            + self.cache_write_tokens
        )

    def of(self, dimension: Dimension) -> str:
        """What the line is about; empty where there is nobody to name."""
        named = {
            Dimension.ORGANIZATION: self.organization_id,
            Dimension.USER: self.user_id,
            Dimension.SESSION: self.session_id,
            Dimension.MODEL: self.model,
            Dimension.DAY: self.day.isoformat() if self.day else None,
        }
        return named[dimension] or ""


@dataclass(frozen=True)
class UsageReport:
    query: UsageQuery
    lines: Sequence[UsageLine]


def as_csv(report: UsageReport, *, bom: bool = True) -> str:
    """RFC 4180. Users and models are names that others chose: no cell begins as a formula.

    bom: begin with the mark by which spreadsheets know UTF-8. Without it Excel takes the code page of its machine, 949
    in Korea, and shows other names than there are.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    numbers = ("executions", "input_tokens", "output_tokens", "reasoning_tokens", "cache_read_tokens")
    marks = ("lower_bound", "cost_computed", "unpriced_tokens")
    titles = [title for one in report.query.by for title in _titles(one)]
    writer.writerow([*titles, *numbers, "cache_write_tokens", "total_tokens", "cost_usd", *marks])
    for line in report.lines:
        counts = [getattr(line, name) for name in (*numbers, "cache_write_tokens", "total_tokens")]
        said = [str(line.lower_bound).lower(), str(line.cost_computed).lower(), line.unpriced_tokens]
        names = [_cell(name) for one in report.query.by for name in _names(line, one)]
        writer.writerow([*names, *counts, f"{line.cost:f}", *said])
    return (_BOM if bom else "") + text.getvalue()


def _titles(dimension: Dimension) -> Sequence[str]:
    return ("organization", "organization_name") if dimension is Dimension.ORGANIZATION else (dimension.value,)


def _names(line: UsageLine, dimension: Dimension) -> Sequence[str]:
    """What stands under `_titles` of it."""
    more = (line.organization_name or "",) if dimension is Dimension.ORGANIZATION else ()
    return (line.of(dimension), *more)


def _cell(text: str) -> str:
    begins_badly = text.lstrip().startswith(_FORMULA_BEGINNINGS) or text[:1] in {"\t", "\r", "\n"}
    return f"'{text}" if begins_badly else text
