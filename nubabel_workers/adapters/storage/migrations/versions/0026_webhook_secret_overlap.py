"""The webhook secret before the newest, with which webhooks are signed as well until the overlap is over."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.add_column("organizations", sa.Column("previous_webhook_secret", sa.LargeBinary(), nullable=True))
    op.add_column(
        "organizations", sa.Column("previous_webhook_secret_until", sa.DateTime(timezone=True), nullable=True)
    )


def downgrade() -> None:
    op.drop_column("organizations", "previous_webhook_secret_until")
    op.drop_column("organizations", "previous_webhook_secret")
