"""The client for asyncio programs."""

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import cache
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic import SecretStr

from nubabel_workers.client import protocol
from nubabel_workers.client.connection import (
    TRANSPORT_ERRORS,
    Address,
    Timeouts,
    countdown,
    limits_of,
    reason_of,
    response_of,
)
from nubabel_workers.client.errors import WaitTimeoutError
from nubabel_workers.client.protocol import Answer, Call, EventFeed, NoAnswer, Request, RetryLimits, Wait
from nubabel_workers.client.results import Batch, Delegated, Execution, ProgressEvent, Submitted, SubmittedBatch
from nubabel_workers.domain.delegation import DelegateRequest
from nubabel_workers.domain.submission import BatchRequest, SubmitRequest

T = TypeVar("T")

_ERROR = 400
_ERRORS = (*TRANSPORT_ERRORS, aiohttp.ClientError)


class AsyncNubabelClient:
    """The twin of NubabelClient: the same calls, awaited. One per event loop.

    http: your own httpx client; it is not closed by this one.
    """

    def __init__(
        self,
        base_url: str,
        token: SecretStr | str,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
        retries: RetryLimits = RetryLimits(),  # noqa: B008 - frozen
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._address = Address.of(base_url, token)
        self._timeouts = timeouts
        self._retries = retries
        self._http = http or _new_http_client()
        self._owns_http = http is None

    async def submit(self, request: SubmitRequest | str) -> Submitted:
        """When this returns the request is stored. Without an idempotency key of yours one is made for this call."""
        asked = SubmitRequest(prompt=request) if isinstance(request, str) else request
        return await self._perform(protocol.submit(asked, self._retries, random.random))

    async def submit_batch(self, request: BatchRequest) -> SubmittedBatch:
        """When this returns all of it is stored. Without an idempotency key of yours one is made for this call."""
        return await self._perform(protocol.submit_batch(request, self._retries, random.random))

    async def get_batch(self, batch_id: str) -> Batch:
        """Where each of its executions stands, and what was answered so far."""
        return await self._perform(protocol.get_batch(batch_id, self._retries, random.random))

    async def cancel_batch(self, batch_id: str, *, reason: str | None = None) -> Batch:
        """The wish is stored; what has ended already stays as it is."""
        return await self._perform(protocol.cancel_batch(batch_id, reason, self._retries, random.random))

    async def wait_batch(self, batch_id: str, *, timeout_s: float) -> Batch:
        """The batch when all of it has ended. Raises WaitTimeoutError; the batch then goes on."""
        time_left = countdown(timeout_s, asyncio.get_running_loop().time)
        while True:
            look = protocol.get_batch(batch_id, self._retries.within(time_left()), random.random)
            still_open = (await self._perform(look)).open_ids
            if not still_open:
                break
            await self.wait(still_open[-1], timeout_s=time_left())  # mostly the last to end
        return await self._perform(protocol.told_batch(batch_id, time_left(), self._retries, random.random))

    async def delegate(
        self, request: DelegateRequest | str, *, timeout_s: float = 600.0, idempotency_key: str | None = None
    ) -> Delegated:
        """Hand a task over and wait for its result, over as many connections as it takes.

        Raises WaitTimeoutError; the task then goes on, and the same call with the same idempotency key finds it again.
        """
        asked = DelegateRequest(prompt=request) if isinstance(request, str) else request
        time_left = countdown(timeout_s, asyncio.get_running_loop().time)
        call = protocol.delegate(asked, idempotency_key, time_left, self._retries, random.random)
        found = await self._perform(call)
        if isinstance(found, Delegated):
            return found
        return Delegated.of(await self.wait(found.execution_id, timeout_s=time_left()))

    async def get(self, execution_id: str) -> Execution:
        """Raises ExecutionNotFoundError."""
        return await self._perform(protocol.get(execution_id, self._retries, random.random))

    async def find(self, idempotency_key: str) -> Execution | None:
        """The execution that was accepted under the key, by whichever door; None while there is none."""
        return await self._perform(protocol.find(idempotency_key, self._retries, random.random))

    async def cancel(self, execution_id: str, *, reason: str | None = None) -> Execution:
        """The wish is stored; a running execution ends a moment later. One that has ended stays as it is."""
        return await self._perform(protocol.cancel(execution_id, reason, self._retries, random.random))

    async def events(self, execution_id: str, *, after: str | None = None) -> AsyncGenerator[ProgressEvent, None]:
        """Where it stands, then its progress, then `done`. Broken connections are resumed, at most seen twice: `state`.

        after: the id of an event; begins behind it.
        """
        feed = EventFeed(execution_id, after=after, limits=self._retries, jitter=random.random)
        while not feed.ended:
            ends: list[Answer] = []
            async with aclosing(self._connection(feed, ends)) as connection:
                async for event in connection:
                    yield event
            if not feed.ended:
                await asyncio.sleep(feed.failed(ends[0]))

    async def wait(self, execution_id: str, *, timeout_s: float) -> Execution:
        """The execution when it has ended. Raises WaitTimeoutError; the execution then goes on."""
        time_left = countdown(timeout_s, asyncio.get_running_loop().time)
        try:
            async with asyncio.timeout(timeout_s), aclosing(self.events(execution_id)) as events:
                async for event in events:
                    if event.execution is not None:
                        return event.execution
        except TimeoutError:
            raise WaitTimeoutError(f"{execution_id} did not end in time") from None
        return await self._perform(protocol.get(execution_id, self._retries.within(time_left()), random.random))

    async def close(self) -> None:
        if self._owns_http:
            await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _perform(self, call: Call[T]) -> T:
        """Do what the call asks for, until it returns."""
        answer: Answer | None = None
        while True:
            try:
                step = call.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
                answer = None
            else:
                answer = await self._exchange(step)

    async def _exchange(self, request: Request) -> Answer:
        try:
            answer = await self._http.request(
                request.method,
                self._address.url(request),
                params=dict(request.params),
                json=request.body,
                headers=self._address.headers(request),
                timeout=limits_of(self._timeouts, read_s=self._timeouts.read_s + request.answer_within_s),
            )
        except _ERRORS as error:
            return NoAnswer(reason_of(error))
        return response_of(answer)

    async def _connection(self, feed: EventFeed, ends: list[Answer]) -> AsyncGenerator[ProgressEvent, None]:
        """One connection's events; why it ended early is put into ends."""
        request = feed.request()
        try:
            async with self._http.stream(
                request.method,
                self._address.url(request),
                headers=self._address.headers(request),
                timeout=limits_of(self._timeouts, read_s=self._timeouts.stream_read_s),
            ) as answer:
                if answer.status_code >= _ERROR:
                    await answer.aread()
                    ends.append(response_of(answer))
                    return
                feed.connected(answer.status_code)
                async for chunk in answer.aiter_bytes():
                    for event in feed.received(chunk):
                        yield event
                    if feed.ended:
                        return
        except (*_ERRORS, ValueError) as error:
            ends.append(NoAnswer(reason_of(error)))
            return
        ends.append(NoAnswer("the stream ended early"))


def _new_http_client() -> httpx.AsyncClient:
    """Aiohttp carries it: with many calls at once it costs a tenth of httpx's own transport."""
    trusted = _trusted()

    def new_session() -> aiohttp.ClientSession:  # called at the first request: it belongs to the running loop
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trusted),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=True,
        )

    return httpx.AsyncClient(transport=AiohttpTransport(verify=trusted, client=new_session))


@cache
def _trusted() -> ssl.SSLContext:
    """For all clients of a process: reading the certificates takes 20 ms of CPU, more than many calls."""
    return ssl.create_default_context()
