"""What the workers do with organizations' directories: the same on the server with our plugin and on the simulator."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from nubabel_workers.adapters.opencode import HttpClient, HttpOpenCodeServer, HttpOpenCodeServers, new_http_client
from nubabel_workers.adapters.opencode.servers import HttpOpenCodeDirectories
from nubabel_workers.adapters.opencode.transport import Timeouts
from nubabel_workers.domain.directories import own_directory
from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.opencode_ids import prompt_ids
from nubabel_workers.domain.ports import PromptPart
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.domain.verdict import IDLE, VerdictKind, decide
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import simulator
from tests.contract.opencode_plugin.deployed import Deployed
from tests.waiting import eventually_true

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

PATIENT = Timeouts(connect_s=5, read_s=30, total_s=60)


class Shared:
    """A shared server as a worker knows it. Its names are of one test run: the server lives for many tests."""

    def __init__(self, http: HttpClient, instance: Instance) -> None:
        servers = HttpOpenCodeServers(http, timeouts=PATIENT)
        self.directories = HttpOpenCodeDirectories(servers)
        self.server: HttpOpenCodeServer = servers.server(instance)
        self.client = self.server._client
        self.instance = instance

    async def heard_of(self) -> "Shared":
        self.instance = replace(self.instance, directories_path=await self.server.directories_path())
        return self

    def path(self, organization_id: str) -> str:
        own = own_directory(self.instance, organization_id)
        assert own is not None
        return own.path

    async def prepare(self, organization_id: str) -> str:
        path = self.path(organization_id)
        await self.directories.prepare(self.instance, path)
        return path

    async def new_session(self, organization_id: str) -> str:
        metadata = {"organization_id": organization_id, "session_id": "ses_ours"}
        directory = self.path(organization_id)
        return await self.server.create_session(title="t", metadata=metadata, directory=directory)

    async def answers(self, session_id: str, *, directory: str, number: int = 1) -> bool:
        """Whether a prompt to it ends in an answer."""
        ids = prompt_ids("org", session_id, f"exe_{number}", created_ms=1_790_000_000_000 + number)
        part = PromptPart(ids.part_ids[0], text="hello")
        await self.server.submit(
            session_id, message_id=ids.message_id, parts=[part], agent=None, model=None, system=None, timeout_s=30
        )

        async def over() -> bool:
            messages = await self.server.run_messages(session_id, since=ids.message_id)
            state = (await self.server.busy_sessions(directory)).get(session_id, IDLE)
            verdict = decide(messages, my_message_id=ids.message_id, state=state, settled=False)
            return verdict.kind is VerdictKind.SUCCEEDED

        await eventually_true(over, what="an answer", timeout_s=60)
        return True

    async def is_there(self, organization_id: str) -> bool:
        return await self.server._is_there(self.path(organization_id))


@pytest_asyncio.fixture(loop_scope="session")
async def http() -> AsyncIterator[HttpClient]:
    client = new_http_client()
    yield client
    await client.aclose()


@pytest_asyncio.fixture(loop_scope="session")
async def simulated_server(http: HttpClient) -> AsyncIterator[Shared]:
    async with simulator(SimulatorConfig()) as running:
        yield await Shared(http, Instance(InstanceId("ins_1"), running.url, "", None)).heard_of()


@pytest_asyncio.fixture(loop_scope="session")
async def real_server(http: HttpClient, shared: Deployed) -> Shared:
    real = shared.server
    return await Shared(http, Instance(InstanceId("ins_1"), real.url, real.username, real.password)).heard_of()


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.node)])
def server(request: pytest.FixtureRequest) -> Shared:
    found: Shared = request.getfixturevalue(f"{request.param}_server")
    return found


async def test_a_server_without_the_plugin_makes_none(http: HttpClient) -> None:
    async with simulator(SimulatorConfig(directories=False)) as running:
        plain = await Shared(http, Instance(InstanceId("ins_1"), running.url, "", None)).heard_of()

    assert plain.instance.directories_path is None


async def test_it_is_made_as_often_as_one_asks_and_sessions_work_in_it(server: Shared) -> None:
    assert not await server.is_there("org_made")

    path = await server.prepare("org_made")
    await server.prepare("org_made")
    session_id = await server.new_session("org_made")

    assert await server.is_there("org_made")
    assert await server.answers(session_id, directory=path)
    assert (await server.client.get_session(session_id)).directory == path


async def test_two_organizations_sessions_are_not_found_in_each_others(server: Shared) -> None:
    paths = {organization: await server.prepare(organization) for organization in ("org_left", "org_right")}

    sessions = {organization: await server.new_session(organization) for organization in paths}

    for organization, path in paths.items():
        page = await server.client.list_sessions(path)
        assert [session.id for session in page.sessions] == [sessions[organization]]
    assert len(set(paths.values())) == 2


async def test_unloaded_it_keeps_its_sessions_and_is_loaded_by_the_next_prompt(server: Shared) -> None:
    path = await server.prepare("org_idle")
    session_id = await server.new_session("org_idle")
    await server.answers(session_id, directory=path)

    for _ in range(2):
        await server.directories.dispose(server.instance, path)

    await server.prepare("org_idle")
    assert await server.answers(session_id, directory=path, number=2)


@pytest.mark.parametrize("unloaded", [False, True], ids=["loaded", "unloaded"])
async def test_deleted_it_is_gone_and_no_other_as_often_as_one_asks(server: Shared, *, unloaded: bool) -> None:
    gone, kept = f"org_gone_{unloaded}", f"org_kept_{unloaded}"
    path = await server.prepare(gone)
    await server.prepare(kept)
    if unloaded:
        await server.directories.dispose(server.instance, path)

    for _ in range(2):
        await server.directories.delete(server.instance, path)

    assert (await server.is_there(gone), await server.is_there(kept)) == (False, True)


async def test_after_its_sessions_it_is_deleted_for_good(server: Shared) -> None:
    path = await server.prepare("org_over")
    session_id = await server.new_session("org_over")
    await server.answers(session_id, directory=path)

    await server.server.delete_session(session_id)
    await server.directories.delete(server.instance, path)

    with pytest.raises(TransientError):
        await server.prepare("org_over")
    assert not await server.is_there("org_over")
