"""The SQL of executions. Values are always parameters; only constants of ours are put together here."""

from nubabel_workers.adapters.storage.audit import audited
from nubabel_workers.adapters.storage.budget_statements import NOTICES_SETTLE, RELEASE_HOLD, Beginnings
from nubabel_workers.adapters.storage.claims import CHOSEN, IS_CHOSEN, OTHERS_WAIT, candidates
from nubabel_workers.adapters.storage.execution_rows import EXECUTION_COLUMNS, OPEN
from nubabel_workers.adapters.storage.row_sets import (
    AWAITS_TURN_SQL,
    HOLDING_A_PLACE_SQL,
    OCCUPYING_SQL,
    SESSION_TAKEN_SQL,
)
from nubabel_workers.adapters.storage.usage_statements import ADD_USAGE
from nubabel_workers.domain.hints import LONG_LINE

_ACCEPT = """
WITH cause AS ({cause}),
ses AS (
  INSERT INTO sessions (id, organization_id, session_key, source, user_id, workspace_id)
  SELECT %(new_session_id)s, %(organization_id)s, %(session_key)s, %(source)s, %(user_id)s, %(workspace_id)s
  FROM cause
  ON CONFLICT (organization_id, session_key) DO UPDATE SET last_active_at = now()
  RETURNING id
),
exe AS (
  INSERT INTO executions (
    id, organization_id, session_id, source, prompt, user_id, workspace_id, reply, overrides, attachments,
    wants_thread_context, request_metadata, idempotency_key, request_hash, message_created_ms, correlation_id,
    traceparent, deadline_s, batch, orchestrator, answer_by)
  SELECT %(id)s, %(organization_id)s, ses.id, %(source)s, %(prompt)s, %(user_id)s, %(workspace_id)s, %(reply)s,
    %(overrides)s, %(attachments)s, %(wants_thread_context)s, %(request_metadata)s, %(idempotency_key)s,
    %(request_hash)s, %(message_created_ms)s, %(correlation_id)s, %(traceparent)s, %(deadline_s)s,
    %(batch)s, %(orchestrator)s, now() + make_interval(secs => %(answer_by_s)s)
  FROM ses
  ON CONFLICT (organization_id, idempotency_key) DO NOTHING
  RETURNING id, session_id
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT %(organization_id)s, id, 'accepted', jsonb_build_object('source', %(source)s::text) FROM exe
),
ntf AS (
  INSERT INTO notifications (
    id, organization_id, execution_id, session_id, kind, dedupe, destination, payload, correlation_id, traceparent)
  SELECT n.id, %(organization_id)s, exe.id, exe.session_id, n.kind, n.dedupe, n.destination, n.payload,
    %(correlation_id)s, %(traceparent)s
  FROM exe, jsonb_to_recordset(%(notifications)s)
    AS n(id text, kind text, dedupe text, destination jsonb, payload jsonb)
  RETURNING id
)
SELECT exe.id, exe.session_id, (SELECT id FROM ntf) AS notification_id,
  (SELECT array_agg(b.id ORDER BY b.position) FROM executions b
   WHERE b.session_id = ses.id AND b.{open} AND NOT ({awaits_turn})) AS busy,
  {followed} AS followed,
  EXISTS (SELECT 1 FROM executions w WHERE w.orchestrator = %(orchestrator)s
    AND w.organization_id = %(organization_id)s AND w.status = 'queued' OFFSET {before_long_line}) AS line_is_long
FROM ses LEFT JOIN exe ON true
"""
_FINISH_EVENT = """
  UPDATE inbound_events
  SET status = 'done', outcome = 'accepted', done_at = now(), lease_owner = NULL, lease_until = NULL, suspect = false
  WHERE id = %(event_id)s AND lease_owner = %(lease)s AND status = 'ready'
  RETURNING id, workspace_id, conversation_key, position
"""
_FOLLOWED = """EXISTS (
    SELECT 1 FROM cause c JOIN inbound_events i
      ON i.workspace_id = c.workspace_id AND i.conversation_key = c.conversation_key
    WHERE i.conversation_key <> '' AND i.status = 'ready' AND i.position > c.position)"""
_OTHERS = {"open": OPEN, "awaits_turn": AWAITS_TURN_SQL, "before_long_line": LONG_LINE - 1}
ACCEPT = _ACCEPT.format(cause="SELECT 1", followed="false", **_OTHERS)
ACCEPT_EVENT = _ACCEPT.format(cause=_FINISH_EVENT, followed=_FOLLOWED, **_OTHERS)

FIND_BY_KEY = """
SELECT id, session_id, status, request_hash FROM executions
WHERE organization_id = %(organization_id)s AND idempotency_key = %(idempotency_key)s
"""

