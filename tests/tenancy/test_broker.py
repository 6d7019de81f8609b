"""Messages in the broker, signed by one organization, with another's keys, sessions and names in them."""

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from nubabel_workers.domain.submission import sign
from nubabel_workers.services.accept_submission import Refused
from tests.tenancy.matrix import Cell, Seen, note
from tests.tenancy.world import ATTACKER, VICTIM, Side, World, strings_of

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

# What a message says beside its prompt: position -> the victim's value.
_FIELDS: Mapping[str, Callable[[Side], Mapping[str, Any]]] = {
    "session_id": lambda side: {"session_id": side.sessions["completed"]},
    "session_id of OpenCode": lambda side: {"session_id": side.opencode_sessions["completed"]},
    "session_key": lambda side: {"session_key": side.word("conversation-completed")},
    "idempotency_key": lambda side: {"idempotency_key": side.key},
    "user_id": lambda side: {"user_id": side.word("user")},
    "organization_id": lambda side: {"organization_id": side.id},
    "metadata": lambda side: {"metadata": {"organization_id": side.id, "session_id": side.sessions["running"]}},
}
# With the sender's own key. Names that the sender gives are looked up in its own organization, where they are its own.
_SEEN: Mapping[str, Seen] = {
    "session_id": Seen.AUDITED,
    "session_id of OpenCode": Seen.AUDITED,
    "session_key": Seen.NOT_NAMED,
    "idempotency_key": Seen.NOT_NAMED,
    "user_id": Seen.NOT_NAMED,
    "organization_id": Seen.NOT_READ,
    "metadata": Seen.NOT_READ,
}
_ENDS: Mapping[str, str] = {
    "session_id": "session_not_found",
    "session_id of OpenCode": "session_not_found",
}
_REFUSED_AS: Mapping[str, str] = {
    "other's key id": "bad_signature",
    "other's key id after signing": "bad_signature",
    "unsigned": "unsigned",
    "signed before the change": "bad_signature",
}
METHODS = ("own key", *_REFUSED_AS)


def message(world: World, fields: Mapping[str, Any], method: str) -> dict[str, Any]:
    own, victim = world.attacker, world.victim
    assert own.submit_secret is not None
    request = {"prompt": "hello", **fields}
    if method == "unsigned":
        return {"version": 1, "request": request}
    said = {"prompt": "hello"} if method == "signed before the change" else request
    signed = sign(
        said,
        key_id=victim.submit_key_id if method == "other's key id" else own.submit_key_id,
        secret=own.submit_secret,
        issued_at=int(time.time()),
        nonce=secrets.token_urlsafe(18),
    )
    after = {"key_id": victim.submit_key_id} if method == "other's key id after signing" else {}
    return {**signed, "request": request, **after}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("position", _FIELDS)
async def test_a_message_makes_nothing_of_anothers(
    position: str, method: str, world: World, request: pytest.FixtureRequest
) -> None:
    expected = _SEEN[position] if method == "own key" else Seen.NO_CALLER
    note(request, _of_message(position, method), expected)
    await world.clean_up()
    before, known = await world.belongings(), len(await world.refusals())
    raw = message(world, _FIELDS[position](world.victim), method)

    outcome = await world.services.accept_submission.accept(raw, delivery_id=secrets.token_hex(16))

    assert await world.belongings() == before
    assert world.leaks(repr(outcome), sent=[*strings_of(raw)]) == []
    refusals = [(one.actor, one.subject, one.detail["owner"]) for one in (await world.refusals())[known:]]
    by = f"submit_key:{world.attacker.submit_key_id}"
    assert refusals == ([(by, raw["request"]["session_id"], VICTIM)] if expected is Seen.AUDITED else [])
    code = outcome.code if isinstance(outcome, Refused) else "accepted"
    if position == "organization_id":
        assert code == "invalid_submission"  # nothing in a message says whose it is, so the form has no place for it
    else:
        assert code == (_ENDS.get(position, "accepted") if method == "own key" else _REFUSED_AS[method])
    if not isinstance(outcome, Refused):
        accepted = await world.services.read_execution.by_id(ATTACKER, outcome.execution_id)
        assert (accepted.organization_id, outcome.created) == (ATTACKER, True)
        assert accepted.session_id not in world.victim.sessions.values()


Hinted = Callable[[World], Any]
_HINTS: Mapping[str, Callable[[World, str], Any]] = {
    "orchestration.dispatch": lambda world, _row: world.services.dispatch_executions.run(),
    "orchestration.complete": lambda world, row: world.services.complete_executions.run(row),
    "slack_events.process": lambda world, row: world.services.process_slack_events.run(row),
}


_ROWS = ("completed", "running", "queued", "dead letter", "session")


def _of_message(position: str, method: str) -> Cell:
    return "broker: orchestration.submit", position, method


def _of_hint(task: str, what: str) -> Cell:
    return f"broker: hint {task}", what, "another's row"


CELLS = [
    *(_of_message(position, method) for position in _FIELDS for method in METHODS),
    *(_of_hint(task, what) for task in _HINTS for what in _ROWS),
]


@pytest.mark.parametrize("what", _ROWS)
@pytest.mark.parametrize("task", _HINTS)
async def test_a_hint_with_anothers_row_does_what_is_due_and_nothing_else(
    task: str, what: str, world: World, request: pytest.FixtureRequest
) -> None:
    note(request, _of_hint(task, what), Seen.NO_CALLER)
    await world.clean_up()
    victim, before = world.victim, await world.belongings()
    named = {**victim.executions, "dead letter": victim.dead_letter, "session": victim.sessions["running"]}

    line = await _HINTS[task](world, named[what])

    assert await world.belongings() == before
    assert world.leaks(line) == []
    assert VICTIM not in line
