"""The OpenCode servers of a stack: simulators in this process, or real ones from npm with one stub model."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from pydantic import SecretStr

from nubabel_workers.embedded.opencode_server import MODEL, RealOpenCode, install
from nubabel_workers.embedded.server_memory import HasMemory, ServerMemory
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import simulator
from nubabel_workers.simulators.opencode.server import OpenCodeSimulator
from nubabel_workers.simulators.stub_llm import StubLlm, stub_llm

OpenCodeKind = Literal["simulator", "real"]
_PLAIN_AGENT = "build"  # a real server without oh-my-opencode has no Sisyphus


class OpenCodeAccess(Protocol):
    """What registering a server takes."""

    @property
    def url(self) -> str: ...
    @property
    def username(self) -> str: ...
    @property
    def password(self) -> SecretStr | None: ...


class StartedOpenCode(OpenCodeAccess, HasMemory, Protocol):
    """A server that the stack started."""


class SimulatedServer:
    """A simulator with its address and credentials."""

    def __init__(self, url: str, insides: OpenCodeSimulator) -> None:
        self.url = url
        self.username = insides.config.username
        self.password = insides.config.password
        self.insides = insides

    def memory(self) -> ServerMemory | None:
        """The simulated one; None: it is down."""
        memory = self.insides.memory
        return ServerMemory(memory.process, memory.resident_bytes) if self.insides.is_up else None


class StackOpenCode:
    """`simulators` or `real` holds the servers, according to kind."""

    def __init__(self, kind: OpenCodeKind, servers: int, directory: Path, *, config: SimulatorConfig) -> None:
        """config: of each simulator, apart from the password; of the stub model its delay and tokens."""
        self.kind = kind
        self.simulators: list[SimulatedServer] = []
        self.real: list[RealOpenCode] = []
        self.model: StubLlm | None = None  # what the real servers ask
        self._servers = servers
        self._directory = directory
        self._config = config
        self._running = AsyncExitStack()

    @property
    def servers(self) -> Sequence[StartedOpenCode]:
        return self.real if self.kind == "real" else self.simulators

    @property
    def settings(self) -> dict[str, str]:
        """What the workers have to know about these servers."""
        return {"opencode_agent_prefix": _PLAIN_AGENT, "opencode_default_model": MODEL} if self.kind == "real" else {}

    async def start(self) -> None:
        if self.kind == "real":
            await self._start_real()
        else:
            await self._start_simulators()

    async def stop(self) -> None:
        await self._running.aclose()

    async def _start_simulators(self) -> None:
        for _ in range(self._servers):
            config = replace(self._config, password=SecretStr(secrets.token_urlsafe(16)))
            running = await self._running.enter_async_context(simulator(config))
            self.simulators.append(SimulatedServer(running.url, running.simulator))

    async def _start_real(self) -> None:
        executable = await asyncio.to_thread(install)
        self.model, llm_url = await self._running.enter_async_context(
            stub_llm(delay_s=self._config.delay_s, tokens=self._config.tokens)
        )
        for number in range(1, self._servers + 1):
            server = RealOpenCode(executable, self._directory / f"opencode-{number}", llm_url=llm_url)
            self.real.append(server)
            self._running.push_async_callback(server.stop)
            await server.start()
