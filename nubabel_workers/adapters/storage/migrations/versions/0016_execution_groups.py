"""Dispatched batches: executions that are accepted together and told in one reply."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    _create_groups()
    op.add_column("executions", sa.Column("group_id", sa.Text(), nullable=True))
    op.create_index(
        "ix_executions_by_group",
        "executions",
        ["group_id", "position"],
        postgresql_where=sa.text("group_id IS NOT NULL"),
    )


def _create_groups() -> None:
    op.create_table(
        "execution_groups",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'running'"), nullable=False),
        sa.Column("on_failure", sa.Text(), server_default=sa.text("'report'"), nullable=False),
        sa.Column("reply", JSONB(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.Text(), nullable=False),
        sa.Column("cancel_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("correlation_id", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("traceparent", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("organization_id", "idempotency_key"),
    )
    for name, columns, condition in (
        ("running", ["id"], "state = 'running'"),
        ("by_organization", ["organization_id", "created_at"], None),
        ("callers_keys", ["created_at"], "idempotency_key LIKE 'key:%'"),
        ("finished", ["finished_at"], "finished_at IS NOT NULL"),
    ):
        where = sa.text(condition) if condition else None
        op.create_index(f"ix_execution_groups_{name}", "execution_groups", columns, postgresql_where=where)
    for role in ("nubabel_system", "nubabel_tenant"):
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON execution_groups TO {role}")
    op.execute("ALTER TABLE execution_groups ENABLE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY system_rows ON execution_groups TO nubabel_system USING (true) WITH CHECK (true)")
    scope = "organization_id = current_setting('nubabel.organization_id', true)"
    op.execute(f"CREATE POLICY tenant_rows ON execution_groups TO nubabel_tenant USING ({scope}) WITH CHECK ({scope})")


def downgrade() -> None:
    op.drop_index("ix_executions_by_group", "executions")
    op.drop_column("executions", "group_id")
    op.drop_table("execution_groups")
