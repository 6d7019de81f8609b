"""The SQL of budgets. What is used and what is held is read under the organization's lock (`Database.tenant`)."""

from dataclasses import dataclass
from typing import Self

from nubabel_workers.adapters.storage.usage_statements import ADD_USAGE
from nubabel_workers.domain.budgets import WAITS_FOR_BUDGET
from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.ports.budgets import Hold

_TOKENS = "u.input_tokens + u.output_tokens + u.reasoning_tokens + u.cache_read_tokens + u.cache_write_tokens"

# Parts of a WITH list after one that is called `known` and holds the execution's id. `short`: the cap that leaves no
# room, or nothing. extends: it runs, and its hold grows with what it uses. A new one is no larger than its caps: a cap
# below every estimate admits one run. One that was paused needs room for a step (which its own row says), or it would
# only begin to be paused again.
# An operator's word (cost_ceiling) stands above all caps.
ROOM = f"""
asked AS (
  SELECT e.id, e.organization_id, e.user_id, e.cost_ceiling, e.cost_ceiling IS NULL AS capped
  FROM known JOIN executions e ON e.id = known.id
),
calendar AS (
  SELECT (now() AT TIME ZONE 'UTC')::date AS today, date_trunc('month', now() AT TIME ZONE 'UTC')::date AS month
),
used AS (
  SELECT COALESCE(sum(u.cost), 0) AS month_cost, COALESCE(sum({_TOKENS}), 0) AS month_tokens,
    COALESCE(sum(u.cost) FILTER (WHERE u.day = c.today), 0) AS day_cost,
    COALESCE(sum({_TOKENS}) FILTER (WHERE u.day = c.today), 0) AS day_tokens
  FROM calendar c JOIN usage u ON u.organization_id = %(organization_id)s
    AND u.day >= CASE WHEN %(cost_per_month)s::numeric IS NULL AND %(tokens_per_month)s::bigint IS NULL
      THEN c.today ELSE c.month END
),
of_user AS (
  SELECT COALESCE(sum(u.cost), 0) AS cost
  FROM calendar c, asked a, usage u JOIN executions x ON x.id = u.execution_id
  WHERE %(cost_per_user_day)s::numeric IS NOT NULL AND u.organization_id = %(organization_id)s AND u.day = c.today
    AND x.user_id = a.user_id
),
mine AS (SELECT COALESCE(sum(u.cost), 0) AS cost FROM usage u WHERE u.execution_id = %(id)s),
held AS (
  SELECT COALESCE(sum(h.cost), 0) AS cost, COALESCE(sum(h.tokens), 0) AS tokens,
    COALESCE(sum(h.cost) FILTER (WHERE h.user_id = a.user_id), 0) AS of_user
  FROM asked a LEFT JOIN budget_holds h ON h.organization_id = %(organization_id)s AND h.execution_id <> a.id
    AND h.look_at IS NULL
),
step AS (
  SELECT COALESCE(max(h.cost), 0) AS cost, COALESCE(max(h.tokens), 0) AS tokens
  FROM budget_holds h WHERE h.execution_id = %(id)s AND h.look_at IS NOT NULL
),
wanted AS (
  SELECT CASE WHEN %(extends)s::boolean THEN %(cost)s::numeric ELSE GREATEST(step.cost, LEAST(%(cost)s::numeric,
      COALESCE(a.cost_ceiling, %(cost_per_execution)s::numeric) - mine.cost, CASE WHEN a.capped THEN
        LEAST(%(cost_per_user_day)s::numeric, %(cost_per_day)s::numeric, %(cost_per_month)s::numeric) END)) END AS cost,
    CASE WHEN %(extends)s::boolean THEN %(tokens)s::bigint ELSE GREATEST(step.tokens, LEAST(%(tokens)s::bigint,
      CASE WHEN a.capped THEN LEAST(%(tokens_per_day)s::bigint, %(tokens_per_month)s::bigint) END)) END AS tokens
  FROM asked a, mine, step
),
caps AS (
  SELECT v.*, CASE WHEN v.money THEN wanted.cost ELSE wanted.tokens END AS more
  FROM asked a, calendar c, used, of_user, mine, held, wanted, LATERAL (VALUES
    (1, 'cost_per_execution', true, COALESCE(a.cost_ceiling, %(cost_per_execution)s::numeric), mine.cost, 0, NULL),
    (2, 'cost_per_month', true, %(cost_per_month)s::numeric, used.month_cost, held.cost, c.month + interval '1 month'),
    (3, 'tokens_per_month', false, %(tokens_per_month)s::bigint, used.month_tokens, held.tokens,
      c.month + interval '1 month'),
    (4, 'cost_per_day', true, %(cost_per_day)s::numeric, used.day_cost, held.cost, c.today + interval '1 day'),
    (5, 'tokens_per_day', false, %(tokens_per_day)s::bigint, used.day_tokens, held.tokens, c.today + interval '1 day'),
    (6, 'cost_per_user_day', true, CASE WHEN a.user_id IS NOT NULL THEN %(cost_per_user_day)s::numeric END,
      of_user.cost, held.of_user, c.today + interval '1 day')
  ) AS v(rank, name, money, cap, used, held, frees_at)
  WHERE v.cap IS NOT NULL AND (a.capped OR v.rank = 1)
),
short AS (
  SELECT name, used + more > cap OR used >= cap AS spent_out, frees_at AT TIME ZONE 'UTC' AS frees_at,
    (SELECT cost FROM step) AS step_cost
  FROM caps
  WHERE used + held + more > cap OR used + held >= cap
  ORDER BY spent_out DESC, rank LIMIT 1
)"""

