"""How far a run had come when it was last looked at, and since when: one that stands still is tried again."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.add_column("executions", sa.Column("progress_mark", sa.Text(), nullable=True))
    op.add_column("executions", sa.Column("progress_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("executions", "progress_at")
    op.drop_column("executions", "progress_mark")