# Of the organizations with servers of their own, those that have something ready: one index look-up for each.
LINES = """
SELECT a.organization_id FROM unnest(%(apart)s::text[]) AS a(organization_id)
CROSS JOIN LATERAL (
  SELECT 1 FROM executions e
  WHERE e.organization_id = a.organization_id AND e.status = 'queued' AND e.orchestrator = 'opencode'
    AND e.not_before <= now()
  LIMIT 1) AS one
"""

# Fair turns of one pool's organizations, in one walk. Claims run one at a time (`Database.system(alone=...)`), so that
# what one counts is still true when it takes: servers, organizations and batch requests never have more than they may.
# An organization is of the pool whose servers its policy names: `apart` are those that have their own.
# `waiting` steps through the organizations that wait, one index look-up each, however many rows they have. `turns` are
# those that have something ready and room, the least used first: as many as could matter. `turn` deals places: each one
# of an organization costs it a step, so that a batch spreads. Rows are found and locked for those places only.
# `free`: what servers take, less what they hold and what was claimed and is on its way to any of them; NULL: nobody
# knows. `room`: who has its share of all places leaves some of the free ones (all but `for_all`) to others.
# OFFSET 0, LIMIT 1 and IS TRUE keep the planner from joining whole tables where a walk ends after a few steps. Limits
# come from `given`, so that the planner cannot tell them apart: else it would plan each claim anew, for milliseconds.
# || '' keeps it from reading all of an index of what is queued, where it knows the id.
# `oldest` gets its organization the first of these places, now and then: what was taken over from a worker that is gone
# (it had its turn already), else what has waited for too long.
# Who was dealt more places than it has rows to start (others of a session wait for the one before) has kept them from
# others, who wait: the next claim is theirs.
_READY = f"""e.status = 'queued' AND e.orchestrator = (SELECT orchestrator FROM given) AND e.not_before <= now()
      AND (NOT {SESSION_TAKEN_SQL}) IS TRUE"""
_CLAIMABLE = f"{_READY} AND (NOT e.batch OR batch_room.n > 0)"
_IN_POOL = """CASE WHEN (SELECT pool FROM line) IS NULL THEN {org} <> ALL((SELECT apart FROM line)::text[])
      ELSE {org} = (SELECT pool FROM line) END"""
