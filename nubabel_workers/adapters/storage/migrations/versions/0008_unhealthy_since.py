"""Since when an OpenCode server is away: one that stays away too long is given up."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.add_column("instances", sa.Column("unhealthy_since", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("instances", "unhealthy_since")
