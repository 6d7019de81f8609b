"""What OpenCode gives back: sessions, messages and parents of another organization stop the run and are told."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from nubabel_workers.adapters.opencode.client import OpenCodeClient
from nubabel_workers.adapters.opencode.servers import HttpOpenCodeServer
from nubabel_workers.domain.executions import Execution
from tests.tenancy.matrix import Cell, Seen, note
from tests.tenancy.world import ATTACKER, CANARY, VICTIM, World, bearer

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

_RECYCLED: dict[bool, Cell] = {
    False: ("OpenCode: new session", "session id", "recycled, in use"),
    True: ("OpenCode: new session", "session id", "recycled, left behind"),
}
_SAME_ON_TWO: Cell = ("OpenCode: new session", "session id", "the same on two servers")
_MESSAGES: Cell = ("OpenCode: messages", "session id", "another session's among them")
_PARENT: Cell = ("OpenCode: parent of a session", "session id", "another organization's root")
_INVENTED: Cell = ("OpenCode: parent of a session", "session id", "the caller's own root, invented")
CELLS = [*_RECYCLED.values(), _SAME_ON_TWO, _MESSAGES, _PARENT, _INVENTED]

MOVED = "UPDATE sessions SET instance_id = %(server)s WHERE id = %(id)s"
MOVED_RUNS = "UPDATE attempts SET instance_id = %(server)s WHERE opencode_session_id = %(opencode)s"


async def asks(world: World) -> str:
    """The attacker's next request, in a conversation of its own."""
    answer = await world.http.post(
        f"{world.gateway.url}/v1/executions", json={"prompt": "hello"}, headers=bearer(world.attacker.token)
    )
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def put_on_the_attackers_server(world: World, *, also_forgotten: bool = False) -> str:
    """The victim's ended conversation, as on a shared server. Returns its OpenCode session."""
    victim, system = world.victim, world.services.database.system()
    names = {
        "server": world.attacker.server,
        "id": victim.sessions["completed"],
        "opencode": victim.opencode_sessions["completed"],
    }
    await system.execute(MOVED, names)
    await system.execute(MOVED_RUNS, names)
    if also_forgotten:
        await system.execute("UPDATE sessions SET opencode_session_id = NULL WHERE id = %(id)s", names)
    return victim.opencode_sessions["completed"]


@pytest_asyncio.fixture(autouse=True, loop_scope="session")
async def back_home(world: World) -> AsyncIterator[None]:
    """What a test has moved is where it was, when the next one begins."""
    yield
    victim, system = world.victim, world.services.database.system()
    names = {
        "server": victim.server,
        "id": victim.sessions["completed"],
        "opencode": victim.opencode_sessions["completed"],
    }
    await world.clean_up()
    await system.execute(
        "UPDATE sessions SET instance_id = %(server)s, opencode_session_id = %(opencode)s WHERE id = %(id)s", names
    )
    await system.execute(MOVED_RUNS, names)
    await world.services.cache.flushdb()


def foreign_counted(world: World) -> float:
    registry = world.services.metrics.registry
    return registry.get_sample_value("nubabel_incidents_total", {"kind": "foreign_session"}) or 0.0


async def became(world: World, execution_id: str) -> Execution:
    return await world.services.read_execution.by_id(ATTACKER, execution_id)


