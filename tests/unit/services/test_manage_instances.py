"""OpenCode servers as operators handle them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from pydantic import SecretStr

from nubabel_workers.domain.errors import (
    CredentialsError,
    InvalidInputError,
    NotFoundError,
    NubabelError,
    PermanentError,
    UnavailableError,
)
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.ports import OpenCodeServer
from nubabel_workers.domain.tenants import Instance, InstanceChange
from nubabel_workers.services.manage_instances import ManageInstances, NewInstance, checked_url
from tests.fakes.administration import FakeInstances
from tests.fakes.breakers import FakeBreakers
from tests.fakes.clock import FakeChance

FIT = ("Sisyphus - ultraworker", "build")


@dataclass
class FakeServer:
    agent_names: tuple[str, ...] = FIT
    unreachable: bool = False
    release: str = "1.18.33"
    refuses: NubabelError | None = None
    while_asked: Callable[[], None] | None = None

    async def version(self) -> str:
        if self.while_asked is not None:
            self.while_asked()
        if self.refuses is not None:
            raise self.refuses
        if self.unreachable:
            raise UnavailableError("connection refused")
        return self.release

    async def directories_path(self) -> str | None:
        return "/srv/opencode/directories"

    async def agents(self, directory: str | None) -> list[str]:
        return list(self.agent_names)


@dataclass
class FakeServers:
    by_url: Mapping[str, FakeServer] = field(default_factory=dict)

    def server(self, instance: Instance) -> OpenCodeServer:
        return cast("OpenCodeServer", self.by_url.get(instance.url, FakeServer()))


@pytest.fixture
def instances() -> FakeInstances:
    return FakeInstances()


def _manage(instances: FakeInstances, servers: FakeServers | None = None) -> ManageInstances:
    return ManageInstances(
        instances, instances, servers or FakeServers(), FakeBreakers(), FakeChance(), main_agent="Sisyphus - "
    )


def _new(url: str = "http://oc:4096/") -> NewInstance:
    return NewInstance(url, "opencode", SecretStr("pw"), capacity_runs=50, submits_per_second=20)


def _running(**changes: object) -> Instance:
    instance = Instance(InstanceId("ins_1"), "http://oc:4096", "opencode", None)
    return replace(instance, **changes)  # type: ignore[arg-type]  # the fields of the table below


async def test_a_server_is_registered_by_its_address(instances: FakeInstances) -> None:
    added = (await _manage(instances).add(_new(), actor="cli:anna")).instance

    assert added.id.startswith("ins_")
    assert (added.url, added.status) == ("http://oc:4096", "active")
    assert [one.id for one in await _manage(instances).list()] == [added.id]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("oc:4096", "looks like"),
        ("ftp://oc", "looks like"),
        ("http://", "looks like"),
        ("http://u:secret@oc", "password out of the URL"),
        ("http://oc/?directory=x", "no \\?query"),
    ],
)
def test_an_address_that_does_not_fit_is_explained_without_repeating_a_password(url: str, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as refused:
        checked_url(url)

    assert "secret" not in str(refused.value)


async def test_a_server_without_room_is_refused(instances: FakeInstances) -> None:
    with pytest.raises(InvalidInputError, match="at least 1"):
        await _manage(instances).add(replace(_new(), capacity_runs=0), actor="cli:anna")


@pytest.mark.parametrize("most", [0, -1])
async def test_a_server_that_carries_no_directories_is_refused(instances: FakeInstances, most: int) -> None:
    instances.rows["ins_1"] = _running()

    with pytest.raises(InvalidInputError, match="at least 1"):
        await _manage(instances).add(replace(_new(), max_directories=most), actor="cli:anna")
    with pytest.raises(InvalidInputError, match="at least 1"):
        await _manage(instances).change("ins_1", InstanceChange(max_directories=most), actor="cli:anna")


async def test_what_a_server_may_carry_can_be_changed_unless_it_was_removed(instances: FakeInstances) -> None:
    instances.rows["ins_1"] = _running()
    instances.rows["ins_gone"] = replace(_running(status="removed"), id=InstanceId("ins_gone"))

    change = InstanceChange(capacity_runs=80, submits_per_second=30, max_directories=7)

    changed = (await _manage(instances).change("ins_1", change, actor="cli:anna")).instance

    assert (changed.capacity_runs, changed.submits_per_second, changed.max_directories) == (80, 30, 7)
    with pytest.raises(InvalidInputError, match="add its URL again"):
        await _manage(instances).change("ins_gone", change, actor="cli:anna")


@pytest.mark.parametrize("change", [InstanceChange(capacity_runs=0), InstanceChange(submits_per_second=10_001)])
async def test_numbers_that_no_server_can_carry_are_refused(instances: FakeInstances, change: InstanceChange) -> None:
    instances.rows["ins_1"] = _running()

    with pytest.raises(InvalidInputError, match="at least 1 and at most 10000"):
        await _manage(instances).change("ins_1", change, actor="cli:anna")


async def test_a_server_with_another_password_is_looked_at(instances: FakeInstances) -> None:
    instances.rows["ins_1"] = _running(healthy=False)

    found = await _manage(instances).change("ins_1", InstanceChange(password=SecretStr("new")), actor="cli:anna")

    assert found.version == "1.18.33"
    assert instances.rows["ins_1"].password == SecretStr("new")
    assert instances.rows["ins_1"].healthy


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (CredentialsError("401"), "instances set ins_1 --password-stdin"),
        (UnavailableError("connection refused"), "runs at http://oc:4096 and can be reached"),
        (PermanentError("no such page", code="http_404"), "an OpenCode server"),
    ],
)
async def test_a_new_server_that_is_not_well_says_what_to_do_and_gets_no_work(
    instances: FakeInstances, error: NubabelError, advice: str
) -> None:
    manage = _manage(instances, FakeServers({"http://oc:4096": FakeServer(refuses=error)}))
    instances.rows["ins_1"] = replace(_running(status="removed"), version="1.18.33")

    found = await manage.add(_new(), actor="cli:anna")

    row = instances.rows["ins_1"]
    assert found.problem == str(error)
    assert advice in found.advice
    assert (row.status, row.healthy, row.health_detail) == ("active", False, str(error))


async def test_a_new_server_gets_no_work_before_it_was_looked_at(instances: FakeInstances) -> None:
    server = FakeServer(while_asked=lambda: seen.extend(row.healthy for row in instances.rows.values()))
    seen: list[bool] = []

    await _manage(instances, FakeServers({"http://oc:4096": server})).add(_new(), actor="cli:anna")

    assert seen == [False]
    assert [row.healthy for row in instances.rows.values()] == [True]


async def test_a_look_at_a_server_writes_down_where_it_makes_directories(instances: FakeInstances) -> None:
    instances.rows["ins_1"] = _running()

    found = await _manage(instances).check("ins_1")

    assert found.directories_path == "/srv/opencode/directories"
    assert instances.rows["ins_1"].directories_path == "/srv/opencode/directories"


async def test_a_registered_address_is_refused_and_a_removed_one_comes_back(instances: FakeInstances) -> None:
    first = (await _manage(instances).add(_new(), actor="cli:anna")).instance

    with pytest.raises(InvalidInputError, match=first.id):
        await _manage(instances).add(_new(), actor="cli:anna")
    await _manage(instances).remove(first.id, force=False, actor="cli:anna")
    again = (await _manage(instances).add(_new(), actor="cli:anna")).instance

    assert again.id == first.id


async def test_draining_keeps_the_server_and_activating_brings_it_back(instances: FakeInstances) -> None:
    instances.rows["ins_1"] = _running()

    assert (await _manage(instances).drain("ins_1", actor="cli:anna")).status == "draining"
    assert (await _manage(instances).drain("ins_1", actor="cli:anna")).status == "draining"
    assert (await _manage(instances).activate("ins_1", actor="cli:anna")).status == "active"


async def test_a_busy_server_is_removed_only_by_force(instances: FakeInstances) -> None:
    instances.rows["ins_1"] = _running(in_flight=3)

    with pytest.raises(InvalidInputError, match="3 executions are running"):
        await _manage(instances).remove("ins_1", force=False, actor="cli:anna")

    assert (await _manage(instances).remove("ins_1", force=True, actor="cli:anna")).status == "removed"
    assert (await _manage(instances).remove("ins_1", force=False, actor="cli:anna")).status == "removed"


async def test_a_removed_server_is_not_drained(instances: FakeInstances) -> None:
    instances.rows["ins_1"] = _running(status="removed")

    with pytest.raises(InvalidInputError, match="add its URL again"):
        await _manage(instances).drain("ins_1", actor="cli:anna")


async def test_an_unknown_server_is_not_found(instances: FakeInstances) -> None:
    with pytest.raises(NotFoundError, match="nubabel instances list"):
        await _manage(instances).check("ins_none")


async def test_a_fit_server_is_written_down_as_healthy(instances: FakeInstances) -> None:
    instances.rows["ins_1"] = _running(healthy=False)

    found = await _manage(instances).check("ins_1")

    assert (found.problem, found.version, found.agents) == (None, "1.18.33", FIT)
    assert instances.rows["ins_1"].healthy


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        (FakeServer(agent_names=("build",)), "no agent whose name begins with 'Sisyphus - ' (it has: build)"),
        (FakeServer(agent_names=()), "(it has: none)"),
    ],
)
async def test_an_unfit_server_is_written_down_with_what_is_wrong(
    server: FakeServer, problem: str, instances: FakeInstances
) -> None:
    instances.rows["ins_1"] = _running()

    found = await _manage(instances, FakeServers({"http://oc:4096": server})).check("ins_1")

    assert found.problem is not None
    assert problem in found.problem
    assert (instances.rows["ins_1"].healthy, instances.rows["ins_1"].health_detail) == (False, found.problem)


async def test_a_server_that_was_never_heard_of_is_written_down_as_one_that_does_not_answer(
    instances: FakeInstances,
) -> None:
    instances.rows["ins_1"] = replace(_running(), version="")
    servers = FakeServers({"http://oc:4096": FakeServer(unreachable=True)})

    found = await _manage(instances, servers).check("ins_1")

    assert found.problem is not None
    assert "connection refused" in found.problem
    assert (instances.rows["ins_1"].healthy, instances.rows["ins_1"].health_detail) == (False, found.problem)


async def test_a_server_that_others_work_with_stays_well_although_it_cannot_be_reached_from_here(
    instances: FakeInstances,
) -> None:
    instances.rows["ins_1"] = replace(_running(), version="1.18.33", healthy=True)
    servers = FakeServers({"http://oc:4096": FakeServer(unreachable=True)})

    found = await _manage(instances, servers).check("ins_1")

    assert found.problem is not None
    assert instances.rows["ins_1"].healthy


async def test_a_server_of_another_generation_is_unfit_and_says_why(instances: FakeInstances) -> None:
    instances.rows["ins_1"] = _running()
    servers = FakeServers({"http://oc:4096": FakeServer(release="2.0.0")})

    check = await _manage(instances, servers).check("ins_1")

    assert check.problem == "OpenCode 2.0.0 speaks another API: this release works with 1.x"
    assert not instances.rows["ins_1"].healthy
