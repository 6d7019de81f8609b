"""The client for programs without an event loop; threads may share it."""

import contextlib
import time
from collections.abc import Generator
from collections.abc import Set as AbstractSet
from types import TracebackType
from typing import Any, Self

from pydantic import SecretStr

from nubabel_workers.adapters.opencode import endpoints, event_stream, transport, wire
from nubabel_workers.adapters.opencode.client import OnCall, SyncOpenCodeClient
from nubabel_workers.adapters.opencode.sse import EventDecoder
from nubabel_workers.adapters.opencode.transport import DEFAULT_TIMEOUTS, Timeouts
from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.opencode_events import ServerEvent
from nubabel_workers.domain.verdict import RunMessage
from nubabel_workers.opencode.answers import AnswerPiece, Ask, NextBurst, Pause, follow_answer
from nubabel_workers.opencode.connection import ANSWER_TIMEOUT_S, MAX_CONNECTIONS, secret, submit_call
from nubabel_workers.opencode.prompts import Prompt, as_prompt
from nubabel_workers.opencode.reconnection import Burst, ReconnectLimits, sync_follow


class OpenCode(SyncOpenCodeClient):
    """As AsyncOpenCode, blocking. An open event stream holds one connection of the pool."""

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
        """See AsyncOpenCode."""
        self._pool = transport.new_sync_http_client(max_connections=max_connections)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._pool.close()

    def submit(
        self,
        session_id: str,
        prompt: Prompt | str,
        *,
        agent: str | None = None,
        model: str | None = None,
        system: str | None = None,
    ) -> Prompt:
        """See AsyncOpenCode.submit."""
        sent = as_prompt(prompt)
        self.call(submit_call(session_id, sent, agent=agent, model=model, system=system))
        return sent

    def send(
        self,
        session_id: str,
        prompt: Prompt | str,
        *,
        agent: str | None = None,
        model: str | None = None,
        system: str | None = None,
        wait_s: float = ANSWER_TIMEOUT_S,
    ) -> RunMessage:
        """See AsyncOpenCode.send."""
        sent = as_prompt(prompt)
        return self.call(
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

    def stream(
        self,
        session_id: str,
        prompt: Prompt | str,
        *,
        agent: str | None = None,
        model: str | None = None,
        system: str | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Generator[AnswerPiece, None, None]:
        """See AsyncOpenCode.stream. The time limit is looked at between events: heartbeats come every 10 s."""
        sent = as_prompt(prompt)
        call = submit_call(session_id, sent, agent=agent, model=model, system=system)
        steps = follow_answer(call, session_id, sent.message_id, timeout_s=timeout_s, now=time.monotonic)
        with contextlib.closing(self._bursts(frozenset({session_id}))) as bursts:
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
                        outcome = self.call(step.call)
                    except NubabelError as raised:
                        error = raised
                elif isinstance(step, NextBurst):
                    outcome = next(bursts) if time.monotonic() < step.deadline else None
                elif isinstance(step, Pause):
                    time.sleep(step.seconds)
                else:
                    yield step

    def events(self, *, watch: AbstractSet[str] = frozenset()) -> Generator[ServerEvent, None, None]:
        """See AsyncOpenCode.events. Use it inside of `contextlib.closing`."""
        with contextlib.closing(self._bursts(watch)) as bursts:
            for burst in bursts:
                yield from burst

    def _bursts(self, watch: AbstractSet[str]) -> Generator[Burst, None, None]:
        def connect() -> Generator[Burst, None, None]:
            return event_stream.sync_events(
                self._pool,
                self.base_url,
                username=self._username,
                password=self._password,
                decoder=EventDecoder(watched=watch, messages=True),
            )

        return sync_follow(connect, self._reconnect)
