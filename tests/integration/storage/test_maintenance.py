"""The scheduler's statements: what waits is hinted, what died is taken over, what is old goes."""

from dataclasses import replace

import psycopg
import pytest

from nubabel_workers.adapters.process import SystemChance
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.maintenance import PostgresMaintenance
from nubabel_workers.domain.hints import HintTask
from nubabel_workers.domain.ports import OpenExecutions
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration

PAST = "2020-01-01T00:00:00Z"


@pytest.fixture
async def maintenance(database: Database) -> PostgresMaintenance:
    await add_organization(database, "org_a")
    return PostgresMaintenance(database, SystemChance())


async def seed(database: Database, execution_id: str, **columns: object) -> str:
    status = str(columns.pop("status", "queued"))
    session = str(columns.pop("session", ""))
    return await add_execution(
        database, ExecutionSeed(execution_id, "org_a", status=status, session_id=session, columns=columns)
    )


async def test_a_row_that_nobody_took_is_hinted_again(maintenance: PostgresMaintenance, database: Database) -> None:
    await seed(database, "exe_1", not_before=PAST)

    (hint,) = await maintenance.overdue_hints(older_than_s=2)

    assert (hint.task, hint.row_id) == (HintTask.DISPATCH, "exe_1")


async def test_a_fresh_row_is_left_to_its_own_hint(maintenance: PostgresMaintenance, database: Database) -> None:
    await seed(database, "exe_1")

    assert await maintenance.overdue_hints(older_than_s=60) == []


async def test_a_row_that_was_put_off_is_hinted_as_soon_as_it_is_due(
    maintenance: PostgresMaintenance, database: Database
) -> None:
    await seed(database, "exe_1", created_at=PAST, not_before="2020-01-01T00:00:05Z")
    await seed(database, "exe_2", created_at=PAST, not_before="2999-01-01T00:00:00Z")

    (hint,) = await maintenance.overdue_hints(older_than_s=10**9)

    assert hint.row_id == "exe_1"


async def test_a_row_behind_another_of_its_session_needs_no_hint(
    maintenance: PostgresMaintenance, database: Database
) -> None:
    await seed(database, "exe_1", status="running", session="ses_1", check_at="9999-01-01Z")
    await seed(database, "exe_2", session="ses_1", not_before=PAST)

    assert await maintenance.overdue_hints(older_than_s=2) == []


async def test_only_leases_that_ran_out_are_taken_over(maintenance: PostgresMaintenance, database: Database) -> None:
    await seed(database, "exe_dead", status="dispatching", lease_owner="x", lease_until=PAST)
    await seed(database, "exe_alive", status="dispatching", lease_owner="y", lease_until="2999-01-01Z")

    assert await maintenance.release_expired_leases() == 1

    rows = await database.system().all("SELECT id, status, suspect FROM executions ORDER BY id")
    assert rows == [
        {"id": "exe_alive", "status": "dispatching", "suspect": False},
        {"id": "exe_dead", "status": "queued", "suspect": True},
    ]


async def test_a_post_in_flight_at_a_death_is_uncertain_afterwards(
    maintenance: PostgresMaintenance, database: Database
) -> None:
    await seed(database, "exe_1")
    await database.system().execute(
        """INSERT INTO notifications (id, organization_id, execution_id, kind, destination, payload, status,
             lease_owner,
             lease_until) VALUES ('ntf_1', 'org_a', 'exe_1', 'outcome', '{}', '{}', 'sending', 'x', now())"""
    )

    await maintenance.release_expired_leases()

    row = await database.system().one("SELECT status, uncertain, suspect FROM notifications")
    assert row == {"status": "ready", "uncertain": True, "suspect": True}


async def test_leases_are_renewed_while_they_are_held(maintenance: PostgresMaintenance, database: Database) -> None:
    await seed(database, "exe_1", status="dispatching", lease_owner="mine", lease_until="2999-01-01Z")

    assert await maintenance.renew(["mine", "lost"], lease_s=10) == {"mine"}


async def test_a_lease_that_ran_out_is_not_renewed(maintenance: PostgresMaintenance, database: Database) -> None:
    await seed(database, "exe_1", status="dispatching", lease_owner="late", lease_until=PAST)

    assert await maintenance.renew(["late"], lease_s=10) == set()


async def test_a_run_past_its_deadline_becomes_due(maintenance: PostgresMaintenance, database: Database) -> None:
    await seed(database, "exe_1", status="running", deadline_at=PAST, check_at="2999-01-01Z")

    assert await maintenance.running_past_deadline() == ["exe_1"]
    assert await maintenance.running_past_deadline() == []


