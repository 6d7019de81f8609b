"""HTTP and event streams: another organization's id at every place where one can stand, in several ways.

Each attempt has a twin with an id that nobody has. Whoever gets the same answer to both learns nothing; the audit log,
which only operators see, tells them apart.
"""

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest

from nubabel_workers.domain.administration import AuditAction, AuditEntry
from tests.tenancy.http_doors import Door, Names, Position, body_of, doors, fits, ids
from tests.tenancy.matrix import Cell, Seen, note
from tests.tenancy.world import ATTACKER, CANARY, VICTIM, Side, World, bearer, strings_of

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

_DOORS = doors()


@dataclass(frozen=True)
class Attempt:
    door: Door
    position: Position
    what: str  # which of the victim's ids
    method: str

    @property
    def cell(self) -> Cell:
        return str(self.door), str(self.position), self.method

    def __str__(self) -> str:
        return f"{self.door}-{self.position}-{self.what}-{self.method}"


def methods(door: Door, position: Position) -> tuple[str, ...]:
    ways = {
        "path": ("as it is", "percent-encoded", "behind one's own", "with another proof", "without proof"),
        "query": ("as it is", "percent-encoded", "after one's own"),
        "header": ("as it is", "after one's own"),
        "body": ("as it is", "after one's own"),
    }[position.place]
    with_proof = door.security is not None
    return ways if with_proof else tuple(way for way in ways if "proof" not in way)


def attempts() -> Iterator[Attempt]:
    """The ids' own names here are those of a side that has none; the tests ask the victim for its own."""
    some = Side(VICTIM, "", executions=dict.fromkeys(("completed", "running", "queued"), "exe_" + "0" * 26))
    some.sessions = dict.fromkeys(("completed", "running", "queued"), "ses_" + "0" * 26)
    some.opencode_sessions = dict.fromkeys(("completed", "running"), "ses_" + "A" * 26)
    for door in _DOORS:
        for position in door.positions:
            for what, value in ids(position.names, some).items():
                if position.names not in {Names.SESSION, Names.KEY} or fits(value, position):
                    for method in methods(door, position):
                        yield Attempt(door, position, what, method)


CELLS = [one.cell for one in attempts()]


@pytest.mark.parametrize("attempt", [*attempts()], ids=str)
async def test_no_id_opens_what_is_anothers(attempt: Attempt, world: World, request: pytest.FixtureRequest) -> None:
    expected = seen(attempt)
    note(request, attempt.cell, expected)
    stolen = ids(attempt.position.names, world.victim)[attempt.what]
    await world.clean_up()
    before, known = await world.belongings(), len(await world.refusals())

    answer = await send(world, attempt, stolen)

    assert answer.status_code < 500 or is_honest(answer), answer.text
    assert world.leaks(whole(answer), sent=[*strings_of(stolen)]) == []
    assert await world.belongings() == before
    refusals = (await world.refusals())[known:]
    assert [one.actor for one in refusals] == ([actor(attempt, world)] if expected is Seen.AUDITED else [])
    assert all(names_no_side_to_the_other(one) for one in refusals)
    await world.clean_up()
    twin = nobodys(stolen)
    said_to_twin = await send(world, attempt, twin)
    assert said(answer, stolen) == said(said_to_twin, twin)
    assert [one for one in (await world.refusals())[known + len(refusals) :] if one.action in _OF_WHAT_EXISTS] == []


def is_honest(answer: httpx.Response) -> bool:
    """A call that waits for its own answer, which nobody works on here, says so in the sidecar's words."""
    return answer.status_code in {503, 504} or "Session completion timeout" in answer.text


def seen(attempt: Attempt) -> Seen:
    """What arrives with an authenticated caller, and is looked for, is in the audit log, once."""
    door, position, method = attempt.door, attempt.position, attempt.method
    if method == "behind one's own":
        return Seen.NO_ID
    if door.security == "OperatorToken" or method == "without proof" or (door.is_callback and "proof" in method):
        return Seen.NO_CALLER
    if method == "with another proof" and any(one.names is Names.ORGANIZATION for one in door.positions):
        return Seen.AUDITED  # the header that says so is refused, whatever stands in the path
    return _SEEN[position.names](attempt)


def _seen_session(attempt: Attempt) -> Seen:
    return Seen.NOT_NAMED if attempt.what == "own name" else Seen.AUDITED


