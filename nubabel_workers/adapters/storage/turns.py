"""Whose turn it is: how much each organization has lately used, for the order of claims.

Counted from the rows themselves, so nothing can leak or be lost. The count is kept for a moment in this process, which
adds what it claims meanwhile; another process's claims are seen that much later.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg.types.json import Jsonb

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.row_sets import OCCUPYING_SQL
from nubabel_workers.domain.limits import DEFAULT_PLAN, Plans
from nubabel_workers.domain.placement import Pool
from nubabel_workers.domain.tenants import ServersPolicy

_KEEP_S = 2.0
_MANY = 1_000_000
_SEVERAL = 2
_RUNS_COUNTED = 20_000  # bounds what one count reads; on a busy system it reaches back less far
_HALF_LIVES_COUNTED = 6
# Of so many claims, one begins with the row that has waited for longest, so that whoever is never the least used one is
# served as well. If each did, a flood would win as soon as it is old enough.
_AGED_EVERY = 10
_AGED_AMONG = 1000  # the rows, by age, among which it is looked for
# Of so many claims, one begins with what was taken over from a worker that is gone. If each did, a prompt that kills
# its worker each time would keep everybody else waiting.
_TAKEN_OVER_EVERY = 2

# The last run of each execution. One that runs counts as what it has run, and at least as what is expected of it: so
# that what has just been claimed counts at once.
USE = f"""
WITH done AS (
  SELECT organization_id, extract(epoch FROM finished_at - running_since)::float8 AS run_s,
    power(0.5::float8, extract(epoch FROM now() - finished_at)::float8 / %(half_life_s)s) AS share
  FROM executions
  WHERE finished_at > now() - make_interval(secs => %(window_s)s)
  ORDER BY finished_at DESC LIMIT %(runs)s
),
used AS (
  SELECT organization_id, sum(run_s * share) AS used_s, sum(run_s * share) / sum(share) AS expected_s
  FROM done WHERE run_s IS NOT NULL GROUP BY organization_id
),
running AS (
  SELECT e.organization_id, sum(greatest(
    extract(epoch FROM now() - e.running_since)::float8, u.expected_s, %(expected_s)s * (u.expected_s IS NULL)::int
  )) AS running_s
  FROM executions e LEFT JOIN used u ON u.organization_id = e.organization_id
  WHERE e.{OCCUPYING_SQL} GROUP BY e.organization_id
)
SELECT o.id, o.plan, o.limits, o.servers, u.expected_s, COALESCE(u.used_s, 0) + COALESCE(r.running_s, 0) AS use_s
FROM organizations o LEFT JOIN used u ON u.organization_id = o.id LEFT JOIN running r ON r.organization_id = o.id
WHERE u.organization_id IS NOT NULL OR r.organization_id IS NOT NULL OR o.limits <> '{{}}' OR o.plan <> %(plan)s
  OR o.servers <> 'shared'
