"""What the system counts for its decisions is compared with single rows: one too many or too few in each is seen."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from nubabel_workers.adapters.storage.admission import PostgresAdmission
from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from nubabel_workers.adapters.storage.turns import FairPolicy, FairTurns
from nubabel_workers.domain.admission import Occupied
from nubabel_workers.domain.budgets import Amount
from nubabel_workers.domain.limits import parse_plans
from tests.faults.chaos.closing import wrong_window
from tests.faults.chaos.counted import (
    EXECUTIONS,
    wrong_fair_use,
    wrong_in_flight,
    wrong_occupied,
    wrong_places,
    wrong_used,
)
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

_PLACES = {"id": "ins_1", "max_directories": 3, "free": 2, "held": ["/d/org_a"]}


def execution(status: str, **columns: Any) -> dict[str, Any]:
    row = {"organization_id": "org_a", "session_id": "ses_1", "status": status, "instance_id": "ins_1"}
    return {**row, "running_since": None, "finished_at": None, "now_s": 0.0, **columns}


def ended(run_s: float, *, age_s: float, now_s: float = 10_000.0) -> dict[str, Any]:
    finished_at = now_s - age_s
    return execution("completed", running_since=finished_at - run_s, finished_at=finished_at, now_s=now_s)


@pytest.mark.parametrize(
    ("queued", "sessions", "is_right"), [(2, 2, True), (3, 2, False), (2, 3, False), (1, 2, False)]
)
def test_requests_that_wait_and_conversations_that_are_open_are_counted_anew(
    queued: int, sessions: int, is_right: bool
) -> None:
    rows = [execution("queued"), execution("queued", session_id="ses_2"), execution("running"), execution("completed")]

    found = wrong_occupied({"org_a": Occupied(queued, sessions)}, rows)

    assert (found == []) is is_right


@pytest.mark.parametrize(("count", "is_right"), [(1, True), (0, False), (2, False)])
def test_places_of_servers_are_counted_anew_without_what_is_paused(count: int, is_right: bool) -> None:
    rows = [execution("running"), execution("waiting_budget"), execution("queued")]

    assert (wrong_in_flight({"ins_1": count}, rows) == []) is is_right


@pytest.mark.parametrize(
    ("counted", "is_right"),
    [(Amount(0.3, 34), True), (Amount(0.3, 33), False), (Amount(0.300002, 34), False), (Amount(0.0, 0), False)],
)
def test_money_and_tokens_are_added_up_anew_from_the_attempts_of_the_period(counted: Amount, is_right: bool) -> None:
    usage = {"input_tokens": 10, "output_tokens": 5, "reasoning_tokens": 1, "cache_read_tokens": 1, "cost": 0.15}
    rows = [{"organization_id": "org_a", "usage": usage, "today": True}] * 2
    yesterday = {"organization_id": "org_a", "usage": usage, "today": False}

    assert (wrong_used("today", {"org_a": counted}, [*rows, yesterday]) == []) is is_right


def test_a_place_for_a_directory_that_is_neither_free_nor_held_is_seen() -> None:
    assert wrong_places([_PLACES], {}) == []
    assert wrong_places([{**_PLACES, "free": 1}], {}) != []


def test_a_directory_that_is_loaded_without_a_place_is_seen() -> None:
    assert wrong_places([_PLACES], {"ins_1": ["/d/org_a"]}) == []
    assert "/d/org_b" in wrong_places([_PLACES], {"ins_1": ["/d/org_a", "/d/org_b"]})[0]


def test_lately_used_seconds_count_half_after_their_half_life() -> None:
    rows = [ended(8.0, age_s=0.0), ended(8.0, age_s=300.0), ended(8.0, age_s=1900.0)]

    assert wrong_fair_use({"org_a": 12.0}, rows, rows, FairPolicy()) == []
    assert wrong_fair_use({"org_a": 12.1}, rows, rows, FairPolicy()) != []
    assert wrong_fair_use({"org_a": 11.9}, rows, rows, FairPolicy()) != []


def test_use_of_an_organization_without_runs_is_seen() -> None:
    assert wrong_fair_use({"org_b": 30.0}, [], [], FairPolicy()) != []


@pytest.mark.parametrize(
    ("accepted", "window", "is_right"), [(7, 12, True), (8, 12, False), (6, 12, False), (7, 11, False), (7, 13, False)]
)
def test_one_request_too_many_or_too_few_in_a_minute_is_seen(accepted: int, window: int, is_right: bool) -> None:
    assert (wrong_window([202] * accepted + [429] * (12 - accepted), window) == []) is is_right


@pytest.mark.integration
class TestOnRows:
    """The rows are read as the system's own counts read them."""

    @pytest.fixture
    async def database(self, database_url: str) -> AsyncIterator[Database]:
        opened = Database(database_url, database_url, DatabaseLimits(pool_min=0), application_name="tests")
        await opened.open()
        await add_organization(opened, "org_a")
        yield opened
        await opened.close()

    async def test_both_counts_agree(self, database: Database) -> None:
        for number, status in enumerate(["queued", "running", "waiting_budget", "completed"]):
            await add_execution(database, ExecutionSeed(f"exe_{number}", "org_a", status=status))
        await database.system().execute(
            """
            UPDATE executions SET running_since = now() - interval '90 seconds',
              finished_at = now() - interval '60 seconds' WHERE status = 'completed'
            """
        )

        rows = await database.system().all(EXECUTIONS)

        assert wrong_occupied({"org_a": await PostgresAdmission(database).occupied("org_a")}, rows) == []

    async def test_both_counts_of_what_was_lately_used_agree(self, database: Database) -> None:
        await add_execution(database, ExecutionSeed("exe_1", "org_a", status="completed"))
        await database.system().execute(
            """
            UPDATE executions SET running_since = now() - interval '90 seconds',
              finished_at = now() - interval '60 seconds'
            """
        )

        before = await database.system().all(EXECUTIONS)
        counted = await FairTurns(database, parse_plans({}), FairPolicy()).count()
        after = await database.system().all(EXECUTIONS)

        use = {"org_a": counted["org_a"].use}
        assert wrong_fair_use(use, before, after, FairPolicy()) == []
        assert wrong_fair_use({"org_a": use["org_a"] + 0.5}, before, after, FairPolicy()) != []
