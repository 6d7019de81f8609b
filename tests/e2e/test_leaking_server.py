"""A server process whose memory really grows is found, spared, started anew by the operators, and used again."""

import os
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import pytest_asyncio

from nubabel_workers.domain.credentials import callback_key_text
from nubabel_workers.domain.ids import InstanceId
from nubabel_workers.domain.tenants import Instance
from nubabel_workers.embedded.ports import free_port
from nubabel_workers.embedded.processes import ProcessSpec, Supervisor
from nubabel_workers.embedded.stack import Stack, StackOptions
from nubabel_workers.embedded.stack_environment import base_environment
from nubabel_workers.embedded.stack_opencode import SimulatedServer
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import simulator
from nubabel_workers.simulators.slack.model import Message
from tests.e2e.conversation import Conversation, answered_once, until
from tests.forking import ForkedProcess

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

_ID = InstanceId("ins_leaks")
_BOUND_BYTES = 200_000_000  # a simulator that was just started has a third of it
_LEAK_BYTES_PER_S = 60_000_000
_KEY = callback_key_text(b"k" * 32)


@dataclass(frozen=True)
class LeakingServer:
    """Its process is another one after each restart."""

    url: str
    supervisor: Supervisor

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.supervisor.process("opencode").pid)

    async def leak(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, trust_env=False) as http:
            answer = await http.post("/_sim/faults", json={"leak_bytes_per_s": _LEAK_BYTES_PER_S})
            answer.raise_for_status()


@pytest.fixture(scope="module")
def pid_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "pid"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(pid_file: Path) -> AsyncIterator[Stack]:
    """Beside the process that leaks it has a server that tells nothing and stays well. Neither makes directories, for
    which an organization's sessions would stay together.
    """
    command = f"kill -KILL $(cat {shlex.quote(str(pid_file))})"  # who keeps it running starts it again
    async with AsyncExitStack() as parts:
        well = await parts.enter_async_context(simulator(SimulatorConfig(directories=False)))
        options = StackOptions(
            opencode_servers=0,
            servers_elsewhere=[SimulatedServer(well.url, well.simulator)],
            organizations={"Acme": 1},
            copies={"flower": 0},
            settings={
                "opencode_memory_bound_bytes": str(_BOUND_BYTES),
                "opencode_restart_command": f"sh -c {shlex.quote(command)}",
                "opencode_restart_after_s": "1",
                "opencode_drain_s": "2",
            },
        )
        yield await parts.enter_async_context(Stack(options, start_process=ForkedProcess))


@pytest_asyncio.fixture(loop_scope="module")
async def server(stack: Stack, pid_file: Path) -> AsyncIterator[LeakingServer]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    await stack.services.instances.add(Instance(_ID, url, "", None), actor="tests")
    await stack.services.instances.add_callback_key(_ID, _KEY, actor="tests")
    serves = f"{shlex.quote(sys.executable)} -m nubabel_workers.simulators.opencode --port {port}"
    command = f"echo $$ > {shlex.quote(str(pid_file))}; exec {serves} --one-directory --real-memory --tell-every 0.2"
    bridge = {
        "NUBABEL_BRIDGE_URL": stack.api_url,
        "NUBABEL_BRIDGE_INSTANCE": _ID,
        "NUBABEL_BRIDGE_KEY": _KEY.get_secret_value(),
        "PYTHONPATH": os.getcwd(),  # noqa: PTH109
    }
    with Supervisor(pid_file.parent, base_env=base_environment()) as supervisor:
        supervisor.start(ProcessSpec("opencode", ("sh", "-c", command), env=bridge))
        yield LeakingServer(url, supervisor)


async def found(stack: Stack) -> Instance:
    instance = await stack.services.instances.find(_ID)
    assert instance is not None
    return instance


async def until_fit(stack: Stack) -> Instance:
    async def fit() -> Instance | None:
        instance = await found(stack)
        return instance if instance.is_fit and instance.memory_bytes and instance.version else None

    return await until(fit, what="a server that is well and tells its memory")


async def until_strained(stack: Stack) -> str:
    async def strain() -> str:
        return (await found(stack)).strain

    return await until(strain, what="that it is found")


async def places(conversation: Conversation, question: Message) -> list[str]:
    """Where its attempts were, the first one first."""
    execution = await conversation.execution_of(question)
    rows = await conversation.stack.services.database.system().all(
        "SELECT instance_id FROM attempts WHERE execution_id = %(id)s ORDER BY number", {"id": execution.id}
    )
    return [row["instance_id"] for row in rows]


async def until_placed(conversation: Conversation, questions: list[Message]) -> list[str]:
    async def placed() -> list[str] | None:
        all_places = [await places(conversation, one) for one in questions]
        return [one[0] for one in all_places] if all(all_places) else None

    return await until(placed, what="the first attempt of each")


async def test_a_server_that_really_leaks_is_started_anew_and_nothing_is_lost(
    conversation: Conversation, stack: Stack, server: LeakingServer
) -> None:
    told = (await until_fit(stack)).memory_bytes
    before = server.process
    assert told == pytest.approx(before.memory_info().rss, rel=0.3)
    early = [conversation.say(f"@nubabel [[delay=6]] [[text=early {number}]]") for number in range(2)]
    assert _ID in await until_placed(conversation, early)

    await server.leak()
    assert "its memory is" in await until_strained(stack)
    meanwhile = [conversation.say(f"@nubabel [[text=meanwhile {number}]]") for number in range(4)]

    assert _ID not in await until_placed(conversation, meanwhile)
    await until_fit(stack)
    assert not before.is_running()
    assert server.process.memory_info().rss < _BOUND_BYTES
    await answered_once(conversation, [*early, *meanwhile])
    later = [conversation.say(f"@nubabel [[delay=1]] [[text=later {number}]]") for number in range(2)]
    assert _ID in await until_placed(conversation, later)
    await answered_once(conversation, later)
