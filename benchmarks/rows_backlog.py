"""Rows of a long backlog: what a claim and a look for who is next cost among a hundred thousand rows."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.figures import Report, median_ms
from benchmarks.sizes import Sizes
from nubabel_workers.adapters.plans import load_plans
from nubabel_workers.adapters.process import SystemChance, SystemClock
from nubabel_workers.adapters.storage import schema
from nubabel_workers.adapters.storage.database import Database, DatabaseLimits
from nubabel_workers.adapters.storage.executions import PostgresExecutions
from nubabel_workers.adapters.storage.inbound import PostgresInbound
from nubabel_workers.adapters.storage.notifications import PostgresNotifications
from nubabel_workers.adapters.storage.turns import FairPolicy, FairTurns
from nubabel_workers.adapters.storage.waiting import PostgresWaiting
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.leases import Lease
from nubabel_workers.domain.placement import AWAY, PACE, Placement
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.embedded.postgres import EmbeddedPostgres

_AIM_CLAIM_MS = 10.0
_ORGANIZATIONS = 1000
_CLAIMS = 40
_AT_ONCE = 32
_LEASE = Lease("lse_bench", 1e12)
_LEASE_S = 600.0

SEED_ORGANIZATIONS = """
INSERT INTO organizations (id, name)
SELECT 'org_' || n, 'Organization ' || n FROM generate_series(1, %(organizations)s) n
ON CONFLICT DO NOTHING
"""
SEED_SESSIONS = """
INSERT INTO sessions (id, organization_id, session_key, source)
SELECT 'ses_' || n, 'org_' || 1 + n %% %(organizations)s, 'key_' || n, 'api' FROM generate_series(1, %(rows)s) n
"""
SEED_EXECUTIONS = """
INSERT INTO executions (id, organization_id, session_id, source, prompt, reply, overrides, attachments,
  request_metadata, idempotency_key, request_hash, message_created_ms, answer_by, created_at)
SELECT 'exe_' || n, 'org_' || 1 + n %% %(organizations)s, 'ses_' || n, 'api', 'Hello', '{"kind": "none"}', '{}', '[]',
  '{}', 'key_' || n, '', 0, now() + interval '1 hour', now() + make_interval(secs => n / 1e6)
FROM generate_series(1, %(rows)s) n
"""
_SEED_WORKSPACES = """
INSERT INTO workspaces (id, organization_id, installation_key, team_id, bot_user_id, bot_token)
SELECT 'wsp_' || n, 'org_' || n, 'T' || n, 'T' || n, 'U', '' FROM generate_series(1, %(organizations)s) n
"""
_SEED_EVENTS = """
INSERT INTO inbound_events (id, organization_id, workspace_id, provider_event_id, dedupe_key, conversation_key, kind,
  event)
SELECT 'evt_' || n, 'org_' || 1 + n %% %(organizations)s, 'wsp_' || 1 + n %% %(organizations)s, 'Ev' || n, 'msg:' || n,
  'conversation_' || n, 'mention',
  '{"kind": "mention", "event_id": "E", "team_id": "T", "enterprise_id": null, "files": []}'
