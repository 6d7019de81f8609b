"""The SQL of executions that are answered by a call."""

from nubabel_workers.adapters.storage.budget_statements import Beginnings
from nubabel_workers.adapters.storage.usage_statements import ADD_USAGE
from nubabel_workers.adapters.storage.waiting import AS_DUE, put_off, ready_for, wake

# One step: the call begins when this has been committed, and the row stays held until it has ended.
_BEGIN = """
WITH known AS (
  SELECT e.id, EXISTS (SELECT 1 FROM attempts a WHERE a.execution_id = e.id AND a.ended_at IS NULL) AS open
  FROM executions e WHERE e.id = %(id)s AND e.lease_owner = %(lease)s AND e.status = 'dispatching' FOR UPDATE
),{room}
exe AS (
  UPDATE executions e
  SET status = 'running', attempt = e.attempt + CASE WHEN known.open THEN 0 ELSE 1 END,
    orchestrator = %(orchestrator)s, instance_id = NULL, opencode_session_id = NULL, analysis = %(analysis)s,
    context = COALESCE(%(context)s, e.context), notes = %(notes)s, started_at = COALESCE(e.started_at, now()),
    running_since = now(), waiting_for = NULL, deadline_at = now() + make_interval(secs => %(run_deadline_s)s),
    check_at = NULL, progress_mark = NULL, progress_at = NULL
  FROM known WHERE e.id = known.id {if_there_is_room}
  RETURNING e.id, e.organization_id, e.attempt, known.open
),{hold}
att AS (
  INSERT INTO attempts (execution_id, number, organization_id, orchestrator, submitted_at)
  SELECT exe.id, exe.attempt, exe.organization_id, %(orchestrator)s, now() FROM exe
  ON CONFLICT (execution_id, number) DO UPDATE
  SET orchestrator = EXCLUDED.orchestrator, submitted_at = now()
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'masked', %(masked)s FROM exe WHERE NOT open AND %(masked)s::jsonb IS NOT NULL
  UNION ALL
  SELECT organization_id, id, 'submitted', %(detail)s || jsonb_build_object('attempt', attempt) FROM exe
)
{found}
"""
BEGIN = Beginnings.of(_BEGIN)

REMEMBER_SESSION = """
UPDATE attempts SET remote_session_id = %(remote_session_id)s
WHERE execution_id = %(id)s AND ended_at IS NULL AND instance_id IS NULL
"""

LAST_CALL = """
SELECT a.orchestrator, a.remote_session_id
FROM executions e JOIN executions b ON b.session_id = e.session_id AND b.position < e.position
JOIN attempts a ON a.execution_id = b.id
WHERE e.id = %(id)s
ORDER BY b.position DESC, a.number DESC LIMIT 1
"""

# What is not there any more was erased: nobody may hear its answer.
ASKED_TO_STOP = """
SELECT given.id FROM unnest(%(ids)s::text[]) AS given(id)
LEFT JOIN executions e ON e.id = given.id
WHERE e.id IS NULL OR e.cancel_requested_at IS NOT NULL
"""

# What binds an execution to OpenCode: a prompt that may have arrived there, work that was paused.
_UNBOUND = """e.status = 'queued' AND e.pauses = 0 AND NOT EXISTS (
    SELECT 1 FROM attempts a WHERE a.execution_id = e.id AND a.ended_at IS NULL AND a.instance_id IS NOT NULL)"""

QUEUED_CHOICES = f"""
SELECT e.position, e.id, e.organization_id, e.orchestrator, s.session_key
FROM executions e JOIN sessions s ON s.id = e.session_id
WHERE e.position > %(after)s AND e.orchestrator IS DISTINCT FROM %(settled)s::text AND {_UNBOUND}
ORDER BY e.position LIMIT %(limit)s
"""

CHOOSE = f"""
WITH exe AS (
  UPDATE executions e
  SET orchestrator = %(orchestrator)s, not_before = LEAST(e.not_before, now()), waiting_for = NULL
  WHERE e.id = ANY(%(ids)s) AND e.orchestrator <> %(orchestrator)s AND {_UNBOUND}
  RETURNING e.id, e.organization_id
),
att AS (
  UPDATE attempts a SET ended_at = now(), verdict = 'left', usage = %(attempt_usage)s
  FROM exe WHERE a.execution_id = exe.id AND a.ended_at IS NULL
  RETURNING a.execution_id AS id, a.organization_id
),
use AS (
{ADD_USAGE.replace("FROM exe,", "FROM att exe,")}
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'moved', %(detail)s FROM exe
)
SELECT count(*) AS n FROM exe
"""

# They come back one by one: the probe first, whose success wakes the others at once.
PUT_OFF = f"""{ready_for("%(orchestrator)s", "true", AS_DUE)},
numbered AS (SELECT ready.*, row_number() OVER (ORDER BY position) AS nth FROM ready),
{put_off("numbered", "%(wait_s)s * CASE WHEN numbered.nth = 1 THEN 1 ELSE 1 + random() END")}"""

WAKE = wake("e.orchestrator = %(orchestrator)s")
