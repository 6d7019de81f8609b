"""Answers that were given lately, in memory."""

from dataclasses import dataclass, field

from nubabel_workers.domain.repeats import RememberedAnswer


@dataclass
class FakeAnswerMemory:
    answers: dict[tuple[str, str], RememberedAnswer] = field(default_factory=dict)

    async def find(self, organization_id: str, question: str) -> RememberedAnswer | None:
        return self.answers.get((organization_id, question))

    async def remember(self, organization_id: str, question: str, answer: RememberedAnswer) -> None:
        self.answers[(organization_id, question)] = answer
