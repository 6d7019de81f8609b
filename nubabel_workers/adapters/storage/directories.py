"""Places of OpenCode servers for organizations' directories. A row that is not `disposed` holds one."""

from collections.abc import Mapping
from typing import Any

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.row_sets import IDLE_DIRECTORY_SQL, JUST_USED_SQL
from nubabel_workers.domain.directories import DISPLACED_AFTER_S, Directory, DirectoryState

# One that was just used is not written to again. What this statement sees as neither fresh nor touched is being
# unloaded, or was just now.
_TAKE = f"""
WITH known AS (
  SELECT state, used_at FROM instance_directories
  WHERE instance_id = %(instance_id)s AND organization_id = %(organization_id)s AND state <> 'disposed'
),
fresh AS (
  SELECT state FROM known WHERE state <> 'disposing' AND {JUST_USED_SQL}
),
touched AS (
  UPDATE instance_directories SET used_at = now()
  WHERE instance_id = %(instance_id)s AND organization_id = %(organization_id)s AND state IN ('wanted', 'ready')
    AND NOT {JUST_USED_SQL}
  RETURNING state
),
taken AS (
  INSERT INTO instance_directories (instance_id, organization_id, path, state)
  SELECT %(instance_id)s, %(organization_id)s, %(path)s, 'wanted'
  WHERE CASE WHEN EXISTS (SELECT 1 FROM known) THEN false ELSE free_directories(%(instance_id)s) > 0 END
  ON CONFLICT (instance_id, organization_id) DO UPDATE
  SET state = 'wanted', path = excluded.path, used_at = now(), changed_at = now()
  WHERE instance_directories.state = 'disposed'
  RETURNING state
)
SELECT COALESCE(
  (SELECT state FROM taken), (SELECT state FROM touched), (SELECT state FROM fresh), (SELECT 'disposing' FROM known)
) AS state
"""
_MADE = """
UPDATE instance_directories SET state = 'ready', changed_at = now()
WHERE instance_id = %(instance_id)s AND organization_id = %(organization_id)s AND state = 'wanted'
"""
_DISPLACE = f"""
UPDATE instance_directories t SET state = 'disposing', changed_at = now()
FROM (
  SELECT d.instance_id, d.organization_id FROM instance_directories d
  WHERE d.instance_id = %(instance_id)s AND {IDLE_DIRECTORY_SQL}
  ORDER BY d.used_at LIMIT 1 FOR UPDATE SKIP LOCKED
) AS one
WHERE t.instance_id = one.instance_id AND t.organization_id = one.organization_id
RETURNING t.instance_id, t.organization_id, t.path
"""
# Whoever began to unload one has given up by then, or died: a call takes less. A server that is away is asked later.
_TAKE_IDLE = f"""
UPDATE instance_directories t SET state = 'disposing', changed_at = now()
FROM (
  SELECT d.instance_id, d.organization_id FROM instance_directories d JOIN instances i ON i.id = d.instance_id
  WHERE (i.healthy OR i.status = 'removed')
    AND ({IDLE_DIRECTORY_SQL} OR d.state = 'disposing' AND d.changed_at < now() - interval '2 minutes')
  ORDER BY d.used_at LIMIT %(limit)s FOR UPDATE OF d SKIP LOCKED
) AS one
WHERE t.instance_id = one.instance_id AND t.organization_id = one.organization_id
RETURNING t.instance_id, t.organization_id, t.path
"""
_DISPOSED = """
UPDATE instance_directories SET state = 'disposed', changed_at = now()
WHERE instance_id = %(instance_id)s AND organization_id = %(organization_id)s AND state = 'disposing'
"""
_READY_ON = "SELECT path FROM instance_directories WHERE instance_id = %(instance_id)s AND state = 'ready'"


class PostgresDirectories:
    """Implements ports.DirectoryStore. As the system role: a server's places are all organizations'."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, directory: Directory) -> DirectoryState | None:
        row = await self._database.system().one(_TAKE, {**_names(directory), "path": directory.path})
        return DirectoryState(row["state"]) if row and row["state"] else None

    async def made(self, directory: Directory) -> None:
        await self._database.system().execute(_MADE, _names(directory))

    async def displace(self, instance_id: str) -> Directory | None:
        row = await self._database.system().one(_DISPLACE, {"instance_id": instance_id, "idle_s": DISPLACED_AFTER_S})
        return Directory(**row) if row else None

    async def take_idle(self, *, idle_s: float, limit: int) -> list[Directory]:
        rows = await self._database.system().all(_TAKE_IDLE, {"idle_s": idle_s, "limit": limit})
        return [Directory(**row) for row in rows]

    async def disposed(self, directory: Directory) -> None:
        await self._database.system().execute(_DISPOSED, _names(directory))

    async def ready_on(self, instance_id: str) -> list[str]:
        rows = await self._database.system().all(_READY_ON, {"instance_id": instance_id})
        return [row["path"] for row in rows]


def _names(directory: Directory) -> Mapping[str, Any]:
    return {"instance_id": directory.instance_id, "organization_id": directory.organization_id}
