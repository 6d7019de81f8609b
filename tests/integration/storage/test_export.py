"""An export holds everything of one organization, nothing of another, and no secret."""

import json
import os
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from nubabel_workers.adapters.process import SystemClock
from nubabel_workers.adapters.storage.audit import PostgresAuditTrail
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.organization_rows import PostgresOrganizationRows
from nubabel_workers.adapters.storage.row_sets import TENANT_TABLES
from nubabel_workers.adapters.zip_archive import new_zip_archive
from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.ids import OrganizationId
from nubabel_workers.domain.tenants import Organization
from nubabel_workers.services.export_organization import ExportOrganization
from nubabel_workers.services.report_foreign_ids import LISTED_PER_MINUTE, ReportForeignIds
from tests.conftest import PostgresServer
from tests.fakes.clock import FakeClock
from tests.fakes.foreign_ids import FakeIdOwners
from tests.fakes.incidents import FakeIncidents
from tests.fakes.throttle import FakeThrottle
from tests.integration.storage.seeds import add_row_of_every_table

pytestmark = pytest.mark.integration

ACME = Organization(OrganizationId("org_a"), "Acme")


@pytest.fixture
async def export(database: Database, database_url: str, postgres_server: PostgresServer) -> ExportOrganization:
    await add_row_of_every_table(database, "org_a", number=7)
    await add_row_of_every_table(database, "org_b", number=8)
    tenant_url = postgres_server.url(urlsplit(database_url).path.removeprefix("/"), user="nubabel_tenant")
    rows = PostgresOrganizationRows(tenant_url, connect_timeout_s=5, application_name="tests")
    return ExportOrganization(rows, PostgresAuditTrail(database), SystemClock(), schema_revision=lambda: "9999")


async def test_every_table_is_in_it_with_every_row_of_the_organization(
    export: ExportOrganization, database: Database, tmp_path: Path
) -> None:
    with new_zip_archive(tmp_path / "acme.zip") as archive:
        exported = await export.run(ACME, archive, actor="cli:anna")

    with zipfile.ZipFile(tmp_path / "acme.zip") as found:
        manifest = json.loads(found.read("manifest.json"))
        lines = {table: found.read(f"{table}.jsonl").decode().splitlines() for table in TENANT_TABLES}
        assert set(found.namelist()) == {"manifest.json", *(f"{table}.jsonl" for table in TENANT_TABLES)}
    for table in TENANT_TABLES:
        owner = "id" if table == "organizations" else "organization_id"
        stored = await database.system().one(f"SELECT count(*) AS rows FROM {table} WHERE {owner} = 'org_a'")
        assert stored is not None
        assert stored["rows"] == len(lines[table]) == manifest["rows"][table] == exported.rows[table]
        assert {json.loads(line)[owner] for line in lines[table]} == {"org_a"}, table
    assert manifest["format"] == "nubabel-organization/1"
    assert manifest["schema_revision"] == "9999"


async def test_no_secret_is_in_it_and_the_manifest_says_what_was_left_out(
    export: ExportOrganization, database: Database, tmp_path: Path
) -> None:
    await database.system().execute("UPDATE workspaces SET bot_token = 'sealed-token-1'")
    await database.system().execute("UPDATE organizations SET webhook_secret = 'sealed-token-1'")

    with new_zip_archive(tmp_path / "acme.zip") as archive:
        await export.run(ACME, archive, actor="cli:anna")

    with zipfile.ZipFile(tmp_path / "acme.zip") as found:
        everything = "".join(found.read(name).decode() for name in found.namelist())
        left_out = json.loads(found.read("manifest.json"))["left_out"]["columns"]
    assert "sealed-token-1" not in everything
    assert b"sealed-token-1".hex() not in everything
    assert left_out["workspaces"] == ["bot_token"]
    assert left_out["mcp_connections"] == ["client_secret", "credentials"]
    assert {"organizations", "service_tokens", "submit_keys", "mcp_authorizations"} <= left_out.keys()


async def test_what_its_own_agents_were_refused_is_in_it_and_what_operators_were_told_is_not(
    export: ExportOrganization, database: Database, tmp_path: Path
) -> None:
    audit = PostgresAuditTrail(database)
    report = ReportForeignIds(FakeIdOwners(), audit, FakeIncidents(), FakeThrottle(FakeClock()))
    for _ in range(LISTED_PER_MINUTE + 2):
        await report.write(AuditEntry("instance:ins_1", AuditAction.TOOL_CALL_REFUSED, "org_a", "ses_1"))
        await report.write(
            AuditEntry("token:t", AuditAction.FOREIGN_ID_NAMED, None, "exe_1", {"organization": "org_a"})
        )
    await report.close()

    with new_zip_archive(tmp_path / "acme.zip") as archive:
        await export.run(ACME, archive, actor="cli:anna")

    with zipfile.ZipFile(tmp_path / "acme.zip") as found:
        lines = [json.loads(line) for line in found.read("audit_log.jsonl").decode().splitlines()]
    (own,) = [line for line in lines if line["action"] == AuditAction.REFUSALS_NOT_LISTED]
    assert own["detail"] == {"action": AuditAction.TOOL_CALL_REFUSED, "refused": 2}
    assert [line for line in lines if line["action"].startswith("foreign_id.")] == []
    of_all = await audit.list(organization_id=None, limit=1000)
    assert AuditAction.FOREIGN_IDS_NOT_LISTED in {entry.action for entry in of_all}


async def test_who_exported_is_in_the_audit_log_and_in_the_export(
    export: ExportOrganization, database: Database, tmp_path: Path
) -> None:
    with new_zip_archive(tmp_path / "acme.zip") as archive:
        await export.run(ACME, archive, actor="cli:anna")

    (entry, *_) = await PostgresAuditTrail(database).list(organization_id="org_a", limit=1)
    assert (entry.actor, entry.action) == ("cli:anna", "organization.exported")
    with zipfile.ZipFile(tmp_path / "acme.zip") as found:
        assert "organization.exported" in found.read("audit_log.jsonl").decode()


async def test_what_is_written_meanwhile_is_not_in_it(
    export: ExportOrganization, database: Database, tmp_path: Path
) -> None:
    async with export._rows.snapshot("org_a") as snapshot:
        await database.system().execute("DELETE FROM usage")
        later = [row async for row in snapshot.rows("usage")]

    assert len(later) == 1


async def test_a_file_that_is_there_is_not_overwritten_and_half_an_export_leaves_none(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[str]:
        yield "{}"
        raise RuntimeError("the database went away")

    (tmp_path / "there.zip").write_text("precious")

    with pytest.raises(InvalidInputError, match="exists already"), new_zip_archive(tmp_path / "there.zip"):
        pass
    with pytest.raises(RuntimeError), new_zip_archive(tmp_path / "new.zip") as archive:
        await archive.add_lines("a.jsonl", broken())
    with pytest.raises(InvalidInputError, match="cannot be written"), new_zip_archive(tmp_path / "no" / "dir.zip"):
        pass
    with pytest.raises(InvalidInputError, match="not to standard output"), new_zip_archive(Path("-")):
        pass

    assert [one.name for one in os.scandir(tmp_path)] == ["there.zip"]
    assert (tmp_path / "there.zip").read_text() == "precious"
