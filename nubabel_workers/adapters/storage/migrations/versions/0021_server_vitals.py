"""How OpenCode servers that answer are doing: their memory, how late their events come, and what is wrong with that."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    empty_list, empty_object = sa.text("'[]'::jsonb"), sa.text("'{}'::jsonb")
    for column in (
        sa.Column("memory_process", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("memory_samples", JSONB(), server_default=empty_list, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("memory_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("event_lag_s", sa.Double(), nullable=True),
        sa.Column("strains", JSONB(), server_default=empty_object, nullable=False),
        sa.Column("strained_since", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("instances", column)


def downgrade() -> None:
    for name in (
        "strained_since",
        "strains",
        "event_lag_s",
        "memory_at",
        "memory_bytes",
        "memory_samples",
        "memory_process",
    ):
        op.drop_column("instances", name)
