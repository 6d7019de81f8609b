"""The two servers that the contract is checked on, behind one set of handles."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from pydantic import SecretStr

from nubabel_workers.adapters.opencode import HttpClient, OpenCodeClient, PromptPart, Session, prompt_ids
from nubabel_workers.adapters.opencode.models import PermissionRule
from nubabel_workers.domain.verdict import IDLE, RunMessage, Verdict, VerdictKind, decide
from nubabel_workers.simulators.opencode import RunningSimulator

MODEL = "stub/echo"
AGENT = "build"
_ARRIVAL_S = 5.0
_RUN_TIMEOUT_S = 60.0
_SETTLING_S = 0.3
_POLL_S = 0.02
_numbers = count(1)

Gate = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Backend:
    """A server under test. model_calls: how often its model was asked, helpers (title, summary) not counted.

    answers_wait_for: each answer of its model from now on, until None.
    crash: killed and started again with its data; restart_empty: without. hung: accepts, but does not answer.
    """

    url: str
    username: str
    password: SecretStr | None
    directory: Path
    model_calls: Callable[[], int]
    answers_wait_for: Callable[[Gate | None], None]
    crash: Callable[[], Awaitable[None]]
    restart_empty: Callable[[], Awaitable[None]]
    hung: Callable[[], AbstractAsyncContextManager[None]]


def simulated(running: RunningSimulator) -> Backend:
    config = running.simulator.config

    def answers_wait_for(gate: Gate | None) -> None:
        running.simulator.engine.before_answer = gate

    async def crash() -> None:
        running.simulator.crash()

    async def restart_empty() -> None:
        running.simulator.wipe()

    @asynccontextmanager
    async def hung() -> AsyncIterator[None]:
        running.simulator.set_faults(slow_s=60)
        yield
        running.simulator.set_faults(slow_s=0)

    return Backend(
        url=running.url,
        username=config.username,
        password=config.password,
        directory=Path(config.directory),
        model_calls=lambda: running.simulator.engine.model_calls,
        answers_wait_for=answers_wait_for,
        crash=crash,
        restart_empty=restart_empty,
        hung=hung,
    )


@dataclass(frozen=True)
class Conversation:
    """One session and what the tests do with it."""

    backend: Backend
    client: OpenCodeClient
    session: Session

    @property
    def id(self) -> str:
        return self.session.id

    async def post(
        self,
        text: str,
        *,
        repeat_of: "Prompt | None" = None,
        agent: str = AGENT,
        model: str = MODEL,
    ) -> "Prompt":
        prompt = repeat_of or Prompt.new(self.session.id, text)
        await self.client.submit_prompt(
            self.session.id,
            message_id=prompt.message_id,
            parts=prompt.parts,
            agent=agent,
            model=model,
        )
        return prompt

    async def messages(self) -> list[RunMessage]:
        return (await self.client.list_messages(self.session.id)).messages

    async def verdict(self, prompt: "Prompt", *, settled: bool = True) -> Verdict:
        state = (await self.client.session_status(str(self.backend.directory))).get(self.session.id, IDLE)
        return decide(await self.messages(), my_message_id=prompt.message_id, state=state, settled=settled)

    async def ended(self, prompt: "Prompt") -> Verdict:
        """The verdict once the run is over, or dead: an end that is none is looked at twice.

        While a directory is loaded, a prompt is stored some time after its 204: missing is not yet lost.
        """
        begun = time.monotonic()
        deadline = begun + _RUN_TIMEOUT_S
        while time.monotonic() < deadline:
            verdict = await self.verdict(prompt, settled=False)
            if verdict.kind is VerdictKind.UNSETTLED:
                await asyncio.sleep(_SETTLING_S)
                verdict = await self.verdict(prompt)
            arriving = verdict.kind is VerdictKind.NOT_SUBMITTED and time.monotonic() - begun < _ARRIVAL_S
            if verdict.kind is not VerdictKind.RUNNING and not arriving:
                return verdict
            await asyncio.sleep(_POLL_S)
        raise AssertionError(f"still running after {_RUN_TIMEOUT_S:g} s: {verdict}")

    async def begun(self, *, known: frozenset[str] = frozenset()) -> None:
        """The model is being asked: there is an assistant message that is not known yet."""
        deadline = time.monotonic() + _RUN_TIMEOUT_S
        while time.monotonic() < deadline:
            if any(m.parent_id and m.id not in known for m in await self.messages()):
                return
            await asyncio.sleep(_POLL_S)
        raise AssertionError(f"no step begun after {_RUN_TIMEOUT_S:g} s")

    async def ask(self, text: str) -> Verdict:
        return await self.ended(await self.post(text))


@dataclass(frozen=True)
class Prompt:
    """A prompt under derived ids: posting it again is a repeat."""

    message_id: str
    part_id: str
    text: str

    @property
    def parts(self) -> list[PromptPart]:
        return [PromptPart(self.part_id, text=self.text)]

    @classmethod
    def new(cls, session_id: str, text: str) -> "Prompt":
        ids = prompt_ids("org_test", session_id, f"exe_{next(_numbers)}", created_ms=time.time_ns() // 1_000_000)
        return cls(ids.message_id, ids.part_ids[0], text)


async def new_conversation(
    backend: Backend, http: HttpClient, *, permission: list[PermissionRule] | None = None
) -> Conversation:
    client = OpenCodeClient(http, backend.url, username=backend.username, password=backend.password)
    session = await client.create_session(
        title="contract", metadata={"tenant": "one"}, permission=permission, directory=str(backend.directory)
    )
    return Conversation(backend, client, session)