_E_IN_POOL = _IN_POOL.format(org="e.organization_id")
CLAIM_QUEUED = f"""
WITH RECURSIVE line AS MATERIALIZED (SELECT %(pool)s::text AS pool, %(apart)s::text[] AS apart),
held AS MATERIALIZED (
  SELECT e.instance_id, count(*) AS n, count(*) FILTER (WHERE {_E_IN_POOL}) AS of_pool FROM executions e
  WHERE e.{HOLDING_A_PLACE_SQL} AND e.orchestrator = %(orchestrator)s GROUP BY e.instance_id
),
free AS MATERIALIZED (
  SELECT (
    SELECT sum(greatest(0, s.takes - COALESCE(h.n, 0)))::bigint
    FROM jsonb_to_recordset(%(servers)s) AS s(id text, takes bigint) LEFT JOIN held h ON h.instance_id = s.id)
    - COALESCE((SELECT of_pool FROM held WHERE instance_id IS NULL), 0) AS places
),
given AS MATERIALIZED (
  SELECT w.wanted, w.wanted * 2 AS slack, places - %(kept_free)s::bigint AS for_all,
    %(aged_among)s::bigint AS aged_among, %(taken_over)s::boolean AS taken_over,
    %(orchestrator)s::text AS orchestrator
  FROM free CROSS JOIN LATERAL (SELECT greatest(0, least(%(limit)s::bigint, places)) AS wanted) AS w
),
waiting AS (
  (SELECT organization_id AS org FROM executions
   WHERE status = 'queued' AND orchestrator = (SELECT orchestrator FROM given)
     AND organization_id >= COALESCE((SELECT pool FROM line), '')
   ORDER BY organization_id LIMIT 1)
  UNION ALL
  SELECT (SELECT organization_id FROM executions
          WHERE status = 'queued' AND orchestrator = (SELECT orchestrator FROM given) AND organization_id > w.org
          ORDER BY organization_id LIMIT 1)
  FROM waiting w WHERE w.org IS NOT NULL AND (SELECT pool FROM line) IS NULL
),
batch_room AS MATERIALIZED (
  SELECT CASE WHEN EXISTS (SELECT 1 FROM executions e WHERE e.batch AND e.status = 'queued')
    THEN greatest(0, %(batch_places)s - (
      SELECT count(*) FROM executions e
      WHERE e.batch AND e.{HOLDING_A_PLACE_SQL} AND e.orchestrator = (SELECT orchestrator FROM given)
        AND {_E_IN_POOL}))
    ELSE 0 END AS n
),
oldest AS MATERIALIZED (
  (SELECT e.organization_id AS org
   FROM (SELECT * FROM executions WHERE status = 'queued' AND suspect OFFSET 0) AS e CROSS JOIN batch_room
   WHERE (SELECT taken_over FROM given) AND {_E_IN_POOL} AND {_CLAIMABLE}
   ORDER BY e.position LIMIT 1)
  UNION ALL
  (SELECT e.organization_id
   FROM (SELECT * FROM executions WHERE status = 'queued' ORDER BY position LIMIT (SELECT aged_among FROM given)) AS e
   CROSS JOIN batch_room
   WHERE e.created_at < now() - make_interval(secs => %(aged_after_s)s) AND {_E_IN_POOL} AND {_CLAIMABLE}
   ORDER BY e.position LIMIT 1)
  LIMIT 1
),
turns AS MATERIALIZED (
  SELECT w.org, w.first, w.use, w.step, room.of_share, ready.n
  FROM (
    SELECT w.org, w.org IN (SELECT org FROM oldest) AS first, COALESCE(b.use, 0) AS use,
      COALESCE(b.step, %(step)s) AS step, COALESCE(b.share, %(share)s) AS share,
      CASE WHEN b.org IS NULL THEN %(cap)s ELSE b.cap END AS cap
    FROM waiting w
    LEFT JOIN jsonb_to_recordset(%(books)s) AS b(org text, use float8, step float8, share int, cap int)
      ON b.org = w.org
    WHERE w.org IS NOT NULL AND {_IN_POOL.format(org="w.org")}
    ORDER BY first DESC, use, w.org OFFSET 0
  ) AS w
  CROSS JOIN batch_room
  CROSS JOIN LATERAL (
    SELECT w.share - own.holding AS of_share, least((SELECT slack FROM given), w.cap - own.n,
      CASE WHEN w.share IS NOT NULL THEN greatest((SELECT for_all FROM given), w.share - own.holding) END) AS n
    FROM (
      SELECT count(*) AS n,
        count(*) FILTER (WHERE e.status <> 'waiting_budget' AND e.orchestrator = (SELECT orchestrator FROM given))
          AS holding
      FROM executions e WHERE e.organization_id = w.org AND e.{OCCUPYING_SQL}) AS own
    OFFSET 0
  ) AS room
  CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM (
      SELECT 1 FROM executions e
      WHERE e.organization_id = w.org AND e.status = 'queued' AND e.orchestrator = (SELECT orchestrator FROM given)
        AND e.not_before <= now() AND (NOT e.batch OR batch_room.n > 0)
      LIMIT greatest(0, room.n)) AS backlog
  ) AS ready
  CROSS JOIN LATERAL (SELECT 1 FROM executions e WHERE e.organization_id = w.org AND {_CLAIMABLE} LIMIT 1) AS one
  WHERE ready.n > 0
  ORDER BY w.first DESC, w.use, w.org
  LIMIT (SELECT slack FROM given)
),
turn AS (
  SELECT org, first, use, step, count(*) AS places FROM (
    SELECT *, count(*) FILTER (WHERE beyond) OVER (ORDER BY nth) AS nth_beyond FROM (
      SELECT org, first, use, step, COALESCE(place > of_share, false) AS beyond,
        row_number() OVER (ORDER BY first AND place = 1 DESC, use + (place - 1) * step, org) AS nth
      FROM turns CROSS JOIN LATERAL generate_series(1, n) AS place) AS ordered) AS dealt
  WHERE nth <= (SELECT slack FROM given) AND (NOT beyond OR nth_beyond <= (SELECT for_all FROM given))
  GROUP BY org, first, use, step
),
found AS (
  SELECT f.*, row_number() OVER (PARTITION BY f.batch ORDER BY f.first DESC, f.key, f.id) AS nth_of_kind
  FROM (
    SELECT r.id, r.batch, t.first AND r.place = 1 AS first, t.use + (r.place - 1) * t.step AS key
    FROM turn t CROSS JOIN batch_room CROSS JOIN LATERAL (
      SELECT h.id, h.batch, row_number() OVER (ORDER BY h.aged DESC, h.batch, h.position) AS place
      FROM (
        (SELECT e.id, e.batch, e.position, e.created_at < now() - make_interval(secs => %(aged_after_s)s) AS aged
         FROM executions e
         WHERE e.organization_id = t.org AND NOT e.batch AND {_READY}
         ORDER BY e.position LIMIT t.places)
        UNION ALL
        (SELECT e.id, e.batch, e.position, e.created_at < now() - make_interval(secs => %(aged_after_s)s)
         FROM executions e
         WHERE e.organization_id = t.org AND e.batch AND {_READY}
         ORDER BY e.position LIMIT least(t.places, batch_room.n))
      ) AS h
      ORDER BY place LIMIT t.places
    ) AS r
  ) AS f
),
candidate AS (
  SELECT e.id, e.suspect, row_number() OVER () AS rank, false AS named
  FROM (
    SELECT e.id, e.suspect
    FROM (
      SELECT id FROM found CROSS JOIN batch_room WHERE NOT batch OR nth_of_kind <= batch_room.n
      ORDER BY first DESC, key, id OFFSET 0
    ) AS f
    CROSS JOIN LATERAL (
      SELECT e.id, e.suspect FROM executions e WHERE e.id = f.id AND e.status || '' = 'queued'
      FOR UPDATE SKIP LOCKED
    ) AS e
    LIMIT (SELECT wanted FROM given)
  ) AS e
), {CHOSEN},
taken AS (
  UPDATE executions e
  SET status = 'dispatching', lease_owner = %(lease)s, lease_until = now() + make_interval(secs => %(lease_s)s),
    lone_deliveries = e.lone_deliveries + e.suspect::int
  WHERE e.{IS_CHOSEN}
  RETURNING e.*, {OTHERS_WAIT}
)
SELECT {EXECUTION_COLUMNS},
  e.others_wait OR (SELECT sum(places) FROM turn) > (SELECT count(*) FROM found) AS others_wait,
  EXISTS (SELECT 1 FROM attempts a WHERE a.execution_id = e.id AND a.ended_at IS NULL) AS open_attempt,
  (SELECT a.known_assistant_ids FROM attempts a WHERE a.execution_id = e.id AND a.number = e.attempt)
    AS known_assistant_ids,
  o.masking, o.servers
FROM taken e CROSS JOIN LATERAL (SELECT * FROM sessions s WHERE s.id = e.session_id OFFSET 0) AS s
JOIN organizations o ON o.id = e.organization_id
ORDER BY e.position
"""

