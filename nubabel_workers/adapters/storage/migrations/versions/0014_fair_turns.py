"""What may wait behind interactive requests, and the indexes that fair claims walk: who waits, who occupies."""

import sqlalchemy as sa
from alembic import op

from nubabel_workers.adapters.storage.row_sets import OCCUPYING_SQL

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.add_column("executions", sa.Column("batch", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_index(
        "ix_executions_turns",
        "executions",
        ["organization_id", "batch", "position"],
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index(
        "ix_executions_in_flight",
        "executions",
        ["organization_id"],
        postgresql_where=sa.text(OCCUPYING_SQL),
    )
    op.create_index(
        "ix_executions_batch_in_flight",
        "executions",
        ["batch"],
        postgresql_where=sa.text(f"batch AND {OCCUPYING_SQL}"),
    )


def downgrade() -> None:
    for index in ("ix_executions_batch_in_flight", "ix_executions_in_flight", "ix_executions_turns"):
        op.drop_index(index, "executions")
    op.drop_column("executions", "batch")
