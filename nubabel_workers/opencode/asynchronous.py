"""The client for asyncio programs."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr

from nubabel_workers.adapters.opencode import endpoints, event_stream, transport, wire
from nubabel_workers.adapters.opencode.client import OnCall, OpenCodeClient
from nubabel_workers.adapters.opencode.sse import EventDecoder
from nubabel_workers.adapters.opencode.transport import DEFAULT_TIMEOUTS, Timeouts
from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.opencode_events import ServerEvent
from nubabel_workers.domain.verdict import RunMessage
from nubabel_workers.opencode.answers import AnswerPiece, Ask, NextBurst, Pause, follow_answer
from nubabel_workers.opencode.connection import ANSWER_TIMEOUT_S, MAX_CONNECTIONS, secret, submit_call
from nubabel_workers.opencode.prompts import Prompt, as_prompt
from nubabel_workers.opencode.reconnection import Burst, ReconnectLimits, follow


class AsyncOpenCode(OpenCodeClient):
    """One OpenCode server. One per server and event loop; close it, or use it as an async context manager.

    Every endpoint is a method with the arguments of the function of the same name in `endpoints`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        username: str = wire.DEFAULT_USERNAME,
        password: SecretStr | str | None = None,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        max_connections: int = MAX_CONNECTIONS,
        reconnect: ReconnectLimits = ReconnectLimits(),  # noqa: B008  # frozen
        on_call: OnCall | None = None,
        with_bodies: bool = False,
    ) -> None:
        """max_connections: of the pool; event streams come on top. on_call: see `hooks`; with_bodies: it is given
        what was sent and answered too (texts of users, but never credentials).
        """
        self._pool = transport.new_http_client(max_connections=max_connections)
        self._username = username
        self._password = secret(password)
        self._reconnect = reconnect
        super().__init__(
            self._pool,
            base_url,
            username=username,
            password=self._password,
            timeouts=timeouts,
            on_call=on_call,
            with_bodies=with_bodies,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._pool.aclose()

    async def submit(
        self,
        session_id: str,
        prompt: Prompt | str,
        *,
        agent: str | None = None,
        model: str | None = None,
        system: str | None = None,
    ) -> Prompt:
        """Send without waiting for the answer. Returns the prompt, whose ids find it again."""
        sent = as_prompt(prompt)
        await self.call(submit_call(session_id, sent, agent=agent, model=model, system=system))
        return sent

    async def send(
        self,
        session_id: str,
        prompt: Prompt | str,
        *,
        agent: str | None = None,
        model: str | None = None,
        system: str | None = None,
        wait_s: float = ANSWER_TIMEOUT_S,
    ) -> RunMessage:
        """Send and wait for the last message of the answer; a failed run is told in its `error`. See `send_message`."""
        sent = as_prompt(prompt)
        return await self.call(
            endpoints.send_message(
                session_id,
                message_id=sent.message_id,
                parts=sent.parts,
                agent=agent,
                model=model,
                system=system,
                wait_s=wait_s,
            )
        )

    async def stream(
        self,
        session_id: str,
        prompt: Prompt | str,
        *,
        agent: str | None = None,
        model: str | None = None,
        system: str | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> AsyncGenerator[AnswerPiece, None]:
        """Send, and tell the answer as it comes: text, tools, asks, and at last an AnswerEnd.

        Use it inside of `contextlib.aclosing`; when you leave early the run goes on (see `abort`). One prompt at a
        time in a session. After timeout_s the run is aborted. A permission or question holds the run until you reply.
        Raises what the submitting call raises, and the stream's error where connecting again is pointless.
        """
        sent = as_prompt(prompt)
        call = submit_call(session_id, sent, agent=agent, model=model, system=system)
        steps = follow_answer(call, session_id, sent.message_id, timeout_s=timeout_s, now=time.monotonic)
        bursts = self._bursts(frozenset({session_id}))
        async with contextlib.aclosing(bursts):
            outcome: Any = None
            error: NubabelError | None = None
            while True:
                try:
                    step = steps.send(outcome) if error is None else steps.throw(error)
                except StopIteration:
                    return
                outcome, error = None, None
                if isinstance(step, Ask):
                    try:
                        outcome = await self.call(step.call)
                    except NubabelError as raised:
                        error = raised
                elif isinstance(step, NextBurst):
                    outcome = await _next(bursts, step.deadline)
                elif isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                else:
                    yield step

    async def events(self, *, watch: AbstractSet[str] = frozenset()) -> AsyncGenerator[ServerEvent, None]:
        """Events of all directories of the server, over broken connections, until you stop.

        watch: sessions whose text is wanted while it is written; the set may change at any time. There is no replay:
        at each ServerConnected, read over HTTP what you may have missed. Use it inside of `contextlib.aclosing`.
        """
        async with contextlib.aclosing(self._bursts(watch)) as bursts:
            async for burst in bursts:
                for event in burst:
                    yield event

    async def _bursts(self, watch: AbstractSet[str]) -> AsyncGenerator[Burst, None]:
        async with transport.new_stream_session() as session:

            def connect() -> AsyncGenerator[Burst, None]:
                return event_stream.events(
                    session,
                    self.base_url,
                    username=self._username,
                    password=self._password,
                    decoder=EventDecoder(watched=watch, messages=True),
                )

            async with contextlib.aclosing(follow(connect, self._reconnect)) as bursts:
                async for burst in bursts:
                    yield burst


async def _next(bursts: AsyncGenerator[Burst, None], deadline: float) -> Burst | None:
    """None when the deadline is over; the stream has ended with that."""
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await anext(bursts)
    except TimeoutError:
        return None