# check_at is "never" while an attempt is being submitted: only news of the listener can move it to now.
_BEGIN_ATTEMPT = """
WITH known AS (
  SELECT e.id, EXISTS (SELECT 1 FROM attempts a WHERE a.execution_id = e.id AND a.ended_at IS NULL) AS open
  FROM executions e WHERE e.id = %(id)s AND e.lease_owner = %(lease)s AND e.status = 'dispatching' FOR UPDATE
),{room}
exe AS (
  UPDATE executions e
  SET attempt = e.attempt + CASE WHEN known.open THEN 0 ELSE 1 END,
    instance_id = %(instance_id)s, opencode_session_id = %(opencode_session_id)s, analysis = %(analysis)s,
    context = COALESCE(%(context)s, e.context), notes = %(notes)s, started_at = COALESCE(e.started_at, now()),
    deadline_at = now() + make_interval(secs => %(run_deadline_s)s), check_at = '9999-01-01Z',
    progress_mark = NULL, progress_at = NULL
  FROM known WHERE e.id = known.id {if_there_is_room}
  RETURNING e.id, e.organization_id, e.session_id, e.attempt, known.open
),{hold}
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'masked', %(masked)s FROM exe WHERE NOT open AND %(masked)s::jsonb IS NOT NULL
),
ses AS (
  UPDATE sessions s
  SET instance_id = %(instance_id)s, opencode_session_id = %(opencode_session_id)s,
    opencode_directory = %(opencode_directory)s
  WHERE s.id = (SELECT session_id FROM exe) AND s.opencode_session_id IS DISTINCT FROM %(opencode_session_id)s
),
att AS (
  INSERT INTO attempts (
    execution_id, number, organization_id, instance_id, opencode_session_id, message_id, known_assistant_ids)
  SELECT exe.id, exe.attempt, exe.organization_id, %(instance_id)s, %(opencode_session_id)s, %(message_id)s,
    %(known_assistant_ids)s
  FROM exe
  ON CONFLICT (execution_id, number) DO UPDATE
  SET instance_id = EXCLUDED.instance_id, opencode_session_id = EXCLUDED.opencode_session_id,
    message_id = EXCLUDED.message_id
)
{found}
"""
BEGIN_ATTEMPT = Beginnings.of(_BEGIN_ATTEMPT)