HOLD = """
  INSERT INTO budget_holds (execution_id, organization_id, user_id, cost, tokens)
  SELECT a.id, a.organization_id, a.user_id, w.cost, w.tokens FROM {placed_for} p JOIN asked a ON a.id = p.id, wanted w
  ON CONFLICT (execution_id) DO UPDATE
  SET cost = GREATEST(budget_holds.cost, EXCLUDED.cost), tokens = GREATEST(budget_holds.tokens, EXCLUDED.tokens),
    user_id = EXCLUDED.user_id, placed_at = now(), look_at = NULL
"""
# A wait is over: what tells of it and was not told yet is needed no more, and its button, which allows nothing any
# more, goes from what was told. Where that is not known it is looked up, and the button goes then.
NOTICES_SETTLE = """
  UPDATE notifications n
  SET payload = n.payload - 'button' || '{{"edited": true}}'::jsonb, revision = n.revision + 1, not_before = now(),
    status = CASE WHEN n.status = 'ready' AND n.sent_at IS NULL AND NOT n.uncertain THEN 'dropped'
      WHEN n.status = 'sent' THEN 'ready' ELSE n.status END
  FROM {of}
  WHERE n.execution_id = {of}.id AND n.kind = 'notice' AND starts_with(n.dedupe, 'budget')
    AND (n.payload ? 'button' OR n.status = 'ready') AND n.status IN ('ready', 'sending', 'sent', 'failed')
"""
# What a statement that begins an attempt `exe` of a `known` execution is completed with: its number comes back, or
# which cap leaves no room.
_WITHOUT_HOLD = {"room": "", "if_there_is_room": "", "hold": "", "found": "SELECT attempt FROM exe"}
_SETTLED = f"\nsettled AS ({NOTICES_SETTLE.format(of='exe')}),"
_AFTER_A_WAIT = _WITHOUT_HOLD | {"hold": _SETTLED}
_WITH_HOLD = {
    "room": f"{ROOM},",
    "if_there_is_room": "AND NOT EXISTS (SELECT 1 FROM short)",
    "hold": f"\nhold AS ({HOLD.format(placed_for='exe')}),{_SETTLED}",
    "found": """SELECT (SELECT attempt FROM exe) AS attempt, s.name, s.spent_out, s.frees_at, s.step_cost
FROM known LEFT JOIN short s ON true""",
}


@dataclass(frozen=True)
class Beginnings:
    """A statement that begins an attempt, by what there is to hold."""

    plain: str
    after_a_wait: str  # nothing is capped any more
    held: str  # the prompt does not leave before its money is held

    @classmethod
    def of(cls, template: str) -> Self:
        return cls(*(template.format(**parts) for parts in (_WITHOUT_HOLD, _AFTER_A_WAIT, _WITH_HOLD)))

    def for_run_of(self, execution: Execution, hold: Hold | None) -> str:
        if hold is not None:
            return self.held
        return self.after_a_wait if execution.waiting_for == WAITS_FOR_BUDGET else self.plain


RELEASE_HOLD = "DELETE FROM budget_holds h USING exe WHERE h.execution_id = exe.id"

SHORTAGE = f"""
WITH known AS (SELECT id FROM executions WHERE id = %(id)s),{ROOM}
SELECT name, spent_out, frees_at, step_cost FROM short
"""

