"""Organizations' directories on shared servers: who holds a place, and who has to give it up."""

import asyncio
from collections.abc import Mapping

import pytest

from nubabel_workers.adapters.storage.database import Database
from nubabel_workers.adapters.storage.directories import PostgresDirectories
from nubabel_workers.adapters.storage.encryption import TokenCipher, generate_key
from nubabel_workers.adapters.storage.instances import PostgresInstances
from nubabel_workers.domain.directories import Directory, DirectoryState
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance, InstanceChange
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization

pytestmark = pytest.mark.integration

WANTED, READY, DISPOSING = DirectoryState.WANTED, DirectoryState.READY, DirectoryState.DISPOSING


@pytest.fixture
def instances(database: Database) -> PostgresInstances:
    return PostgresInstances(database, TokenCipher([generate_key()]), give_up_after_s=300)


@pytest.fixture
async def directories(database: Database, instances: PostgresInstances) -> PostgresDirectories:
    """A server that carries two, and five organizations."""
    for number in range(1, 6):
        await add_organization(database, f"org_{number}")
    await instances.add(Instance(InstanceId("ins_1"), "http://oc", "", None, max_directories=2), actor="tests")
    return PostgresDirectories(database)


def of(number: int, *, instance: str = "ins_1") -> Directory:
    return Directory(instance, f"org_{number}", f"/srv/directories/org_{number}")


async def states(database: Database) -> Mapping[str, str]:
    rows = await database.system().all("SELECT organization_id, state FROM instance_directories")
    return {row["organization_id"]: row["state"] for row in rows}


async def rest(database: Database, *, seconds: int = 3600, number: int | None = None) -> None:
    """Nobody has used them for so long."""
    await database.system().execute(
        """UPDATE instance_directories SET used_at = used_at - make_interval(secs => %(s)s)
           WHERE %(o)s::text IS NULL OR organization_id = %(o)s""",
        {"s": seconds, "o": f"org_{number}" if number else None},
    )


async def heard(instances: PostgresInstances, *, healthy: bool, path: str | None = None) -> None:
    await instances.report_health("ins_1", healthy=healthy, detail="", version="", agents=(), directories_path=path)


async def test_a_place_is_taken_once_and_kept(directories: PostgresDirectories) -> None:
    first = await directories.take(of(1))
    again = await directories.take(of(1))
    await directories.made(of(1))
    later = await directories.take(of(1))

    assert (first, again, later) == (WANTED, WANTED, READY)


async def test_no_more_than_the_server_carries(directories: PostgresDirectories) -> None:
    taken = [await directories.take(of(number)) for number in (1, 2, 3)]

    assert taken == [WANTED, WANTED, None]


async def test_many_at_once_never_pass_the_maximum(directories: PostgresDirectories, database: Database) -> None:
    for _ in range(5):
        await database.system().execute("DELETE FROM instance_directories")

        taken = await asyncio.gather(*(directories.take(of(1 + n % 5)) for n in range(25)))

        assert len(await states(database)) == 2
        assert any(one is None for one in taken)
        assert any(one is WANTED for one in taken)


async def test_each_server_has_its_own_places(directories: PostgresDirectories, instances: PostgresInstances) -> None:
    await instances.add(Instance(InstanceId("ins_2"), "http://oc2", "", None, max_directories=1), actor="tests")

    taken = [await directories.take(of(number, instance="ins_2")) for number in (1, 2)]

    assert taken == [WANTED, None]
    assert await directories.take(of(2)) is WANTED


async def test_the_one_that_was_idle_the_longest_makes_room(
    directories: PostgresDirectories, database: Database
) -> None:
    for number in (1, 2):
        await directories.take(of(number))
        await directories.made(of(number))
    await rest(database)
    await rest(database, number=2)

    displaced = await directories.displace("ins_1")

    assert displaced == of(2)
    assert await directories.take(of(2)) is DISPOSING
    assert await directories.take(of(3)) is None  # its place is free when it is unloaded, not before
    await directories.disposed(of(2))
    assert await directories.take(of(3)) is WANTED
    assert await directories.take(of(2)) is None


async def test_what_was_used_just_now_makes_no_room(directories: PostgresDirectories, database: Database) -> None:
    await directories.take(of(1))
    await rest(database)
    await directories.take(of(1))

    assert await directories.displace("ins_1") is None


@pytest.mark.parametrize(
    ("status", "columns", "makes_room"),
    [
        ("running", {"instance_id": "ins_1"}, False),
        ("dispatching", {}, False),
        ("queued", {"instance_id": "ins_1", "attempt": 1}, False),
        ("queued", {}, True),
        ("waiting_budget", {"instance_id": "ins_1"}, True),
        ("completed", {"instance_id": "ins_1"}, True),
        ("running", {"instance_id": "ins_2"}, True),
    ],
    ids=[
        *("runs there", "on its way", "may still be there", "waits for its first turn"),
        *("waits for its budget", "is over", "runs elsewhere"),
    ],
)
async def test_a_directory_that_something_needs_is_not_idle(
    status: str,
    columns: Mapping[str, object],
    makes_room: bool,
    directories: PostgresDirectories,
    database: Database,
    instances: PostgresInstances,
) -> None:
    await instances.add(Instance(InstanceId("ins_2"), "http://oc2", "", None), actor="tests")
    await add_execution(database, ExecutionSeed("exe_1", "org_1", status=status, columns=dict(columns)))
    await directories.take(of(1))
    await rest(database)

    assert (await directories.displace("ins_1") is not None) == makes_room