def _seen_connection(attempt: Attempt) -> Seen:
    """By its provider's name, or as the name of a new one, it is one of the caller's own."""
    is_new = attempt.door.path == "/v1/connections"
    return Seen.NOT_NAMED if is_new or attempt.what == "provider" else Seen.AUDITED


def _seen_organization(attempt: Attempt) -> Seen:
    """Of two headers the first one counts."""
    doubled = attempt.position.place == "header" and attempt.method == "after one's own"
    return Seen.NOT_READ if doubled else Seen.AUDITED


def _seen_claims(attempt: Attempt) -> Seen:
    """Callers put into free objects what they like, where the door does not say that it reads an organization in it."""
    is_read = attempt.door.path in {"/delegate", "/delegate_task"} and attempt.what.startswith("organization")
    return Seen.AUDITED if is_read else Seen.NOT_READ


def _seen_place(attempt: Attempt) -> Seen:
    """In a session's stream the execution that was followed is looked for, unless it was seen to its end."""
    is_looked_for = (attempt.what, attempt.method) == ("first", "as it is") and "{session_id}" in attempt.door.path
    return Seen.AUDITED if is_looked_for else Seen.NO_ID


_SEEN: Mapping[Names, Callable[[Attempt], Seen]] = {
    Names.EXECUTION: lambda _: Seen.AUDITED,
    Names.BATCH: lambda _: Seen.AUDITED,
    Names.SESSION: _seen_session,
    Names.CONNECTION: _seen_connection,
    Names.ORGANIZATION: _seen_organization,
    Names.CLAIMS: _seen_claims,
    Names.EVENT: _seen_place,
    Names.KEY: lambda _: Seen.NOT_NAMED,
    Names.USER: lambda _: Seen.NOT_NAMED,
    Names.TOOL_CALL: lambda _: Seen.NOT_NAMED,
    Names.MESSAGE: lambda _: Seen.NOT_NAMED,
}
_OF_WHAT_EXISTS = {AuditAction.FOREIGN_ID_NAMED}


def actor(attempt: Attempt, world: World) -> str:
    return f"instance:{world.attacker.server}" if attempt.door.is_callback else world.attacker.actor


def names_no_side_to_the_other(entry: AuditEntry) -> bool:
    """That an id exists is for operators alone; what the caller had said itself may be its own to read."""
    if entry.action == AuditAction.FOREIGN_ID_NAMED:
        sides = (entry.detail["organization"], entry.detail["owner"])
        return entry.organization_id is None and sides == (ATTACKER, VICTIM)
    return entry.organization_id != ATTACKER or VICTIM not in repr(entry)


async def send(world: World, attempt: Attempt, value: Any) -> httpx.Response:
    """As the attacker: with his proof and his own ids, but for the one place."""
    own, door, position = world.attacker, attempt.door, attempt.position
    path, query, headers, body = own_path(door, own), "", {}, body_of(door, own.opencode_sessions["running"])
    raw: bytes | None = None if body is None else orjson.dumps(body)
    match position.place:
        case "path":
            mine = own_value(position, own, door)
            path = door.path.replace(f"{{{position.at[0]}}}", in_path(str(value), mine, attempt.method))
            path = _filled(path, own, door)
        case "query":
            name, encoded = position.at[0], quote(str(value), safe="")
            if attempt.method == "percent-encoded":
                encoded = "".join(f"%{byte:02X}" for byte in str(value).encode())
            repeated = f"{name}={own_value(position, own, door)}&" if attempt.method == "after one's own" else ""
            query = f"?{repeated}{name}={encoded}"
        case "header":
            headers = {str(position.at[0]): str(value)}
        case "body":
            raw = with_value(body or {}, position, value, twice=attempt.method == "after one's own", own=own)
    twice = [(str(position.at[0]), own_value(position, own, door))] if _is_doubled_header(attempt) else []
    return await _proven(world, attempt, path + query, [*twice, *headers.items()], raw)


def _is_doubled_header(attempt: Attempt) -> bool:
    return attempt.position.place == "header" and attempt.method == "after one's own"


