"""What must hold at every moment: asked of the rows, of Slack's log and of the OpenCode servers."""

from collections import Counter
from typing import Any

from nubabel_workers.domain.executions import FINAL, Status, can_move
from tests.faults.stateful.world import World

# Each query finds rows that must not exist.
_NEVER = {
    "two executions occupy one session": """
        SELECT session_id FROM executions WHERE status IN ('dispatching', 'running')
        GROUP BY session_id HAVING count(*) > 1""",
    "an execution and its lease disagree": """
        SELECT id FROM executions WHERE (lease_owner IS NULL) <> (lease_until IS NULL)
          OR (status = 'dispatching' AND lease_owner IS NULL)
          OR (status NOT IN ('dispatching', 'running') AND lease_owner IS NOT NULL)""",
    "a notification and its lease disagree": """
        SELECT id FROM notifications WHERE (lease_owner IS NULL) <> (lease_until IS NULL)
          OR (status = 'sending') <> (lease_owner IS NOT NULL)""",
    "an inbound event and its lease disagree": """
        SELECT id FROM inbound_events WHERE (lease_owner IS NULL) <> (lease_until IS NULL)
          OR (status <> 'ready' AND lease_owner IS NOT NULL)""",
    "a run that nobody will look at": """
        SELECT id FROM executions WHERE status = 'running' AND check_at IS NULL""",
    "a run without a deadline": """
        SELECT id FROM executions WHERE status = 'running' AND deadline_at IS NULL""",
    "attempts are not numbered one after the other": """
        SELECT e.id FROM executions e LEFT JOIN attempts a ON a.execution_id = e.id
        GROUP BY e.id HAVING count(a.number) <> e.attempt OR COALESCE(max(a.number), 0) <> e.attempt""",
    "two attempts are open": """
        SELECT execution_id FROM attempts WHERE ended_at IS NULL GROUP BY execution_id HAVING count(*) > 1""",
    "a running execution without an open attempt": """
        SELECT e.id FROM executions e WHERE e.status = 'running'
          AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.execution_id = e.id AND a.ended_at IS NULL)""",
    "an open attempt of a final execution": """
        SELECT e.id FROM executions e JOIN attempts a ON a.execution_id = e.id
        WHERE e.finished_at IS NOT NULL AND a.ended_at IS NULL""",
    "final without an end, or an end without being final": """
        SELECT id FROM executions
        WHERE (status IN ('completed', 'failed', 'rejected', 'cancelled')) <> (finished_at IS NOT NULL)""",
    "not as many outcomes as ends": """
        SELECT e.id FROM executions e
        WHERE e.reply->>'kind' <> 'none' AND (e.finished_at IS NOT NULL)::int + e.replays <> (
          SELECT count(*) FROM notifications n WHERE n.execution_id = e.id AND n.kind IN ('outcome', 'webhook'))""",
    "failed without a dead letter": """
        SELECT e.id FROM executions e WHERE e.status = 'failed'
          AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.subject_id = e.id AND d.status = 'open')""",
    "a notification failed without a dead letter": """
        SELECT n.id FROM notifications n WHERE n.status = 'failed'
          AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.subject_id = n.id AND d.status = 'open')""",
    "an inbound event failed without a dead letter": """
        SELECT i.id FROM inbound_events i WHERE i.status = 'failed'
          AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.subject_id = i.id AND d.status = 'open')""",
    "more failures than tries allowed": """
        SELECT id FROM executions WHERE failures > 3 UNION SELECT id FROM notifications WHERE failures > 5
        UNION SELECT id FROM inbound_events WHERE failures > 3""",
    "rows of one tenant point to those of another": """
        SELECT e.id FROM executions e JOIN sessions s ON s.id = e.session_id
          WHERE s.organization_id <> e.organization_id
        UNION SELECT a.execution_id FROM attempts a JOIN executions e ON e.id = a.execution_id
          WHERE e.organization_id <> a.organization_id
        UNION SELECT v.execution_id FROM execution_events v JOIN executions e ON e.id = v.execution_id
          WHERE e.organization_id <> v.organization_id
        UNION SELECT n.id FROM notifications n JOIN executions e ON e.id = n.execution_id
          WHERE e.organization_id <> n.organization_id
        UNION SELECT u.execution_id FROM usage u JOIN executions e ON e.id = u.execution_id
          WHERE e.organization_id <> u.organization_id
        UNION SELECT d.id FROM dead_letters d JOIN executions e ON e.id = d.subject_id
          WHERE e.organization_id IS DISTINCT FROM d.organization_id
        UNION SELECT d.id FROM dead_letters d JOIN notifications n ON n.id = d.subject_id
          WHERE n.organization_id IS DISTINCT FROM d.organization_id
        UNION SELECT i.id FROM inbound_events i JOIN workspaces w ON w.id = i.workspace_id
          WHERE w.organization_id <> i.organization_id""",
}
_EVERYTHING = " UNION ALL ".join(
    f"SELECT '{name}' AS what, found.* FROM ({query}) AS found(id)" for name, query in _NEVER.items()
)
_EXECUTIONS = "SELECT id, status, replays, output, finished_at IS NOT NULL AS over FROM executions"
_ATTEMPTS = "SELECT message_id, count(*) AS n FROM attempts GROUP BY message_id"


class Watch:
    """Compares each moment with the one before."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen: dict[str, dict[str, Any]] = {}

    def broken(self) -> list[str]:
        """What is wrong now, in words; empty when all is well."""
        rows = [f"{row['what']}: {row['id']}" for row in self._world.all(_EVERYTHING)]
        return [
            *rows,
            *self._world.violations,
            *self._world.crashes,
            *self._moves(),
            *self._doubled_posts(),
            *self._runs_without_attempt(),
        ]

    def _moves(self) -> list[str]:
        wrong = []
        now = {row["id"]: row for row in self._world.all(_EXECUTIONS)}
        for execution_id, row in now.items():
            before = self._seen.get(execution_id)
            if before is not None and not _may_become(before, row):
                wrong.append(f"{execution_id} went from {before} to {row}")
        wrong += [f"{execution_id} is gone" for execution_id in self._seen.keys() - now.keys()]
        self._seen = now
        return wrong

    def _doubled_posts(self) -> list[str]:
        posted = Counter((post.delivery_id, post.marked) for post in self._world.messenger.posted)
        return [f"{delivery_id} was posted {n} times" for (delivery_id, _), n in posted.items() if n > 1]

    def _runs_without_attempt(self) -> list[str]:
        attempts = {row["message_id"]: row["n"] for row in self._world.all(_ATTEMPTS)}
        runs: Counter[str] = Counter()
        for server in self._world.servers.values():
            runs.update(server.runs)
        return [
            f"{message_id} ran {n} times in {attempts.get(message_id, 0)} attempts"
            for message_id, n in runs.items()
            if n > attempts.get(message_id, 0)
        ]


def _may_become(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether legal moves lead from one to the other, however many happened in between."""
    if Status(before["status"]) in FINAL and before["replays"] == now["replays"]:
        return before == now
    reached, new = {Status(before["status"])}, {Status(before["status"])}
    while new:
        new = {target for source in new for target in Status if can_move(source, target)} - reached
        reached |= new
    return Status(now["status"]) in reached and before["replays"] <= now["replays"]
