"""Report what was used, for operators and for an organization itself."""

from collections.abc import Sequence
from datetime import date

from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.ports import Clock
from nubabel_workers.domain.ports.administration import UsageReports
from nubabel_workers.domain.usage_report import MOST_LINES, Dimension, UsageQuery, UsageReport


class ReadUsage:
    def __init__(self, reports: UsageReports, clock: Clock) -> None:
        self._reports = reports
        self._clock = clock

    async def run(
        self,
        *,
        organization_id: str | None,
        by: Sequence[Dimension] = (),
        first: date | None = None,
        last: date | None = None,
    ) -> UsageReport:
        """Without days: this month until today. Raises InvalidInputError for a range or division that makes no sense,
        and for a report of too many lines.
        """
        last = last or max(self._clock.now().date(), first or date.min)
        query = UsageQuery(first=first or last.replace(day=1), last=last, by=tuple(by), organization_id=organization_id)
        lines = await self._reports.lines(query, limit=MOST_LINES + 1)
        if len(lines) > MOST_LINES:
            raise InvalidInputError(
                f"more than {MOST_LINES} lines: ask for fewer days, or divide by less", code="too_many_lines"
            )
        return UsageReport(query, lines)
