"""Indexes by which a claim finds what was taken over from a dead worker, and what may wait longer, in a long queue."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.create_index(
        "ix_executions_taken_over",
        "executions",
        ["position"],
        postgresql_where=sa.text("status = 'queued' AND suspect"),
    )
    op.create_index(
        "ix_executions_batch_queued",
        "executions",
        ["position"],
        postgresql_where=sa.text("batch AND status = 'queued'"),
    )


def downgrade() -> None:
    op.drop_index("ix_executions_batch_queued", "executions")
    op.drop_index("ix_executions_taken_over", "executions")
