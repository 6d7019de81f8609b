"""Take out everything that is stored of one organization, as an archive of its own form (docs/operations.md)."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.ports import Clock
from nubabel_workers.domain.ports.administration import Archive, AuditTrail, OrganizationRows
from nubabel_workers.domain.tenants import Organization

FORMAT = "nubabel-organization/1"
_WHAT_IS_LEFT_OUT = "Tokens, keys and passwords are never in an export, neither encrypted nor hashed."


@dataclass(frozen=True)
class Exported:
    """rows: how many, by table."""

    rows: Mapping[str, int]


class ExportOrganization:
    """schema_revision: of the database that this release works on."""

    def __init__(
        self, rows: OrganizationRows, audit: AuditTrail, clock: Clock, *, schema_revision: Callable[[], str]
    ) -> None:
        self._rows = rows
        self._audit = audit
        self._clock = clock
        self._schema_revision = schema_revision

    async def run(self, organization: Organization, archive: Archive, *, actor: str) -> Exported:
        """Written down before the first row is read: whoever looked is known, and the export shows it too."""
        await self._audit.add(AuditEntry(actor, AuditAction.ORGANIZATION_EXPORTED, organization.id, organization.id))
        counts: dict[str, int] = {}
        async with self._rows.snapshot(organization.id) as snapshot:
            for table in snapshot.tables:
                counts[table] = await archive.add_lines(f"{table}.jsonl", snapshot.rows(table))
            left_out = dict(snapshot.left_out)
        manifest = {
            "format": FORMAT,
            "organization": {"id": organization.id, "name": organization.name},
            "exported_at": self._clock.now().isoformat(),
            "schema_revision": self._schema_revision(),
            "rows": counts,
            "left_out": {"why": _WHAT_IS_LEFT_OUT, "columns": left_out},
        }
        archive.add("manifest.json", json.dumps(manifest, ensure_ascii=False, indent=2) + "\n")
        return Exported(counts)
