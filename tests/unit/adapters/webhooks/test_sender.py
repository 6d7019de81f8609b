"""Webhooks as the Standard Webhooks specification wants them, and what each answer means."""

import base64
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr
from standardwebhooks import Webhook

from nubabel_workers.adapters.egress.guard import EgressGuard, EgressPolicy
from nubabel_workers.adapters.webhooks.sender import StandardWebhookSender
from nubabel_workers.domain.errors import (
    CredentialsError,
    InvalidInputError,
    NubabelError,
    PermanentError,
    RateLimitedError,
    UnavailableError,
)
from nubabel_workers.domain.trace import following
from tests.unit.adapters.conftest import Receiver

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NOW = datetime.now(UTC).replace(microsecond=0)
PAYLOAD: dict[str, Any] = {"type": "execution.completed", "data": {"output": "완료 ✓"}}


async def send(receiver: Receiver, now: datetime = NOW, *secrets: str | SecretStr) -> None:
    guard = EgressGuard(EgressPolicy.parse(["127.0.0.1"]), timeout_s=5)
    sender = StandardWebhookSender(guard, now=lambda: now, timeout_s=5)
    try:
        url = f"http://127.0.0.1:{receiver.port}/hooks?tenant=1"
        await sender.send(url=url, secrets=secrets or [SECRET], message_id="ntf_1", payload=PAYLOAD)
    finally:
        await guard.close()


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=9))], ids=["utc", "seoul"])
async def test_receiver_can_verify_what_it_gets(receiver: Receiver, zone: Any) -> None:
    await send(receiver, now=NOW.astimezone(zone))

    _, headers, body = receiver.requests[0]
    assert Webhook(SECRET).verify(body, headers) == PAYLOAD
    assert headers["webhook-id"] == "ntf_1"
    assert headers["webhook-timestamp"] == str(int(NOW.timestamp()))
    assert headers["content-type"] == "application/json"


async def test_during_an_overlap_a_receiver_may_have_either_secret(receiver: Receiver) -> None:
    older = "whsec_" + base64.b64encode(b"o" * 32).decode()

    await send(receiver, NOW, SECRET, SecretStr(older))

    _, headers, body = receiver.requests[0]
    assert Webhook(SECRET).verify(body, headers) == PAYLOAD
    assert Webhook(older).verify(body, headers) == PAYLOAD
    assert [signature[:3] for signature in headers["webhook-signature"].split(" ")] == ["v1,", "v1,"]


async def test_a_webhook_carries_the_trace_of_its_request(receiver: Receiver) -> None:
    with following(TRACEPARENT):
        await send(receiver)

    assert receiver.requests[0][1]["traceparent"] == TRACEPARENT


def answering(status: int, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(status=status, headers=headers)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_any_success_is_a_success(receiver: Receiver, status: int) -> None:
    receiver.answer = lambda _request: answering(status)

    await send(receiver)


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (410, PermanentError, "webhook_gone"),
        (302, PermanentError, "webhook_redirected"),
        (307, PermanentError, "webhook_redirected"),
        (400, PermanentError, "http_400"),
        (401, PermanentError, "http_401"),
        (404, PermanentError, "http_404"),
        (408, UnavailableError, None),
        (425, UnavailableError, None),
        (429, RateLimitedError, None),
        (500, UnavailableError, None),
        (503, UnavailableError, None),
    ],
)
async def test_answer_decides_whether_to_send_again(
    receiver: Receiver, status: int, error: type[NubabelError], code: str | None
) -> None:
    receiver.answer = lambda _request: answering(status, {"Location": "/x"} if status < 400 else None)

    with pytest.raises(error) as raised:
        await send(receiver)

    assert type(raised.value) is error
    assert getattr(raised.value, "code", None) == code
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        pytest.param((NOW + timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT"), 90.0, id="a later date"),
        pytest.param((NOW - timedelta(seconds=90)).strftime("%a, %d %b %Y %H:%M:%S GMT"), 0.0, id="an earlier date"),
        ("999999999", 86_400.0),
        ("soon", None),
        ("-5", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_receivers_own_wait_is_respected(
    receiver: Receiver, status: int, value: str, seconds: float | None
) -> None:
    receiver.answer = lambda _request: answering(status, {"Retry-After": value})

    with pytest.raises((RateLimitedError, UnavailableError)) as raised:
        await send(receiver)

    assert raised.value.retry_after_s == seconds


async def test_lost_answer_is_transient_because_the_id_makes_repeats_harmless(receiver: Receiver) -> None:
    def cut(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    receiver.answer = cut

    with pytest.raises(UnavailableError):
        await send(receiver)

    assert len(receiver.requests) == 1


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!", SecretStr("whsec_가")])
async def test_secret_that_cannot_sign_is_told_without_showing_it(receiver: Receiver, secret: str | SecretStr) -> None:
    with pytest.raises(CredentialsError) as raised:
        await send(receiver, NOW, secret)

    assert raised.value.code == "webhook_secret_invalid"
    assert receiver.requests == []


async def test_private_address_is_refused_without_the_operators_exception() -> None:
    sender = StandardWebhookSender(EgressGuard(EgressPolicy()), now=lambda: NOW)

    with pytest.raises(InvalidInputError):
        await sender.send(url="https://127.0.0.1/hooks", secrets=[SECRET], message_id="ntf_1", payload=PAYLOAD)
