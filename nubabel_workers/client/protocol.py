"""The API as pure decisions: which request, what its answer means, whether and when to try again.

A call is a generator: it yields what is to be done (a request, a wait), is sent what came of it, and returns the
result or raises. The blocking and the asynchronous client only do the I/O, so they cannot drift apart.
"""

import json
import math
import secrets
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from nubabel_workers.client.errors import (
    ApiError,
    ConnectionFailedError,
    UnavailableError,
    WaitTimeoutError,
    error_class,
)
from nubabel_workers.client.event_decoder import EventDecoder, ServerSentEvent
from nubabel_workers.client.results import (
    Batch,
    Delegated,
    DelegationPending,
    Execution,
    ExecutionList,
    ProgressEvent,
    Submitted,
    SubmittedBatch,
)
from nubabel_workers.domain.delegation import DelegateRequest
from nubabel_workers.domain.submission import BatchRequest, SubmitRequest

T = TypeVar("T")

_TRY_AGAIN = frozenset({408, 429, 502, 503, 504})
_JSON = "application/json"
_FIRST_ERROR_STATUS = 400
_ACCEPTED = 202
_NO_CONTENT = 204
_LONGEST_WAIT_S = 60.0  # for one answer; what stands between us and the gateway may close connections that rest longer
_SHORTEST_LOOK_S = 0.05
_STREAM_PATIENCE = 3  # whoever follows for minutes outlives a restart of the gateway


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    answer_within_s: float = 0.0  # beyond the usual: the gateway is asked to wait so long before it answers


@dataclass(frozen=True)
class Response:
    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes = field(repr=False)


@dataclass(frozen=True)
class NoAnswer:
    """The connection failed; whether the request arrived is unknown."""

    reason: str


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True)
class RetryLimits:
    """attempts counts the first try. Waits double from first_wait_s to max_wait_s, each shortened by chance.

    Where the gateway says when to come again (Retry-After: up to 60 s at a limit of requests a minute), that is waited
    for instead. max_total_wait_s: all waits of one call together; what would take longer is raised at once. A call with
    a time limit of its own keeps to that too.
    """

    attempts: int = 4
    first_wait_s: float = 0.25
    max_wait_s: float = 8.0
    max_total_wait_s: float = 120.0

    def within(self, seconds: float) -> "RetryLimits":
        """For a call that has so much time left."""
        return replace(self, max_total_wait_s=min(self.max_total_wait_s, seconds))


Answer = Response | NoAnswer
Call = Generator[Request | Wait, Answer | None, T]
Jitter = Callable[[], float]  # a number in [0, 1)
TimeLeft = Callable[[], float]  # seconds until the caller's own time limit


def submit(request: SubmitRequest, limits: RetryLimits, jitter: Jitter) -> Call[Submitted]:
    answer = yield from _answered(_submission("/v1/executions", request), limits, jitter)
    return _read(Submitted.model_validate_json, answer)


def submit_batch(request: BatchRequest, limits: RetryLimits, jitter: Jitter) -> Call[SubmittedBatch]:
    answer = yield from _answered(_submission("/v1/executions:batch", request), limits, jitter)
    return _read(SubmittedBatch.model_validate_json, answer)


def _submission(path: str, request: SubmitRequest | BatchRequest) -> Request:
    """The key is always sent, so that a repeat, ours or the caller's, is the same request."""
    key = request.idempotency_key or secrets.token_urlsafe(18)
    body = request.model_dump(exclude_none=True, exclude={"idempotency_key", "traceparent"})
    headers = {"idempotency-key": key}
    if request.traceparent is not None:
        headers["traceparent"] = request.traceparent
    return Request("POST", path, body=body, headers=headers)


def delegate(
    request: DelegateRequest,
    idempotency_key: str | None,
    time_left: TimeLeft,
    limits: RetryLimits,
    jitter: Jitter,
) -> Call[Delegated | DelegationPending]:
    """One long answer, or the word that it takes longer. A repeat after a lost connection waits for the same task."""
    body = request.model_dump(exclude_none=True)
    key = idempotency_key or secrets.token_urlsafe(18)

    def sent() -> Request:
        wait_s = round(min(time_left(), _LONGEST_WAIT_S))
        headers = {"idempotency-key": key, "prefer": f"wait={wait_s}"}
        return Request("POST", "/delegate_task", body=body, headers=headers, answer_within_s=wait_s)

    answer = yield from _answered_within(time_left, sent, limits, jitter)
    if answer.status == _ACCEPTED:
        return _read(DelegationPending.model_validate_json, answer)
    return _read(Delegated.model_validate_json, answer)


