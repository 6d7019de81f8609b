"""Outcomes to upstream services, after the Standard Webhooks specification.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson
from pydantic import SecretStr
from standardwebhooks import Webhook

from nubabel_workers.adapters.egress.guard import EgressGuard, EgressResponse
from nubabel_workers.adapters.retry_after import read_retry_after
from nubabel_workers.domain.errors import (
    CredentialsError,
    PermanentError,
    RateLimitedError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.trace import outgoing_headers

GONE: Final = "webhook_gone"

_TRANSIENT_STATUSES: Final = frozenset({408, 425})


class StandardWebhookSender:
    """Implements `domain.ports.WebhookSender`."""

    def __init__(self, guard: EgressGuard, *, now: Callable[[], datetime], timeout_s: float = 10.0) -> None:
        """now: this process's clock, UTC-aware."""
        self._guard = guard
        self._now = now
        self._timeout_s = timeout_s

    async def send(
        self, *, url: str, secrets: Sequence[str | SecretStr], message_id: str, payload: Mapping[str, Any]
    ) -> None:
        """Deliver one message; returning means that the receiver confirmed it.

        message_id is the same in every try: receivers recognise repeats by it, so a lost answer is merely transient.
        secrets: a receiver accepts what one of its signatures fits, so that a secret can be replaced without a gap.
        None of them: not signed, for callers that never had one.
        Raises PermanentError (`webhook_gone` for HTTP 410: stop sending there), RateLimitedError, UnavailableError,
        CredentialsError for a secret that can't sign, InvalidInputError for the URL.
        """
        now = self._now().astimezone(UTC)
        body = orjson.dumps(payload)
        signatures = [_signature(secret, message_id, now, body) for secret in secrets]
        headers = _headers(message_id, now) | ({"webhook-signature": " ".join(signatures)} if signatures else {})
        try:
            response = await self._guard.request(
                "POST", url, headers=headers, body=body, max_response_bytes=0, timeout_s=self._timeout_s
            )
        except UncertainError as error:
            raise UnavailableError(str(error)) from error
        _require_success(response, now)


def _headers(message_id: str, now: datetime) -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        **outgoing_headers(),
    }


def _signature(secret: str | SecretStr, message_id: str, now: datetime, body: bytes) -> str:
    plain = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    try:
        return Webhook(plain).sign(msg_id=message_id, timestamp=now, data=body.decode())
    except Exception as error:  # noqa: BLE001 - the library raises several unrelated types for an unusable secret
        raise CredentialsError(
            f"the webhook secret is unusable ({type(error).__name__})", code="webhook_secret_invalid"
        ) from None


def _require_success(response: EgressResponse, now: datetime) -> None:
    status = response.status
    match status:
        case _ if 200 <= status < 300:  # noqa: PLR2004 - HTTP's own ranges
            return
        case 410:
            raise PermanentError("the webhook's receiver is gone for good (HTTP 410)", code=GONE)
        case 429:
            raise RateLimitedError("the webhook's receiver limits us", retry_after_s=_retry_after_s(response, now))
        case _ if status >= 500 or status in _TRANSIENT_STATUSES:  # noqa: PLR2004 - HTTP's own ranges
            retry_after_s = _retry_after_s(response, now)
            raise UnavailableError(f"the webhook's receiver answered HTTP {status}", retry_after_s=retry_after_s)
        case _ if 300 <= status < 400:  # noqa: PLR2004 - HTTP's own ranges
            raise PermanentError("the webhook's receiver redirects, which is not followed", code="webhook_redirected")
        case _:
            raise PermanentError(f"the webhook's receiver refused with HTTP {status}", code=f"http_{status}")


def _retry_after_s(response: EgressResponse, now: datetime) -> float | None:
    value = next((value for name, value in response.headers.items() if name.lower() == "retry-after"), "")
    return read_retry_after(value, now)