async def test_a_thread_is_told_once_that_it_takes_longer(maintenance: PostgresMaintenance, database: Database) -> None:
    from psycopg.types.json import Jsonb

    await seed(database, "exe_1", created_at=PAST, reply=Jsonb({"kind": "slack"}))

    assert await maintenance.late(after_s=60) == [("org_a", "exe_1")]
    assert await maintenance.tell_late("org_a", "exe_1", text="patience") == "ntf_late_1"
    assert await maintenance.tell_late("org_a", "exe_1", text="patience") is None
    assert await maintenance.late(after_s=60) == []


async def test_a_thread_whose_answer_came_meanwhile_is_told_nothing_more(
    maintenance: PostgresMaintenance, database: Database
) -> None:
    from psycopg.types.json import Jsonb

    await seed(database, "exe_1", status="completed", created_at=PAST, reply=Jsonb({"kind": "slack"}))

    assert await maintenance.tell_late("org_a", "exe_1", text="patience") is None


async def test_what_waits_past_answer_by_is_found(maintenance: PostgresMaintenance, database: Database) -> None:
    await seed(database, "exe_1", answer_by=PAST)
    await seed(database, "exe_2")

    assert await maintenance.queued_to_end() == [("org_a", "exe_1")]


async def test_each_scheduler_reconciles_other_servers(maintenance: PostgresMaintenance, database: Database) -> None:
    await database.system().execute(
        "INSERT INTO instances (id, url) VALUES ('ins_1', 'http://a'), ('ins_2', 'http://b')"
    )

    first = await maintenance.instances_to_reconcile(every_s=60)
    second = await maintenance.instances_to_reconcile(every_s=60)

    assert (sorted(first), second) == (["ins_1", "ins_2"], [])


async def test_old_rows_go_in_batches_and_open_ones_stay(maintenance: PostgresMaintenance, database: Database) -> None:
    for number in range(3):
        await seed(database, f"exe_{number}", status="completed", finished_at=PAST)
    await seed(database, "exe_open", created_at=PAST)

    deleted = await maintenance.expire(retention_s={"executions": 86_400}, batch=2)

    assert deleted["executions"] == 2
    assert await maintenance.expire(retention_s={"executions": 86_400}, batch=2) == {"executions": 1}
    assert await database.system().all("SELECT id FROM executions") == [{"id": "exe_open"}]


async def test_the_busiest_organizations_are_told_with_what_waits_and_what_runs(
    maintenance: PostgresMaintenance, database: Database
) -> None:
    for organization_id, statuses in {"org_b": ["queued", "queued", "running"], "org_c": ["queued", "failed"]}.items():
        await add_organization(database, organization_id)
        for number, status in enumerate(statuses):
            await add_execution(database, ExecutionSeed(f"exe_{organization_id}_{number}", organization_id, status))

    await add_organization(database, "org_d")
    await database.system().execute(
        """
        INSERT INTO usage (execution_id, model, organization_id, day, input_tokens, output_tokens, reasoning_tokens,
          cache_read_tokens, cache_write_tokens, cost)
        SELECT 'exe_org_c_1', 'm' || back, 'org_c', (now() AT TIME ZONE 'UTC')::date - back, 1, 2, 3, 4, 5, 0.25
        FROM generate_series(0, 1) back
        """
    )

    found = await maintenance.busiest(limit=2, always=["org_c", "org_d", "org_nowhere"])

    assert [replace(one, oldest_queued_s=0.0) for one in found] == [
        OpenExecutions("org_b", queued=2, in_flight=1),
        OpenExecutions("org_c", queued=1, in_flight=0, cost_today=0.25, tokens_today=15),
        OpenExecutions("org_d", queued=0, in_flight=0),
    ]
    assert [one.oldest_queued_s > 0 for one in found] == [True, True, False]


async def test_gauges_are_numbers(maintenance: PostgresMaintenance, database: Database) -> None:
    await seed(database, "exe_1")

    gauges = await maintenance.gauges()

    assert gauges["executions_queued"] == 1
    assert all(isinstance(value, float) for value in gauges.values())


