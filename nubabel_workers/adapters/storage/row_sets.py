"""Sets of rows and tables that statements, indexes and policies have to agree on.

Apart from `models`, so that processes which only run statements need not load SQLAlchemy (0.4 s and 25 MB each).
"""

OCCUPYING_SQL = "status IN ('dispatching', 'running', 'waiting_input', 'waiting_budget')"
OPEN_SQL = "status IN ('queued', 'dispatching', 'running', 'waiting_input', 'waiting_budget')"

# A replayed execution that waits for its turn, as `b`. Its place in its session's order has passed: it holds nobody up.
AWAITS_TURN_SQL = "b.status = 'queued' AND b.replays > 0 AND b.waiting_for IS NULL AND b.not_before > now()"
# Whether another execution of its session keeps execution `e` from starting: an earlier one, or one that occupies it.
SESSION_TAKEN_SQL = f"""EXISTS (
      SELECT 1 FROM executions b
      WHERE b.session_id = e.session_id AND b.id <> e.id AND b.{OPEN_SQL}
        AND (b.position < e.position AND NOT ({AWAITS_TURN_SQL}) OR b.{OCCUPYING_SQL}))"""

# What a tool call t that nobody makes any more leaves in its execution's timeline.
TOOL_CALL_ENDED_DETAIL_SQL = """jsonb_strip_nulls(jsonb_build_object(
      'id', t.id, 'provider', t.provider, 'tool', t.tool_name, 'outcome', t.status, 'code', t.error->>'code',
      'seconds', round(extract(epoch FROM t.ended_at - t.started_at)::numeric, 3)))"""

# Tables whose rows belong to one organization: row-level security for nubabel_tenant on each.
TENANT_TABLES = (
    "organizations",
    "workspaces",
    "service_tokens",
    "submit_keys",
    "sessions",
    "execution_groups",
    "executions",
    "attempts",
    "execution_events",
    "notifications",
    "inbound_events",
    "dead_letters",
    "usage",
    "budget_holds",
    "tool_calls",
    "mcp_connections",
    "mcp_authorizations",
    "audit_log",
)
