"""Callback keys of OpenCode servers: what their plugins sign with, two at a time."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0003"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.add_column("instances", sa.Column("callback_key", sa.LargeBinary(), nullable=True))
    op.add_column("instances", sa.Column("previous_callback_key", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    op.drop_column("instances", "previous_callback_key")
    op.drop_column("instances", "callback_key")
