"""A directory for each organization on shared OpenCode servers, and how many of them a server carries.

`free_directories` counts behind a lock, in a VOLATILE function for the reason that revision 0018 tells.
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.add_column("instances", sa.Column("max_directories", sa.Integer(), server_default=sa.text("20"), nullable=False))
    op.add_column("instances", sa.Column("directories_path", sa.Text(), nullable=True))
    _create_directories()
    op.execute(
        """
        CREATE FUNCTION free_directories(of_instance text) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $body$
        BEGIN
          PERFORM pg_advisory_xact_lock(hashtextextended('directories ' || of_instance, 0));
          RETURN (SELECT i.max_directories FROM instances i WHERE i.id = of_instance)
            - (SELECT count(*) FROM instance_directories d
               WHERE d.instance_id = of_instance AND d.state <> 'disposed');
        END
        $body$
        """
    )
    op.execute("REVOKE ALL ON FUNCTION free_directories(text) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION free_directories(text) TO nubabel_system")


def _create_directories() -> None:
    op.create_table(
        "instance_directories",
        sa.Column("instance_id", sa.Text(), nullable=False),
        sa.Column("organization_id", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["organization_id"], ["organizations.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("instance_id", "organization_id"),
        sa.UniqueConstraint("instance_id", "path"),
    )
    op.create_index("ix_instance_directories_organization", "instance_directories", ["organization_id"])
    for role in ("nubabel_system", "nubabel_tenant"):
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON instance_directories TO {role}")
    op.execute("ALTER TABLE instance_directories ENABLE ROW LEVEL SECURITY")
    op.execute("CREATE POLICY system_rows ON instance_directories TO nubabel_system USING (true) WITH CHECK (true)")
    scope = "organization_id = current_setting('nubabel.organization_id', true)"
    op.execute(
        f"CREATE POLICY tenant_rows ON instance_directories TO nubabel_tenant USING ({scope}) WITH CHECK ({scope})"
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION free_directories(text)")
    op.drop_table("instance_directories")
    op.drop_column("instances", "directories_path")
    op.drop_column("instances", "max_directories")
