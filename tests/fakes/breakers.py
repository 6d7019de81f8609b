"""Circuit breakers in the states that a test says."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nubabel_workers.domain.circuit_breaker import CallKind, CallOutcome, Gate


@dataclass
class FakeBreakers:
    at: dict[str, Gate] = field(default_factory=dict)
    seen: list[tuple[str, CallOutcome]] = field(default_factory=list)

    def saw(self, instance_id: str, kind: CallKind, outcome: CallOutcome, *, began_ago_s: float = 0.0) -> None:
        """Nobody decides anything here."""
        self.seen.append((instance_id, outcome))

    async def gates(self) -> Mapping[str, Gate]:
        return self.at

    async def take_probe(self, instance_id: str) -> bool:
        return self.at[instance_id].lets_probe

    async def report(self) -> list[str]:
        return []