# It is written down that a run is to be paused before it is told to stop: after a crash in between, its end is a pause.
EXTEND = f"""
WITH known AS (
  SELECT id FROM executions WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'running' FOR UPDATE
),{ROOM},
hold AS ({HOLD.format(placed_for="(SELECT id FROM known WHERE NOT EXISTS (SELECT 1 FROM short))")}),
noted AS (
  UPDATE executions e SET waiting_for = CASE WHEN EXISTS (SELECT 1 FROM short) THEN %(reason)s END
  FROM known WHERE e.id = known.id
)
SELECT s.name, s.spent_out, s.frees_at, s.step_cost FROM known LEFT JOIN short s ON true
"""

_TELL = """
  INSERT INTO notifications (
    id, organization_id, execution_id, session_id, kind, dedupe, destination, payload, correlation_id, traceparent)
  SELECT 'ntf_' || replace(n.dedupe, '#', '_') || '_' || substr(exe.id, 5), exe.organization_id, exe.id,
    exe.session_id, n.kind, n.dedupe, n.destination, n.payload, exe.correlation_id, exe.traceparent
  FROM exe, jsonb_to_recordset(%(notifications)s) AS n(kind text, dedupe text, destination jsonb, payload jsonb)
  ON CONFLICT DO NOTHING
  RETURNING id
"""

# Somebody let it cost more while it was looked for room, and that is enough for it.
_HAS_ITS_WORD = """COALESCE(e.cost_ceiling
      - (SELECT COALESCE(sum(u.cost), 0) FROM usage u WHERE u.execution_id = e.id) >= GREATEST(0.000001,
        (SELECT max(h.cost) FROM budget_holds h WHERE h.execution_id = e.id AND h.look_at IS NOT NULL)), false)"""
WAIT = f"""
WITH before AS (
  SELECT id, waiting_for FROM executions
  WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'dispatching' FOR UPDATE
),
exe AS (
  UPDATE executions e
  SET status = 'queued', lease_owner = NULL, lease_until = NULL, suspect = false, lone_deliveries = 0,
    not_before = CASE WHEN cancel_requested_at IS NOT NULL OR {_HAS_ITS_WORD} THEN now()
      ELSE now() + make_interval(secs => %(wait_s)s) END,
    waiting_for = %(reason)s, told_late = told_late OR %(spent_out)s::boolean,
    answer_by = CASE WHEN %(spent_out)s::boolean AND before.waiting_for IS DISTINCT FROM %(reason)s
      THEN GREATEST(e.answer_by, %(frees_at)s::timestamptz + (e.answer_by - e.created_at)) ELSE e.answer_by END
  FROM before WHERE e.id = before.id
  RETURNING e.id, e.organization_id, e.session_id, e.correlation_id, e.traceparent,
    before.waiting_for IS NOT DISTINCT FROM %(reason)s AS known
),
told AS ({_TELL}),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'waiting', %(detail)s FROM exe WHERE NOT known
)
SELECT id, (SELECT id FROM told) AS notification_id FROM exe
"""

PAUSE = f"""
WITH exe AS (
  UPDATE executions
  SET status = 'waiting_budget', lease_owner = NULL, lease_until = NULL, suspect = false, lone_deliveries = 0,
    check_at = NULL, running_since = NULL, deadline_at = NULL, waiting_for = %(reason)s, pauses = pauses + 1,
    usage = COALESCE(%(usage)s, usage), output = %(output)s, told_late = told_late OR %(short)s::boolean,
    answer_by = now() + make_interval(secs => %(keep_s)s),
    message_created_ms = GREATEST((extract(epoch FROM clock_timestamp()) * 1000)::bigint, %(after_ms)s + 1)
  WHERE id = %(id)s AND lease_owner = %(lease)s AND status = 'running'
  RETURNING id, organization_id, session_id, user_id, attempt, correlation_id, traceparent
),
att AS (
  UPDATE attempts a
  SET ended_at = now(), verdict = %(reason)s, usage = %(attempt_usage)s,
    known_assistant_ids = a.known_assistant_ids || %(counted_ids)s
  FROM exe WHERE a.execution_id = exe.id AND a.number = exe.attempt AND a.ended_at IS NULL
),
use AS ({ADD_USAGE}),
given_back AS (
  INSERT INTO budget_holds (execution_id, organization_id, user_id, cost, tokens, look_at)
  SELECT id, organization_id, user_id, %(step_cost)s, %(step_tokens)s, now() + make_interval(secs => %(look_s)s)
  FROM exe
  ON CONFLICT (execution_id) DO UPDATE
  SET cost = EXCLUDED.cost, tokens = EXCLUDED.tokens, placed_at = now(), look_at = EXCLUDED.look_at
),
told AS ({_TELL}),
shown AS (
  UPDATE notifications n
  SET payload = '{{"paused": true}}', revision = n.revision + 1, not_before = now(),
    status = CASE WHEN n.status = 'sending' THEN n.status ELSE 'ready' END
  FROM exe
  WHERE n.execution_id = exe.id AND n.kind = 'progress' AND n.destination->>'kind' = 'slack'
    AND NOT n.payload ? 'removed' AND n.status IN ('ready', 'sending', 'sent')
),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'budget_reached', %(detail)s FROM exe
)
SELECT id, (SELECT id FROM told) AS notification_id FROM exe
"""

