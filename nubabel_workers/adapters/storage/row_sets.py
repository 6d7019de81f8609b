"""Sets of rows and tables that statements, indexes and policies have to agree on.

Apart from `models`, so that processes which only run statements need not load SQLAlchemy (0.4 s and 25 MB each).
"""

OCCUPYING_SQL = "status IN ('dispatching', 'running', 'waiting_input', 'waiting_budget')"
OPEN_SQL = "status IN ('queued', 'dispatching', 'running', 'waiting_input', 'waiting_budget')"

# Tables whose rows belong to one organization: row-level security for nubabel_tenant on each.
TENANT_TABLES = (
    "organizations",
    "workspaces",
    "service_tokens",
    "submit_keys",
    "sessions",
    "executions",
    "attempts",
    "execution_events",
    "notifications",
    "inbound_events",
    "dead_letters",
    "usage",
    "audit_log",
)