"""


@dataclass(frozen=True)
class FairPolicy:
    """Times in seconds. batch_share: of the capacity, what batch requests may occupy at most.

    kept_free: of the capacity, what an organization that has its share leaves free while others are active.
    """

    half_life_s: float = 300.0
    expected_run_s: float = 30.0  # of an organization of which no run is known
    aged_after_s: float = 600.0
    kept_free: float = 0.1
    batch_share: float = 0.8


@dataclass
class Book:
    """use, step: run-seconds divided by the organization's weight, so far and for each run more.

    is_apart: it has a line of its own, to servers of its own.
    """

    use: float
    step: float
    cap: int | None  # executions in flight
    weight: float
    is_apart: bool = False


class FairTurns:
    """The parameters of a claim that say whose turn it is."""

    def __init__(
        self,
        database: Database,
        plans: Plans,
        policy: FairPolicy,
        *,
        keep_s: float = _KEEP_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._plans = plans
        self._policy = policy
        self._keep_s = keep_s
        self._monotonic = monotonic
        self._books: dict[str, Book] = {}
        self._good_until = float("-inf")
        self._claims: Counter[tuple[str, str | None]] = Counter()
        default = plans.of(DEFAULT_PLAN, {})
        self._default = Book(0.0, policy.expected_run_s / default.weight, default.in_flight, default.weight)

    async def apart(self) -> Sequence[str]:
        """The organizations that have a line of their own."""
        return [organization_id for organization_id, book in (await self._lately()).items() if book.is_apart]

    async def params(self, orchestrator: str, pool: Pool | None) -> Mapping[str, Any]:
        """pool: None, or one that does not say what it takes: nobody knows, so nothing is kept free."""
        books = await self._lately()
        line = (orchestrator, None if pool is None else pool.organization_id)
        self._claims[line] += 1
        claims = self._claims[line]  # each has turns of its own, or one might never get what others alternate
        takes = None if pool is None else pool.takes
        capacity = None if takes is None else sum(takes.values())
        in_line = {org: book for org, book in books.items() if pool is None or _is_in(pool, org, book)}
        active = [book.weight for book in in_line.values() if book.use > 0]
        share_of = self._shares(capacity, sum(active))
        return {
            "servers": None if takes is None else Jsonb([{"id": i, "takes": n} for i, n in takes.items()]),
            "pool": None if pool is None else pool.organization_id,
            "apart": [] if pool is None else [org for org, book in books.items() if book.is_apart],
            "books": Jsonb(
                [
                    {"org": org, "use": book.use, "step": book.step, "share": share_of(book), "cap": book.cap}
                    for org, book in in_line.items()
                ]
            ),
            "step": self._default.step,
            "cap": self._default.cap,
            "share": share_of(self._default),
            "kept_free": self._kept_free(capacity, len(active)),
            "batch_places": self._batch_places(capacity),
            "aged_after_s": self._policy.aged_after_s,
            "taken_over": claims % _TAKEN_OVER_EVERY == 0,
            "aged_among": 0 if claims % _AGED_EVERY else _AGED_AMONG,
        }

    async def _lately(self) -> Mapping[str, Book]:
        if self._monotonic() >= self._good_until:
            self._books = await self.count()
            self._good_until = self._monotonic() + self._keep_s
        return self._books

    def _shares(self, capacity: int | None, weights: float) -> Callable[[Book], int | None]:
        """Of all places, by weight among those that are active. weights: theirs, all together."""

        def share_of(book: Book) -> int | None:
            if capacity is None:
                return None
            return math.ceil(capacity * book.weight / (weights if book.use > 0 else weights + book.weight))

        return share_of

    def _kept_free(self, capacity: int | None, active: int) -> int:
        """Rounded up, so that a small fleet keeps one; never all of it, and nothing for one that is alone."""
        if not capacity or active < _SEVERAL:
            return 0
        return min(math.ceil(capacity * self._policy.kept_free), capacity - 1)

    def _batch_places(self, capacity: int | None) -> int:
        """Never none: on a server that takes one run, a batch request would wait for ever."""
        return _MANY if capacity is None else max(1, int(capacity * self._policy.batch_share))

    def claimed(self, organizations: Iterable[str]) -> None:
        """What was claimed counts at once, each as a run of the expected length."""
        for organization in organizations:
            default = self._default
            book = self._books.setdefault(organization, replace(default))
            book.use += book.step

    async def count(self) -> dict[str, Book]:
        """From scratch; organizations that are not in it have used nothing and have the default plan."""
        policy = self._policy
        rows = await self._database.system().all(
            USE,
            {
                "half_life_s": policy.half_life_s,
                "window_s": policy.half_life_s * _HALF_LIVES_COUNTED,
                "runs": _RUNS_COUNTED,
                "expected_s": policy.expected_run_s,
                "plan": DEFAULT_PLAN,
            },
        )
        return {row["id"]: self._book(row) for row in rows}

    def _book(self, row: Mapping[str, Any]) -> Book:
        limits = self._plans.of(row["plan"], row["limits"])
        expected_s = self._policy.expected_run_s if row["expected_s"] is None else row["expected_s"]
        step_s = max(expected_s, 0.001)
        is_apart = row["servers"] == ServersPolicy.DEDICATED
        return Book(row["use_s"] / limits.weight, step_s / limits.weight, limits.in_flight, limits.weight, is_apart)


def _is_in(pool: Pool, organization_id: str, book: Book) -> bool:
    return not book.is_apart if pool.organization_id is None else organization_id == pool.organization_id
