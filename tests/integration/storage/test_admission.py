"""What limits for new requests are compared with, counted from the rows of one organization."""

import pytest

from nubabel_workers.adapters.storage.admission import PostgresAdmission
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.domain.admission import Occupied
from nubabel_workers.domain.ports import KnownRequest
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration


@pytest.fixture
async def admission(database: Database) -> PostgresAdmission:
    for organization_id in ("org_a", "org_b"):
        await add_organization(database, organization_id)
    for number, status in enumerate(["queued", "queued", "running", "waiting_budget", "completed", "failed"]):
        await add_execution(database, ExecutionSeed(f"exe_{number}", "org_a", status=status))
    await add_execution(database, ExecutionSeed("exe_b", "org_b", status="queued"))
    return PostgresAdmission(database)


async def test_what_waits_and_conversations_that_are_not_over_are_counted(admission: PostgresAdmission) -> None:
    assert await admission.occupied("org_a") == Occupied(queued=2, sessions=4)
    assert await admission.occupied("org_b") == Occupied(queued=1, sessions=1)
    assert await admission.occupied("org_c") == Occupied(queued=0, sessions=0)


async def test_a_request_is_known_by_its_key_within_its_organization(
    admission: PostgresAdmission, database: Database
) -> None:
    row = await database.system().one(
        "SELECT e.idempotency_key, s.session_key FROM executions e JOIN sessions s ON s.id = e.session_id "
        "WHERE e.id = 'exe_0'"
    )
    assert row is not None

    async def known(organization_id: str, *, session_key: str = row["session_key"]) -> KnownRequest:
        return await admission.known(organization_id, idempotency_key=row["idempotency_key"], session_key=session_key)

    assert await known("org_a") == KnownRequest(request=True, session_is_open=True)
    assert await known("org_a", session_key="another") == KnownRequest(request=True, session_is_open=False)
    assert await known("org_b") == KnownRequest(request=False, session_is_open=False)