FROM generate_series(1, %(rows)s) n
"""
_SEED_OUTCOMES = """
INSERT INTO notifications (id, organization_id, execution_id, session_id, kind, destination, payload)
SELECT 'ntf_' || n, 'org_' || 1 + n %% %(organizations)s, 'exe_' || n, 'ses_' || n, 'outcome', '{}', '{}'
FROM generate_series(1, %(rows)s) n
"""
_RUN_ALL = """
UPDATE executions SET status = 'running', check_at = now()
WHERE id IN (SELECT id FROM executions WHERE status = 'queued' ORDER BY position DESC LIMIT 10000)
"""


async def measure_claims(sizes: Sizes, report: Report) -> None:
    """What a claim costs with nothing and with a hundred thousand rows waiting."""
    async with _database() as database:
        plans = load_plans()
        turns = FairTurns(database, plans, FairPolicy())
        executions = PostgresExecutions(database, SystemClock(), SystemChance(), turns, lease_s=_LEASE_S)
        server = Instance(InstanceId("ins_bench"), "", "", None, capacity_runs=10**6, healthy=True)
        pool = Placement([server]).pool(None)

        async def claim(limit: int) -> None:
            await executions.claim_queued(pool=pool, limit=limit, lease=_LEASE)

        report.add(
            "claims", "a claim with nothing waiting, median", await median_ms(lambda: claim(_AT_ONCE), _CLAIMS), "ms"
        )
        system = database.system()
        params = {"organizations": _ORGANIZATIONS, "rows": sizes.waiting_rows}
        for statement in (SEED_ORGANIZATIONS, SEED_SESSIONS, SEED_EXECUTIONS):
            await system.execute(statement, params)
        waiting = f"{sizes.waiting_rows:,} rows of {_ORGANIZATIONS:,} organizations waiting"
        for limit in (1, _AT_ONCE):
            taken_ms = await median_ms(lambda: claim(limit), _CLAIMS)  # noqa: B023 - awaited at once
            aim = _AIM_CLAIM_MS if limit == 1 else None
            report.add("claims", f"a claim of {limit}, {waiting}, median", taken_ms, "ms", aim=aim)
        await _measure_looks(database, executions, params, report)


async def _measure_looks(
    database: Database, executions: PostgresExecutions, params: Mapping[str, int], report: Report
) -> None:
    """Whatever else finds the first few of as many that wait."""
    for statement in (_SEED_WORKSPACES, _SEED_EVENTS, _SEED_OUTCOMES):
        await database.system().execute(statement, params)
    waiting = PostgresWaiting(database, away=AWAY, pace=PACE)
    events = PostgresInbound(database, SystemChance(), lease_s=_LEASE_S)
    notifications = PostgresNotifications(database, SystemChance(), lease_s=_LEASE_S)
    looks: dict[str, Callable[[], Awaitable[object]]] = {
        f"a claim of {_AT_ONCE} Slack events": lambda: events.claim(event_id="evt_7", limit=_AT_ONCE, lease=_LEASE),
        f"a claim of {_AT_ONCE} notifications": lambda: notifications.claim(
            notification_id="ntf_7", limit=_AT_ONCE, lease=_LEASE
        ),
        "whether somebody waits for a place": waiting.next_in_line,
        "putting 500 off while servers are away": lambda: waiting.put_off(None, wait_s=_LEASE_S),
        "spacing 500 out at a server's pace": lambda: waiting.space_out(None, per_s=20),
        "waking 500 for a server that is back": lambda: waiting.wake("ins_bench"),
    }
    for name, look in looks.items():
        taken_ms = await median_ms(look, _CLAIMS)
        aim = _AIM_CLAIM_MS if name.startswith("a claim") else None
        report.add("claims", f"{name}, of {params['rows']:,}, median", taken_ms, "ms", aim=aim)
    await database.system().execute(_RUN_ALL)
    checks_ms = await median_ms(
        lambda: executions.claim_checks(execution_id="exe_7", limit=_AT_ONCE, lease=_LEASE), _CLAIMS
    )
    report.add(
        "claims", f"a claim of {_AT_ONCE} runs to look at, of 10,000, median", checks_ms, "ms", aim=_AIM_CLAIM_MS
    )


@asynccontextmanager
async def _database() -> AsyncIterator[Database]:
    with tempfile.TemporaryDirectory(prefix="nbb-") as directory:
        os.chmod(directory, 0o711)  # noqa: PTH101, S103 - PostgreSQL may run as another user below it
        postgres = EmbeddedPostgres(Path(directory) / "pg")
        await asyncio.to_thread(postgres.start)
        try:
            url = postgres.ensure_database("claims")
            await asyncio.to_thread(schema.upgrade, url)
            limits = DatabaseLimits(statement_timeout_s=120)
            database = Database(
                postgres.url("claims", user="nubabel_tenant"),
                postgres.url("claims", user="nubabel_system"),
                limits,
                application_name="bench",
            )
            await database.open()
            try:
                yield database
            finally:
                await database.close()
        finally:
            await asyncio.to_thread(postgres.destroy)
