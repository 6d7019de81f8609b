"""How OpenCode servers that answer are doing: each statement one row, so that it is whole or was never run."""

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.domain.server_vitals import MemoryHistory, MemorySample, Vital

_MAX_SAMPLES = 240
_MOMENT_S = 5.0  # shorter strains are no absence that a server would have to be taken back from

_ADD_MEMORY = """
UPDATE instances SET memory_process = %(process)s, memory_at = now(), memory_bytes = %(resident_bytes)s,
  memory_samples = COALESCE((
    SELECT jsonb_agg(newest.sample ORDER BY newest.n) FROM (
      SELECT old.sample, old.n FROM jsonb_array_elements(memory_samples) WITH ORDINALITY AS old(sample, n)
      WHERE memory_process = %(process)s
        AND (old.sample->>0)::float8 > extract(epoch FROM now()) - %(keep_s)s
      ORDER BY old.n DESC LIMIT %(most)s) AS newest), '[]')
    || jsonb_build_array(jsonb_build_array(round(extract(epoch FROM now()), 3), %(resident_bytes)s::bigint))
WHERE id = %(instance_id)s AND status <> 'removed'
RETURNING memory_samples, strains ? %(vital)s AS strained
"""

_SET_STRAIN = """
UPDATE instances SET strains = after.strains,
  strained_since = CASE WHEN after.strains <> '{}' THEN COALESCE(strained_since, now()) END,
  recovered_at = CASE WHEN after.strains = '{}' AND strained_since < now() - make_interval(secs => %(moment_s)s)
                      THEN now() ELSE recovered_at END
FROM (SELECT id, CASE WHEN %(reason)s::text IS NULL THEN strains - %(vital)s::text
                      ELSE strains || jsonb_build_object(%(vital)s::text, %(reason)s::text) END AS strains
      FROM instances WHERE id = %(instance_id)s FOR UPDATE) AS after
WHERE instances.id = after.id AND instances.strains <> after.strains AND instances.status <> 'removed'
"""

# Whose events come was heard of: that is written down now and then, so that its age says something to who reads it.
_SET_EVENT_LAG = """
UPDATE instances SET event_lag_s = %(lag_s)s, checked_at = now()
WHERE id = %(instance_id)s AND status <> 'removed'
  AND (event_lag_s IS DISTINCT FROM %(lag_s)s OR checked_at < now() - interval '30 seconds')
"""


class PostgresVitals:
    """Implements ports.VitalsStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_memory(self, instance_id: str, *, process: str, resident_bytes: int, keep_s: float) -> MemoryHistory:
        row = await self._database.system().one(
            _ADD_MEMORY,
            {
                "instance_id": instance_id,
                "process": process,
                "resident_bytes": resident_bytes,
                "keep_s": keep_s,
                "most": _MAX_SAMPLES - 1,
                "vital": Vital.MEMORY.value,
            },
        )
        if row is None:
            return MemoryHistory((), strained=False)
        samples = tuple(MemorySample(float(at_s), int(size)) for at_s, size in row["memory_samples"])
        return MemoryHistory(samples, strained=row["strained"])

    async def set_strain(self, instance_id: str, vital: Vital, reason: str | None) -> None:
        params = {"instance_id": instance_id, "vital": vital.value, "reason": reason, "moment_s": _MOMENT_S}
        await self._database.system().execute(_SET_STRAIN, params)

    async def set_event_lag(self, instance_id: str, lag_s: float) -> None:
        await self._database.system().execute(_SET_EVENT_LAG, {"instance_id": instance_id, "lag_s": lag_s})
