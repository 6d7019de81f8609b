"""HTTP and event streams: another organization's id at every place where one can stand, in several ways.

Each attempt has a twin with an id that nobody has. Whoever gets the same answer to both learns nothing.
"""

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import orjson
import pytest

from tests.tenancy.http_doors import Door, Names, Position, body_of, doors, fits, ids
from tests.tenancy.matrix import note
from tests.tenancy.world import ATTACKER, CANARY, VICTIM, Side, World, bearer, strings_of

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

_DOORS = doors()


@dataclass(frozen=True)
class Attempt:
    door: Door
    position: Position
    what: str  # which of the victim's ids
    method: str

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


@pytest.mark.parametrize("attempt", [*attempts()], ids=str)
async def test_no_id_opens_what_is_anothers(attempt: Attempt, world: World, request: pytest.FixtureRequest) -> None:
    note(request, str(attempt.door), str(attempt.position), attempt.method)
    stolen = ids(attempt.position.names, world.victim)[attempt.what]
    await world.clean_up()
    before, audited = await world.belongings(), await world.audited()

    answer = await send(world, attempt, stolen)

    assert answer.status_code < 500 or is_honest(answer), answer.text
    assert world.leaks(seen(answer), sent=[*strings_of(stolen)]) == []
    assert await world.belongings() == before
    if is_refused_for_whom_it_names(answer):
        assert len(await world.audited()) == len(audited) + 1
    await world.clean_up()
    twin = nobodys(stolen)
    said_to_twin = await send(world, attempt, twin)
    assert said(answer, stolen) == said(said_to_twin, twin)


def is_honest(answer: httpx.Response) -> bool:
    """A call that waits for its own answer, which nobody works on here, says so in the sidecar's words."""
    return answer.status_code in {503, 504} or "Session completion timeout" in answer.text


def is_refused_for_whom_it_names(answer: httpx.Response) -> bool:
    """The 403s that say who the other is supposed to be; what does not exist has nobody to be told."""
    return answer.status_code == 403 and "mismatch" in answer.text


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


def seen(answer: httpx.Response) -> str:
    return "\n".join((*(f"{name}: {value}" for name, value in answer.headers.items()), answer.text))


def said(answer: httpx.Response, sent: Any) -> tuple[int, str]:
    """What an answer tells, without what differs between any two requests."""
    text = answer.text
    for one in sorted(strings_of(sent), key=len, reverse=True):
        text = text.replace(one, "<what was sent>").replace(quote(one, safe=""), "<what was sent>")
    text = re.sub(r'"(correlation_id|instance)":"[^"]*"', "", text)
    text = re.sub(r"(exe|bat|ses|mcp|tc|req|key)_[0-9A-Za-z-]{20,}|\d{4}-\d\d-\d\dT[0-9:.]+Z?", "<own>", text)
    return answer.status_code, text


async def test_the_other_organization_has_a_row_in_every_table(world: World) -> None:
    """A table that is added gets one too, or this fails: what is not there cannot be stolen."""
    from nubabel_workers.adapters.storage.row_sets import TENANT_TABLES

    assert await world.tables_of(VICTIM) == set(TENANT_TABLES)
    assert ATTACKER not in await world.tables_of(VICTIM)
    assert CANARY in world.leaks(CANARY)
