"""The ledger of tool calls: intent before the call, outcome after it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0001"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.create_table(
        "tool_calls",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("opencode_session_id", sa.Text(), nullable=False),
        sa.Column("call_id", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("connection_id", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("tool_name", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("arguments", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("repeatable", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Text(), server_default=sa.text("'started'"), nullable=False),
        sa.Column("try_number", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("lease_owner", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("altered", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["execution_id"], ["executions.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_tool_calls_execution", "tool_calls", ["execution_id", "started_at"])
    op.create_index("ix_tool_calls_organization", "tool_calls", ["organization_id", "started_at"])
    op.create_index("ix_tool_calls_started", "tool_calls", ["started_at"])
    op.create_index(
        "ix_tool_calls_leased", "tool_calls", ["lease_until"], postgresql_where=sa.text("lease_owner IS NOT NULL")
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON tool_calls TO nubabel_system")
    op.execute("GRANT SELECT, INSERT, UPDATE ON tool_calls TO nubabel_tenant")
    op.execute("ALTER TABLE tool_calls ENABLE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY system_rows ON tool_calls TO nubabel_system USING (true) WITH CHECK (true)")
    scope = "organization_id = current_setting('nubabel.organization_id', true)"
    op.execute(f"CREATE POLICY tenant_rows ON tool_calls TO nubabel_tenant USING ({scope}) WITH CHECK ({scope})")


def downgrade() -> None:
    op.drop_table("tool_calls")
