"""When a stream is resumed, how eagerly, and when it is given up."""

import pytest

from nubabel_workers.client.errors import ConnectionFailedError, ForbiddenError
from nubabel_workers.client.protocol import EventFeed, NoAnswer, Response, RetryLimits

LIMITS = RetryLimits(attempts=2, first_wait_s=1, max_wait_s=8)
BROKEN = NoAnswer("broken")


def feed() -> EventFeed:
    return EventFeed("exe_1", after=None, limits=LIMITS, jitter=lambda: 1.0)


def test_a_gateway_that_does_not_answer_is_given_up_after_some_patience() -> None:
    following = feed()

    waits = [following.failed(BROKEN) for _ in range(5)]

    assert waits == [1, 2, 4, 8, 8]
    with pytest.raises(ConnectionFailedError):
        following.failed(BROKEN)


def test_a_stream_that_breaks_again_and_again_is_resumed_ever_slower_but_never_given_up() -> None:
    following = feed()
    waits = []
    for _ in range(20):
        following.connected(200)
        following.received(b"event: state\ndata: {}\n\n")
        waits.append(following.failed(BROKEN))

    assert waits[:5] == [1, 2, 4, 8, 8]
    assert waits[-1] == 8


def test_news_make_the_next_resumption_eager_again() -> None:
    following = feed()
    for _ in range(3):
        following.connected(200)
        following.failed(BROKEN)

    following.connected(200)
    following.received(b"id: 1-0\nevent: tool\ndata: {}\n\n")

    assert following.failed(BROKEN) == 1
    assert following.request().headers["last-event-id"] == "1-0"


def test_a_refusal_for_good_is_raised_at_once() -> None:
    with pytest.raises(ForbiddenError):
        feed().failed(Response(403, {}, b"{}"))
