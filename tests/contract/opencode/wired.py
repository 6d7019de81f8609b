"""The wired services on a server under test: what the pipeline tests do with the simulator, on the real one as well."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from config.settings import Settings
from nubabel_workers.bootstrap import Services, open_services
from nubabel_workers.domain.errors import TransientError
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.simulators.slack.server import SlackSimulator
from tests.contract.opencode.backends import AGENT, Backend
from tests.integration.pipeline.conftest import Steps, found_organization
from tests.integration.pipeline.dying import others_find_its_rows
from tests.waiting import eventually_true

_numbers = count(1)
_LOAD_S = 30.0


class WiredSteps(Steps):
    """calls: how often this test's prompts have asked the model, OpenCode's own helper calls not counted."""

    def __init__(self, services: Services, slack: SlackSimulator, backend: Backend) -> None:
        super().__init__(services, slack)
        self.backend = backend
        self._calls_before = backend.model_calls()

    @property
    def calls(self) -> int:
        return self.backend.model_calls() - self._calls_before

    async def start(self, text: str) -> None:
        await self.mention(text)
        await self.take_events()
        await self.dispatch()

    async def answer_all(self) -> None:
        """Until every request has its outcome, however long a server that was just started makes it wait."""
        for _ in range(10):
            await others_find_its_rows(self)
            await self.answer_everything()
            if not {"queued", "dispatching", "running"} & set(await self.statuses()):
                return

    async def run_ends(self) -> None:
        """Idle twice: the status of a prompt that was accepted a moment ago may not be told yet."""
        for _ in range(2):
            await eventually_true(self._seems_idle, timeout_s=_LOAD_S, what="the end of every run")
            await asyncio.sleep(0.05)
        await self.due_now()

    async def _seems_idle(self) -> bool:
        try:
            return await self.working() == 0
        except TransientError:  # the server is busy with itself
            return False

    async def due_now(self) -> None:
        await self.services.database.system().execute("UPDATE executions SET check_at = now() WHERE status = 'running'")

    async def model_is_asked(self, times: int = 1) -> None:
        async def asked() -> bool:
            return self.calls >= times

        await eventually_true(asked, timeout_s=_LOAD_S, what="a call of the model")

    async def working(self) -> int:
        """Sessions that the server works on now."""
        (instance,) = await self.services.instances.loads()
        return len(await self.services.servers.server(instance).busy_sessions(None))

    async def attempts(self) -> list[str | None]:
        rows = await self.services.database.system().all("SELECT verdict FROM attempts ORDER BY started_at, number")
        return [row["verdict"] for row in rows]

    async def sessions(self) -> int:
        """On how many OpenCode sessions it has worked."""
        row = await self.one("SELECT count(DISTINCT opencode_session_id) AS n FROM attempts")
        return int(str(row["n"]))


@asynccontextmanager
async def wired(settings: Settings, slack: SlackSimulator, backend: Backend) -> AsyncIterator[WiredSteps]:
    async with open_services(settings, application_name="contract") as services:
        await found_organization(
            services,
            Instance(InstanceId("ins_1"), backend.url, backend.username, backend.password, agents=(AGENT,)),
        )
        steps = WiredSteps(services, slack, backend)
        await steps.install()
        yield steps


def unheard_of(text: str) -> str:
    """The model counts how often it has seen a prompt: one that it has not."""
    return f"{text} {next(_numbers)}"
