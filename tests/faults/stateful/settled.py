"""The end of an example: everything heals and time passes; then each accepted request must have its one outcome."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.faults.stateful.callers import Accepted
from tests.faults.stateful.outside_opencode import TOKEN, TOKENS, End
from tests.faults.stateful.world import World

_ROUNDS = 80
_ROUND_S = 20
_OPEN = """
SELECT id, status FROM executions WHERE finished_at IS NULL
UNION ALL SELECT id, status FROM notifications WHERE status IN ('ready', 'sending')
UNION ALL SELECT id, status FROM inbound_events WHERE status = 'ready'
"""
_OUTCOMES = """
SELECT n.id, n.status, n.repeated, n.sent_parts, n.payload, n.destination, n.organization_id, n.error,
  e.id AS execution_id, e.status AS execution_status, e.position, e.session_id, e.prompt, e.idempotency_key, e.replays
FROM notifications n LEFT JOIN executions e ON e.id = n.execution_id
WHERE n.kind = 'outcome'
ORDER BY n.created_at
"""


_USED = """
SELECT e.id, e.status, COALESCE(sum(u.input_tokens), 0) AS used,
  (SELECT count(*) FROM attempts a WHERE a.execution_id = e.id) AS runs,
  (SELECT COALESCE(array_agg(DISTINCT a.message_id), '{}') FROM attempts a WHERE a.execution_id = e.id) AS messages
