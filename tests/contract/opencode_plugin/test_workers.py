"""The wired services on the server as it is deployed: two organizations take turns in the one place that it has."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from nubabel_workers.bootstrap import Services, erase_organization, open_services
from nubabel_workers.domain.ids import InstanceId, OrganizationId
from nubabel_workers.domain.tenants import Instance, Organization
from nubabel_workers.services.erase_organization import ErasureTimes
from nubabel_workers.simulators.slack.server import SlackSimulator
from tests.conftest import RedisServer
from tests.contract.opencode_plugin.deployed import Call, Deployed, at_once
from tests.integration.pipeline.conftest import ORGANIZATION, Steps, found_organization, pipeline_settings
from tests.integration.storage.seeds import ExecutionSeed, add_execution, add_organization
from tests.waiting import eventually_true

pytestmark = [
    *(pytest.mark.node, pytest.mark.integration),
    *(pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)),
]

OTHER = "org_workers_other"


class Workers(Steps):
    def __init__(self, services: Services, slack: SlackSimulator, shared: Deployed) -> None:
        super().__init__(services, slack)
        self.shared = shared

    async def answers(self) -> None:
        """Until nothing is open, each wait being over at once."""

        async def over() -> bool:
            system = self.services.database.system()
            await system.execute("UPDATE instance_directories SET used_at = used_at - interval '1 minute'")
            await system.execute("UPDATE executions SET not_before = now() WHERE status = 'queued'")
            await self.dispatch()
            await system.execute("UPDATE executions SET check_at = now() WHERE status = 'running'")
            await self.complete()
            return not {"queued", "dispatching", "running"} & set(await self.statuses())

        await eventually_true(over, timeout_s=120, what="the end of every request")
        await self.deliver()

    async def states(self) -> dict[str, str]:
        rows = await self.services.database.system().all("SELECT organization_id, state FROM instance_directories")
        return {row["organization_id"]: row["state"] for row in rows}


@pytest_asyncio.fixture(loop_scope="session")
async def workers(shared: Deployed, database_url: str, clean_redis: RedisServer) -> AsyncIterator[Workers]:
    async with SlackSimulator() as slack:
        settings = pipeline_settings(slack, database_url, clean_redis)
        async with open_services(settings, application_name="contract") as services:
            real = shared.server
            instance = Instance(InstanceId("ins_1"), real.url, real.username, real.password, max_directories=1)
            await found_organization(services, instance)
            await services.follow_instance._report_health(instance)
            workers = Workers(services, slack, shared)
            await workers.install()
            yield workers


async def test_they_take_turns_and_the_first_finds_its_files_again_until_it_is_erased(workers: Workers) -> None:
    own = workers.shared.server.directory / "directories" / ORGANIZATION
    question = await workers.mention(at_once([Call("write", {"filePath": "notes.txt", "content": "kept-for-later"})]))
    await workers.take_events()
    await workers.answers()
    assert await workers.states() == {ORGANIZATION: "ready"}

    await add_organization(workers.services.database, OTHER)
    await add_execution(workers.services.database, ExecutionSeed("exe_other", OTHER, prompt="hello"))
    await workers.answers()
    assert await workers.states() == {ORGANIZATION: "disposed", OTHER: "ready"}

    asked = at_once([Call("read", {"filePath": "notes.txt"})])
    await workers.say(asked, thread_ts=question.ts)
    await workers.take_events()
    await workers.answers()
    assert await workers.statuses() == ["completed"] * 3
    assert await workers.states() == {ORGANIZATION: "ready", OTHER: "disposed"}
    assert [path.name for path in own.rglob("notes.txt")] == ["notes.txt"]
    session = await workers.one(
        f"SELECT opencode_session_id AS id FROM sessions WHERE organization_id = '{ORGANIZATION}'"
    )
    assert "kept-for-later" in str((await workers.shared.messages(str(session["id"])))[-3:])

    erase = erase_organization(
        workers.services, lambda: pytest.fail("it has no connections"), times=ErasureTimes(settle_s=0)
    )
    organization = Organization(OrganizationId(ORGANIZATION), "Pipeline")
    erased = await erase.run(organization, confirmed="Pipeline", actor="cli:anna")
    assert (erased.opencode_sessions, erased.directories) == (1, 1)
    assert not own.exists()
