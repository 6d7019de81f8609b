"""The SQL of operators' dead letters. Values are always parameters; only constants of ours are put together here."""

from nubabel_workers.domain.dead_letters import CAUSE, SubjectKind

_CAUSE = f"CASE WHEN d.subject_kind <> 'message' THEN COALESCE(substring(d.error FROM '{CAUSE}'), '') ELSE '' END"

_FITS = f"""(%(organization_id)s::text IS NULL OR d.organization_id = %(organization_id)s)
  AND (%(reason)s::text IS NULL OR d.reason = %(reason)s)
  AND (%(cause)s::text IS NULL OR {_CAUSE} = %(cause)s)
  AND (%(queue)s::text IS NULL OR d.queue = %(queue)s)
  AND (%(task)s::text IS NULL OR d.task = %(task)s)
  AND (%(created_from)s::timestamptz IS NULL OR d.created_at >= %(created_from)s)
  AND (%(created_before)s::timestamptz IS NULL OR d.created_at < %(created_before)s)"""

# A producer chooses the task's name, hence the limit.
GROUPS = f"""
SELECT d.reason, {_CAUSE} AS cause, d.queue, d.task, count(*) AS count,
  count(*) FILTER (WHERE d.subject_kind = 'message') AS raw, min(d.created_at) AS oldest,
  max(d.created_at) AS newest, count(DISTINCT d.organization_id) AS organizations,
  (array_agg(DISTINCT d.organization_id) FILTER (WHERE d.organization_id IS NOT NULL))[1:10] AS organization_ids,
  (array_agg(d.id ORDER BY d.created_at DESC))[1] AS sample_id,
  (array_agg(d.error ORDER BY d.created_at DESC))[1] AS sample_error
FROM dead_letters d
WHERE d.status = %(status)s AND (%(organization_id)s::text IS NULL OR d.organization_id = %(organization_id)s)
GROUP BY 1, 2, 3, 4 ORDER BY count(*) DESC, max(d.created_at) DESC
LIMIT 500
"""

# An id begins with its time, so that pages by id are pages by time.
LIST = f"""
SELECT d.* FROM dead_letters d
WHERE (%(status)s::text IS NULL OR d.status = %(status)s) AND (%(after)s::text IS NULL OR d.id < %(after)s) AND {_FITS}
ORDER BY d.id DESC
LIMIT %(limit)s
"""

FIND = "SELECT * FROM dead_letters WHERE id = %(id)s"

COUNT = f"""
SELECT count(*) AS n FROM dead_letters d
WHERE d.status = 'open' AND (NOT %(raw_only)s OR d.subject_kind = 'message') AND {_FITS}
"""

OTHERS = "SELECT * FROM dead_letters WHERE subject_id = %(subject_id)s AND id <> %(id)s ORDER BY id"

SUBJECT = {
    SubjectKind.EXECUTION: """
SELECT status, id AS execution_id, jsonb_build_object(
  'prompt', prompt, 'overrides', overrides, 'metadata', request_metadata, 'reply', reply, 'output', output,
  'error', error) AS content
FROM executions WHERE id = %(id)s
""",
    SubjectKind.NOTIFICATION: """
SELECT status, execution_id, jsonb_build_object(
  'kind', kind, 'destination', destination, 'payload', payload, 'sent_parts', sent_parts) AS content
FROM notifications WHERE id = %(id)s
""",
    SubjectKind.INBOUND_EVENT: """
SELECT status, NULL AS execution_id, event - 'files' AS content FROM inbound_events WHERE id = %(id)s
""",
}

ATTEMPTS = """
SELECT number, instance_id, opencode_session_id, message_id, started_at, submitted_at, ended_at, verdict
FROM attempts WHERE execution_id = %(id)s ORDER BY number
"""

_CANDIDATE = """
SELECT d.id, d.subject_kind, CASE d.subject_kind
  WHEN 'execution' THEN (SELECT e.status FROM executions e WHERE e.id = d.subject_id)
  WHEN 'notification' THEN (SELECT n.status FROM notifications n WHERE n.id = d.subject_id)
  WHEN 'inbound_event' THEN (SELECT i.status FROM inbound_events i WHERE i.id = d.subject_id)
  END AS subject_status
FROM dead_letters d WHERE d.status = 'open'
"""
CANDIDATE = f"{_CANDIDATE} AND d.id = %(id)s"
CANDIDATES = f"{_CANDIDATE} AND d.subject_kind <> 'message' AND {_FITS} ORDER BY d.id LIMIT %(limit)s"

_IN_ITS_LANGUAGE = "CASE WHEN {text} ~ %(hangul)s THEN %(korean)s::text ELSE %(english)s::text END"

