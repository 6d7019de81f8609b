"""Dead letters in a list."""

from dataclasses import dataclass, field
from typing import cast

from nubabel_workers.domain.dead_letters import NewDeadLetter
from nubabel_workers.domain.ports import DeadLetterStore


@dataclass
class FakeDeadLetters:
    added: list[NewDeadLetter] = field(default_factory=list)

    async def add(self, new: NewDeadLetter) -> str:
        self.added.append(new)
        return f"dlt_{len(self.added):026d}"

    def store(self) -> DeadLetterStore:
        """As the port; what operators do with dead letters is not faked."""
        return cast("DeadLetterStore", self)
