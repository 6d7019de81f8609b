"""Receivers of webhooks that answer anything at all: the delivery is confirmed, or fails with an error of ours."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nubabel_workers.adapters.egress.guard import EgressGuard, EgressPolicy
from nubabel_workers.adapters.webhooks.sender import StandardWebhookSender
from nubabel_workers.domain.errors import NubabelError, TransientError
from tasks.runtime import LoopThread
from tests.faults.raw_input.amount import cases
from tests.faults.raw_input.raw_server import RawServer, answers, raw_server

_SECRET = "whsec_" + "A" * 43 + "="
_MAX_WAIT_S = 24 * 3600


@pytest.fixture(scope="module")
def server(loop: LoopThread) -> Iterator[RawServer]:
    with raw_server(loop) as running:
        yield running


@given(answer=answers(st.just(b"ok"), b"text/plain"))
@cases(200)
def test_any_answer_is_a_confirmation_or_an_error_of_ours(loop: LoopThread, server: RawServer, answer: bytes) -> None:
    server.answer = answer

    wait_s, confirmed = 0.0, False
    try:
        loop.run(_send(server), timeout_s=10)
        confirmed = True
    except TransientError as error:
        wait_s = error.retry_after_s or 0.0
    except NubabelError:
        pass

    assert 0 <= wait_s <= _MAX_WAIT_S
    assert not confirmed or answer.split(b" ")[1][:1] == b"2"


async def _send(server: RawServer) -> None:
    guard = EgressGuard(EgressPolicy.parse([server.url.removeprefix("http://")]))
    sender = StandardWebhookSender(guard, now=lambda: datetime.now(UTC), timeout_s=3)
    try:
        await sender.send(
            url=f"{server.url}/hook", secrets=[_SECRET], message_id="ntf_1", payload={"status": "completed"}
        )
    finally:
        await guard.close()


@given(url=st.text(st.characters(codec=None), max_size=60) | st.from_regex(r"https?://[^ ]{1,30}", fullmatch=True))
@cases(200)
def test_any_url_is_sent_to_or_refused_with_an_error_of_ours(url: str) -> None:
    try:
        EgressGuard(EgressPolicy()).check_url(url)
    except NubabelError:
        return
