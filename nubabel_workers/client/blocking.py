"""The client for programs without an event loop; thread-safe."""

import random
import time
from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Self, TypeVar

import httpx
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
_SHORTEST_READ_S = 0.5


class NubabelClient:
    """Submit requests, follow them, read their answers. One per process; close it, or use it as a context manager.

    token: a service token of your organization. http: your own httpx client (proxies, certificates, mocks); it is not
    closed by this one. Raises ValueError for a base_url or token that cannot be one.

    At a limit (429) and while the gateway is away it waits, as long as the gateway asks for, and tries again: as often
    and as long as `retries` allows. A call with timeout_s waits no longer than that.
    """

    def __init__(
        self,
        base_url: str,
        token: SecretStr | str,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - frozen
        retries: RetryLimits = RetryLimits(),  # noqa: B008 - frozen
        http: httpx.Client | None = None,
    ) -> None:
        self._address = Address.of(base_url, token)
        self._timeouts = timeouts
        self._retries = retries
        self._http = http or httpx.Client()
        self._owns_http = http is None

    def submit(self, request: SubmitRequest | str) -> Submitted:
        """When this returns the request is stored. Without an idempotency key of yours one is made for this call."""
        asked = SubmitRequest(prompt=request) if isinstance(request, str) else request
        return self._perform(protocol.submit(asked, self._retries, random.random))

    def submit_batch(self, request: BatchRequest) -> SubmittedBatch:
        """When this returns all of it is stored. Without an idempotency key of yours one is made for this call."""
        return self._perform(protocol.submit_batch(request, self._retries, random.random))

    def get_batch(self, batch_id: str) -> Batch:
        """Where each of its executions stands, and what was answered so far."""
        return self._perform(protocol.get_batch(batch_id, self._retries, random.random))

    def cancel_batch(self, batch_id: str, *, reason: str | None = None) -> Batch:
        """The wish is stored; what has ended already stays as it is."""
        return self._perform(protocol.cancel_batch(batch_id, reason, self._retries, random.random))

    def wait_batch(self, batch_id: str, *, timeout_s: float) -> Batch:
        """The batch when all of it has ended. Raises WaitTimeoutError; the batch then goes on."""
        time_left = countdown(timeout_s, time.monotonic)
        while True:
            look = protocol.get_batch(batch_id, self._retries.within(time_left()), random.random)
            still_open = self._perform(look).open_ids
            if not still_open:
                break
            self.wait(still_open[-1], timeout_s=time_left())  # mostly the last to end
        return self._perform(protocol.told_batch(batch_id, time_left(), self._retries, random.random))

    def delegate(
        self, request: DelegateRequest | str, *, timeout_s: float = 600.0, idempotency_key: str | None = None
    ) -> Delegated:
        """Hand a task over and wait for its result, over as many connections as it takes.

        Raises WaitTimeoutError; the task then goes on, and the same call with the same idempotency key finds it again.
        """
        asked = DelegateRequest(prompt=request) if isinstance(request, str) else request
        time_left = countdown(timeout_s, time.monotonic)
        call = protocol.delegate(asked, idempotency_key, time_left, self._retries, random.random)
        found = self._perform(call)
        if isinstance(found, Delegated):
            return found
        return Delegated.of(self.wait(found.execution_id, timeout_s=time_left()))

    def get(self, execution_id: str) -> Execution:
        """Raises ExecutionNotFoundError."""
        return self._perform(protocol.get(execution_id, self._retries, random.random))

    def find(self, idempotency_key: str) -> Execution | None:
        """The execution that was accepted under the key, by whichever door; None while there is none."""
        return self._perform(protocol.find(idempotency_key, self._retries, random.random))

    def cancel(self, execution_id: str, *, reason: str | None = None) -> Execution:
        """The wish is stored; a running execution ends a moment later. One that has ended stays as it is."""
        return self._perform(protocol.cancel(execution_id, reason, self._retries, random.random))

    def events(self, execution_id: str, *, after: str | None = None) -> Iterator[ProgressEvent]:
        """Where it stands, then its progress, then `done`. Broken connections are resumed, at most seen twice: `state`.

        after: the id of an event; begins behind it.
        """
        return self._follow(execution_id, after, deadline=None)

    def wait(self, execution_id: str, *, timeout_s: float) -> Execution:
        """The execution when it has ended. Raises WaitTimeoutError; the execution then goes on."""
        time_left = countdown(timeout_s, time.monotonic)
        for event in self._follow(execution_id, None, deadline=time.monotonic() + timeout_s):
            if event.execution is not None:
                return event.execution
        return self._perform(protocol.get(execution_id, self._retries.within(time_left()), random.random))

    def close(self) -> None:
        if self._owns_http:
            self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _perform(self, call: Call[T]) -> T:
        """Do what the call asks for, until it returns."""
        answer: Answer | None = None
        while True:
            try:
                step = call.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, Wait):
                time.sleep(step.seconds)
                answer = None
            else:
                answer = self._exchange(step)

    def _exchange(self, request: Request) -> Answer:
        try:
            answer = self._http.request(
                request.method,
                self._address.url(request),
                params=dict(request.params),
                json=request.body,
                headers=self._address.headers(request),
                timeout=limits_of(self._timeouts, read_s=self._timeouts.read_s + request.answer_within_s),
            )
        except TRANSPORT_ERRORS as error:
            return NoAnswer(reason_of(error))
        return response_of(answer)

    def _follow(self, execution_id: str, after: str | None, *, deadline: float | None) -> Iterator[ProgressEvent]:
        feed = EventFeed(execution_id, after=after, limits=self._retries, jitter=random.random)
        while not feed.ended:
            refused = yield from self._connection(feed, deadline)
            if feed.ended:
                return
            wait_s = feed.failed(refused) if refused is not None else 0.0
            if deadline is not None and time.monotonic() + wait_s >= deadline:
                raise WaitTimeoutError(f"{execution_id} did not end in time")
            time.sleep(wait_s)

    def _connection(self, feed: EventFeed, deadline: float | None) -> Generator[ProgressEvent, None, Answer | None]:
        """One connection's events; then why it ended early, None when that is no failure."""
        request = feed.request()
        read_s = _read_limit(self._timeouts, deadline)
        try:
            with self._http.stream(
                request.method,
                self._address.url(request),
                headers=self._address.headers(request),
                timeout=limits_of(self._timeouts, read_s=read_s),
            ) as answer:
                if answer.status_code >= _ERROR:
                    answer.read()
                    return response_of(answer)
                feed.connected(answer.status_code)
                for chunk in answer.iter_bytes():
                    yield from feed.received(chunk)
                    if feed.ended or _needs_shorter_read(read_s, deadline):
                        return None
        except (*TRANSPORT_ERRORS, ValueError) as error:
            return NoAnswer(reason_of(error))
        return NoAnswer("the stream ended early")


def _read_limit(timeouts: Timeouts, deadline: float | None) -> float:
    if deadline is None:
        return timeouts.stream_read_s
    return min(timeouts.stream_read_s, max(_SHORTEST_READ_S, deadline - time.monotonic()))


def _needs_shorter_read(read_s: float, deadline: float | None) -> bool:
    """A connection's read limit is fixed; with half of it left until the deadline, one with a shorter limit resumes."""
    if deadline is None:
        return False
    left_s = deadline - time.monotonic()
    return left_s <= 0 or (left_s < read_s / 2 and read_s > _SHORTEST_READ_S)