async def _proven(
    world: World, attempt: Attempt, target: str, headers: list[tuple[str, str]], raw: bytes | None
) -> httpx.Response:
    own, method = world.attacker, attempt.method
    if attempt.door.is_callback and method != "without proof":
        impersonated = world.victim.server if method == "with another proof" else own.server
        return await world.callback(
            target, raw or b"", key=own.callback_key, instance=impersonated, headers=dict(headers)
        )
    proof = bearer(own.token)
    if method == "with another proof":
        proof |= {"x-organization-id": VICTIM}
    if method == "without proof":
        proof = {}
    kind = {"content-type": "application/json"} if raw is not None else {}
    return await world.http.request(
        attempt.door.method,
        world.gateway.url + target,
        headers=[*proof.items(), *kind.items(), *headers],
        content=raw,
    )


def own_path(door: Door, own: Side) -> str:
    return _filled(door.path, own, door)


def _filled(path: str, own: Side, door: Door) -> str:
    for position in door.positions:
        if position.place == "path":
            path = path.replace(f"{{{position.at[0]}}}", own_value(position, own, door))
    return path


def own_value(position: Position, own: Side, door: Door) -> str:
    """What has ended, where it is followed: its stream has an end. What runs, for callbacks."""
    if position.names is Names.SESSION and door.is_callback:
        return own.opencode_sessions["running"]
    found = ids(position.names, own)
    return str(found.get("completed") or found.get("completed session") or next(iter(found.values())))


def in_path(value: str, own: str, method: str) -> str:
    match method:
        case "percent-encoded":
            return "".join(f"%{byte:02X}" for byte in value.encode())
        case "behind one's own":
            return f"{own}%2F..%2F{quote(value, safe='')}"
    return quote(value, safe="")


def with_value(body: dict[str, Any], position: Position, value: Any, *, twice: bool, own: Side) -> bytes:
    """The body with the value at its place; twice: behind the attacker's own, under the same key once more."""
    changed: Any = copy.deepcopy(body)
    holder = changed
    for step in position.at[:-1]:
        holder = holder.setdefault(step, {}) if isinstance(holder, dict) else holder[step]
    name = position.at[-1]
    if not twice:
        holder[name] = value
        return orjson.dumps(changed)
    holder[name] = "{twice}"
    mine = next(iter(ids(position.names, own).values()))
    both = orjson.dumps(mine) + b',"' + str(name).encode() + b'":' + orjson.dumps(value)
    return orjson.dumps(changed).replace(b'"{twice}"', both)


def nobodys(value: Any) -> Any:
    """Of the same form, and in nobody's possession."""
    if isinstance(value, dict):
        return {key: nobodys(one) for key, one in value.items()}
    named, slash, place = value.partition("/")
    kind, line, rest = named.rpartition("_")
    return kind + line + re.sub(r"[0-9A-Za-z]", "0", rest) + slash + place


def whole(answer: httpx.Response) -> str:
    return "\n".join((*(f"{name}: {value}" for name, value in answer.headers.items()), answer.text))


def said(answer: httpx.Response, sent: Any) -> tuple[int, str]:
    """What an answer tells, without what differs between any two requests."""
    text = answer.text
    for one in sorted(strings_of(sent), key=len, reverse=True):
        text = text.replace(one, "<what was sent>").replace(quote(one, safe=""), "<what was sent>")
    text = re.sub(r'"(correlation_id|instance)":"[^"]*"', "", text)
    text = re.sub(r"(exe|bat|ses|mcp|tc|req|key)_[0-9A-Za-z-]{20,}|\d{4}-\d\d-\d\dT[0-9:.]+Z?", "<own>", text)
    return answer.status_code, text


async def test_operators_are_alerted_by_the_metric_that_their_rules_name(world: World) -> None:
    """`nubabel_incidents_total{kind="foreign_id"}`, as the gateway exports it."""
    await world.clean_up()
    before = await exported(world)

    await world.http.get(f"{world.gateway.url}/v1/batches/{world.victim.batch}", headers=bearer(world.attacker.token))
    await world.refusals()

    assert await exported(world) == before + 1


async def exported(world: World) -> float:
    text = (await world.http.get(f"{world.gateway.url}/metrics")).text
    found = re.search(r'^nubabel_incidents_total\{kind="foreign_id"\} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def test_the_other_organization_has_a_row_in_every_table(world: World) -> None:
    """A table that is added gets one too, or this fails: what is not there cannot be stolen."""
    from nubabel_workers.adapters.storage.row_sets import TENANT_TABLES

    assert await world.tables_of(VICTIM) == set(TENANT_TABLES)
    assert ATTACKER not in await world.tables_of(VICTIM)
    assert CANARY in world.leaks(CANARY)