MARK_RUNNING = """
WITH exe AS (
  UPDATE executions
  SET status = 'running', lease_owner = NULL, lease_until = NULL, suspect = false, lone_deliveries = 0,
    waiting_for = NULL, running_since = now(), check_at = CASE WHEN cancel_requested_at IS NOT NULL THEN now()
      ELSE LEAST(check_at, now() + make_interval(secs => %(check_after_s)s)) END
  WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'dispatching'
  RETURNING id, organization_id, attempt, analysis, instance_id, created_at, check_at <= now() AS check_now
),
att AS (
  UPDATE attempts a SET submitted_at = COALESCE(a.submitted_at, now()), ended_at = NULL, verdict = NULL
  FROM exe WHERE a.execution_id = exe.id AND a.number = exe.attempt
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'submitted', jsonb_build_object(
    'attempt', attempt, 'instance', instance_id, 'category', analysis->'category', 'agent', analysis->'agent',
    'reasons', analysis->'reasons')
  FROM exe
)
SELECT check_now FROM exe
"""

# One that goes on waiting for the same thing has said so already: the timeline stays short. Where its session lives is
# written down, also before it ran there: by that a server that comes back is seen to be waited for.
REQUEUE = f"""
WITH before AS (
  SELECT e.id, e.waiting_for, s.instance_id AS lives_on
  FROM executions e JOIN sessions s ON s.id = e.session_id
  WHERE e.id = %(id)s AND e.lease_owner = %(lease)s AND e.status = ANY(%(sources)s) FOR UPDATE OF e
),
exe AS (
  UPDATE executions e
  SET status = 'queued', lease_owner = NULL,
    not_before = CASE WHEN cancel_requested_at IS NULL THEN now() + make_interval(secs => %(wait_s)s) ELSE now() END,
    lease_until = NULL, suspect = false, lone_deliveries = 0, failures = failures + %(failed)s::int,
    waiting_for = %(waiting_for)s, check_at = NULL, running_since = NULL, usage = COALESCE(%(usage)s, e.usage),
    instance_id = COALESCE(before.lives_on, e.instance_id)
  FROM before WHERE e.id = before.id
  RETURNING e.id, e.organization_id, e.attempt,
    %(kind)s::text = 'waiting' AND before.waiting_for IS NOT DISTINCT FROM %(waiting_for)s::text AS known
),
att AS (
  UPDATE attempts a
  SET ended_at = now(), verdict = %(attempt_verdict)s, usage = %(attempt_usage)s,
    known_assistant_ids = a.known_assistant_ids || %(counted_ids)s
  FROM exe
  WHERE a.execution_id = exe.id AND a.number = exe.attempt AND a.ended_at IS NULL
    AND %(attempt_verdict)s::text IS NOT NULL
),
use AS (
{ADD_USAGE}),
given_back AS (
  {RELEASE_HOLD} AND %(attempt_verdict)s::text IS NOT NULL
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, %(kind)s, %(detail)s FROM exe WHERE NOT known
)
SELECT id FROM exe
"""

_TO_CHECK = "r.status = 'running' AND r.check_at <= now() AND r.lease_owner IS NULL"
CLAIM_CHECKS = f"""
WITH {candidates("executions", ready=_TO_CHECK, rank="r.check_at")}, {CHOSEN},
taken AS (
  UPDATE executions e
  SET lease_owner = %(lease)s, lease_until = now() + make_interval(secs => %(lease_s)s), check_at = '9999-01-01Z',
    lone_deliveries = e.lone_deliveries + e.suspect::int
  WHERE e.{IS_CHOSEN}
  RETURNING e.*, {OTHERS_WAIT}
)
SELECT {EXECUTION_COLUMNS}, e.others_wait, e.deadline_at <= now() AS past_deadline,
  extract(epoch FROM now() - e.running_since)::float8 AS running_for_s,
  e.progress_mark, extract(epoch FROM now() - e.progress_at)::float8 AS unchanged_for_s,
  (SELECT a.known_assistant_ids FROM attempts a WHERE a.execution_id = e.id AND a.number = e.attempt)
    AS known_assistant_ids
FROM taken e CROSS JOIN LATERAL (SELECT * FROM sessions s WHERE s.id = e.session_id OFFSET 0) AS s
"""

RELEASE_CHECK = """
UPDATE executions
SET lease_owner = NULL, lease_until = NULL, suspect = false, lone_deliveries = 0,
  check_at = LEAST(check_at, now() + make_interval(secs => %(check_after_s)s)),
  progress_mark = COALESCE(%(mark)s, progress_mark),
  progress_at = CASE WHEN progress_mark = COALESCE(%(mark)s, progress_mark) THEN progress_at ELSE now() END
WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'running'
RETURNING id
"""

