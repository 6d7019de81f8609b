"""Whose turn it is: claims in fair turns of organizations, on a real PostgreSQL."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from psycopg.types.json import Jsonb

from nubabel_workers.adapters.process import SystemChance, SystemClock
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.executions import PostgresExecutions
from nubabel_workers.adapters.storage.turns import FairPolicy, FairTurns
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.limits import parse_plans
from nubabel_workers.domain.placement import Pool
from tests.integration.storage.seeds import POOL, ExecutionSeed, add_execution, add_organization, pool_of

pytestmark = pytest.mark.integration

PLANS = parse_plans({"plans": {"heavy": {"weight": 3}, "narrow": {"in_flight": 2}}})
_numbers = itertools.count(1)


@pytest.fixture
def leases() -> Iterator[Lease]:
    return (Lease(f"lse_{number}", 1e12) for number in itertools.count())


def store(database: Database, *, keep_s: float = 1000.0, batch_share: float = 0.8) -> PostgresExecutions:
    policy = FairPolicy(expected_run_s=10.0, batch_share=batch_share)
    turns = FairTurns(database, PLANS, policy, keep_s=keep_s)
    return PostgresExecutions(database, SystemClock(), SystemChance(), turns, lease_s=10)


async def organizations(database: Database, *ids: str, plan: str = "default", servers: str = "shared") -> None:
    for organization_id in ids:
        await add_organization(database, organization_id)
        await database.system().execute(
            "UPDATE organizations SET plan = %(plan)s, servers = %(servers)s WHERE id = %(id)s",
            {"plan": plan, "servers": servers, "id": organization_id},
        )


async def waiting(database: Database, organization_id: str, count: int, **columns: Any) -> list[str]:
    seeds = [
        ExecutionSeed(f"exe_{organization_id}_{next(_numbers)}", organization_id, columns=columns) for _ in range(count)
    ]
    return [await add_execution(database, seed) for seed in seeds]


async def has_run(database: Database, organization_id: str, *, for_s: float, ended_s_ago: float) -> None:
    (execution_id,) = await waiting(database, organization_id, 1)
    await database.system().execute(
        """UPDATE executions SET status = 'completed', finished_at = now() - make_interval(secs => %(ago)s),
             running_since = now() - make_interval(secs => %(ago)s + %(for_s)s) WHERE id = %(id)s""",
        {"id": execution_id, "ago": ended_s_ago, "for_s": for_s},
    )


async def claimed(executions: PostgresExecutions, lease: Lease, limit: int, pool: Pool = POOL) -> list[str]:
    rows = await executions.claim_queued(pool=pool, limit=limit, lease=lease)
    return [str(row.execution.id) for row in rows]


def by_organization(ids: list[str]) -> Mapping[str, int]:
    return Counter(one.split("_")[1] + "_" + one.split("_")[2] for one in ids)


async def test_a_batch_spreads_over_organizations(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a", "org_b")
    await waiting(database, "org_a", 20)
    await waiting(database, "org_b", 3)

    taken = await claimed(store(database), next(leases), 8)

    assert by_organization(taken) == {"org_a": 5, "org_b": 3}


async def in_one_session(database: Database, ids: list[str]) -> None:
    await database.system().execute(
        """UPDATE executions e SET session_id = f.session_id FROM executions f
           WHERE f.id = %(first)s AND e.id = ANY(%(ids)s)""",
        {"first": ids[0], "ids": ids},
    )


async def test_follow_ups_that_wait_for_their_session_keep_nobodys_place(
    database: Database, leases: Iterator[Lease]
) -> None:
    await organizations(database, "org_a", "org_b")
    await has_run(database, "org_b", for_s=2000, ended_s_ago=1)
    await in_one_session(database, await waiting(database, "org_a", 40))
    await waiting(database, "org_b", 40)
    executions = store(database)

    (first,) = await executions.claim_queued(pool=POOL, limit=8, lease=next(leases))
    then = await claimed(executions, next(leases), 8)

    assert first.others_wait
    assert by_organization(then) == {"org_b": 8}


async def test_a_claim_that_took_all_there_is_says_so(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a", "org_b")
    await waiting(database, "org_a", 2)
    await waiting(database, "org_b", 1)

    rows = await store(database).claim_queued(pool=POOL, limit=8, lease=next(leases))

    assert [row.others_wait for row in rows] == [False] * 3


async def test_whoever_has_lately_used_less_comes_first(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a", "org_b")
    await has_run(database, "org_a", for_s=100, ended_s_ago=1)
    await has_run(database, "org_b", for_s=1, ended_s_ago=1)
    await waiting(database, "org_a", 3)
    await waiting(database, "org_b", 3)

    assert by_organization(await claimed(store(database), next(leases), 3)) == {"org_b": 3}


async def test_what_was_used_long_ago_counts_less(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a", "org_b")
    await has_run(database, "org_a", for_s=100, ended_s_ago=1200)  # four half-lives
    await has_run(database, "org_b", for_s=20, ended_s_ago=1)
    await waiting(database, "org_a", 1)
    await waiting(database, "org_b", 1)

    assert by_organization(await claimed(store(database), next(leases), 1)) == {"org_a": 1}


async def test_a_weight_is_a_share(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a")
    await organizations(database, "org_b", plan="heavy")
    await waiting(database, "org_a", 20)
    await waiting(database, "org_b", 20)

    assert by_organization(await claimed(store(database), next(leases), 12)) == {"org_a": 3, "org_b": 9}


async def test_what_one_claim_took_counts_in_the_next_at_once(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a", "org_b")
    await waiting(database, "org_a", 10)
    await waiting(database, "org_b", 10)
    executions = store(database)

    taken = [one for _ in range(6) for one in await claimed(executions, next(leases), 1)]

    assert by_organization(taken) == {"org_a": 3, "org_b": 3}


async def test_what_other_processes_run_is_counted_from_the_rows(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a", "org_b")
    await waiting(database, "org_a", 10)
    await claimed(store(database), next(leases), 4)
    await waiting(database, "org_b", 10)

    assert by_organization(await claimed(store(database, keep_s=0), next(leases), 4)) == {"org_b": 4}


async def test_what_was_taken_over_from_a_dead_worker_waits_for_no_other_turn(
    database: Database, leases: Iterator[Lease]
) -> None:
    await organizations(database, "org_a", "org_b")
    await has_run(database, "org_a", for_s=1000, ended_s_ago=1)
    (taken_over,) = await waiting(database, "org_a", 1, suspect=True)
    await waiting(database, "org_b", 50)
    executions = store(database)

    first_two = [await claimed(executions, next(leases), 5) for _ in range(2)]

    assert [taken_over] in first_two
    assert Counter(map(len, first_two)) == {1: 1, 5: 1}  # alone, and between two of the others


async def active(database: Database, *ids: str) -> None:
    for organization_id in ids:
        await has_run(database, organization_id, for_s=1, ended_s_ago=1)


async def test_a_flood_leaves_some_places_to_others_that_are_active(
    database: Database, leases: Iterator[Lease]
) -> None:
    await organizations(database, "org_a", "org_b")
    await active(database, "org_a", "org_b")
    await waiting(database, "org_a", 30)
    executions = store(database, keep_s=0)

    flood = await claimed(executions, next(leases), 20, pool=pool_of(ins_a=20))
    await waiting(database, "org_b", 1)
    newcomer = await claimed(executions, next(leases), 2, pool=pool_of(ins_a=20))

    assert (len(flood), by_organization(newcomer)) == (18, {"org_b": 1})


async def test_what_others_have_taken_is_left_free_anew(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a", "org_b")
    await active(database, "org_a", "org_b")
    await database.system().execute("INSERT INTO instances (id, url) VALUES ('ins_a', 'http://localhost')")
    await waiting(database, "org_b", 2, status="running", instance_id="ins_a")
    await waiting(database, "org_a", 30)

    assert len(await claimed(store(database), next(leases), 20, pool=pool_of(ins_a=20))) == 16


async def test_organizations_that_all_wait_share_every_place(database: Database, leases: Iterator[Lease]) -> None:
    ids = [f"org_{letter}" for letter in "abcde"]
    await organizations(database, *ids)
    await active(database, *ids)
    for organization_id in ids:
        await waiting(database, organization_id, 10)
    executions = store(database, keep_s=0)

    taken = [one for _ in range(7) for one in await claimed(executions, next(leases), 3, pool=pool_of(ins_a=20))]

    assert by_organization(taken) == dict.fromkeys(ids, 4)


async def test_a_share_is_by_weight(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a")
    await organizations(database, "org_b", plan="heavy")
    await active(database, "org_a", "org_b")
    await waiting(database, "org_a", 20)
    await waiting(database, "org_b", 20)

    taken = await claimed(store(database), next(leases), 20, pool=pool_of(ins_a=20))

    assert by_organization(taken) == {"org_a": 5, "org_b": 15}


async def test_who_is_alone_may_have_every_place(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a", "org_b")
    await has_run(database, "org_a", for_s=1, ended_s_ago=1)
    await waiting(database, "org_a", 30)

    assert len(await claimed(store(database), next(leases), 20, pool=pool_of(ins_a=20))) == 20


async def test_an_organization_at_its_limit_in_flight_is_passed_over(
    database: Database, leases: Iterator[Lease]
) -> None:
    await organizations(database, "org_a", plan="narrow")
    await organizations(database, "org_b")
    await waiting(database, "org_a", 5)
    await waiting(database, "org_b", 5)
    executions = store(database)

    first = await claimed(executions, next(leases), 6)
    second = await claimed(executions, next(leases), 6)

    assert by_organization(first) == {"org_a": 2, "org_b": 4}
    assert by_organization(second) == {"org_b": 1}


async def test_claims_at_once_do_not_exceed_what_the_servers_take(database: Database, leases: Iterator[Lease]) -> None:
    """What was claimed and is on its way to a server counts: without that, twenty places held twenty-seven."""
    await organizations(database, "org_a")
    await waiting(database, "org_a", 30)
    stores = [store(database) for _ in range(4)]

    taken = await asyncio.gather(
        *(claimed(executions, next(leases), 5, pool=pool_of(ins_a=4, ins_b=3)) for executions in stores)
    )

    assert sum(map(len, taken)) == 7


async def test_what_waits_for_its_budget_holds_no_place(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a")
    await waiting(database, "org_a", 3, status="waiting_budget")
    await waiting(database, "org_a", 3)

    assert len(await claimed(store(database), next(leases), 3, pool=pool_of(ins_a=2))) == 2


async def test_a_server_with_more_than_it_takes_costs_the_others_nothing(
    database: Database, leases: Iterator[Lease]
) -> None:
    """One that came back takes less than all of its capacity for a while, and has its runs of before."""
    await organizations(database, "org_a")
    await database.system().execute("INSERT INTO instances (id, url) VALUES ('ins_a', 'http://localhost')")
    await waiting(database, "org_a", 5, status="running", instance_id="ins_a")
    await waiting(database, "org_a", 5)

    assert len(await claimed(store(database), next(leases), 5, pool=pool_of(ins_a=2, ins_b=3))) == 3


async def test_claims_at_once_do_not_exceed_a_limit_in_flight(database: Database, leases: Iterator[Lease]) -> None:
    """Without the count behind the lock, one round of seven had three in flight."""
    await organizations(database, "org_a", plan="narrow")
    stores = [store(database) for _ in range(4)]
    in_flight: list[int] = []
    for _ in range(50):
        await waiting(database, "org_a", len(stores))

        await asyncio.gather(*(claimed(executions, next(leases), 1) for executions in stores))

        in_flight += [
            (await database.system().all("SELECT count(*) FROM executions WHERE status = 'dispatching'"))[0]["count"]
        ]
        await database.system().execute("DELETE FROM executions")

    assert max(in_flight) == 2


async def test_a_dead_worker_gives_its_slots_back_by_its_lease(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a", plan="narrow")
    await waiting(database, "org_a", 3)
    executions = store(database)
    await claimed(executions, next(leases), 3)
    assert await claimed(executions, next(leases), 3) == []

    await database.system().execute(
        "UPDATE executions SET status = 'queued', lease_owner = NULL, lease_until = NULL WHERE status = 'dispatching'"
    )

    assert len(await claimed(executions, next(leases), 3)) == 2


async def test_own_limits_of_an_organization_count(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a")
    await database.system().execute("UPDATE organizations SET limits = %(own)s", {"own": Jsonb({"in_flight": 1})})
    await waiting(database, "org_a", 3)

    assert len(await claimed(store(database), next(leases), 3)) == 1


async def test_a_flood_waits_for_who_has_used_less_and_goes_on_in_its_order(
    database: Database, leases: Iterator[Lease]
) -> None:
    await organizations(database, "org_a", "org_b")
    await has_run(database, "org_a", for_s=100, ended_s_ago=1)
    flood = await waiting(database, "org_a", 10)
    (other,) = await waiting(database, "org_b", 1)
    executions = store(database)

    assert await claimed(executions, next(leases), 1) == [other]
    assert await claimed(executions, next(leases), 1) == [flood[0]]


async def test_interactive_requests_come_before_batch_ones(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a")
    batch = await waiting(database, "org_a", 3, batch=True)
    interactive = await waiting(database, "org_a", 2)

    assert await claimed(store(database), next(leases), 3) == [batch[0], *interactive]


async def test_batch_requests_leave_a_share_of_the_capacity(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a", "org_b")
    await waiting(database, "org_a", 10, batch=True)
    await waiting(database, "org_b", 10, batch=True)
    executions = store(database, batch_share=0.5)

    first = await claimed(executions, next(leases), 10, pool=pool_of(ins_a=8))
    await waiting(database, "org_a", 2)
    second = await claimed(executions, next(leases), 10, pool=pool_of(ins_a=8))

    assert by_organization(first) == {"org_a": 2, "org_b": 2}
    assert by_organization(second) == {"org_a": 2}


async def test_whoever_waits_for_too_long_goes_first_within_a_few_claims(
    database: Database, leases: Iterator[Lease]
) -> None:
    await organizations(database, "org_a", "org_b")
    await has_run(database, "org_a", for_s=10_000, ended_s_ago=1)
    (old,) = await waiting(database, "org_a", 1, created_at="2020-01-01Z")
    await waiting(database, "org_b", 40)
    executions = store(database)

    taken = [one for _ in range(10) for one in await claimed(executions, next(leases), 1)]

    assert taken[-1] == old


async def test_what_is_not_ready_holds_no_other_organization_up(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a", "org_b", "org_c", "org_d")
    for organization_id in ("org_a", "org_b", "org_c"):
        await waiting(database, organization_id, 2, not_before="2999-01-01Z")
    await has_run(database, "org_d", for_s=100, ended_s_ago=1)
    ready = await waiting(database, "org_d", 1)

    assert await claimed(store(database), next(leases), 1) == ready


async def test_two_claims_at_once_share_what_is_there(database: Database, leases: Iterator[Lease]) -> None:
    await organizations(database, "org_a", "org_b")
    await waiting(database, "org_a", 20)
    await waiting(database, "org_b", 20)
    one, other = store(database), store(database)

    taken = await asyncio.gather(*(claimed(store_, next(leases), 8) for store_ in (one, other)))

    assert [len(ids) for ids in taken] == [8, 8]
    assert len({*taken[0], *taken[1]}) == 16


async def test_a_pool_is_claimed_for_by_those_whose_line_leads_to_it(
    database: Database, leases: Iterator[Lease]
) -> None:
    await organizations(database, "org_a", "org_c")
    await organizations(database, "org_b", "org_d", servers="dedicated")
    for organization_id in ("org_a", "org_b", "org_c", "org_d"):
        await waiting(database, organization_id, 4)
    executions = store(database)

    shared = await claimed(executions, next(leases), 8, pool_of(ins_a=5))
    own = await claimed(executions, next(leases), 8, pool_of("org_b", ins_b=3))

    assert by_organization(shared) == {"org_a": 3, "org_c": 2}
    assert own == sorted(own)[:3]
    assert by_organization(own) == {"org_b": 3}


async def test_what_is_on_its_way_to_another_pool_takes_none_of_its_places(
    database: Database, leases: Iterator[Lease]
) -> None:
    await organizations(database, "org_a")
    await organizations(database, "org_b", servers="dedicated")
    await waiting(database, "org_a", 3, status="dispatching")
    await waiting(database, "org_b", 3)

    assert len(await claimed(store(database), next(leases), 8, pool_of("org_b", ins_b=2))) == 2


async def test_an_organization_alone_on_its_servers_keeps_nothing_free_for_others(
    database: Database, leases: Iterator[Lease]
) -> None:
    await organizations(database, "org_a")
    await organizations(database, "org_b", servers="dedicated")
    await has_run(database, "org_a", for_s=100, ended_s_ago=1)
    await waiting(database, "org_b", 20)

    assert len(await claimed(store(database), next(leases), 20, pool_of("org_b", ins_b=10))) == 10


async def test_batch_requests_are_counted_in_their_own_pool_and_have_a_place_on_the_smallest(
    database: Database, leases: Iterator[Lease]
) -> None:
    await organizations(database, "org_a")
    await organizations(database, "org_b", servers="dedicated")
    await waiting(database, "org_a", 8, status="running", batch=True)
    await waiting(database, "org_b", 2, batch=True)

    assert len(await claimed(store(database), next(leases), 8, pool_of("org_b", ins_b=1))) == 1


@pytest.mark.parametrize("columns", [{"suspect": True}, {}], ids=["taken over", "old"])
async def test_what_must_not_wait_longer_gets_the_first_place_of_its_own_pool_only(
    database: Database, leases: Iterator[Lease], columns: Mapping[str, Any]
) -> None:
    await organizations(database, "org_a")
    await organizations(database, "org_b", servers="dedicated")
    await waiting(database, "org_b", 1, **columns)
    await database.system().execute("UPDATE executions SET created_at = now() - interval '1 h'")
    await waiting(database, "org_a", 20)
    executions = store(database)

    taken = [one for _ in range(10) for one in await claimed(executions, next(leases), 1)]

    assert by_organization(taken) == {"org_a": 10}


async def test_lines_are_the_shared_one_and_those_apart_in_which_something_is_ready(database: Database) -> None:
    await organizations(database, "org_a")
    await organizations(database, "org_b", "org_c", "org_d", servers="dedicated")
    for organization_id in ("org_a", "org_b", "org_c"):
        await waiting(database, organization_id, 1)
    await database.system().execute(
        "UPDATE executions SET not_before = now() + interval '1 h' WHERE organization_id = 'org_c'"
    )

    assert await store(database).lines() == [None, "org_b"]


async def test_the_use_is_what_a_recount_of_the_attempts_says(database: Database) -> None:
    await organizations(database, "org_a", "org_b")
    for organization_id, for_s, ago in (("org_a", 30, 300), ("org_a", 10, 0), ("org_b", 7, 600)):
        await has_run(database, organization_id, for_s=for_s, ended_s_ago=ago)

    books = await FairTurns(database, PLANS, FairPolicy(half_life_s=300)).count()

    assert {one: book.use for one, book in books.items()} == pytest.approx({"org_a": 25.0, "org_b": 1.75}, rel=0.05)


async def test_calls_of_another_orchestrator_take_no_places_of_servers(
    database: Database, leases: Iterator[Lease]
) -> None:
    await organizations(database, "org_a", "org_b")
    await has_run(database, "org_b", for_s=1, ended_s_ago=1)
    await waiting(database, "org_a", 20, status="running", orchestrator="delegate")
    await waiting(database, "org_b", 20, status="running", orchestrator="delegate", batch=True)
    await waiting(database, "org_a", 1)
    await waiting(database, "org_b", 1, batch=True)

    taken = await claimed(store(database), next(leases), 2, pool=pool_of(ins_a=20))

    assert by_organization(taken) == {"org_a": 1, "org_b": 1}


async def test_two_orchestrators_that_claim_by_turns_both_look_after_what_waits_for_long(database: Database) -> None:
    turns = FairTurns(database, PLANS, FairPolicy())

    seen = [await turns.params(one, POOL) for _ in range(20) for one in ("delegate", "opencode")]

    of_opencode = seen[1::2]
    assert {one["taken_over"] for one in of_opencode} == {True, False}
    assert sum(one["aged_among"] > 0 for one in of_opencode) == 2