def get(execution_id: str, limits: RetryLimits, jitter: Jitter) -> Call[Execution]:
    answer = yield from _answered(Request("GET", _path(execution_id)), limits, jitter)
    return _read(Execution.model_validate_json, answer)


def find(idempotency_key: str, limits: RetryLimits, jitter: Jitter) -> Call[Execution | None]:
    request = Request("GET", "/v1/executions", params={"idempotency_key": idempotency_key})
    answer = yield from _answered(request, limits, jitter)
    return next(iter(_read(ExecutionList.model_validate_json, answer).data), None)


def cancel(execution_id: str, reason: str | None, limits: RetryLimits, jitter: Jitter) -> Call[Execution]:
    body = {"reason": reason} if reason is not None else {}
    answer = yield from _answered(Request("POST", f"{_path(execution_id)}/cancel", body=body), limits, jitter)
    return _read(Execution.model_validate_json, answer)


def get_batch(batch_id: str, limits: RetryLimits, jitter: Jitter) -> Call[Batch]:
    answer = yield from _answered(Request("GET", _batch_path(batch_id)), limits, jitter)
    return _read(Batch.model_validate_json, answer)


def cancel_batch(batch_id: str, reason: str | None, limits: RetryLimits, jitter: Jitter) -> Call[Batch]:
    body = {"reason": reason} if reason is not None else {}
    answer = yield from _answered(Request("POST", f"{_batch_path(batch_id)}/cancel", body=body), limits, jitter)
    return _read(Batch.model_validate_json, answer)


def told_batch(batch_id: str, within_s: float, limits: RetryLimits, jitter: Jitter) -> Call[Batch]:
    """A batch whose executions have ended, once that is written down: at once, or at the scheduler's next round."""
    waited_s, attempt = 0.0, 1
    while True:
        batch = yield from get_batch(batch_id, limits.within(within_s - waited_s), jitter)
        if batch.final:
            return batch
        wait_s = max(_SHORTEST_LOOK_S, _backoff_s(attempt, limits, jitter()))
        if waited_s + wait_s > within_s:
            raise WaitTimeoutError(f"{batch_id} did not end in time")
        yield Wait(wait_s)
        waited_s, attempt = waited_s + wait_s, attempt + 1


def _answered(request: Request, limits: RetryLimits, jitter: Jitter) -> Call[Response]:
    """A good answer, after as many tries as allowed: every request of this API may be repeated."""
    return (yield from _answered_within(lambda: math.inf, lambda: request, limits, jitter))


def _answered_within(
    time_left: TimeLeft, request: Callable[[], Request], limits: RetryLimits, jitter: Jitter
) -> Call[Response]:
    """The same for a caller with a time limit. request: made anew for each try, it may say how much time is left."""
    attempt, waited_s = 1, 0.0
    while True:
        answer = yield request()
        if isinstance(answer, Response) and answer.status < _FIRST_ERROR_STATUS:
            return answer
        error = _error_of(answer)
        left_s = min(limits.max_total_wait_s - waited_s, time_left())
        wait_s = _wait_before_retry(error, attempt, limits, jitter(), left_s)
        if wait_s is None:
            raise error
        yield Wait(wait_s)
        attempt, waited_s = attempt + 1, waited_s + wait_s


def _wait_before_retry(
    error: ApiError | ConnectionFailedError, attempt: int, limits: RetryLimits, jitter: float, left_s: float
) -> float | None:
    """Seconds, or None when trying again is pointless. The gateway's own Retry-After is never shortened.

    left_s: what may still be waited.
    """
    if attempt >= limits.attempts or (isinstance(error, ApiError) and error.status not in _TRY_AGAIN):
        return None
    asked_s = error.retry_after_s if isinstance(error, ApiError) else None
    wait_s = max(_backoff_s(attempt, limits, jitter), asked_s or 0.0)
    return wait_s if wait_s <= left_s else None


def _backoff_s(attempt: int, limits: RetryLimits, jitter: float) -> float:
    doublings = min(attempt - 1, 30)
    return min(limits.max_wait_s, limits.first_wait_s * 2.0**doublings) * (0.5 + jitter / 2)


