"""Migrations expand before they contract: the release before a migration works beside it, unchanged."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from alembic import op
from alembic.script import Script, ScriptDirectory

from nubabel_workers.adapters.storage import schema
from tests.unit.adapters.storage.expansion import breaks, rendered, sql_of

_FIRST_RELEASE = "0001"


def later_revisions() -> list[Script]:
    scripts = ScriptDirectory.from_config(schema._config()).walk_revisions()
    return [script for script in scripts if script.revision != _FIRST_RELEASE]


def test_every_revision_after_the_first_release_names_its_phase_and_an_expanding_one_breaks_nobody() -> None:
    for script in later_revisions():
        assert getattr(script.module, "phase", None) in {"expand", "contract"}, script.revision
        if script.module.phase == "expand":
            assert breaks(sql_of(script)) == [], script.revision


def test_the_first_tables_can_be_read_as_sql() -> None:
    first = ScriptDirectory.from_config(schema._config()).get_revision(_FIRST_RELEASE)

    assert "CREATE TABLE executions" in sql_of(first)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda: op.drop_table("usage"), "takes a table away"),
        (lambda: op.drop_column("executions", "notes"), "takes a column away"),
        (lambda: op.rename_table("usage", "spent"), "renames"),
        (lambda: op.alter_column("executions", "notes", new_column_name="remarks"), "renames"),
        (lambda: op.alter_column("executions", "attempt", type_=sa.BigInteger()), "changes a column's type"),
        (lambda: op.alter_column("executions", "notes", nullable=False), "wants a value"),
        (lambda: op.alter_column("executions", "notes", server_default=None), "wants a value"),
        (lambda: op.add_column("executions", sa.Column("a", sa.Text(), nullable=False)), "does not fill"),
        (lambda: op.create_check_constraint("c", "executions", "attempt < 9"), "adds a rule"),
        (lambda: op.create_index("i", "executions", ["source"], unique=True), "adds a rule"),
        (lambda: op.execute("ALTER TABLE executions ADD CONSTRAINT c CHECK (attempt < 9) NOT VALID"), "adds a rule"),
        (lambda: op.execute("alter table executions drop column notes"), "takes a column away"),
        (lambda: op.execute("CREATE TABLE m (id text); CREATE UNIQUE INDEX i ON executions (source)"), "adds a rule"),
    ],
)
def test_what_breaks_the_release_before_is_seen(change: Callable[[], object], why: str) -> None:
    assert any(why in found for found in breaks(rendered(change)))


@pytest.mark.parametrize(
    "change",
    [
        lambda: op.create_table("moods", sa.Column("id", sa.Text(), nullable=False), sa.PrimaryKeyConstraint("id")),
        lambda: op.execute("CREATE TABLE moods (id text); CREATE UNIQUE INDEX one_mood ON moods (id) WHERE id <> 'x'"),
        lambda: op.add_column("executions", sa.Column("mood", sa.Text())),
        lambda: op.add_column("executions", sa.Column("mood", sa.Text(), server_default="", nullable=False)),
        lambda: op.alter_column("executions", "prompt", nullable=True),
        lambda: op.create_index("i", "executions", ["source"]),
        lambda: op.execute("UPDATE executions SET notes = '[]' WHERE notes IS NULL"),
    ],
)
def test_what_only_adds_is_let_through(change: Callable[[], object]) -> None:
    assert breaks(rendered(change)) == []