# untold: whoever paused it found that there was room, and did not say anything.
DUE = """
UPDATE budget_holds h SET look_at = now() + make_interval(secs => %(again_s)s)
WHERE execution_id IN (
  SELECT execution_id FROM budget_holds
  WHERE look_at <= now() ORDER BY look_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING organization_id, execution_id, NOT EXISTS (
  SELECT 1 FROM notifications n JOIN executions e ON e.id = n.execution_id
  WHERE n.execution_id = h.execution_id AND n.kind = 'notice'
    AND n.dedupe = 'budget#' || e.replays || '_' || e.pauses) AS untold
"""

TELL_PAUSED = f"""
WITH exe AS (
  UPDATE executions SET told_late = true WHERE id = %(id)s AND status = 'waiting_budget'
  RETURNING id, organization_id, session_id, correlation_id, traceparent
),
told AS ({_TELL})
SELECT (SELECT id FROM told) AS notification_id
"""

_RESUMED = """
  UPDATE executions e
  SET status = 'queued', waiting_for = NULL, not_before = now(), failures = 0,
    answer_by = now() + make_interval(secs => %(answer_by_s)s)
  FROM {of} WHERE e.id = {of}.id {where}
  RETURNING e.id, e.organization_id
"""
_SAY_RESUMED = """
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'resumed', %(detail)s FROM exe
"""
_LOOKED = """looked AS (
  UPDATE budget_holds h SET look_at = 'infinity' FROM exe WHERE h.execution_id = exe.id
)"""
_PAUSED = """known AS (
  SELECT id FROM executions
  WHERE id = %(id)s AND status = 'waiting_budget' AND cancel_requested_at IS NULL FOR UPDATE
)"""
RESUME = f"""
WITH {_PAUSED},
exe AS ({_RESUMED.format(of="known", where="")}),
{_LOOKED},
settled AS ({NOTICES_SETTLE.format(of="exe")}),
timeline AS ({_SAY_RESUMED})
SELECT id FROM exe
"""
RESUME_WITH_ROOM = f"""
WITH {_PAUSED},{ROOM},
exe AS ({_RESUMED.format(of="known", where="AND NOT EXISTS (SELECT 1 FROM short)")}),
{_LOOKED},
settled AS ({NOTICES_SETTLE.format(of="exe")}),
timeline AS ({_SAY_RESUMED})
SELECT id FROM exe
"""

# More than it has used so far. What waits in the queue for the budget has had its word to say as well, also while a
# worker just looks for room: whichever of the two comes first, the next look finds what was allowed. A button (pauses)
# whose word still stands adds nothing.
ALLOW = """
  UPDATE executions e
  SET status = CASE WHEN e.status = 'dispatching' THEN e.status ELSE 'queued' END,
    waiting_for = CASE WHEN e.status = 'dispatching' THEN e.waiting_for END, not_before = now(),
    answer_by = now() + make_interval(secs => %(answer_by_s)s), cost_ceiling = %(cost)s::numeric + used.cost
  FROM (SELECT COALESCE(sum(u.cost), 0) AS cost FROM usage u WHERE u.execution_id = %(id)s) AS used
  WHERE e.id = %(id)s AND e.organization_id = %(organization_id)s AND e.cancel_requested_at IS NULL
    AND (e.status = 'waiting_budget' OR e.status IN ('queued', 'dispatching') AND e.waiting_for = %(reason)s)
    AND (%(pauses)s::int IS NULL OR e.replays = %(replays)s::int AND e.pauses = %(pauses)s::int
      AND e.attempt = %(attempt)s::int AND (
      e.status = 'waiting_budget' OR COALESCE(e.cost_ceiling, 0) <= used.cost))
  RETURNING e.id, e.organization_id
"""
SAY_ALLOWED = f"""looked AS (
  UPDATE budget_holds h SET look_at = 'infinity' FROM changed
  WHERE h.execution_id = changed.id AND h.look_at IS NOT NULL
),
settled AS ({NOTICES_SETTLE.format(of="changed")}),
timeline AS (
  INSERT INTO execution_events (organization_id, execution_id, kind, detail)
  SELECT organization_id, id, 'resumed', %(detail)s FROM changed
)"""
# What has to be allowed at least, for a run that was paused to go on.
STEP = """
SELECT cost, tokens FROM budget_holds
WHERE execution_id = %(id)s AND organization_id = %(organization_id)s AND look_at IS NOT NULL
"""

