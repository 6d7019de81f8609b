"""Refuse a request that sends a header twice where only one value can be meant.

Whoever read the first and whoever read the last (a proxy, a log, we) would see two different requests
(RFC 9110, 5.3: only fields that are lists may be sent in several lines).
"""

from collections import Counter
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from nubabel_workers.domain.callback_signature import (
    INSTANCE_HEADER,
    NONCE_HEADER,
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
)
from nubabel_workers.domain.identity import ORGANIZATION_HEADER, USER_HEADER
from nubabel_workers.gateway.problems import ProblemError, problem_response

_SINGLE = {
    name.lower().encode(): name
    for name in (
        *("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", ORGANIZATION_HEADER, USER_HEADER),
        *(INSTANCE_HEADER, NONCE_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER),
    )
}
# The body that nobody will read must not be taken for the connection's next request.
_CLOSE = {"connection": "close"}


class SingleHeaders:
    """ASGI middleware: a 400 problem names the first such header; nothing was read or done by then."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (repeated := _repeated(scope)) is not None:
            refusal = ProblemError(
                HTTPStatus.BAD_REQUEST,
                "repeated_header",
                f"the header {repeated} was sent more than once: send it once, with one value",
                headers=_CLOSE,
            )
            await problem_response(scope, refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _repeated(scope: Scope) -> str | None:
    sent = Counter(name for name, _ in scope["headers"] if name in _SINGLE)
    return next((_SINGLE[name] for name, times in sent.items() if times > 1), None)