@pytest.mark.parametrize("forgotten", [False, True], ids=["in use", "left behind"])
async def test_a_recycled_session_id_gets_no_prompt(
    forgotten: bool, world: World, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(request, _RECYCLED[forgotten], Seen.AUDITED)
    recycled = await put_on_the_attackers_server(world, also_forgotten=forgotten)
    submitted: list[str] = []

    async def same_again(*_: Any, **__: Any) -> str:
        return recycled

    async def submit(_: Any, session_id: str, **__: Any) -> None:
        submitted.append(session_id)

    monkeypatch.setattr(HttpOpenCodeServer, "create_session", same_again)
    monkeypatch.setattr(HttpOpenCodeServer, "submit", submit)
    before, counted = await world.belongings(), foreign_counted(world)
    execution_id = await asks(world)

    await world.services.dispatch_executions.run()

    ended = await became(world, execution_id)
    assert (ended.status, ended.error and ended.error.code) == ("failed", "foreign_session")
    assert submitted == []
    assert await world.belongings() == before
    assert (f"instance:{world.attacker.server}", "opencode.foreign_session", ATTACKER) in await world.audited()
    assert foreign_counted(world) == counted + 1
    assert ended.opencode_session_id is None


async def test_the_same_id_on_two_servers_is_two_sessions(
    world: World, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(request, _SAME_ON_TWO, Seen.NOT_NAMED)
    real = HttpOpenCodeServer.create_session
    created: list[str] = []

    async def noted(self: HttpOpenCodeServer, **fields: Any) -> str:
        created.append(await real(self, **fields))
        await world.services.database.system().execute(
            "UPDATE sessions SET opencode_session_id = %(same)s WHERE id = %(id)s",
            {"same": created[0], "id": world.victim.sessions["completed"]},
        )
        return created[0]

    monkeypatch.setattr(HttpOpenCodeServer, "create_session", noted)
    execution_id = await asks(world)

    await world.services.dispatch_executions.run()

    own, victims = world.attacker, world.victim
    assert (await became(world, execution_id)).status == "running"
    assert await world.services.mappings.session_of(victims.server, created[0]) == (
        VICTIM,
        victims.sessions["completed"],
    )
    mapped = await world.services.mappings.session_of(own.server, created[0])
    assert mapped is not None
    assert mapped[0] == ATTACKER
    seen = await world.http.get(f"{world.gateway.url}/sessions/{created[0]}", headers=bearer(own.token))
    assert world.leaks(seen.text) == []


Twist = Callable[[Any], Any]


def told_of(session_id: str) -> Twist:
    return lambda message: replace(message, session_id=session_id)


async def test_messages_of_another_session_are_no_answer(
    world: World, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(request, _MESSAGES, Seen.AUDITED)
    execution_id = await asks(world)
    await world.services.dispatch_executions.run()
    real = OpenCodeClient.list_messages
    twist = told_of(world.victim.opencode_sessions["running"])

    async def mixed(self: OpenCodeClient, session_id: str, **options: Any) -> Any:
        page = await real(self, session_id, **options)
        return replace(page, messages=[twist(message) for message in page.messages])

    monkeypatch.setattr(OpenCodeClient, "list_messages", mixed)
    counted = foreign_counted(world)
    await world.services.database.system().execute(
        "UPDATE executions SET check_at = now() WHERE id = %(id)s", {"id": execution_id}
    )

    await world.services.complete_executions.run(execution_id)

    ended = await became(world, execution_id)
    assert (ended.status, ended.error and ended.error.code) == ("failed", "foreign_session")
    assert (f"instance:{world.attacker.server}", "opencode.foreign_session", ATTACKER) in await world.audited()
    assert foreign_counted(world) == counted + 1
    assert CANARY not in repr(ended)


async def test_a_sub_agent_of_another_organizations_session_is_not_heard(
    world: World, request: pytest.FixtureRequest
) -> None:
    note(request, _PARENT, Seen.AUDITED)
    foreign = await put_on_the_attackers_server(world)
    own = world.attacker.opencode_sessions["running"]
    before, counted = await world.belongings(), foreign_counted(world)
    item = {"type": "tool", "call_id": "c", "tool": "t", "status": "running"}

    answer = await world.callback(
        f"/api/sidecar/sessions/{own}/progress",
        {"items": [item | {"session_id": own}, item | {"session_id": foreign}]},
        key=world.attacker.callback_key,
        instance=world.attacker.server,
    )

    assert (answer.status_code, answer.json()["code"]) == (403, "organization_mismatch")
    assert world.leaks(answer.text, sent=[foreign]) == []
    assert (await world.belongings()).rows == before.rows
    assert (await world.audited())[-1] == (f"instance:{world.attacker.server}", "callback.refused", ATTACKER)
    assert foreign_counted(world) == counted + 1


async def test_an_invented_parent_of_another_organizations_session_is_one_of_nobodys(
    world: World, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server gets its own root for both; the other's session, its run and its mappings are left alone."""
    note(request, _INVENTED, Seen.AUDITED)
    own, victim = world.attacker, world.victim
    foreign, nobodys, root = victim.opencode_sessions["running"], "ses_ofnobody", own.opencode_sessions["running"]
    await world.services.mappings.session_of(victim.server, foreign)

    async def invented(_: HttpOpenCodeServer, session_id: str) -> str | None:
        return None if session_id == root else root

    monkeypatch.setattr(HttpOpenCodeServer, "parent_of", invented)
    before, counted = await world.belongings(), foreign_counted(world)

    async def told_of(session_id: str) -> list[tuple[int, Any]]:
        item = {"type": "tool", "session_id": session_id, "call_id": session_id, "tool": "t", "status": "running"}
        calls = {
            f"sessions/{session_id}/update": {"type": "session.idle", "session_id": session_id},
            f"sessions/{session_id}/progress": {"items": [item]},
            "mcp/tools": {"session_id": session_id},
        }
        answers = [
            await world.callback(f"/api/sidecar/{path}", body, key=own.callback_key, instance=own.server)
            for path, body in calls.items()
        ]
        return [(answer.status_code, answer.json()) for answer in answers]

    of_foreign, of_nobodys = await told_of(foreign), await told_of(nobodys)

    assert of_foreign == of_nobodys
    assert [status for status, _ in of_foreign] == [202, 202, 200]
    assert world.leaks(repr(of_foreign)) == []
    assert (await world.audited())[-1] == (f"instance:{own.server}", "callback.refused", VICTIM)
    assert foreign_counted(world) == counted + 1
    assert await world.belongings() == before
    mapped = await world.services.mappings.session_of(victim.server, foreign)
    assert mapped == (VICTIM, victim.sessions["running"])
