"""The index by which a claim finds what was taken over from a worker that is gone, however much waits."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
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


def downgrade() -> None:
    op.drop_index("ix_executions_taken_over", "executions")
