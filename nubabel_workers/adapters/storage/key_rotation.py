"""Re-encrypts every stored secret under the first key, batch by batch, while the system works."""

from typing import Any

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.encryption import TokenCipher
from nubabel_workers.domain.administration import RotationReport

# Every column that holds a secret of TokenCipher; a test compares this with the models.
SECRET_COLUMNS = (
    # In this order, here and below: a secret that is replaced meanwhile moves from the first column to the second.
    ("organizations", "webhook_secret"),
    ("organizations", "previous_webhook_secret"),
    ("workspaces", "bot_token"),
    ("submit_keys", "secret"),
    ("instances", "password"),
    ("instances", "callback_key"),
    ("instances", "previous_callback_key"),
    ("mcp_connections", "credentials"),
    ("mcp_connections", "client_secret"),
    ("mcp_authorizations", "secrets"),
)


_LOOKED_AT = 500  # secrets of a column: a key that is missing is missing for many


class PostgresKeyRotation:
    """KeyRotation and StoredSecrets. Repeating it is harmless: what is under the first key already is left alone."""

    def __init__(self, database: Database, cipher: TokenCipher, *, batch: int = 200) -> None:
        self._database = database
        self._cipher = cipher
        self._batch = batch

    async def rotate(self) -> RotationReport:
        report = RotationReport()
        for table, column in SECRET_COLUMNS:
            report = report + await self._rotate_column(table, column)
        return report

    async def readable(self) -> tuple[int, int]:
        found = [
            self._cipher.fits(row["sealed"])
            for table, column in SECRET_COLUMNS
            for row in await self._newest_rows(table, column)
        ]
        return sum(found), len(found)

    async def _newest_rows(self, table: str, column: str) -> list[dict[str, Any]]:
        return await self._database.system().all(
            f"""
            SELECT {column} AS sealed FROM {table}
            WHERE length({column}) > 0 ORDER BY id DESC LIMIT %(limit)s
            """,
            {"limit": _LOOKED_AT},
        )

    async def _rotate_column(self, table: str, column: str) -> RotationReport:
        report, after = RotationReport(), ""
        while rows := await self._next_rows(table, column, after):
            report = report + await self._rotate_rows(table, column, rows)
            after = rows[-1]["id"]
        return report

    async def _next_rows(self, table: str, column: str, after: str) -> list[dict[str, Any]]:
        return await self._database.system().all(
            f"""
            SELECT id, {column} AS sealed FROM {table}
            WHERE id > %(after)s AND length({column}) > 0 ORDER BY id LIMIT %(batch)s
            """,
            {"after": after, "batch": self._batch},
        )

    async def _rotate_rows(self, table: str, column: str, rows: list[dict[str, Any]]) -> RotationReport:
        stale = [row for row in rows if not self._cipher.is_current(row["sealed"])]
        resealed = [(row["id"], row["sealed"], self._cipher.rotate(row["sealed"])) for row in stale]
        readable = [(row_id, old, new) for row_id, old, new in resealed if new is not None]
        # Only where the value is still the one that was read: a secret replaced meanwhile is newer than ours.
        rotated = await self._database.system().execute(
            f"""
            UPDATE {table} AS t SET {column} = r.new
            FROM unnest(%(ids)s::text[], %(old)s::bytea[], %(new)s::bytea[]) AS r(id, old, new)
            WHERE t.id = r.id AND t.{column} = r.old
            """,
            {
                "ids": [row_id for row_id, _, _ in readable],
                "old": [old for _, old, _ in readable],
                "new": [new for _, _, new in readable],
            },
        )
        return RotationReport(
            rotated=rotated,
            current=len(rows) - len(stale),
            unreadable=tuple((table, row_id) for row_id, _, new in resealed if new is None),
        )
