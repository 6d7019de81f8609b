"""OpenCode servers. They belong to the operators, not to a tenant: the tenant role cannot see this table."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import structlog
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from nubabel_workers.adapters.storage.audit import audit_params, audited
from nubabel_workers.adapters.storage.brief_cache import BriefCache
from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.encryption import SecretPurpose, TokenCipher
from nubabel_workers.adapters.storage.row_sets import (
    HOLDING_A_PLACE_SQL,
    IDLE_DIRECTORY_SQL,
    JUST_USED_SQL,
    OCCUPYING_SQL,
    STRAINS_SQL,
)
from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.directories import DISPLACED_AFTER_S
from nubabel_workers.domain.errors import CredentialsError
from nubabel_workers.domain.ids import InstanceId, OrganizationId
from nubabel_workers.domain.placement import TAKE_BACK_S
from nubabel_workers.domain.tenants import Instance, InstanceChange

log = structlog.get_logger(__name__)

_COLUMNS = f"""i.id, i.url, i.username, i.password, i.directory, i.organization_id, i.status, i.capacity_runs,
              i.submits_per_second, i.max_directories, i.directories_path, i.agents, i.version, i.healthy,
              i.health_detail, i.refused AND NOT i.healthy AS refused, i.checked_at, i.unhealthy_since, i.event_lag_s,
              COALESCE((SELECT string_agg(value, '; ' ORDER BY key) FROM jsonb_each_text({STRAINS_SQL})), '') AS strain,
              CASE WHEN i.memory_at > now() - interval '5 minutes' THEN i.memory_bytes END AS memory_bytes,
              EXTRACT(EPOCH FROM now() - i.recovered_at)::float8 AS recovered_ago_s"""
# Given up only while another server of the same kind can take its sessions: without one, waiting is all there is.
_GIVEN_UP = """COALESCE(i.unhealthy_since < now() - make_interval(secs => %(give_up_after_s)s)
    AND EXISTS (SELECT 1 FROM instances o WHERE o.status = 'active' AND o.healthy AND o.id <> i.id
      AND o.organization_id IS NOT DISTINCT FROM i.organization_id), false) AS given_up"""
_IN_FLIGHT = f"""(
  SELECT count(*) FROM executions e WHERE e.instance_id = i.id AND e.{HOLDING_A_PLACE_SQL}) AS in_flight"""
_IN_FLIGHT_BESIDES = f"""(
  SELECT count(*) FROM executions e WHERE e.instance_id = i.id AND e.{HOLDING_A_PLACE_SQL}
    AND e.id <> ALL(%(besides)s::text[])) AS in_flight"""
# Of servers that take fewer new sessions than they have places, or none. The session's own word counts: it may live
# elsewhere by now.
_AWAITED = f"""CASE WHEN i.recovered_at > now() - make_interval(secs => %(take_back_s)s)
    OR i.status = 'draining' OR NOT i.healthy OR {STRAINS_SQL} <> '{{}}' THEN (
  SELECT count(*) FROM (
    SELECT 1 FROM executions e JOIN sessions s ON s.id = e.session_id AND s.instance_id = i.id
    WHERE e.instance_id = i.id AND e.status = 'queued' LIMIT i.capacity_runs) AS those) ELSE 0 END AS awaited"""
# Of servers that answer one at a time, when nothing runs there any more or it was drained for long enough: all of them
# may be growing for the same reason.
_STRAINED_LONGEST = f"""
    SELECT i.id FROM instances i
    WHERE i.status = 'active' AND i.healthy AND {STRAINS_SQL} <> '{{}}'
      AND i.strained_since < now() - make_interval(secs => %(after_s)s)
      AND COALESCE(i.restarted_at < now() - make_interval(secs => %(every_s)s), true)
      AND (i.strained_since < now() - make_interval(secs => %(drain_s)s)
        OR NOT EXISTS (SELECT 1 FROM executions e WHERE e.instance_id = i.id AND e.{OCCUPYING_SQL}))
      AND NOT EXISTS (SELECT 1 FROM instances r WHERE r.restarted_at > now() - make_interval(secs => %(after_s)s))
    ORDER BY i.strained_since, i.id LIMIT 1"""
_DIRECTORIES = f"""
  COALESCE(places.housed, '{{}}') AS housed, COALESCE(places.just_used, '{{}}') AS just_used,
  places.taken AS directories_taken, COALESCE(places.awaited, 0) AS directories_awaited,
  CASE WHEN places.taken < i.max_directories THEN 0 ELSE (
    SELECT count(*) FROM instance_directories d WHERE d.instance_id = i.id AND {IDLE_DIRECTORY_SQL}) END
    AS directories_idle"""
_PLACES = f"""
LEFT JOIN LATERAL (
  SELECT array_agg(d.organization_id) FILTER (WHERE d.state IN ('wanted', 'ready')) AS housed, count(*) AS taken,
    count(*) FILTER (WHERE d.state = 'wanted') AS awaited,
    array_agg(d.organization_id) FILTER (WHERE d.state = 'ready' AND d.{JUST_USED_SQL}) AS just_used
  FROM instance_directories d WHERE d.instance_id = i.id AND d.state <> 'disposed') AS places ON true"""
_KEEP_S = 2.0
_MOMENT_S = 5.0  # a stream that broke and was opened again; a server that starts anew takes longer
_MAX_ENTRIES = 1024
_STATUS_ACTIONS = {
    "active": AuditAction.INSTANCE_ACTIVATED,
    "draining": AuditAction.INSTANCE_DRAINED,
    "removed": AuditAction.INSTANCE_REMOVED,
}


class PostgresInstances:
    """InstanceStore, InstanceRegistry and CallbackKeyRegistry."""

    def __init__(self, database: Database, cipher: TokenCipher, *, give_up_after_s: float) -> None:
        """give_up_after_s: how long a server may be away before its sessions go on elsewhere."""
        self._database = database
        self._cipher = cipher
        self._give_up_after_s = give_up_after_s
        # loads() runs at every dispatch; a password is decrypted once per stored value, not each time.
        self._decrypted: dict[bytes, SecretStr] = {}
        self._told_unreadable: set[bytes] = set()
        self._lately: BriefCache[str, Instance] = BriefCache(keep_s=_KEEP_S, max_entries=_MAX_ENTRIES)
        self._callback_keys: BriefCache[str, Sequence[SecretStr]] = BriefCache(keep_s=_KEEP_S, max_entries=_MAX_ENTRIES)

    async def loads(self, *, besides: Collection[str] = ()) -> list[Instance]:
        rows = await self._database.system().all(
            f"""
            SELECT {_COLUMNS}, {_GIVEN_UP}, {_IN_FLIGHT_BESIDES}, {_AWAITED}, {_DIRECTORIES} FROM instances i {_PLACES}
            WHERE i.status <> 'removed' ORDER BY i.id
            """,
            {
                "give_up_after_s": self._give_up_after_s,
                "idle_s": DISPLACED_AFTER_S,
                "take_back_s": TAKE_BACK_S,
                "besides": list(besides),
            },
        )
        self._forget_passwords_except({row["password"] for row in rows})
        instances = [self._instance_of(row) for row in rows]
        for instance in instances:
            self._lately.put(instance.id, instance)
        return instances

    async def lately(self, instance_id: str) -> Instance | None:
        found = self._lately.get(instance_id)
        if found is None:
            found = await self.find(instance_id)
            if found is not None:
                self._lately.put(instance_id, found)
        return found

    async def find(self, instance_id: str) -> Instance | None:
        """Removed ones too: an execution may still have to be aborted there."""
        row = await self._database.system().one(
            f"SELECT {_COLUMNS}, {_GIVEN_UP}, {_IN_FLIGHT} FROM instances i WHERE i.id = %(instance_id)s",
            {"instance_id": instance_id, "give_up_after_s": self._give_up_after_s},
        )
        return self._instance_of(row) if row else None

    async def report_health(
        self,
        instance_id: str,
        *,
        healthy: bool,
        detail: str,
        version: str,
        agents: Sequence[str],
        directories_path: str | None = None,
    ) -> None:
        """What an unreachable server told of itself stays, also that it is refused, which only one is that answers and
        so tells its version. One that is back is taken back slowly: a new process has no directory loaded, and each is
        loaded again at its pace.
        """
        await self._database.system().execute(
            """
            WITH back AS (
              SELECT id FROM instances
              WHERE id = %(instance_id)s AND %(healthy)s
                AND unhealthy_since < now() - make_interval(secs => %(moment_s)s)
            ),
            unloaded AS (
              UPDATE instance_directories d SET state = 'wanted', changed_at = now()
              FROM back WHERE d.instance_id = back.id AND d.state = 'ready'
            )
            UPDATE instances
            SET healthy = %(healthy)s,
                recovered_at = CASE WHEN %(healthy)s AND unhealthy_since < now() - make_interval(secs => %(moment_s)s)
                                    THEN now() ELSE recovered_at END,
                unhealthy_since = CASE WHEN NOT %(healthy)s THEN COALESCE(unhealthy_since, now()) END,
                health_detail = %(detail)s, checked_at = now(),
                refused = NOT %(healthy)s AND (%(version)s <> '' OR refused),
                version = CASE WHEN %(version)s = '' THEN version ELSE %(version)s END,
                agents = CASE WHEN %(healthy)s THEN %(agents)s ELSE agents END,
                directories_path = CASE WHEN %(healthy)s THEN COALESCE(%(directories_path)s, directories_path)
                                        ELSE directories_path END
            WHERE id = %(instance_id)s
            """,
            {
                "instance_id": instance_id,
                "healthy": healthy,
                "detail": detail,
                "version": version,
                "agents": Jsonb(list(agents)),
                "directories_path": directories_path,
                "moment_s": _MOMENT_S,
            },
        )

    async def take_restarts(self, *, after_s: float, every_s: float, drain_s: float) -> list[Instance]:
        rows = await self._database.system().all(
            f"""
            WITH due AS (
                UPDATE instances i SET restarted_at = now()
                WHERE i.status = 'active'
                  AND COALESCE(i.restarted_at < now() - make_interval(secs => %(every_s)s), true)
                  AND (i.unhealthy_since < now() - make_interval(secs => %(after_s)s) OR i.id = ({_STRAINED_LONGEST}))
                RETURNING {_COLUMNS}),
            entered AS (
                INSERT INTO audit_log (organization_id, actor, action, subject)
                SELECT organization_id, 'scheduler', %(action)s, id FROM due)
            SELECT * FROM due
            """,
            {
                "after_s": after_s,
                "every_s": every_s,
                "drain_s": drain_s,
                "action": AuditAction.INSTANCE_RESTARTED.value,
            },
        )
        return [self._instance_of({**row, "in_flight": 0}) for row in rows]

    async def by_url(self, url: str) -> Instance | None:
        row = await self._database.system().one(
            f"SELECT {_COLUMNS}, {_IN_FLIGHT} FROM instances i WHERE i.url = %(url)s", {"url": url}
        )
        return self._instance_of(row) if row else None

    async def add(self, instance: Instance, *, actor: str) -> Instance | None:
        """Add a server, or bring a removed one of the same id back; None when the URL is in use under another id."""
        self._lately.clear()
        password = instance.password
        detail = {"url": instance.url, "organization_id": instance.organization_id}
        row = await self._database.system().one(
            audited(
                f"""
                INSERT INTO instances AS i (id, url, username, password, directory, organization_id, capacity_runs,
                                            submits_per_second, max_directories, healthy, health_detail)
                SELECT %(id)s, %(url)s, %(username)s, %(password)s, %(directory)s, %(organization_id)s,
                       %(capacity_runs)s, %(submits_per_second)s, %(max_directories)s, %(healthy)s, %(health_detail)s
                WHERE NOT EXISTS (
                  SELECT 1 FROM organizations o WHERE o.id = %(organization_id)s::text AND o.erasing_at IS NOT NULL)
                ON CONFLICT (url) DO UPDATE
                SET username = excluded.username, password = excluded.password, directory = excluded.directory,
                    organization_id = excluded.organization_id, capacity_runs = excluded.capacity_runs,
                    submits_per_second = excluded.submits_per_second, max_directories = excluded.max_directories,
                    directories_path = NULL, status = 'active', healthy = excluded.healthy, refused = false,
                    unhealthy_since = NULL, recovered_at = NULL, health_detail = excluded.health_detail,
                    memory_samples = '[]', memory_bytes = NULL, memory_at = NULL, event_lag_s = NULL,
                    strains = '{{}}', strained_since = NULL
                WHERE i.status = 'removed' AND i.id = excluded.id
                RETURNING {_COLUMNS}
                """
            ),
            {
                "id": instance.id,
                "url": instance.url,
                "username": instance.username,
                "password": self._seal(instance.id, password) if password else None,
                "directory": instance.directory,
                "organization_id": instance.organization_id,
                "capacity_runs": instance.capacity_runs,
                "submits_per_second": instance.submits_per_second,
                "max_directories": instance.max_directories,
                "healthy": instance.healthy,
                "health_detail": instance.health_detail,
                **audit_params(
                    AuditEntry(actor, AuditAction.INSTANCE_ADDED, instance.organization_id, instance.id, detail)
                ),
            },
        )
        return self._instance_of({**row, "in_flight": 0}) if row else None

    async def set_status(self, instance_id: str, status: str, *, only_if_idle: bool, actor: str) -> bool:
        """Return whether it changed. only_if_idle: not while an execution occupies it.

        One that goes loses its keys, one that is active again is taken back slowly.
        """
        self._lately.clear()
        self._callback_keys.clear()
        idle = f"AND NOT EXISTS (SELECT 1 FROM executions e WHERE e.instance_id = i.id AND e.{OCCUPYING_SQL})"
        changed = await self._database.system().one(
            audited(
                f"""
                UPDATE instances i
                SET status = %(status)s,
                    recovered_at = CASE WHEN %(status)s = 'active' THEN now() ELSE recovered_at END,
                    callback_key = CASE WHEN %(status)s <> 'removed' THEN callback_key END,
                    previous_callback_key = CASE WHEN %(status)s <> 'removed' THEN previous_callback_key END
                WHERE i.id = %(instance_id)s AND i.status NOT IN (%(status)s, 'removed') {idle if only_if_idle else ""}
                RETURNING i.id
                """
            ),
            {
                "instance_id": instance_id,
                "status": status,
                **audit_params(AuditEntry(actor, _STATUS_ACTIONS[status], None, instance_id)),
            },
        )
        return changed is not None

    async def change(self, instance_id: str, change: InstanceChange, *, actor: str) -> bool:
        """The audit log says that there is another password, not which."""
        self._lately.clear()
        values: dict[str, object] = {**change.values()}
        detail: dict[str, object] = {**values}
        if change.password is not None:
            values["password"], detail["password"] = self._seal(instance_id, change.password), "another"
        columns = ", ".join(f"{column} = %({column})s" for column in values)
        changed = await self._database.system().one(
            audited(f"UPDATE instances SET {columns} WHERE id = %(instance_id)s AND status <> 'removed' RETURNING id"),
            {
                **values,
                "instance_id": instance_id,
                **audit_params(AuditEntry(actor, AuditAction.INSTANCE_CHANGED, None, instance_id, detail)),
            },
        )
        return changed is not None

    async def callback_keys(self, instance_id: str) -> Sequence[SecretStr]:
        found = self._callback_keys.get(instance_id)
        if found is None:
            row = await self._database.system().one(
                """
                SELECT callback_key, previous_callback_key FROM instances
                WHERE id = %(instance_id)s AND status <> 'removed'
                """,
                {"instance_id": instance_id},
            )
            if row is None:  # not remembered: whoever asks for made-up servers must not fill this
                return ()
            found = self._readable_keys(instance_id, row.values())
            self._callback_keys.put(instance_id, found)
        return found

    async def add_callback_key(self, instance_id: str, key: SecretStr, *, actor: str) -> bool:
        return await self._change_callback_keys(
            "previous_callback_key = callback_key, callback_key = %(key)s",
            "status <> 'removed'",
            {"key": self._cipher.encrypt(key, SecretPurpose.CALLBACK_KEY, instance_id)},
            AuditEntry(actor, AuditAction.CALLBACK_KEY_CREATED, None, instance_id),
        )

    async def end_previous_callback_key(self, instance_id: str, *, actor: str) -> bool:
        return await self._change_callback_keys(
            "previous_callback_key = NULL",
            "previous_callback_key IS NOT NULL",
            {},
            AuditEntry(actor, AuditAction.CALLBACK_KEY_ENDED, None, instance_id),
        )

    async def _change_callback_keys(
        self, change: str, condition: str, params: Mapping[str, Any], entry: AuditEntry
    ) -> bool:
        changed = await self._database.system().one(
            audited(f"UPDATE instances SET {change} WHERE id = %(instance_id)s AND {condition} RETURNING id"),
            {"instance_id": entry.subject, **params, **audit_params(entry)},
        )
        self._callback_keys.clear()
        return changed is not None

    def _readable_keys(self, instance_id: str, stored: Iterable[bytes | None]) -> Sequence[SecretStr]:
        keys = []
        for sealed in stored:
            try:
                keys += [self._cipher.decrypt(sealed, SecretPurpose.CALLBACK_KEY, instance_id)] if sealed else []
            except CredentialsError as error:
                log.error("instance.callback_key_unreadable", instance_id=instance_id, error=str(error))  # noqa: TRY400
        return tuple(keys)

    def _instance_of(self, row: dict[str, Any]) -> Instance:
        """One whose password cannot be read is unfit; the others must not suffer for it."""
        organization_id, password = row["organization_id"], None
        try:
            password = self._open(row["id"], row["password"])
        except CredentialsError as error:
            self._tell_unreadable(row["id"], row["password"], error)
            row = {**row, "healthy": False, "health_detail": str(error), "unreadable": True}
        return Instance(
            **{
                **row,
                "id": InstanceId(row["id"]),
                "organization_id": OrganizationId(organization_id) if organization_id else None,
                "password": password,
                "agents": tuple(row["agents"]),
                "housed": frozenset(row.get("housed") or ()),
                "just_used": frozenset(row.get("just_used") or ()),
            }
        )

    def _seal(self, instance_id: str, password: SecretStr) -> bytes:
        return self._cipher.encrypt(password, SecretPurpose.INSTANCE_PASSWORD, instance_id)

    def _open(self, instance_id: str, sealed: bytes | None) -> SecretStr | None:
        if not sealed:
            return None
        password = self._decrypted.get(sealed)
        if password is None:
            password = self._cipher.decrypt(sealed, SecretPurpose.INSTANCE_PASSWORD, instance_id)
            self._decrypted[sealed] = password
        return password

    def _tell_unreadable(self, instance_id: str, sealed: bytes, error: CredentialsError) -> None:
        """Once for each: they are read every few seconds."""
        if sealed not in self._told_unreadable:
            self._told_unreadable.add(sealed)
            log.error("instance.password_unreadable", instance_id=instance_id, error=str(error))

    def _forget_passwords_except(self, stored: set[bytes | None]) -> None:
        for sealed in self._decrypted.keys() - stored:
            del self._decrypted[sealed]