def _error_of(answer: Answer | None) -> ApiError | ConnectionFailedError:
    if not isinstance(answer, Response):
        return ConnectionFailedError(answer.reason if answer else "no answer")
    problem = _problem(answer.body)
    code = str(problem.get("code") or f"http_{answer.status}")
    found = problem.get("errors")
    return error_class(answer.status, code)(
        answer.status,
        code,
        str(problem.get("detail") or "the gateway gave no reason"),
        correlation_id=str(problem.get("correlation_id") or answer.headers.get("x-correlation-id", "")),
        errors=[error for error in found if isinstance(error, dict)] if isinstance(found, list) else (),
        retry_after_s=_seconds(answer.headers.get("retry-after")),
    )


def _problem(body: bytes) -> Mapping[str, Any]:
    """Whatever stands between us and the gateway may answer in other forms."""
    try:
        problem = json.loads(body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdigit() else None


def _read(read: Callable[[bytes], T], answer: Response) -> T:
    try:
        return read(answer.body)
    except ValidationError:
        raise UnavailableError(answer.status, "unreadable_answer", "this is not an answer of the gateway") from None


def _batch_path(batch_id: str) -> str:
    if not batch_id.replace("_", "").isalnum():
        raise ValueError("a batch's id has letters, digits and one underscore only")
    return f"/v1/batches/{batch_id}"


def _path(execution_id: str) -> str:
    if not execution_id.replace("_", "").isalnum():
        raise ValueError("an execution's id has letters, digits and one underscore only")
    return f"/v1/executions/{execution_id}"


class EventFeed:
    """Following one execution over any number of connections, each beginning where the one before it broke off."""

    def __init__(self, execution_id: str, *, after: str | None, limits: RetryLimits, jitter: Jitter) -> None:
        self._path = f"{_path(execution_id)}/events"
        self._last_id = after or ""
        self._limits = replace(
            limits,
            attempts=_STREAM_PATIENCE * limits.attempts,
            max_total_wait_s=_STREAM_PATIENCE * limits.max_total_wait_s,
        )
        self._jitter = jitter
        self._decoder = EventDecoder()
        self._refusals = 0  # connections in a row that gave no stream
        self._waited_s = 0.0  # after them
        self._breaks = 0  # streams in a row that broke without having told anything new
        self._is_connected = False
        self.ended = False

    def request(self) -> Request:
        headers = {"accept": "text/event-stream"}
        if self._last_id:
            headers["last-event-id"] = self._last_id
        return Request("GET", self._path, headers=headers)

    def connected(self, status: int) -> None:
        """Whether there is anything to come. Statuses of errors belong to failed()."""
        self._decoder = EventDecoder()
        self._refusals, self._waited_s = 0, 0.0
        self._is_connected = True
        self.ended = status == _NO_CONTENT

    def received(self, chunk: bytes) -> list[ProgressEvent]:
        """The events that the chunk completes; after `done` there are none."""
        if self.ended:
            return []
        before = self._last_id
        events = [self._event(found) for found in self._decoder.feed(chunk)]
        if self._last_id != before:
            self._breaks = 0
        self.ended = any(event.execution is not None for event in events)
        return events

    def failed(self, answer: Answer) -> float:
        """The connection broke or was refused: seconds to wait before the next one.

        Raises when that is pointless. A stream that broke is always resumed, less and less eagerly.
        """
        was_connected, self._is_connected = self._is_connected, False
        if was_connected:
            self._breaks += 1
            return _backoff_s(self._breaks, self._limits, self._jitter())
        error = _error_of(answer)
        self._refusals += 1
        left_s = self._limits.max_total_wait_s - self._waited_s
        wait_s = _wait_before_retry(error, self._refusals, self._limits, self._jitter(), left_s)
        if wait_s is None:
            raise error
        self._waited_s += wait_s
        return wait_s

    def _event(self, found: ServerSentEvent) -> ProgressEvent:
        self._last_id = found.id or self._last_id
        try:
            data = json.loads(found.data)
        except ValueError:
            data = {}
        data = data if isinstance(data, dict) else {}
        if found.event != "done":
            return ProgressEvent(found.event, data, found.id)
        return ProgressEvent("done", data, found.id, Execution.model_validate(data))