_FINISH = """
WITH exe AS (
  UPDATE executions
  SET status = %(status)s, output = %(output)s, output_cut = %(output_cut)s, usage = COALESCE(%(usage)s, usage),
    error = %(error)s, notes = %(notes)s, finished_at = now(), lease_owner = NULL, lease_until = NULL, suspect = false,
    lone_deliveries = 0, check_at = NULL, waiting_for = NULL
  WHERE id = %(id)s AND status = ANY(%(sources)s) AND {held}
  RETURNING id, organization_id, session_id, attempt, correlation_id, traceparent, replays, outcome_in_doubt, created_at
),
att AS (
  UPDATE attempts a SET ended_at = now(), verdict = %(verdict)s, usage = %(attempt_usage)s
  FROM exe WHERE a.execution_id = exe.id AND a.ended_at IS NULL
),
use AS (
{add_usage}
),
given_back AS (
  {release_hold}
),
tell AS (
  SELECT n.*, n.kind = 'outcome' AND EXISTS (
    SELECT 1 FROM exe JOIN notifications w ON w.execution_id = exe.id WHERE w.kind = 'working' AND w.status = 'sent')
    AS clears_working
  FROM jsonb_to_recordset(%(notifications)s) AS n(id text, kind text, dedupe text, destination jsonb, payload jsonb)
),
told AS (
  INSERT INTO notifications (
    id, organization_id, execution_id, session_id, kind, dedupe, destination, payload, correlation_id, traceparent,
    uncertain, uncertain_since, created_at)
  SELECT 'ntf_' || n.kind || '_' || substr(exe.id, 5) || '_' || exe.replays, exe.organization_id, exe.id,
    exe.session_id, n.kind,
    n.dedupe || CASE WHEN exe.replays > 0 THEN '#' || exe.replays ELSE '' END, n.destination,
    n.payload || CASE WHEN n.clears_working THEN '{{"clears_working": true}}'::jsonb ELSE '{{}}'::jsonb END,
    exe.correlation_id, exe.traceparent, exe.outcome_in_doubt, CASE WHEN exe.outcome_in_doubt THEN now() END,
    CASE WHEN exe.outcome_in_doubt THEN exe.created_at ELSE now() END
  FROM exe, tell n
  ON CONFLICT DO NOTHING
  RETURNING id
),
abandoned AS (
  UPDATE sessions s SET opencode_session_id = NULL, instance_id = NULL, opencode_directory = NULL
  FROM exe WHERE s.id = exe.session_id AND {abandoned}
),
tidied AS (
  UPDATE notifications n
  SET payload = n.payload || '{{"removed": true}}'::jsonb, revision = n.revision + 1, not_before = now(),
    status = CASE WHEN n.status = 'sending' THEN n.status ELSE 'ready' END
  FROM exe
  WHERE n.execution_id = exe.id AND n.kind IN ('working', 'progress') AND n.status IN ('ready', 'sending', 'sent')
    AND NOT (n.kind = 'working' AND n.status = 'sent' AND EXISTS (SELECT 1 FROM tell WHERE clears_working))
  RETURNING n.id
),
unneeded AS (
  UPDATE notifications n SET status = 'dropped', error = 'the outcome came first'
  FROM exe WHERE n.execution_id = exe.id AND n.kind = 'notice' AND n.status = 'ready' AND n.sent_at IS NULL
    AND NOT n.uncertain
),
settled AS ({notices_settle} AND NOT (n.status = 'ready' AND n.sent_at IS NULL AND NOT n.uncertain)),
parked AS (
  INSERT INTO dead_letters (
    id, organization_id, queue, task, reason, error, subject_kind, subject_id, attempts)
  SELECT d.id, exe.organization_id, d.queue, d.task, d.reason, d.error, d.subject_kind, d.subject_id, d.attempts
  FROM exe, jsonb_to_recordset(%(dead_letters)s) AS d(
    id text, queue text, task text, reason text, error text, subject_kind text, subject_id text, attempts int)
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'delegated', d.detail FROM exe, jsonb_array_elements(%(delegations)s) AS d(detail)
  UNION ALL
  SELECT organization_id, id, 'finished', %(detail)s FROM exe
)
SELECT
  (SELECT array_agg(id) FROM (SELECT id FROM told UNION ALL SELECT id FROM tidied) AS n) AS notification_ids,
  (SELECT q.id FROM executions q
   WHERE q.session_id = exe.session_id AND q.status = 'queued' AND q.id <> exe.id ORDER BY q.position LIMIT 1)
    AS next_execution_id
FROM exe
"""
FINISH = _FINISH.format(
    add_usage=ADD_USAGE,
    release_hold=RELEASE_HOLD,
    notices_settle=NOTICES_SETTLE.format(of="exe"),
    held="lease_owner = %(lease)s",
    abandoned="%(abandon_session)s",
)
# An attempt that is still open may have reached the server: nobody looked.
IN_DOUBT = "SELECT 1 AS one FROM attempts WHERE execution_id = %(id)s AND ended_at IS NULL LIMIT 1"
FINISH_QUEUED = _FINISH.format(
    add_usage=ADD_USAGE,
    release_hold=RELEASE_HOLD,
    notices_settle=NOTICES_SETTLE.format(of="exe"),
    held="status IN ('queued', 'waiting_budget') AND lease_owner IS NULL",
    abandoned="EXISTS (SELECT 1 FROM attempts a WHERE a.execution_id = exe.id AND a.ended_at IS NULL)",
)