# A row is changed only while it has still failed: what went on without its dead letter is left as it is. Of two
# replays at once the second waits for the first one's locks, and finds nothing open. Looking for a doubtful post
# begins anew. told_late: the thread hears of the replay, that is enough.
REPLAY = f"""
WITH letter AS (
  SELECT d.id, d.subject_kind, d.subject_id, d.organization_id,
    now() + make_interval(secs => %(first_after_s)s + (asked.place - 1) * %(every_s)s) AS starts_at
  FROM unnest(%(ids)s::text[]) WITH ORDINALITY AS asked(id, place) JOIN dead_letters d ON d.id = asked.id
  WHERE d.status = 'open' AND d.subject_kind <> 'message'
  ORDER BY d.id
  FOR UPDATE OF d
),
execution AS (
  UPDATE executions e
  SET status = 'queued', failures = 0, pauses = 0, replays = replays + 1, not_before = letter.starts_at,
    suspect = false, lone_deliveries = 0, error = NULL, finished_at = NULL, cancel_requested_at = NULL,
    cancel_reason = NULL,
    told_late = true, outcome_in_doubt = false, answer_by = letter.starts_at + make_interval(secs => %(answer_by_s)s)
  FROM letter WHERE letter.subject_kind = 'execution' AND e.id = letter.subject_id AND e.status = 'failed'
  RETURNING letter.id AS letter_id, letter.starts_at, e.id, e.organization_id, e.session_id, e.replays, e.reply,
    e.correlation_id, e.traceparent, {_IN_ITS_LANGUAGE.format(text="e.prompt")} AS words
),
notification AS (
  UPDATE notifications n
  SET status = 'ready', failures = 0, not_before = letter.starts_at, suspect = false, lone_deliveries = 0,
    error = NULL, uncertain_since = CASE WHEN n.uncertain THEN letter.starts_at END
  FROM letter WHERE letter.subject_kind = 'notification' AND n.id = letter.subject_id AND n.status = 'failed'
  RETURNING letter.id AS letter_id
),
event AS (
  UPDATE inbound_events i
  SET status = 'ready', failures = 0, not_before = letter.starts_at, suspect = false, lone_deliveries = 0,
    outcome = NULL, done_at = NULL
  FROM letter WHERE letter.subject_kind = 'inbound_event' AND i.id = letter.subject_id AND i.status = 'failed'
  RETURNING letter.id AS letter_id, letter.starts_at, i.organization_id, i.correlation_id, i.traceparent,
    i.event->>'kind' AS event_kind, {_IN_ITS_LANGUAGE.format(text="COALESCE(i.event->>'text', '')")} AS words,
    jsonb_build_object('kind', 'slack', 'workspace_id', i.workspace_id, 'channel', i.event->>'channel',
      'thread_ts', i.event->>'thread_ts', 'message_ts', i.event->>'ts') AS reply
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'replayed', jsonb_build_object('by', %(actor)s::text) FROM execution
),
told AS (
  INSERT INTO notifications (
    id, organization_id, execution_id, session_id, kind, dedupe, destination, payload, not_before, correlation_id,
    traceparent)
  SELECT 'ntf_replayed_' || substr(letter_id, 5), organization_id, execution_id, session_id, 'notice', dedupe, reply,
    jsonb_build_object('text', words), starts_at, correlation_id, traceparent
  FROM (
    SELECT letter_id, organization_id, id AS execution_id, session_id, 'replayed#' || replays AS dedupe, reply, words,
      starts_at, correlation_id, traceparent
    FROM execution WHERE reply->>'kind' = 'slack'
    UNION ALL
    SELECT letter_id, organization_id, NULL, NULL, 'replayed#' || letter_id, reply, words, starts_at, correlation_id,
      traceparent
    FROM event WHERE event_kind IN ('mention', 'direct_message', 'thread_reply')
  ) AS waiting
  ON CONFLICT DO NOTHING
  RETURNING id
),
woken AS (
  SELECT letter_id FROM execution UNION ALL SELECT letter_id FROM notification UNION ALL SELECT letter_id FROM event
),
settled AS (
  UPDATE dead_letters d
  SET status = CASE WHEN d.id IN (SELECT letter_id FROM woken) THEN 'replayed' ELSE 'discarded' END,
    note = CASE WHEN d.id IN (SELECT letter_id FROM woken) THEN NULL
      ELSE 'nothing to replay: what it is about had not failed any more' END,
    resolved_at = now(), resolved_by = %(actor)s
  FROM letter WHERE d.id = letter.id
  RETURNING d.id, d.organization_id, d.status
),
entered AS (
  INSERT INTO audit_log (organization_id, actor, action, subject, detail)
  SELECT organization_id, %(actor)s, %(action)s, id, jsonb_build_object('status', status) FROM settled
)
SELECT letter.id, letter.subject_kind, letter.subject_id, letter.organization_id,
  letter.id IN (SELECT letter_id FROM woken) AS woken,
  (SELECT told.id FROM told WHERE told.id = 'ntf_replayed_' || substr(letter.id, 5)) AS notice_id
FROM letter
ORDER BY letter.starts_at
"""

_DISCARDED = """
WITH discarded AS (
  UPDATE dead_letters d
  SET status = 'discarded', resolved_at = now(), resolved_by = %(actor)s, note = %(note)s
  WHERE {which}
  RETURNING d.id, d.organization_id
),
entered AS (
  INSERT INTO audit_log (organization_id, actor, action, subject, detail)
  SELECT organization_id, %(actor)s, %(action)s, id, jsonb_build_object('reason', %(note)s::text) FROM discarded
)
SELECT count(*) AS n FROM discarded
"""
DISCARD = _DISCARDED.format(which="d.status = 'open' AND d.id = ANY(%(ids)s)")
_OPEN_ONES = f"SELECT d.id FROM dead_letters d WHERE d.status = 'open' AND {_FITS} ORDER BY d.id LIMIT %(limit)s"
DISCARD_MATCHING = _DISCARDED.format(which=f"d.id IN ({_OPEN_ONES} FOR UPDATE OF d SKIP LOCKED)")
