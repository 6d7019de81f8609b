"""What processes share and may lose at any time: mappings, progress, limits, hints."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nubabel_workers.domain.circuit_breaker import CallKind, CallOutcome, Gate
from nubabel_workers.domain.hints import Hint
from nubabel_workers.domain.progress import ProgressItem, ProgressSource
from nubabel_workers.domain.repeats import RememberedAnswer


@dataclass(frozen=True)
class SessionMapping:
    """A Nubabel session's place on OpenCode."""

    instance_id: str
    opencode_session_id: str
    directory: str | None


class SessionMappings(Protocol):
    """Redis (24 h) in front of PostgreSQL, both directions."""

    async def find(self, organization_id: str, session_id: str) -> SessionMapping | None: ...
    async def session_of(self, instance_id: str, opencode_session_id: str) -> tuple[str, str] | None:
        """(organization, Nubabel session) of an OpenCode session."""
        ...

    async def root_of(self, instance_id: str, opencode_session_id: str) -> str | None:
        """The root of a sub-agent's session that was remembered."""
        ...

    async def remember_root(self, instance_id: str, opencode_session_id: str, root_id: str) -> None: ...
    async def remember(self, organization_id: str, session_id: str, mapping: SessionMapping) -> None: ...
    async def forget(self, organization_id: str, session_id: str) -> None: ...


class ProgressStream(Protocol):
    """One bounded, expiring stream per execution; lossy by design."""

    async def append(self, organization_id: str, execution_id: str, event: Mapping[str, Any]) -> None: ...
    async def tell(
        self, organization_id: str, execution_id: str, items: Sequence[ProgressItem], source: ProgressSource
    ) -> int:
        """Append what is news, see `domain.progress`; how many that was. The same item of two sources is told once."""
        ...

    def read(
        self, organization_id: str, execution_id: str, *, after: str, idle_s: float
    ) -> AsyncIterator[tuple[str, Mapping[str, Any]] | None]:
        """Events after that id, then live; None after each idle_s seconds without one."""
        ...


class AnswerMemory(Protocol):
    """Answers that were given lately, by organization and question. One that is away or wrong in form is empty."""

    async def find(self, organization_id: str, question: str) -> RememberedAnswer | None: ...
    async def remember(self, organization_id: str, question: str, answer: RememberedAnswer) -> None: ...


class Throttle(Protocol):
    """Shared, expiring counters: other sides' limits that we keep or were told."""

    async def take(self, key: str, *, per_s: float, limit: int, wanted: int = 1) -> int:
        """How many of `wanted` are allowed in the current window of per_s seconds."""
        ...

    async def blocked_for_s(self, key: str) -> float:
        """Seconds until a block that somebody was told about ends; 0 when there is none."""
        ...

    async def block(self, key: str, *, for_s: float) -> None: ...


class CircuitBreakers(Protocol):
    """One breaker per OpenCode server, shared by all processes. Without the shared state every call may go.

    What a process saw is shared when it says report(); between two of those nothing is exchanged.
    """

    def saw(self, instance_id: str, kind: CallKind, outcome: CallOutcome, *, began_ago_s: float = 0.0) -> None: ...

    async def gates(self) -> Mapping[str, Gate]:
        """Servers whose breaker is not closed."""
        ...

    async def take_probe(self, instance_id: str) -> bool:
        """Whether this process may make the one call that decides; the next report() tells what came of it."""
        ...

    async def report(self) -> list[str]:
        """Share what was seen since the last report; servers whose breaker that has closed."""
        ...


class HintPublisher(Protocol):
    """Best effort and never waiting: a lost hint costs a moment, the row is there."""

    def publish(self, hint: Hint) -> None: ...