WAKE_BY_SESSIONS = """
UPDATE executions SET check_at = now()
WHERE instance_id = %(instance_id)s AND opencode_session_id = ANY(%(sessions)s)
  AND status IN ('dispatching', 'running')
RETURNING id, status
"""

_WISH_CANCEL = f"""
  UPDATE executions
  SET cancel_requested_at = now(), cancel_reason = %(reason)s,
    check_at = CASE WHEN status = 'running' THEN now() ELSE check_at END
  WHERE id = %(id)s AND {OPEN} AND cancel_requested_at IS NULL
  RETURNING id, organization_id
"""
_SAY_WISHED = """timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'cancel_requested', jsonb_build_object('reason', %(reason)s::text) FROM changed
)"""
REQUEST_CANCEL = f"WITH changed AS ({_WISH_CANCEL}), {_SAY_WISHED} SELECT id FROM changed"
REQUEST_CANCEL_AUDITED = audited(_WISH_CANCEL, after=_SAY_WISHED)

# away_s: for how long the server of a run had been away by then, of the time since the prompt went there.
FORGET_SESSION = """
WITH exe AS (
  SELECT id, session_id, organization_id FROM executions
  WHERE id = %(id)s AND lease_owner = %(lease)s FOR UPDATE
),
ses AS (
  UPDATE sessions s SET opencode_session_id = NULL, instance_id = NULL, opencode_directory = NULL
  FROM exe WHERE s.id = exe.session_id
),
att AS (
  UPDATE attempts a SET ended_at = now(), verdict = 'session_' || COALESCE(%(because)s::text, 'lost')
  FROM exe WHERE a.execution_id = exe.id AND a.ended_at IS NULL
  RETURNING a.submitted_at
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT exe.organization_id, exe.id, 'session_replaced',
    jsonb_strip_nulls(jsonb_build_object('reason', %(because)s::text, 'away_s', (
      SELECT round(extract(epoch FROM now() - GREATEST(%(away_since)s::timestamptz, att.submitted_at))::numeric, 3)
      FROM att WHERE %(away_since)s::timestamptz IS NOT NULL)))
  FROM exe
)
SELECT id FROM exe
"""

NOTE_EVENT = """
INSERT INTO execution_events (organization_id, execution_id, kind, detail)
VALUES (%(organization_id)s, %(id)s, %(kind)s, %(detail)s)
"""

_SELECT = f"SELECT {EXECUTION_COLUMNS} FROM executions e JOIN sessions s ON s.id = e.session_id"

FIND = f"{_SELECT} WHERE e.id = %(id)s"

RUNNING_BY_OPENCODE_SESSION = f"""
{_SELECT}
WHERE e.instance_id = %(instance_id)s AND e.opencode_session_id = %(opencode_session_id)s
  AND e.status IN ('dispatching', 'running')
"""

OPEN_IN_SESSION = f"""
SELECT e.id FROM executions e JOIN sessions s ON s.id = e.session_id
WHERE s.organization_id = %(organization_id)s AND s.session_key = %(session_key)s AND e.{OPEN}
ORDER BY e.position
"""

# What came after the app was installed again, if it ever ended, is not of the installation that did. What runs and is
# asked to stop already needs no second wish.
OPEN_OF_WORKSPACE = f"""
SELECT id FROM executions e
WHERE workspace_id = %(workspace_id)s AND {OPEN} AND (status = 'queued' OR cancel_requested_at IS NULL) AND NOT EXISTS (
  SELECT 1 FROM workspaces w
  WHERE w.id = %(workspace_id)s AND w.status = 'active' AND w.installed_at <= e.created_at)
ORDER BY position
"""

SESSION_KEY = "SELECT session_key FROM sessions WHERE id = %(id)s"

SESSION_MAPPING = """
SELECT instance_id, opencode_session_id, opencode_directory FROM sessions
WHERE id = %(id)s AND opencode_session_id IS NOT NULL
"""