FROM executions e LEFT JOIN usage u ON u.execution_id = e.id
GROUP BY e.id
"""


async def come_to_rest(world: World) -> None:
    """Faults end, the paused go on, runs get their answers, the scheduler works; until nothing is open."""
    world.messenger.plan.clear()
    world.messenger.reads.clear()
    world.webhooks.plan.clear()
    for server in world.servers.values():
        server.away = False
    world.rows.execute("UPDATE instances SET healthy = true")
    for _ in range(_ROUNDS):
        for call in world.paused():
            call.go_on(None)
        await world.pass_time(_ROUND_S, renewing=False)
        await _work(world)
        if not world.all(_OPEN):
            return
    raise AssertionError(f"still open after {_ROUNDS * _ROUND_S} s: {world.all(_OPEN)}")


async def _work(world: World) -> None:
    for server in world.servers.values():
        for session in server.busy():
            server.end(session, End.ANSWERED)
    world.memory.hints.clear()
    await world.start(0, "publish_overdue", lambda services: services.maintain.publish_overdue())
    await world.start(0, "keep_deadlines", lambda services: services.maintain.keep_deadlines())
    await world.start(0, "reconcile", lambda services: services.maintain.reconcile())
    while world.memory.hints:
        hint = world.memory.hints.pop(0)
        await world.take_hint(0, hint.task, hint.row_id)
        for server in world.servers.values():
            for session in server.busy():
                server.end(session, End.ANSWERED)


def unsettled(world: World, accepted: Accepted) -> Iterator[str]:
    """What people would complain about."""
    outcomes = world.all(_OUTCOMES)
    yield from _lost(world, accepted, outcomes)
    yield from _told_wrongly(world, outcomes)
    yield from _out_of_order(world, outcomes)
    yield from _requests(world, accepted)
    yield from _signs_left(world)
    yield from _recounted(world)


def _lost(world: World, accepted: Accepted, outcomes: list[dict[str, Any]]) -> Iterator[str]:
    """Each accepted message has one outcome in its thread, or one dead letter that says why it has none."""
    told: Counter[tuple[str, str]] = Counter()
    for row in outcomes:
        if row["status"] in {"sent", "failed"} or (row["status"] == "dropped" and _is_gone(row, accepted)):
            told[row["organization_id"], row["destination"]["message_ts"]] += 1
    replays = {row["idempotency_key"].rpartition(":")[2]: row["replays"] for row in outcomes if row["idempotency_key"]}
    for organization, ts in sorted(accepted.messages):
        expected = 1 + replays.get(ts, 0)
        if told[organization, ts] != expected:
            yield f"message {ts} of {organization} has {told[organization, ts]} outcomes, not {expected}"


def _is_gone(row: dict[str, Any], accepted: Accepted) -> bool:
    return row["destination"]["thread_ts"] in accepted.deleted or row["destination"]["message_ts"] in accepted.deleted


def _told_wrongly(world: World, outcomes: list[dict[str, Any]]) -> Iterator[str]:
    """What stands in Slack is what the rows say, in the right workspace, all parts of it."""
    posts = Counter(post.delivery_id for post in world.messenger.posted)
    words = {post.delivery_id: post for post in world.messenger.posted}
    for row in outcomes:
        parts = sum(1 for delivery_id in posts if delivery_id.startswith(f"{row['id']}:"))
        if row["status"] == "sent" and not 0 < parts == len(row["sent_parts"]):
            yield f"{row['id']} is sent in {len(row['sent_parts'])} parts; Slack has {parts}"
        doubled = [n for delivery_id, n in posts.items() if delivery_id.startswith(f"{row['id']}:") and n > 1]
        if doubled and not row["repeated"]:
            yield f"{row['id']} was doubled"
        first = words.get(f"{row['id']}:1")
        if first is None:
            continue
        if first.team[-1].lower() != row["organization_id"][-1]:
            yield f"{row['id']} of {row['organization_id']} was told in {first.team}"
        if row["execution_status"] == "completed" and not row["replays"]:
            answered, asked = TOKEN.findall(first.text), TOKEN.findall(row["prompt"])
            if answered != asked:
                yield f"{row['id']} answers {answered} where {asked} was asked"


def _out_of_order(world: World, outcomes: list[dict[str, Any]]) -> Iterator[str]:
    """Answers of one thread stand in the order of their questions."""
    stands_at = {post.delivery_id: at for at, post in reversed(list(enumerate(world.messenger.posted)))}
    last: dict[str, tuple[int, int]] = {}
    answers = [row for row in outcomes if row["execution_status"] == "completed" and not row["replays"]]
    for row in sorted(answers, key=lambda row: row["position"]):
        at = stands_at.get(f"{row['id']}:1")
        if at is None:
            continue
        before = last.get(row["session_id"])
        if before is not None and before[1] > at:
            yield f"the answer to {row['prompt']!r} overtook an earlier one of its thread"
        last[row["session_id"]] = row["position"], at


def _requests(world: World, accepted: Accepted) -> Iterator[str]:
    """Each accepted request is final, and its caller was called back, or a dead letter says why not."""
    called_back = Counter(payload["data"]["execution_id"] for _, payload in dict(world.webhooks.received).items())
    rows = {
        row["id"]: row
        for row in world.all(
            "SELECT e.id, e.status, e.reply->>'kind' AS kind, e.replays, n.status AS told FROM executions e"
            " LEFT JOIN notifications n ON n.execution_id = e.id AND n.kind = 'webhook' WHERE e.source = 'api'"
        )
    }
    for (organization, key), execution_id in accepted.requests.items():
        row = rows.get(execution_id)
        if row is None:
            yield f"request {key} of {organization} was accepted as {execution_id}, which does not exist"
        elif row["kind"] == "webhook" and row["told"] == "sent" and not called_back[execution_id]:
            yield f"request {key} of {organization} is told, but nobody was called back"


def _signs_left(world: World) -> Iterator[str]:
    """No question looks as if it were still worked on."""
    kept = {
        row["destination"]["message_ts"]
        for row in world.all("SELECT destination FROM notifications WHERE kind = 'working' AND status <> 'sent'")
    }
    for team, workspace in world.slack.workspaces.items():
        for channel in workspace.channels.values():
            for message in channel.messages.values():
                if "eyes" in message.reactions and not message.tombstone and message.ts not in kept:
                    yield f"{message.ts} in {team} still looks worked on"


def _recounted(world: World) -> Iterator[str]:
    """What the rows say was used is what the servers produced; less only where the row says that it knows no better."""
    produced: Counter[str] = Counter()
    for server in world.servers.values():
        produced.update(server.produced)
    for row in world.all(_USED):
        known = TOKENS * sum(produced[message_id] for message_id in row["messages"])
        if row["used"] > known or (row["used"] < known and row["runs"] == 1 and row["status"] == "completed"):
            yield f"{row['id']} used {row['used']} tokens, OpenCode counted {known}"
