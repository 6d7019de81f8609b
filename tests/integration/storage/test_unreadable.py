"""Rows written by another release, and text that PostgreSQL cannot hold."""

import json

import pytest
from psycopg.types.json import Jsonb

from nubabel_workers.adapters.process import SystemChance, SystemClock
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.executions import PostgresExecutions
from nubabel_workers.adapters.storage.inbound import PostgresInbound
from nubabel_workers.adapters.storage.notifications import PostgresNotifications
from nubabel_workers.domain.leases import Lease
from tests.integration.storage.seeds import POOL, ExecutionSeed, add_execution, add_organization, fair_turns

pytestmark = pytest.mark.integration


async def claimed(database: Database) -> list[str]:
    executions = PostgresExecutions(database, SystemClock(), SystemChance(), fair_turns(database), lease_s=10)
    rows = await executions.claim_queued(pool=POOL, limit=10, lease=Lease("lse_1", 1e12))
    return [row.execution.id for row in rows]


async def seed(database: Database, execution_id: str, **columns: object) -> None:
    await add_execution(database, ExecutionSeed(execution_id, "org_a", columns=columns))


async def test_what_only_a_newer_release_knows_is_passed_over(database: Database) -> None:
    await add_organization(database, "org_a")
    await seed(database, "exe_1", overrides=Jsonb({"category": "quick", "mood": "good"}))

    assert await claimed(database) == ["exe_1"]


async def test_a_row_that_cannot_be_read_keeps_no_other_from_being_worked_on(database: Database) -> None:
    await add_organization(database, "org_a")
    await seed(database, "exe_1", attachments=Jsonb(["not an object"]))
    await seed(database, "exe_2")

    assert await claimed(database) == ["exe_2"]


SUSPECT = {"suspect": True, "lone_deliveries": 5}
IN_SLACK = {"kind": "slack", "workspace_id": "wsp_1", "channel": "C1", "thread_ts": "1.0", "message_ts": "1.0"}


async def letters(database: Database) -> list[tuple[str, str]]:
    rows = await database.system().all("SELECT subject_id, reason FROM dead_letters WHERE status = 'open' ORDER BY id")
    return [(row["subject_id"], row["reason"]) for row in rows]


async def told(database: Database) -> list[str]:
    rows = await database.system().all("SELECT destination->>'channel' AS channel FROM notifications ORDER BY id")
    return [row["channel"] for row in rows]


async def test_an_execution_that_nobody_could_read_ends_with_an_apology_and_a_dead_letter(database: Database) -> None:
    await add_organization(database, "org_a")
    await seed(database, "exe_1", attachments=Jsonb(["not an object"]), reply=Jsonb(IN_SLACK), **SUSPECT)

    assert await claimed(database) == []

    assert await letters(database) == [("exe_1", "too-many-deliveries")]
    assert await told(database) == ["C1"]
    assert await database.system().one("SELECT status FROM executions") == {"status": "failed"}


async def test_a_run_that_nobody_could_read_ends_and_its_session_is_left(database: Database) -> None:
    await add_organization(database, "org_a")
    columns = {"overrides": Jsonb(["?"]), "reply": Jsonb("?"), "check_at": "2000-01-01Z", **SUSPECT}
    await add_execution(database, ExecutionSeed("exe_1", "org_a", status="running", columns=columns))
    executions = PostgresExecutions(database, SystemClock(), SystemChance(), fair_turns(database), lease_s=10)

    assert await executions.claim_checks(execution_id=None, limit=10, lease=Lease("lse_1", 1e12)) == []

    assert await letters(database) == [("exe_1", "too-many-deliveries")]
    assert await told(database) == []


async def test_an_event_that_nobody_could_read_ends_with_an_apology_and_a_dead_letter(database: Database) -> None:
    await add_organization(database, "org_a")
    await database.system().execute(
        """INSERT INTO workspaces (id, organization_id, installation_key, team_id, bot_user_id, bot_token)
           VALUES ('wsp_1', 'org_a', 'k', 'T1', 'U1', 't')"""
    )
    event = {"kind": "mention", "channel": "C1", "thread_ts": "1.0", "ts": "1.0", "files": "none", "text": "안녕"}
    await database.system().execute(
        """INSERT INTO inbound_events (id, organization_id, workspace_id, provider_event_id, dedupe_key,
             conversation_key, kind, event, suspect, lone_deliveries)
           VALUES ('evt_1', 'org_a', 'wsp_1', 'Ev1', 'd', 'c', 'mention', %(event)s, true, 5)""",
        {"event": Jsonb(event)},
    )
    inbound = PostgresInbound(database, SystemChance(), lease_s=10)

    assert await inbound.claim(event_id=None, limit=10, lease=Lease("lse_1", 1e12)) == []

    assert await letters(database) == [("evt_1", "too-many-deliveries")]
    assert await told(database) == ["C1"]


async def test_a_notification_that_nobody_could_read_is_a_dead_letter(database: Database) -> None:
    await add_organization(database, "org_a")
    await database.system().execute(
        """INSERT INTO notifications (id, organization_id, kind, destination, payload, suspect, lone_deliveries)
           VALUES ('ntf_1', 'org_a', 'of a newer release', '{}', '{}', true, 5)"""
    )
    notifications = PostgresNotifications(database, SystemChance(), lease_s=10)

    assert await notifications.claim(notification_id=None, limit=10, lease=Lease("lse_1", 1e12)) == []

    assert await letters(database) == [("ntf_1", "too-many-deliveries")]


async def test_a_row_that_a_newer_release_may_read_is_left_to_it_first(database: Database) -> None:
    await add_organization(database, "org_a")
    await seed(database, "exe_1", attachments=Jsonb(["not an object"]), suspect=True, lone_deliveries=4)

    assert await claimed(database) == []

    assert await letters(database) == []


async def test_text_is_stored_without_what_postgresql_cannot_hold(database: Database) -> None:
    row = await database.system().one(
        "SELECT %(text)s::text AS text, %(texts)s::text[] AS texts, %(json)s AS json",
        {
            "text": "a\x00b\ud800",
            "texts": ["\x00", "c\ud800"],
            "json": Jsonb({"k\x00": ["\x00\x00é", "\ud800", "\\u0000", "\\\x00"]}),
        },
    )

    assert row is not None
    assert row["text"] == "ab?"
    assert row["texts"] == ["", "c?"]
    assert json.dumps(row["json"], ensure_ascii=False) == json.dumps(
        {"k": ["é", "?", "\\u0000", "\\"]}, ensure_ascii=False
    )
