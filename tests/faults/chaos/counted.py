"""What the system counts for its decisions, beside the same counted from single rows by the rules in its documents.

Each check takes what was counted and the rows, so that a test can plant a difference.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.turns import FairPolicy, FairTurns
from nubabel_workers.bootstrap import Services
from nubabel_workers.bootstrap.policies import fair_policy
from nubabel_workers.domain.admission import Occupied
from nubabel_workers.domain.budgets import Amount
from tests.faults.chaos.patience import until_done

Row = Mapping[str, Any]

_TOLERATED = 0.000001  # dollars
_TOKENS = ("input_tokens", "output_tokens", "reasoning_tokens", "cache_read_tokens", "cache_write_tokens")
_WAITS = "queued"
_ON_A_SERVER = frozenset({"dispatching", "running", "waiting_input"})
_IN_ITS_SESSION = _ON_A_SERVER | {"waiting_budget"}

EXECUTIONS = """
SELECT organization_id, session_id, status, instance_id, extract(epoch FROM running_since)::float8 AS running_since,
  extract(epoch FROM finished_at)::float8 AS finished_at, extract(epoch FROM now())::float8 AS now_s
FROM executions
"""
_ATTEMPTS = """
SELECT organization_id, usage, (ended_at AT TIME ZONE 'UTC')::date = (now() AT TIME ZONE 'UTC')::date AS today,
  date_trunc('month', ended_at AT TIME ZONE 'UTC') = date_trunc('month', now() AT TIME ZONE 'UTC') AS this_month
FROM attempts WHERE usage IS NOT NULL AND ended_at IS NOT NULL
"""
_PLACES = """
SELECT i.id, i.max_directories, free_directories(i.id) AS free,
  ARRAY(SELECT d.path FROM instance_directories d WHERE d.instance_id = i.id AND d.state <> 'disposed') AS held
FROM instances i WHERE i.status <> 'removed'
"""


async def miscounted(
    services: Services, organizations: Collection[str], loaded: Mapping[str, Collection[str]]
) -> list[str]:
    """organizations: ids. loaded: by server's id, the organizations' directories that it says it has loaded.

    In words, what is not as counted from the rows.
    """
    database = services.database
    executions = await until_done(lambda: database.system().all(EXECUTIONS))
    attempts = await until_done(lambda: database.system().all(_ATTEMPTS))
    places = await until_done(lambda: database.system().all(_PLACES))
    occupied = {one: await until_done(lambda: services.admission.occupied(one)) for one in organizations}  # noqa: B023
    books = {one: (await until_done(lambda: services.keep_budgets.books(one)))[1] for one in organizations}  # noqa: B023
    in_flight = {str(one.id): one.in_flight for one in await until_done(services.instances.loads)}
    return [
        *wrong_occupied(occupied, executions),
        *wrong_in_flight(in_flight, executions),
        *wrong_used("today", {one: each.today for one, each in books.items()}, attempts),
        *wrong_used("this_month", {one: each.this_month for one, each in books.items()}, attempts),
        *wrong_places(places, loaded),
        *await fair_use_miscounted(database, services),
    ]


async def fair_use_miscounted(database: Database, services: Services) -> list[str]:
    """What counts as lately used decays all the time: the system's count lies between one before it and one after."""
    policy = fair_policy(services.settings)
    before = await until_done(lambda: database.system().all(EXECUTIONS))
    counted = await until_done(FairTurns(database, services.plans, policy).count)
    after = await until_done(lambda: database.system().all(EXECUTIONS))
    use_s = {organization_id: book.use * book.weight for organization_id, book in counted.items()}
    return wrong_fair_use(use_s, before, after, policy)


def wrong_occupied(counted: Mapping[str, Occupied], executions: Sequence[Row]) -> list[str]:
    """What limits of waiting requests and of conversations are compared with."""
    queued = Counter(row["organization_id"] for row in executions if row["status"] == _WAITS)
    sessions: defaultdict[str, set[str]] = defaultdict(set)
    for row in executions:
        if row["status"] in _IN_ITS_SESSION | {_WAITS}:
            sessions[row["organization_id"]].add(row["session_id"])
    return [
        f"requests or conversations of {one} that count: {count}, by the rows {expected}"
        for one, count in counted.items()
        if count != (expected := Occupied(queued[one], len(sessions[one])))
    ]


def wrong_in_flight(counted: Mapping[str, int], executions: Sequence[Row]) -> list[str]:
    """Servers' places."""
    places = Counter(row["instance_id"] for row in executions if row["status"] in _ON_A_SERVER)
    return [
        f"places of {one} that are taken: {count}, by the rows {places[one]}"
        for one, count in counted.items()
        if count != places[one]
    ]


def wrong_used(period: str, counted: Mapping[str, Amount], attempts: Sequence[Row]) -> list[str]:
    """What caps of money and tokens are compared with. period: the column that says whether an attempt is in it."""
    cost: defaultdict[str, float] = defaultdict(float)
    tokens: Counter[str] = Counter()
    for row in attempts:
        if row[period]:
            cost[row["organization_id"]] += float(row["usage"].get("cost") or 0)
            tokens[row["organization_id"]] += sum(int(row["usage"].get(name) or 0) for name in _TOKENS)
    return [
        f"used {period} by {one}: {amount}, by its attempts {Amount(cost[one], tokens[one])}"
        for one, amount in counted.items()
        if abs(amount.cost - cost[one]) > _TOLERATED or amount.tokens != tokens[one]
    ]


def wrong_places(places: Sequence[Row], loaded: Mapping[str, Collection[str]]) -> list[str]:
    """Directories of organizations: what is free, and what a server has loaded without a place for it."""
    found = [
        f"free places for directories of {row['id']}: {row['free']}, by the rows {row['max_directories']} less "
        f"{len(row['held'])}"
        for row in places
        if row["free"] != row["max_directories"] - len(row["held"])
    ]
    without = {row["id"]: set(loaded.get(row["id"], ())) - set(row["held"]) for row in places}
    found += [
        f"directories loaded on {one} that hold no place: {', '.join(sorted(paths))}"
        for one, paths in without.items()
        if paths
    ]
    return found


def wrong_fair_use(
    counted: Mapping[str, float], before: Sequence[Row], after: Sequence[Row], policy: FairPolicy
) -> list[str]:
    """counted: run-seconds by organization, taken between the two readings of the rows."""
    most, least = _used_s(before, policy), _used_s(after, policy)
    return [
        f"run-seconds of {one} that count: {counted.get(one, 0.0):.6f}, by the rows {least[one]:.6f} to {most[one]:.6f}"
        for one in sorted({*counted, *most})
        if not least[one] * (1 - _TOLERATED) - _TOLERATED
        <= counted.get(one, 0.0)
        <= most[one] * (1 + _TOLERATED) + _TOLERATED
    ]


def _used_s(executions: Sequence[Row], policy: FairPolicy) -> defaultdict[str, float]:
    """Of runs that ended: each second counts half after half_life_s, and nothing after six times as long."""
    used: defaultdict[str, float] = defaultdict(float)
    for row in executions:
        if row["finished_at"] is None or row["running_since"] is None:
            continue
        age_s = row["now_s"] - row["finished_at"]
        if age_s < 6 * policy.half_life_s:
            run_s = row["finished_at"] - row["running_since"]
            used[row["organization_id"]] += run_s * math.pow(0.5, age_s / policy.half_life_s)
    return used
