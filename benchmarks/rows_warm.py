"""Row of warm sessions: what a session, or a directory, that is made before it is needed would save of a first prompt.

Timed is what a user would wait less: from asking for the session (or from the prompt, where the session is there)
until OpenCode has taken the prompt, and until the answer of a model that answers at once is there. A simulator loads a
directory in no time, so that only a real server tells what a cold one costs.
"""

import asyncio
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import SecretStr

from benchmarks.figures import Report, percentile
from benchmarks.sizes import Sizes
from nubabel_workers.adapters.opencode import OpenCodeClient, PromptPart, new_http_client, prompt_ids
from nubabel_workers.embedded.npm_packages import NotInstallableError
from nubabel_workers.embedded.opencode_server import MODEL, real_opencode
from nubabel_workers.simulators.opencode.config import SimulatorConfig
from nubabel_workers.simulators.opencode.running import simulator
from nubabel_workers.simulators.stub_llm import stub_llm

_MS: Final = 1000.0
_AGENT: Final = "build"
_ANSWER_S: Final = 30.0
_LOOK_EVERY_S: Final = 0.01

Prepared = Literal["nothing", "directory", "directory and session"]
_PREPARED: Final[tuple[Prepared, ...]] = ("nothing", "directory", "directory and session")


@dataclass(frozen=True)
class _Server:
    client: OpenCodeClient
    directory: Path


@dataclass(frozen=True)
class _Taken:
    """Seconds from the start until the prompt is taken, and until it is answered."""

    accepted_s: float
    answered_s: float


async def measure_warm(sizes: Sizes, report: Report) -> None:
    async with _simulated() as server:
        await _measure(server, "simulator", sizes.warm_sessions, report)
    if not sizes.with_real_opencode:
        return
    try:
        async with _real() as server:
            await _measure(server, "real server", sizes.warm_sessions, report)
    except NotInstallableError as error:
        report.notes.append(f"warm: without a real OpenCode server ({error})")


@asynccontextmanager
async def _simulated() -> AsyncIterator[_Server]:
    password = SecretStr(secrets.token_urlsafe(16))
    async with AsyncExitStack() as parts:
        directory = Path(parts.enter_context(tempfile.TemporaryDirectory()))
        running = await parts.enter_async_context(simulator(SimulatorConfig(password=password)))
        yield _Server(await _client(parts, running.url, password), directory)


@asynccontextmanager
async def _real() -> AsyncIterator[_Server]:
    async with AsyncExitStack() as parts:
        directory = Path(parts.enter_context(tempfile.TemporaryDirectory()))
        _, llm_url = await parts.enter_async_context(stub_llm())
        opencode = await parts.enter_async_context(real_opencode(directory / "server", llm_url=llm_url))
        yield _Server(await _client(parts, opencode.url, opencode.password), directory)


async def _client(parts: AsyncExitStack, url: str, password: SecretStr) -> OpenCodeClient:
    http = new_http_client()
    parts.push_async_callback(http.aclose)
    return OpenCodeClient(http, url, password=password)


async def _measure(server: _Server, name: str, count: int, report: Report) -> None:
    """The ways take turns, so that what the server has grown to is the same for all of them."""
    await _first_prompt(server, "nothing", "warm-up")  # what the process itself does once
    taken: dict[Prepared, list[_Taken]] = {prepared: [] for prepared in _PREPARED}
    for number in range(count):
        for prepared in _PREPARED:
            taken[prepared].append(await _first_prompt(server, prepared, f"{number}-{_PREPARED.index(prepared)}"))
    for prepared, times in taken.items():
        report.add("warm", f"{name}, prepared: {prepared}, prompt taken, p50", _p50(times, accepted=True), "ms")
        report.add("warm", f"{name}, prepared: {prepared}, answered, p50", _p50(times, accepted=False), "ms")


def _p50(times: Sequence[_Taken], *, accepted: bool) -> float | None:
    value = percentile([one.accepted_s if accepted else one.answered_s for one in times], 0.5)
    return None if value is None else value * _MS


async def _first_prompt(server: _Server, prepared: Prepared, name: str) -> _Taken:
    directory = server.directory / name
    directory.mkdir()
    client = server.client
    if prepared != "nothing":
        await _answered(client, await _session(client, directory), name=f"{name} before")
    session_id = await _session(client, directory) if prepared == "directory and session" else None
    started = time.monotonic()
    if session_id is None:
        session_id = await _session(client, directory)
    accepted = await _answered(client, session_id, name=name)
    return _Taken(accepted - started, time.monotonic() - started)


async def _session(client: OpenCodeClient, directory: Path) -> str:
    return (await client.create_session(title="warm", directory=str(directory))).id


async def _answered(client: OpenCodeClient, session_id: str, *, name: str) -> float:
    """Post a prompt and wait for its answer; when it was taken."""
    ids = prompt_ids("bench", session_id, name, created_ms=int(time.time() * _MS))
    await client.submit_prompt(
        session_id,
        message_id=ids.message_id,
        parts=[PromptPart(ids.part_ids[0], text="hello")],
        agent=_AGENT,
        model=MODEL,
    )
    accepted = time.monotonic()
    async with asyncio.timeout(_ANSWER_S):
        while not await _is_answered(client, session_id):  # noqa: ASYNC110  # an event could be of another prompt
            await asyncio.sleep(_LOOK_EVERY_S)
    return accepted


async def _is_answered(client: OpenCodeClient, session_id: str) -> bool:
    page = await client.list_messages(session_id, limit=1)
    return any(message.finish == "stop" for message in page.messages)
