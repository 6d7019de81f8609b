"""How many executions more an organization may have in flight, counted behind a lock.

A statement sees the rows as they were when it began, so what it counts after it got a lock may be older than the lock.
A VOLATILE function's own statements see what was committed before each of them begins (PostgreSQL's manual, chapter
38.7 "Function Volatility Categories"): what the last holder of the lock claimed is counted.
"""

from alembic import op

from nubabel_workers.adapters.storage.row_sets import OCCUPYING_SQL

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None
phase = "expand"


def upgrade() -> None:
    op.execute(
        f"""
        CREATE FUNCTION free_places(of_organization text, most bigint) RETURNS bigint
        LANGUAGE plpgsql VOLATILE AS $body$
        BEGIN
          IF pg_try_advisory_xact_lock(hashtextextended('in flight ' || of_organization, 0)) THEN
            RETURN most - (
              SELECT count(*) FROM executions e WHERE e.organization_id = of_organization AND e.{OCCUPYING_SQL});
          END IF;
          RETURN 0;
        END
        $body$
        """
    )
    op.execute("REVOKE ALL ON FUNCTION free_places(text, bigint) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION free_places(text, bigint) TO nubabel_system")


def downgrade() -> None:
    op.execute("DROP FUNCTION free_places(text, bigint)")
