"""Index by which a server that came back is seen to be waited for, in a long queue."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.create_index(
        "ix_executions_queued_for",
        "executions",
        ["instance_id"],
        postgresql_where=sa.text("status = 'queued' AND instance_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_executions_queued_for", "executions")