# Not at once: a process that looked before it knows the new limits would find no room, and look much later again.
WAKE = """
WITH paused AS (
  UPDATE budget_holds SET look_at = now() + make_interval(secs => %(known_after_s)s)
  WHERE organization_id = %(organization_id)s AND look_at > now() + make_interval(secs => %(known_after_s)s)
    AND look_at < 'infinity'
  RETURNING execution_id
),
queued AS (
  UPDATE executions SET not_before = now() + make_interval(secs => %(known_after_s)s)
  WHERE organization_id = %(organization_id)s AND status = 'queued' AND waiting_for = %(reason)s
    AND not_before > now() + make_interval(secs => %(known_after_s)s)
  RETURNING id
)
SELECT (SELECT count(*) FROM paused) + (SELECT count(*) FROM queued) AS woken
"""

# An attempt is open from before its prompt is posted until its end is known: as long its money is held. The age: one
# that is placed again at this moment is not taken for the old one.
RELEASE_STALE = """
DELETE FROM budget_holds h
WHERE h.placed_at < now() - interval '10 seconds'
  AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.execution_id = h.execution_id AND a.ended_at IS NULL)
  AND NOT EXISTS (
    SELECT 1 FROM executions e
    WHERE e.id = h.execution_id AND (
      e.status IN ('dispatching', 'running', 'waiting_budget') OR e.status = 'queued' AND h.look_at IS NOT NULL))
"""

ESTIMATE = """
SELECT count(*) AS runs, percentile_disc(%(share)s::float8) WITHIN GROUP (ORDER BY cost) AS cost,
  percentile_disc(%(share)s::float8) WITHIN GROUP (ORDER BY tokens) AS tokens
FROM (
  SELECT (usage->>'cost')::numeric AS cost,
    (usage->>'input_tokens')::bigint + (usage->>'output_tokens')::bigint + (usage->>'reasoning_tokens')::bigint
    + (usage->>'cache_read_tokens')::bigint + (usage->>'cache_write_tokens')::bigint AS tokens
  FROM (
    SELECT usage, analysis FROM executions
    WHERE organization_id = %(organization_id)s ORDER BY created_at DESC LIMIT %(look_back)s) AS recent
  WHERE usage IS NOT NULL AND analysis->>'category' IS NOT DISTINCT FROM %(category)s::text
  LIMIT %(most)s) AS runs
"""

BOOKS = f"""
WITH calendar AS (
  SELECT (now() AT TIME ZONE 'UTC')::date AS today, date_trunc('month', now() AT TIME ZONE 'UTC')::date AS month
)
SELECT used.*, held.*,
  (SELECT count(*) FROM executions
   WHERE organization_id = %(organization_id)s AND status = 'queued' AND waiting_for = %(reason)s) AS queued
FROM (
  SELECT COALESCE(sum(u.cost), 0) AS month_cost, COALESCE(sum({_TOKENS}), 0) AS month_tokens,
    COALESCE(sum(u.cost) FILTER (WHERE u.day = c.today), 0) AS day_cost,
    COALESCE(sum({_TOKENS}) FILTER (WHERE u.day = c.today), 0) AS day_tokens
  FROM calendar c JOIN usage u ON u.organization_id = %(organization_id)s AND u.day >= c.month) AS used, (
  SELECT COALESCE(sum(cost) FILTER (WHERE look_at IS NULL), 0) AS held_cost,
    COALESCE(sum(tokens) FILTER (WHERE look_at IS NULL), 0) AS held_tokens,
    count(*) FILTER (WHERE look_at IS NULL) AS holds, count(*) FILTER (WHERE look_at < 'infinity') AS paused
  FROM budget_holds WHERE organization_id = %(organization_id)s) AS held
"""
