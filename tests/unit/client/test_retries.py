"""How long a call waits before it tries again. Pure: what would be waited is read, not waited."""

from collections.abc import Sequence

import pytest

from nubabel_workers.client.errors import ApiError, TooManyRequestsError, UnavailableError
from nubabel_workers.client.protocol import (
    Answer,
    Call,
    EventFeed,
    Request,
    Response,
    RetryLimits,
    Wait,
    delegate,
    get,
    submit,
)
from nubabel_workers.domain.delegation import DelegateRequest
from nubabel_workers.domain.submission import SubmitRequest

FOUND = Response(
    200, {}, b'{"id":"exe_1","session_id":"ses_1","status":"queued","final":false,"created_at":"2026-11-21T12:00:00Z"}'
)
SUBMITTED = Response(
    202, {}, b'{"id":"exe_1","session_id":"ses_1","status":"queued","idempotency_key":"k","repeated":false}'
)
DELEGATED = Response(200, {}, b'{"session_id":"ses_1","execution_id":"exe_1","status":"completed","result":"Two."}')
LIMITS = RetryLimits()


def refused(retry_after_s: int, status: int = 429) -> Response:
    return Response(status, {"retry-after": str(retry_after_s)}, b'{"code":"requests_per_minute_reached"}')


class Clock:
    """A caller's time limit; waits pass it."""

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s

    def left(self) -> float:
        return max(0.0, self.left_s)


def played(
    call: Call[object], answers: Sequence[Answer], clock: Clock | None = None
) -> tuple[list[float], list[Request]]:
    """The waits and requests of a call that gets these answers. Raises what the call raises."""
    waits: list[float] = []
    requests: list[Request] = []
    coming = iter(answers)
    step = next(call)
    while True:
        if isinstance(step, Wait):
            waits.append(step.seconds)
            if clock is not None:
                clock.left_s -= step.seconds
            answer = None
        else:
            requests.append(step)
            answer = next(coming)
        try:
            step = call.send(answer)
        except StopIteration:
            return waits, requests


def jitter() -> float:
    return 0.5


@pytest.mark.parametrize("retry_after_s", [1, 10, 60])
def test_a_request_at_a_limit_waits_as_long_as_the_gateway_says_and_is_sent_again(retry_after_s: int) -> None:
    waits, requests = played(submit(SubmitRequest(prompt="x"), LIMITS, jitter), [refused(retry_after_s), SUBMITTED])

    assert waits == [retry_after_s]
    assert requests[0].headers["idempotency-key"] == requests[1].headers["idempotency-key"]


def test_all_waits_of_a_call_together_are_bounded() -> None:
    with pytest.raises(TooManyRequestsError) as raised:
        played(get("exe_1", LIMITS, jitter), [refused(50), refused(50), refused(50), FOUND])

    assert raised.value.retry_after_s == 50


def test_a_wait_that_is_too_long_is_told_at_once() -> None:
    with pytest.raises(UnavailableError):
        played(get("exe_1", LIMITS, jitter), [refused(3600, status=503)])


def test_a_caller_may_wait_shorter_or_not_at_all() -> None:
    with pytest.raises(ApiError):
        played(get("exe_1", RetryLimits(max_total_wait_s=5), jitter), [refused(10)])
    with pytest.raises(ApiError):
        played(get("exe_1", RetryLimits(attempts=1), jitter), [refused(1)])


def test_a_task_that_is_tried_again_asks_to_wait_for_what_is_left_of_its_time() -> None:
    clock = Clock(left_s=50)

    waits, requests = played(
        delegate(DelegateRequest(prompt="x"), None, clock.left, LIMITS, jitter), [refused(30), DELEGATED], clock
    )

    assert waits == [30]
    assert [request.headers["prefer"] for request in requests] == ["wait=50", "wait=20"]


def test_a_task_never_waits_beyond_its_time_limit() -> None:
    clock = Clock(left_s=50)

    with pytest.raises(TooManyRequestsError):
        played(
            delegate(DelegateRequest(prompt="x"), None, clock.left, LIMITS, jitter), [refused(30), refused(30)], clock
        )


def test_a_stream_that_is_refused_comes_back_when_the_gateway_says() -> None:
    feed = EventFeed("exe_1", after=None, limits=RetryLimits(max_total_wait_s=30), jitter=jitter)

    waits = [feed.failed(refused(45)) for _ in range(2)]

    assert waits == [45, 45]
    with pytest.raises(TooManyRequestsError):
        feed.failed(refused(45))
