"""What operators read: executions, what they waited for, how far the telling is."""

import pytest

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.execution_reports import PostgresExecutionReports
from nubabel_workers.domain.executions import Status
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration


@pytest.fixture
def reports(database: Database) -> PostgresExecutionReports:
    return PostgresExecutionReports(database)


async def test_executions_are_listed_newest_first_by_organization_and_state(
    reports: PostgresExecutionReports, database: Database
) -> None:
    for organization_id in ("org_a", "org_b"):
        await add_organization(database, organization_id)
    for number, (organization_id, status) in enumerate(
        [("org_a", "completed"), ("org_a", "queued"), ("org_b", "queued"), ("org_a", "queued")]
    ):
        at = f"2026-01-01T00:00:0{number}Z"
        seed = ExecutionSeed(f"exe_{number}", organization_id, status, prompt="x" * 500, columns={"created_at": at})
        await add_execution(database, seed)

    queued_of_a = await reports.list(organization_id="org_a", statuses=frozenset({Status.QUEUED}), limit=10)
    everything = await reports.list(organization_id=None, statuses=None, limit=3)

    assert [one.id for one in queued_of_a] == ["exe_3", "exe_1"]
    assert [one.id for one in everything] == ["exe_3", "exe_2", "exe_1"]
    assert len(everything[0].prompt_start) == 200
    assert await reports.organization_of("exe_2") == "org_b"
    assert await reports.organization_of("exe_none") is None


async def test_the_wait_for_an_earlier_message_of_the_session_is_known(
    reports: PostgresExecutionReports, database: Database
) -> None:
    await add_organization(database, "org_a")
    for number, finished in enumerate(["2026-01-01T00:00:10Z", "2026-01-01T00:01:00Z", None]):
        created = f"2026-01-01T00:00:{20 + number}Z"
        columns = {"created_at": created, "finished_at": finished}
        status = "completed" if finished else "queued"
        seed = ExecutionSeed(f"exe_{number}", "org_a", status, session_id="ses_1", columns=columns)
        await add_execution(database, seed)

    second, third = [await reports.session_wait("org_a", f"exe_{number}") for number in (1, 2)]

    assert second is None  # the one before was over when it came
    assert third is not None
    assert third.execution_id == "exe_1"
    assert third.until is not None


async def test_deliveries_belong_to_their_execution(reports: PostgresExecutionReports, database: Database) -> None:
    await add_organization(database, "org_a")
    await add_execution(database, ExecutionSeed("exe_1", "org_a", "completed"))
    await database.system().execute(
        """INSERT INTO notifications (id, organization_id, execution_id, kind, destination, payload, status)
           VALUES ('ntf_1', 'org_a', 'exe_1', 'outcome', '{}', '{}', 'sent')"""
    )

    found = await reports.deliveries("org_a", "exe_1")

    assert [(one.kind, one.status) for one in found] == [("outcome", "sent")]
    assert await reports.deliveries("org_b", "exe_1") == []
