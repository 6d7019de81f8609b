"""What operators say about a connection: which of its tools may be repeated, in which header its token goes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0002"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.add_column("mcp_connections", sa.Column("token_header", sa.Text(), nullable=True))
    op.add_column(
        "mcp_connections", sa.Column("repeatable_tools", postgresql.JSONB(astext_type=sa.Text()), nullable=True)
    )


def downgrade() -> None:
    op.drop_column("mcp_connections", "repeatable_tools")
    op.drop_column("mcp_connections", "token_header")
