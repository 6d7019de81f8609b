"""Hints that were published, in a list."""

from dataclasses import dataclass, field

from nubabel_workers.domain.hints import Hint, HintTask


@dataclass
class FakeHints:
    published: list[Hint] = field(default_factory=list)

    def publish(self, hint: Hint) -> None:
        self.published.append(hint)

    def rows(self, task: HintTask) -> list[str]:
        return [hint.row_id for hint in self.published if hint.task is task]
