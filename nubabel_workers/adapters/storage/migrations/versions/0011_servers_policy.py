"""Whether an organization runs on shared OpenCode servers or on its own, said and no longer guessed."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.add_column("organizations", sa.Column("servers", sa.Text(), server_default=sa.text("'shared'"), nullable=False))
    # Until now an organization that had a server of its own ran there.
    op.execute(
        "UPDATE organizations o SET servers = 'dedicated' WHERE EXISTS"
        " (SELECT 1 FROM instances i WHERE i.organization_id = o.id AND i.status <> 'removed')"
    )


def downgrade() -> None:
    op.drop_column("organizations", "servers")
