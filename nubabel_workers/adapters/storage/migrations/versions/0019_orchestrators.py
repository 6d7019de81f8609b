"""Who answers an execution: OpenCode, or an orchestrator that is called. Claims walk those of one orchestrator.

The index that claims walked before stays for the release that still runs; a contracting migration drops it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None
phase = "expand"

_QUEUED = sa.text("status = 'queued'")
_ON_OPENCODE = ("instance_id", "opencode_session_id", "message_id")


def upgrade() -> None:
    for table in ("executions", "attempts"):
        op.add_column(table, sa.Column("orchestrator", sa.Text(), server_default=sa.text("'opencode'"), nullable=False))
    op.add_column("attempts", sa.Column("remote_session_id", sa.Text(), nullable=True))
    for column in _ON_OPENCODE:
        op.alter_column("attempts", column, nullable=True)
    op.create_index(
        "ix_executions_turns_of",
        "executions",
        ["orchestrator", "organization_id", "batch", "position"],
        postgresql_where=_QUEUED,
    )


def downgrade() -> None:
    op.drop_index("ix_executions_turns_of", "executions")
    op.execute("DELETE FROM attempts WHERE instance_id IS NULL")
    for column in _ON_OPENCODE:
        op.alter_column("attempts", column, nullable=False)
    op.drop_column("attempts", "remote_session_id")
    for table in ("attempts", "executions"):
        op.drop_column(table, "orchestrator")
