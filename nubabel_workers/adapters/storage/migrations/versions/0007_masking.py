"""What becomes of keys, card numbers and the like in an organization's prompts before they leave."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.add_column("organizations", sa.Column("masking", sa.Text(), server_default=sa.text("'mask'"), nullable=False))


def downgrade() -> None:
    op.drop_column("organizations", "masking")
