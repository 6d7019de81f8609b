"""Sets of rows and tables that statements, indexes and policies have to agree on.

Apart from `models`, so that processes which only run statements need not load SQLAlchemy (0.4 s and 25 MB each).
"""

OCCUPYING_SQL = "status IN ('dispatching', 'running', 'waiting_input', 'waiting_budget')"
# One that waits for its budget occupies its session, and nothing of the server.
HOLDING_A_PLACE_SQL = "status IN ('dispatching', 'running', 'waiting_input')"
OPEN_SQL = "status IN ('queued', 'dispatching', 'running', 'waiting_input', 'waiting_budget')"

# A replayed execution that waits for its turn, as `b`. Its place in its session's order has passed: it holds nobody up.
AWAITS_TURN_SQL = "b.status = 'queued' AND b.replays > 0 AND b.waiting_for IS NULL AND b.not_before > now()"
# Whether another execution of its session keeps execution `e` from starting: an earlier one, or one that occupies it.
SESSION_TAKEN_SQL = f"""EXISTS (
      SELECT 1 FROM executions b
      WHERE b.session_id = e.session_id AND b.id <> e.id AND b.{OPEN_SQL}
        AND (b.position < e.position AND NOT ({AWAITS_TURN_SQL}) OR b.{OCCUPYING_SQL}))"""

# Whether an organization's directory d is loaded and nothing needs it: no prompt for idle_s seconds, and none of its
# runs is on that server, on its way to one, or may still be there. One that waits for its budget runs nowhere.
IDLE_DIRECTORY_SQL = f"""(d.state IN ('wanted', 'ready') AND d.used_at < now() - make_interval(secs => %(idle_s)s)
      AND NOT EXISTS (
        SELECT 1 FROM executions e
        WHERE e.organization_id = d.organization_id AND e.{OCCUPYING_SQL} AND e.status <> 'waiting_budget'
          AND (e.instance_id = d.instance_id OR e.status = 'dispatching'))
      AND NOT EXISTS (
        SELECT 1 FROM executions e
        WHERE e.organization_id = d.organization_id AND e.status = 'queued' AND e.attempt > 0
          AND e.instance_id = d.instance_id))"""

# Nobody unloads such a directory for the next nine seconds (DISPLACED_AFTER_S), nor one with a run on its way there.
JUST_USED_SQL = "used_at > now() - interval '1 second'"

# What a tool call t that nobody makes any more leaves in its execution's timeline.
TOOL_CALL_ENDED_DETAIL_SQL = """jsonb_strip_nulls(jsonb_build_object(
      'id', t.id, 'provider', t.provider, 'tool', t.tool_name, 'outcome', t.status, 'code', t.error->>'code',
      'seconds', round(extract(epoch FROM t.ended_at - t.started_at)::numeric, 3)))"""

# What is wrong with a server `i` that answers, by what was looked at. Memory that nobody tells of any more is unknown.
STRAINS_SQL = "(CASE WHEN i.memory_at > now() - interval '5 minutes' THEN i.strains ELSE i.strains - 'memory' END)"

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
    "instance_directories",
    "tool_calls",
    "mcp_connections",
    "mcp_authorizations",
    "audit_log",
)
