"""Whether an OpenCode server answers and gets no work all the same, because we cannot work with it."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.add_column("instances", sa.Column("refused", sa.Boolean(), server_default=sa.text("false"), nullable=False))


def downgrade() -> None:
    op.drop_column("instances", "refused")
