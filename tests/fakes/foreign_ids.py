"""Whose ids are, as a test says it, and the report of those who name another's."""

from dataclasses import dataclass, field

from nubabel_workers.domain.errors import UnavailableError
from nubabel_workers.domain.foreign_ids import IdKind
from nubabel_workers.services.report_foreign_ids import ReportForeignIds
from tests.fakes.administration import FakeAudit
from tests.fakes.clock import FakeClock
from tests.fakes.incidents import FakeIncidents
from tests.fakes.throttle import FakeThrottle


@dataclass
class FakeIdOwners:
    """of: id -> organizations. asked: every look. away: as when the database is not there."""

    of: dict[str, frozenset[str]] = field(default_factory=dict)
    asked: list[tuple[IdKind, str]] = field(default_factory=list)
    away: bool = False

    async def owners(self, kind: IdKind, name: str) -> frozenset[str]:
        self.asked.append((kind, name))
        if self.away:
            raise UnavailableError("the database cannot be reached")
        return self.of.get(name, frozenset())


def no_foreign_ids() -> ReportForeignIds:
    """Where nothing is anybody's."""
    return ReportForeignIds(FakeIdOwners(), FakeAudit(), FakeIncidents(), FakeThrottle(FakeClock()))
