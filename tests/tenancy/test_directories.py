"""Two organizations on one shared server: each works in a directory of its own, and finds nothing of the other's.

The directory follows from the organization of the execution: no caller names one, so nothing of this is audited.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from nubabel_workers.domain.executions import Execution
from nubabel_workers.domain.tenants import InstanceChange
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import RunningSimulator, simulator
from tests.tenancy.matrix import Cell, Seen, note
from tests.tenancy.world import ATTACKER, VICTIM, Side, World, bearer

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

_ON_ONE_SERVER: Cell = ("OpenCode: new session", "directory", "the other's, on one server")
_LAST_PLACE: Cell = ("OpenCode: new session", "directory", "the other's has the last place")
CELLS = [_ON_ONE_SERVER, _LAST_PLACE]

ROOT = "/srv/opencode/directories"
BOTH = [ATTACKER, VICTIM]


@pytest_asyncio.fixture(loop_scope="session")
async def shared(world: World) -> AsyncIterator[RunningSimulator]:
    """A server for both of them, which has just been heard of. What came to be there is gone afterwards."""
    system, before = world.services.database.system(), await ids(world)
    async with simulator(SimulatorConfig()) as running:
        await system.execute(
            """INSERT INTO instances (id, url, agents, directories_path) VALUES ('ins_shared', %(url)s,
               '["Sisyphus - ultraworker", "build"]', %(root)s)""",
            {"url": running.url, "root": ROOT},
        )
        await system.execute("UPDATE organizations SET servers = 'shared' WHERE id = ANY(%(both)s)", {"both": BOTH})
        yield running
        await system.execute("UPDATE organizations SET servers = 'dedicated' WHERE id = ANY(%(both)s)", {"both": BOTH})
    for table, known in before.items():
        await system.execute(
            f"DELETE FROM {table} WHERE organization_id = ANY(%(both)s) AND NOT id = ANY(%(known)s)",
            {"both": BOTH, "known": known},
        )
    await system.execute("DELETE FROM instance_directories WHERE instance_id = 'ins_shared'")
    await system.execute("DELETE FROM instances WHERE id = 'ins_shared'")
    await world.services.cache.flushdb()


async def ids(world: World) -> dict[str, list[str]]:
    found = {}
    for table in ("executions", "sessions"):
        rows = await world.services.database.system().all(f"SELECT id FROM {table}")
        found[table] = [row["id"] for row in rows]
    return found


async def asks(world: World, side: Side) -> str:
    """A request in a conversation of its own, and its first dispatch."""
    answer = await world.http.post(
        f"{world.gateway.url}/v1/executions",
        json={"prompt": f"[[hang]] {side.word('question')}"},
        headers=bearer(side.token),
    )
    assert answer.status_code == 202, answer.text
    execution_id = str(answer.json()["id"])
    await world.services.dispatch_executions.run()
    return execution_id


async def running_there(world: World, organization_id: str, execution_id: str) -> Execution:
    found = await world.services.read_execution.by_id(organization_id, execution_id)
    assert (found.status, found.instance_id) == ("running", "ins_shared")
    return found


async def test_neithers_session_is_found_in_the_others_directory(
    world: World, shared: RunningSimulator, request: pytest.FixtureRequest
) -> None:
    note(request, _ON_ONE_SERVER, Seen.NOT_NAMED)
    places = {}
    for side in (world.victim, world.attacker):
        execution = await running_there(world, side.id, await asks(world, side))
        places[side.id] = (execution.opencode_directory, execution.opencode_session_id)
        await world.services.cache.flushdb()  # the next one's directory is loaded at once, not a second later

    instance = await world.services.instances.find("ins_shared")
    assert instance is not None
    client = world.services.servers.server(instance)._client
    assert {directory for directory, _ in places.values()} == {f"{ROOT}/{VICTIM}", f"{ROOT}/{ATTACKER}"}
    for directory, session_id in places.values():
        assert [one.id for one in (await client.list_sessions(directory)).sessions] == [session_id]
        assert set(await client.session_status(directory)) == {session_id}


async def test_whoever_waits_for_a_place_learns_nothing_of_who_has_it(
    world: World, shared: RunningSimulator, request: pytest.FixtureRequest
) -> None:
    note(request, _LAST_PLACE, Seen.NOT_NAMED)
    await world.services.instances.change("ins_shared", InstanceChange(max_directories=1), actor="tests")
    await running_there(world, VICTIM, await asks(world, world.victim))
    before = await world.belongings()

    execution_id = await asks(world, world.attacker)
    answer = await world.http.get(
        f"{world.gateway.url}/v1/executions/{execution_id}", headers=bearer(world.attacker.token)
    )

    assert answer.json()["waiting_for"]["reason"] == "directories"
    assert world.leaks(answer.text) == []
    assert await world.belongings() == before
