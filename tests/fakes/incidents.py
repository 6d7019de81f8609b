"""Incidents, counted in a list."""

from dataclasses import dataclass, field

from nubabel_workers.domain.ports import Incident


@dataclass
class FakeIncidents:
    counted: list[Incident] = field(default_factory=list)

    def count(self, incident: Incident, *, times: int = 1) -> None:
        self.counted += [incident] * times