TIMELINE = "SELECT at, kind, detail FROM execution_events WHERE execution_id = %(id)s ORDER BY id"

# The newest, and the first of all, which says what the conversation is about. Of a long text only its two ends: an
# answer has no limit, and there may be sixty of them.
EARLIER_TURNS = """
SELECT total,
  left(prompt, %(at_each_end)s) AS prompt_beginning, char_length(prompt) AS prompt_length,
  right(prompt, greatest(0, least(%(at_each_end)s, char_length(prompt) - %(at_each_end)s))) AS prompt_end,
  left(output, %(at_each_end)s) AS output_beginning, char_length(output) AS output_length,
  right(output, greatest(0, least(%(at_each_end)s, char_length(output) - %(at_each_end)s))) AS output_end
FROM (
  SELECT b.prompt, b.output, b.position, row_number() OVER (ORDER BY b.position DESC) AS from_end,
    count(*) OVER () AS total
  FROM executions e JOIN executions b ON b.session_id = e.session_id AND b.position < e.position
  WHERE e.id = %(id)s AND b.status = 'completed' AND b.output IS NOT NULL
) turns
WHERE from_end <= %(limit)s OR from_end = total
ORDER BY position
"""

# What was submitted a moment ago may not be in the server's status yet; it is compared the next time.
RUNNING_ON = """
SELECT e.id, e.opencode_session_id, s.opencode_directory
FROM executions e JOIN sessions s ON s.id = e.session_id
WHERE e.instance_id = %(instance_id)s AND e.status = 'running' AND e.running_since < now() - interval '2 seconds'
"""

# An attempt is open from before its prompt is posted until its end is known. The moment: what was stopped or has ended
# just now may still be in the server's status.
STRAY_RUNS = f"""
SELECT DISTINCT ON (a.opencode_session_id) a.opencode_session_id AS stray_session_id, {EXECUTION_COLUMNS}
FROM attempts a JOIN executions e ON e.id = a.execution_id JOIN sessions s ON s.id = e.session_id
WHERE a.opencode_session_id = ANY(%(sessions)s) AND a.instance_id = %(instance_id)s
  AND NOT EXISTS (
    SELECT 1 FROM attempts o
    WHERE o.opencode_session_id = a.opencode_session_id
      AND (o.ended_at IS NULL OR o.ended_at > now() - interval '5 seconds'))
ORDER BY a.opencode_session_id, a.started_at DESC
"""

SESSION_OF = """
SELECT organization_id, id, opencode_directory FROM sessions
WHERE instance_id = %(instance_id)s AND opencode_session_id = %(opencode_session_id)s
"""

SESSION_ANYWHERE = """
SELECT organization_id, id AS session_id, instance_id, opencode_session_id FROM sessions WHERE id = %(id)s
UNION ALL
(SELECT a.organization_id, e.session_id, a.instance_id, a.opencode_session_id
 FROM attempts a JOIN executions e ON e.id = a.execution_id
 WHERE a.opencode_session_id = %(id)s ORDER BY a.started_at DESC LIMIT 1)
LIMIT 1
"""

NEWEST_IN_SESSION = f"""
SELECT e.id FROM executions e
WHERE e.organization_id = %(organization_id)s AND e.session_id IN (
  SELECT %(id)s
  UNION ALL
  SELECT b.session_id FROM attempts a JOIN executions b ON b.id = a.execution_id
  WHERE a.opencode_session_id = %(id)s AND a.organization_id = %(organization_id)s)
ORDER BY e.{OCCUPYING_SQL} DESC, e.position DESC
LIMIT 1
"""

# Sessions name where they are now, attempts where they were: what was said there may still be.
OWNED_BY_ANOTHER = """
SELECT EXISTS (
  SELECT 1 FROM attempts
  WHERE opencode_session_id = %(opencode_session_id)s AND instance_id = %(instance_id)s
    AND organization_id <> %(organization_id)s
  UNION ALL
  SELECT 1 FROM sessions
  WHERE opencode_session_id = %(opencode_session_id)s AND instance_id = %(instance_id)s
    AND organization_id <> %(organization_id)s) AS owned
"""

HAS_SUBMITTED_TO = """
SELECT EXISTS (
  SELECT 1 FROM attempts
  WHERE opencode_session_id = %(opencode_session_id)s AND organization_id = %(organization_id)s
    AND submitted_at IS NOT NULL) AS submitted
"""

PLACE_OF = """
SELECT instance_id, opencode_session_id FROM executions
WHERE id = %(id)s AND status IN ('dispatching', 'running') AND opencode_session_id IS NOT NULL
"""