async def test_a_callers_key_names_a_new_request_after_its_time_and_slacks_never(
    maintenance: PostgresMaintenance, database: Database
) -> None:
    await seed(database, "exe_old", created_at=PAST, idempotency_key="key:mine")
    await seed(database, "exe_new", idempotency_key="key:other")
    await seed(database, "exe_slack", created_at=PAST, idempotency_key="slack:wsp_1:C1:1.1")

    assert await maintenance.forget_idempotency_keys(after_s=86_400, batch=10) == 1

    rows = await database.system().all("SELECT id, idempotency_key FROM executions ORDER BY id")
    assert [row["idempotency_key"] for row in rows] == ["key:other", "old:exe_old", "slack:wsp_1:C1:1.1"]


async def test_a_session_that_is_continued_while_it_expires_is_kept(
    maintenance: PostgresMaintenance, database: Database, database_url: str
) -> None:
    await database.system().execute(
        """INSERT INTO sessions (id, organization_id, session_key, source, last_active_at)
           VALUES ('ses_1', 'org_a', 'k', 'api', now() - interval '90 days')"""
    )
    async with await psycopg.AsyncConnection.connect(database_url) as request, request.transaction():
        await request.execute("UPDATE sessions SET last_active_at = now()")
        deleted = await maintenance.expire(retention_s={"sessions": 3600}, batch=10)

    assert deleted == {"sessions": 0}
    assert await maintenance.expire(retention_s={"sessions": 3600}, batch=10) == {"sessions": 0}


async def test_what_an_open_dead_letter_is_about_does_not_expire(
    maintenance: PostgresMaintenance, database: Database
) -> None:
    await seed(database, "exe_1", status="failed", finished_at=PAST)
    await seed(database, "exe_2", status="failed", finished_at=PAST)
    await database.system().execute(
        """INSERT INTO dead_letters (id, organization_id, queue, task, reason, error, subject_kind, subject_id)
           VALUES ('dlq_1', 'org_a', 'q', 't', 'r', 'e', 'execution', 'exe_1')"""
    )

    await maintenance.expire(retention_s={"executions": 60}, batch=10)

    assert [row["id"] for row in await database.system().all("SELECT id FROM executions")] == ["exe_1"]


async def test_every_table_that_expires_may_be_cleaned_by_the_system_role(maintenance: PostgresMaintenance) -> None:
    tables = ("inbound_events", "notifications", "executions", "sessions", "dead_letters", "audit_log")

    deleted = await maintenance.expire(retention_s=dict.fromkeys(tables, 60.0), batch=10)

    assert deleted == dict.fromkeys(tables, 0)


async def test_the_run_behind_an_answer_that_could_not_be_told_does_not_expire(
    maintenance: PostgresMaintenance, database: Database
) -> None:
    await seed(database, "exe_1", status="completed", finished_at=PAST)
    await database.system().execute(
        """INSERT INTO notifications (id, organization_id, execution_id, kind, destination, payload, status)
           VALUES ('ntf_1', 'org_a', 'exe_1', 'outcome', '{}', '{}', 'failed')"""
    )
    await database.system().execute(
        """INSERT INTO dead_letters (id, organization_id, queue, task, reason, error, subject_kind, subject_id)
           VALUES ('dlq_1', 'org_a', 'q', 't', 'r', 'e', 'notification', 'ntf_1')"""
    )

    assert await maintenance.expire(retention_s={"executions": 60}, batch=10) == {"executions": 0}
    await database.system().execute("UPDATE dead_letters SET status = 'discarded', resolved_at = now()")
    assert await maintenance.expire(retention_s={"executions": 60}, batch=10) == {"executions": 1}


async def test_words_that_belong_to_no_execution_expire_when_they_were_told(
    maintenance: PostgresMaintenance, database: Database
) -> None:
    await database.system().execute(
        """INSERT INTO notifications (id, organization_id, kind, destination, payload, status, created_at)
           SELECT 'ntf_' || status, 'org_a', 'outcome', '{}', '{}', status, now() - interval '30 days'
           FROM unnest(ARRAY['sent', 'dropped', 'ready']) AS status"""
    )

    assert await maintenance.expire(retention_s={"notifications": 86_400}, batch=10) == {"notifications": 2}
    assert await database.system().all("SELECT id FROM notifications") == [{"id": "ntf_ready"}]


async def test_a_session_is_deleted_without_reading_all_executions(database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url) as owner:
        await owner.execute("SET enable_seqscan = off")  # the table is empty here
        asked = "EXPLAIN (GENERIC_PLAN) SELECT 1 FROM executions WHERE session_id = $1"  # as its deletion does
        plan = await (await owner.execute(asked)).fetchall()

    assert any("ix_executions_by_session" in line for (line,) in plan)