async def test_two_that_make_room_at_once_take_different_ones(
    directories: PostgresDirectories, database: Database
) -> None:
    for number in (1, 2):
        await directories.take(of(number))
    await rest(database)

    displaced = await asyncio.gather(*(directories.displace("ins_1") for _ in range(6)))

    assert sorted(one.organization_id for one in displaced if one) == ["org_1", "org_2"]


async def test_whoever_uses_it_at_the_moment_keeps_it_or_waits(
    directories: PostgresDirectories, database: Database
) -> None:
    """Never is it in use and being unloaded."""
    for _ in range(30):
        await database.system().execute("DELETE FROM instance_directories")
        await directories.take(of(1))
        await directories.made(of(1))
        await rest(database)

        displaced, state = await asyncio.gather(directories.displace("ins_1"), directories.take(of(1)))

        assert (displaced is None, state) in {(True, READY), (False, DISPOSING)}


async def test_idle_ones_are_unloaded_by_one_scheduler_each(
    directories: PostgresDirectories, database: Database
) -> None:
    for number in (1, 2):
        await directories.take(of(number))
    await rest(database, seconds=700, number=1)

    found = await asyncio.gather(*(directories.take_idle(idle_s=600, limit=10) for _ in range(3)))

    assert [one for batch in found for one in batch] == [of(1)]


async def test_what_somebody_began_to_unload_and_did_not_end_is_begun_again(
    directories: PostgresDirectories, database: Database
) -> None:
    await directories.take(of(1))
    await rest(database)
    await directories.displace("ins_1")

    assert await directories.take_idle(idle_s=86_400, limit=10) == []
    await database.system().execute(
        "UPDATE instance_directories SET changed_at = now() - interval '3 minutes' WHERE state = 'disposing'"
    )
    assert await directories.take_idle(idle_s=86_400, limit=10) == [of(1)]
    assert await directories.take_idle(idle_s=86_400, limit=10) == []


async def test_a_server_that_is_away_is_not_asked_to_unload(
    directories: PostgresDirectories, instances: PostgresInstances, database: Database
) -> None:
    await directories.take(of(1))
    await rest(database)
    await heard(instances, healthy=False)

    assert await directories.take_idle(idle_s=600, limit=10) == []


async def test_the_load_tells_who_is_there_and_how_many_may_go(
    directories: PostgresDirectories, instances: PostgresInstances, database: Database
) -> None:
    await directories.take(of(1))
    await directories.take(of(2))
    await rest(database)
    await directories.displace("ins_1")

    (loaded,) = await instances.loads()

    assert len(loaded.housed) == 1
    assert (loaded.directories_taken, loaded.directories_idle, loaded.max_directories) == (2, 1, 2)


async def test_the_load_tells_how_many_are_not_loaded_yet(
    directories: PostgresDirectories, instances: PostgresInstances
) -> None:
    await directories.take(of(1))
    await directories.take(of(2))
    await directories.made(of(1))

    (loaded,) = await instances.loads()

    assert (loaded.directories_taken, loaded.directories_awaited) == (2, 1)


async def test_the_load_tells_whose_directory_was_just_used(
    directories: PostgresDirectories, instances: PostgresInstances, database: Database
) -> None:
    await directories.take(of(1))
    await directories.made(of(1))
    await directories.take(of(2))

    (loaded,) = await instances.loads()
    await rest(database)
    (later,) = await instances.loads()

    assert (loaded.just_used, later.just_used) == (frozenset({of(1).organization_id}), frozenset())


async def test_a_new_process_of_a_server_has_none_of_them_loaded(
    directories: PostgresDirectories, instances: PostgresInstances, database: Database
) -> None:
    await directories.take(of(1))
    await directories.made(of(1))
    await heard(instances, healthy=False)
    await database.system().execute("UPDATE instances SET unhealthy_since = now() - interval '1 minute'")

    await heard(instances, healthy=True, path="/srv/directories")

    assert await states(database) == {"org_1": "wanted"}
    assert await directories.ready_on("ins_1") == []


async def test_what_a_server_told_of_its_directories_stays_while_it_is_away_or_its_plugin_did_not_load(
    instances: PostgresInstances,
) -> None:
    """Else all organizations' new sessions would share its one directory, and nobody would notice."""
    await instances.add(Instance(InstanceId("ins_1"), "http://oc", "", None), actor="tests")

    for healthy, path in ((True, "/srv/directories"), (False, None)):
        await heard(instances, healthy=healthy, path=path)
    (away,) = await instances.loads()
    await heard(instances, healthy=True)
    (without,) = await instances.loads()

    assert (away.directories_path, without.directories_path) == ("/srv/directories", "/srv/directories")


async def test_a_lower_maximum_unloads_nothing_by_itself(
    directories: PostgresDirectories, instances: PostgresInstances, database: Database
) -> None:
    for number in (1, 2):
        await directories.take(of(number))

    assert await instances.change("ins_1", InstanceChange(max_directories=1), actor="cli:anna")

    assert await directories.take(of(1)) is WANTED
    assert await directories.take(of(3)) is None
    entry = await database.system().one("SELECT actor, detail FROM audit_log WHERE action = 'instance.changed'")
    assert entry == {"actor": "cli:anna", "detail": {"max_directories": 1}}
