"""Money is held before a run begins, and a run that reaches a cap waits with its work kept."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.add_column("executions", sa.Column("pauses", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("executions", sa.Column("cost_ceiling", sa.Numeric(18, 9), nullable=True))
    op.create_table(
        "budget_holds",
        sa.Column("execution_id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("cost", sa.Numeric(18, 9), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("look_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["execution_id"], ["executions.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("execution_id"),
    )
    op.create_index("ix_budget_holds_organization", "budget_holds", ["organization_id"])
    for role in ("nubabel_system", "nubabel_tenant"):
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON budget_holds TO {role}")
    op.execute("ALTER TABLE budget_holds ENABLE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY system_rows ON budget_holds TO nubabel_system USING (true) WITH CHECK (true)")
    scope = "organization_id = current_setting('nubabel.organization_id', true)"
    op.execute(f"CREATE POLICY tenant_rows ON budget_holds TO nubabel_tenant USING ({scope}) WITH CHECK ({scope})")


def downgrade() -> None:
    op.drop_table("budget_holds")
    op.drop_column("executions", "cost_ceiling")
    op.drop_column("executions", "pauses")
