"""What is due and what was put off, each found by an index: among a hundred thousand that wait they were looked for."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.create_index(
        "ix_executions_due",
        "executions",
        ["orchestrator", "not_before"],
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        "ix_executions_put_off",
        "executions",
        ["waiting_for", "position"],
        postgresql_where=sa.text("status = 'queued' AND waiting_for IS NOT NULL"),
    )


def downgrade() -> None:
    for index in ("ix_executions_put_off", "ix_executions_due"):
        op.drop_index(index, "executions")
