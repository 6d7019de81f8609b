"""What becomes of requests when most of the budget is used, and of questions that were answered lately."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None
phase = "expand"

_DEFAULTS = {"near_cap": "keep", "repeated_questions": "run"}


def upgrade() -> None:
    for column, default in _DEFAULTS.items():
        op.add_column(
            "organizations", sa.Column(column, sa.Text(), server_default=sa.text(f"'{default}'"), nullable=False)
        )


def downgrade() -> None:
    for column in _DEFAULTS:
        op.drop_column("organizations", column)
