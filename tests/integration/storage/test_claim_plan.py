"""A claim reads few rows, however many wait, though nobody has analyzed its tables since they grew. So does whatever
else finds the first few of what waits.
"""

import json
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from nubabel_workers.adapters.process import SystemChance, SystemClock
from nubabel_workers.adapters.storage import execution_statements as sql
from nubabel_workers.adapters.storage.admission import _LINE
from nubabel_workers.adapters.storage.calls import PostgresCalls
from nubabel_workers.adapters.storage.database import Database, Scope
from nubabel_workers.adapters.storage.exchange import _LOCK, _WALK, Answer, Params, Within, _compiled
from nubabel_workers.adapters.storage.executions import PostgresExecutions
from nubabel_workers.adapters.storage.inbound import PostgresInbound
from nubabel_workers.adapters.storage.notifications import PostgresNotifications
from nubabel_workers.adapters.storage.turns import Book, FairPolicy, FairTurns
from nubabel_workers.adapters.storage.waiting import PostgresWaiting
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.limits import parse_plans
from nubabel_workers.domain.placement import AWAY, ORCHESTRATOR_AWAY, PACE
from nubabel_workers.domain.rollout import Orchestrator
from nubabel_workers.domain.waiting import MOST_AHEAD
from tests.conftest import PostgresServer
from tests.integration.storage.seeds import pool_of

pytestmark = pytest.mark.integration

ROWS, ORGANIZATIONS = 4000, 20
FEW = 400
SEED_ORGANIZATIONS = """
INSERT INTO organizations (id, name) SELECT 'org_' || n, 'o' FROM generate_series(1, %(organizations)s) n
"""
SEED_SESSIONS = """
INSERT INTO sessions (id, organization_id, session_key, source)
SELECT 'ses_' || n, 'org_' || 1 + n %% %(organizations)s, 'key_' || n, 'api'
FROM generate_series(%(first)s::int, %(last)s::int) n
"""
SEED_EXECUTIONS = """
INSERT INTO executions (id, organization_id, session_id, source, prompt, reply, idempotency_key, request_hash,
  message_created_ms, answer_by, created_at)
SELECT 'exe_' || n, 'org_' || 1 + n %% %(organizations)s, 'ses_' || n, 'api', 'p', '{}', 'key_' || n, '', 0,
  now() + interval '1 hour', now() + make_interval(secs => n / 1e6)
FROM generate_series(%(first)s::int, %(last)s::int) n
"""
SEED_WORKSPACES = """
INSERT INTO workspaces (id, organization_id, installation_key, team_id, bot_user_id, bot_token)
SELECT 'wsp_' || n, 'org_' || n, 'T' || n, 'T' || n, 'U', '' FROM generate_series(1, %(organizations)s) n
"""
# Four of each conversation wait, and the first of them is ready.
SEED_EVENTS = """
INSERT INTO inbound_events (id, organization_id, workspace_id, provider_event_id, dedupe_key, conversation_key, kind,
  event)
SELECT 'evt_' || n, 'org_' || 1 + n %% %(organizations)s, 'wsp_' || 1 + n %% %(organizations)s, 'Ev' || n, 'msg:' || n,
  'conversation_' || n %% 1000, 'mention', '{}'
FROM generate_series(%(first)s::int, %(last)s::int) n
"""
SEED_OUTCOMES = """
INSERT INTO notifications (id, organization_id, execution_id, session_id, kind, destination, payload)
SELECT 'ntf_' || n, 'org_' || 1 + n %% %(organizations)s, 'exe_' || n, 'ses_' || n, 'outcome', '{}', '{}'
FROM generate_series(%(first)s::int, %(last)s::int) n
"""
ALL_SEEDS = (SEED_SESSIONS, SEED_EXECUTIONS, SEED_EVENTS, SEED_OUTCOMES)
RUNNING = "UPDATE executions SET status = 'running', check_at = now()"
PUT_OFF = f"UPDATE executions SET not_before = now() + interval '1 hour', waiting_for = '{AWAY}'"
OWN_SERVERS = "UPDATE organizations SET servers = 'dedicated' WHERE id = 'org_7'"
LEASE = Lease("lse_1", 1e12)
_EXPLAIN = b"EXPLAIN (ANALYZE, FORMAT JSON) "


class Heard(Database):
    """What a store wants to run, which is not run."""

    def __init__(self) -> None:
        self.statement = ""
        self.params: Mapping[str, Any] = {}
        self.within = Within()

    def system(self, *, alone: str | None = None, walks: bool = False) -> Scope:
        self.within = Within(lock=alone, walks=walks)
        return _HeardScope(self)


class _HeardScope(Scope):
    def __init__(self, heard: Heard) -> None:
        self._heard = heard

    async def _run(self, statement: str, params: Params | None) -> Answer:
        self._heard.statement, self._heard.params = statement, dict(params or {})
        return Answer([], 0)


@pytest.fixture
def new_database_url(database_factory: Callable[..., str], migrated_template: str) -> str:
    """One that was never used: what the planner knows of a table outlives its rows."""
    return database_factory(template=migrated_template)


