"""One server of each kind per run: the simulator, and the real OpenCode with a stub model."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import SecretStr

from nubabel_workers.adapters.opencode import HttpClient, OpenCodeClient, new_http_client
from nubabel_workers.domain.verdict import VerdictKind
from nubabel_workers.embedded.opencode_server import real_opencode
from nubabel_workers.simulators.opencode import SimulatorConfig, simulator
from nubabel_workers.simulators.stub_llm import stub_llm
from tests.contract.opencode.backends import Backend, Conversation, Gate, new_conversation, simulated
from tests.needing_node import needing

_PASSWORD = SecretStr("simulated")


@asynccontextmanager
async def _simulated(directory: Path) -> AsyncIterator[Backend]:
    config = SimulatorConfig(password=_PASSWORD, directory=str(directory / "work"), plugin="none")
    async with simulator(config) as running:
        yield simulated(running)


@asynccontextmanager
async def _real(directory: Path) -> AsyncIterator[Backend]:
    async with contextlib.AsyncExitStack() as stack:
        llm, llm_url = await stack.enter_async_context(stub_llm())
        with needing("the real OpenCode"):
            server = await stack.enter_async_context(real_opencode(directory, llm_url=llm_url))

        def answers_wait_for(gate: Gate | None) -> None:
            llm.before_answer = gate

        async def crash() -> None:
            await server.kill()
            await server.start()

        async def restart_empty() -> None:
            await server.kill()
            await server.wipe()
            await server.start()
            async with contextlib.aclosing(new_http_client()) as http:  # loads the directory
                client = OpenCodeClient(http, server.url, username=server.username, password=server.password)
                await client.agents(str(server.directory))

        @asynccontextmanager
        async def hung() -> AsyncIterator[None]:
            server.process.send_signal(signal.SIGSTOP)
            yield
            server.process.send_signal(signal.SIGCONT)

        yield Backend(
            url=server.url,
            username=server.username,
            password=server.password,
            directory=server.directory,
            model_calls=lambda: llm.stats["main"],
            answers_wait_for=answers_wait_for,
            crash=crash,
            restart_empty=restart_empty,
            hung=hung,
        )


async def _load_directory(backend: Backend, http: HttpClient) -> None:
    """It takes the real server a second, and many on a busy machine; prompts are stored late meanwhile."""
    warm_up = await new_conversation(backend, http)
    prompt = await warm_up.post("warm up")
    async with asyncio.timeout(60):
        while (await warm_up.ended(prompt)).kind is not VerdictKind.SUCCEEDED:
            continue


@asynccontextmanager
async def _loaded(server: AbstractAsyncContextManager[Backend]) -> AsyncIterator[Backend]:
    async with server as running, contextlib.aclosing(new_http_client()) as http:
        await _load_directory(running, http)
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def simulator_backend(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    async with _loaded(_simulated(tmp_path_factory.mktemp("opencode"))) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def real_backend(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    async with _loaded(_real(tmp_path_factory.mktemp("opencode"))) as running:
        yield running


@pytest.fixture(params=["simulator", pytest.param("real", marks=pytest.mark.node)])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Not a session's fixture with parameters: pytest would end one server for the other in every file."""
    server: Backend = request.getfixturevalue(f"{request.param}_backend")
    return server


@pytest_asyncio.fixture(loop_scope="session")
async def http() -> AsyncIterator[HttpClient]:
    async with contextlib.aclosing(new_http_client()) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def conversation(backend: Backend, http: HttpClient) -> Conversation:
    """A fresh session in which the model may do everything."""
    return await new_conversation(backend, http)
