"""What a migration would do to the release before it, which goes on working beside: read from its SQL."""

import io
import re

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import Script

_BREAKS = {
    "takes a table away": r"\bDROP TABLE\b",
    "takes a column away": r"\bDROP COLUMN\b",
    "renames": r"\bRENAME\b",
    "changes a column's type": r"\bALTER COLUMN \S+ TYPE\b",
    "wants a value that the earlier release does not give": r"\bSET NOT NULL\b|\bDROP DEFAULT\b",
    "adds a rule that the earlier release may break": r"\bADD (CONSTRAINT|UNIQUE|CHECK|FOREIGN KEY)\b"
    r"|\bCREATE UNIQUE INDEX\b",
}
_NEW_TABLE = re.compile(r"\s*CREATE TABLE (\w+)", re.IGNORECASE)
_NEW_INDEX = re.compile(r"\s*CREATE UNIQUE INDEX \w+ ON (\w+)", re.IGNORECASE)
_NEW_COLUMN = re.compile(r"\bADD COLUMN\b(?P<column>[^,;]*)", re.IGNORECASE)


def sql_of(script: Script) -> str:
    """The statements of the revision's upgrade, for PostgreSQL."""
    return rendered(script.module.upgrade)


def rendered(upgrade: object) -> str:
    assert callable(upgrade)
    written = io.StringIO()
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": written})
    with Operations.context(context):
        upgrade()
    return written.getvalue()


def breaks(sql: str) -> list[str]:
    """Why the release before would not work beside this; empty when it does. New tables break nobody."""
    found: list[str] = []
    new_tables = set(_NEW_TABLE.findall(sql))
    for statement in sql.split(";"):
        if _NEW_TABLE.match(statement) or _indexed_table(statement) in new_tables:
            continue
        found += [why for why, pattern in _BREAKS.items() if re.search(pattern, statement, re.IGNORECASE | re.DOTALL)]
        for column in _NEW_COLUMN.finditer(statement):
            words = column["column"].upper()
            if "NOT NULL" in words and "DEFAULT" not in words and "GENERATED" not in words:
                found.append("adds a column that the earlier release does not fill")
    return found


def _indexed_table(statement: str) -> str | None:
    found = _NEW_INDEX.match(statement)
    return found and found[1]