@pytest.fixture(scope="module")
def grown_database_url(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """Where many of everything wait, and nobody has analyzed it since. Tests leave it as it is."""
    url = postgres_server.create_database(template=migrated_template)
    with psycopg.connect(url, autocommit=True) as connection:
        for table in (b"executions", b"inbound_events", b"notifications"):
            connection.execute(b"ALTER TABLE " + table + b" SET (autovacuum_enabled = false)")
        for seed_once in (SEED_ORGANIZATIONS, SEED_WORKSPACES):
            connection.execute(seed_once, {"organizations": ORGANIZATIONS})
        connection.execute(OWN_SERVERS)
        seed(connection, first=1, last=ROWS, seeds=ALL_SEEDS)
        connection.execute(f"{RUNNING} WHERE id IN ('exe_1', 'exe_77')")
    yield url
    postgres_server.drop_database(url)


@pytest.mark.parametrize("taken_over", [False, True])
@pytest.mark.parametrize("planned_anew", [False, True])
@pytest.mark.parametrize("analyzed_when_small", [False, True])
async def test_a_claim_reads_few_of_many_rows(
    database: Database,
    new_database_url: str,
    taken_over: bool,
    planned_anew: bool,
    analyzed_when_small: bool,
) -> None:
    turns = FairTurns(database, parse_plans(), FairPolicy())
    asked = await turns.params("opencode", pool_of(ins_a=100_000))
    params = {"orchestrator": "opencode", "limit": 8, "lease": "lse_1", "lease_s": 10, **asked}
    params |= {"taken_over": taken_over, "aged_among": 0}
    statement = _compiled(sql.CLAIM_QUEUED, with_params=True)
    explain = _EXPLAIN + _execute(statement.names, params)
    with psycopg.connect(new_database_url, autocommit=True) as connection:
        connection.execute(SEED_ORGANIZATIONS, {"organizations": ORGANIZATIONS})
        seed(connection, first=1, last=3)
        if analyzed_when_small:
            connection.execute("ANALYZE executions")
        with connection.transaction():
            connection.execute(_LOCK.text.replace(b"$1", b"'claim'"))
            connection.execute(b"PREPARE asked AS " + statement.text)
            connection.execute(explain)
        seed(connection, first=4, last=ROWS)
        if planned_anew:
            connection.execute("DISCARD PLANS")

        with connection.transaction():
            connection.execute(_LOCK.text.replace(b"$1", b"'claim'"))
            (plan,) = connection.execute(explain).fetchone() or ({},)

    assert max(_rows_read(plan[0]["Plan"])) < FEW


async def claim_events(heard: Heard) -> None:
    await PostgresInbound(heard, SystemChance(), lease_s=10).claim(event_id="evt_77", limit=8, lease=LEASE)


async def claim_notifications(heard: Heard) -> None:
    await PostgresNotifications(heard, SystemChance(), lease_s=10).claim(notification_id="ntf_77", limit=8, lease=LEASE)


async def claim_checks(heard: Heard) -> None:
    await _executions(heard).claim_checks(execution_id="exe_77", limit=8, lease=LEASE)


async def find_lines(heard: Heard) -> None:
    executions = _executions(heard)
    executions._turns._books = {"org_7": Book(0.0, 1.0, None, 1.0, is_apart=True)}
    executions._turns._good_until = math.inf
    await executions.lines()


async def find_the_next_in_line(heard: Heard) -> None:
    await _waiting(heard).next_in_line()


async def wake(heard: Heard) -> None:
    await _waiting(heard).wake("ins_a")


async def put_off_what_is_shared(heard: Heard) -> None:
    await _waiting(heard).put_off(None, wait_s=60)


async def put_off_its_own(heard: Heard) -> None:
    await _waiting(heard).put_off("org_7", wait_s=60)


async def space_out_what_is_shared(heard: Heard) -> None:
    await _waiting(heard).space_out(None, per_s=20)


async def space_out_its_own(heard: Heard) -> None:
    await _waiting(heard).space_out("org_7", per_s=20)


async def put_off_calls(heard: Heard) -> None:
    await PostgresCalls(heard).put_off(Orchestrator.OPENCODE, wait_s=60)


async def wake_calls(heard: Heard) -> None:
    await PostgresCalls(heard).wake(Orchestrator.OPENCODE)


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize(
    ("ask", "becomes"),
    [
        (claim_events, ""),
        (claim_notifications, ""),
        (claim_checks, RUNNING),
        (find_lines, ""),
        (find_lines, PUT_OFF),
        (find_the_next_in_line, ""),
        (find_the_next_in_line, PUT_OFF),
        (wake, ""),
        (wake, PUT_OFF),
        (put_off_what_is_shared, ""),
        (put_off_what_is_shared, PUT_OFF),
        (put_off_its_own, ""),
        (space_out_what_is_shared, ""),
        (space_out_what_is_shared, PUT_OFF),
        (space_out_its_own, ""),
        (put_off_calls, ""),
        (put_off_calls, PUT_OFF),
        (wake_calls, PUT_OFF.replace(AWAY, ORCHESTRATOR_AWAY)),
    ],
)
async def test_what_is_first_is_found_among_many_without_reading_them(
    grown_database_url: str, ask: Callable[[Heard], Awaitable[None]], becomes: str, analyzed: bool
) -> None:
    heard = Heard()
    await ask(heard)
    statement = _compiled(heard.statement, with_params=True)
    few_at_once = dict(heard.params) | ({"limit": 8} if "limit" in heard.params else {})
    explain = _EXPLAIN + _execute(statement.names, few_at_once)
    with psycopg.connect(grown_database_url) as connection:
        for before in ("SET LOCAL jit = on", becomes, "ANALYZE" if analyzed else ""):
            connection.execute(before.encode())
        connection.execute(_WALK.text)
        connection.execute(b"PREPARE asked AS " + statement.text)

        (plan,) = connection.execute(explain).fetchone() or ({},)
        connection.rollback()

    assert heard.within == Within(walks=True)
    assert max(_rows_read(plan[0]["Plan"])) < FEW
    assert "JIT" not in plan[0]


RAN_BEFORE = b"""
UPDATE executions SET status = 'completed', running_since = created_at, finished_at = created_at + interval '3 s'
WHERE id IN ('exe_1', 'exe_2')
"""


@pytest.mark.parametrize("analyzed", [False, True])
async def test_where_one_stands_in_a_long_queue_is_told_without_reading_all_of_it(
    new_database_url: str, analyzed: bool
) -> None:
    statement = _compiled(_LINE, with_params=True)
    params = {"organization_id": "org_1", "id": f"exe_{ROWS}"}
    with psycopg.connect(new_database_url) as connection:
        for seeded in (SEED_ORGANIZATIONS, SEED_SESSIONS, SEED_EXECUTIONS):
            connection.execute(seeded, {"organizations": 1, "first": 1, "last": ROWS})
        for before in (RAN_BEFORE, b"ANALYZE" if analyzed else b"", b"SET LOCAL ROLE nubabel_tenant"):
            connection.execute(before)
        connection.execute("SELECT set_config('nubabel.organization_id', 'org_1', true)")
        connection.execute(b"PREPARE asked AS " + statement.text)
        (line,) = connection.cursor(row_factory=dict_row).execute(_execute(statement.names, params))

        (plan,) = connection.execute(_EXPLAIN + _execute(statement.names, params)).fetchone() or ({},)

    assert (line["ahead"], line["usual_run_s"]) == (MOST_AHEAD, 3.0)
    assert max(_rows_read(plan[0]["Plan"])) <= MOST_AHEAD


@pytest.mark.parametrize(("ask", "kind"), [(claim_events, "evt"), (claim_notifications, "ntf"), (claim_checks, "exe")])
async def test_a_claim_of_one_keeps_no_other_claim_from_the_row_that_it_names(
    grown_database_url: str, ask: Callable[[Heard], Awaitable[None]], kind: str
) -> None:
    heard = Heard()
    await ask(heard)
    statement = _compiled(heard.statement, with_params=True)

    def claim(connection: psycopg.Connection[Any], named: str) -> list[str]:
        asked = dict(heard.params) | {"limit": 1, "id": named}
        connection.execute(b"PREPARE asked AS " + statement.text)
        rows = connection.cursor(row_factory=dict_row).execute(_execute(statement.names, asked))
        return [row["id"] for row in rows]

    with psycopg.connect(grown_database_url) as one, psycopg.connect(grown_database_url) as other:
        claimed = claim(one, f"{kind}_77"), claim(other, f"{kind}_1")
        one.rollback()
        other.rollback()

    assert claimed == ([f"{kind}_77"], [f"{kind}_1"])


def _executions(heard: Heard) -> PostgresExecutions:
    turns = FairTurns(heard, parse_plans(), FairPolicy())
    return PostgresExecutions(heard, SystemClock(), SystemChance(), turns, lease_s=10)


def _waiting(heard: Heard) -> PostgresWaiting:
    return PostgresWaiting(heard, away=AWAY, pace=PACE)


def seed(
    connection: psycopg.Connection[Any],
    *,
    first: int,
    last: int,
    seeds: Sequence[str] = (SEED_SESSIONS, SEED_EXECUTIONS),
) -> None:
    for statement in seeds:
        connection.execute(statement, {"organizations": ORGANIZATIONS, "first": first, "last": last})


def _rows_read(node: Mapping[str, Any]) -> Iterator[float]:
    """Of each step of a plan: what it gave and what it threw away."""
    yield (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    for below in node.get("Plans", ()):
        yield from _rows_read(below)


def _execute(names: Sequence[str], params: Mapping[str, Any]) -> bytes:
    values = ", ".join(_literal(params[name]) for name in names)
    return f"EXECUTE asked{f' ({values})' if values else ''}".encode()


def _literal(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return f"'{{{','.join(value)}}}'"
    return f"'{json.dumps(value.obj) if isinstance(value, Jsonb) else value}'"
