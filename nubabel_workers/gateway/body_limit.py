"""Refuse too large or too slow request bodies before anything parses them."""

import asyncio
from http import HTTPStatus

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nubabel_workers.gateway.problems import ProblemError, problem_response

_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})
# The rest of a body that nobody will read must not be taken for the connection's next request.
_CLOSE = {"connection": "close"}


class BodyLimit:
    """ASGI middleware: reads the body whole, at most max_bytes within timeout_s, then lets the application have it."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _BODILESS:
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                messages = await self._read(scope, receive)
        except TimeoutError:
            refusal = ProblemError(
                HTTPStatus.REQUEST_TIMEOUT, "body_too_slow", "the body did not arrive in time", headers=_CLOSE
            )
            await problem_response(scope, refusal)(scope, receive, send)
        except ProblemError as refusal:
            await problem_response(scope, refusal)(scope, receive, send)
        else:
            await self._app(scope, _replay(messages, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> list[Message]:
        if _declared_length(scope) > self._max_bytes:
            raise self._too_large()
        messages: list[Message] = []
        total = 0
        while True:
            message = await receive()
            messages.append(message)
            total += len(message.get("body", b""))
            if total > self._max_bytes:
                raise self._too_large()
            if message["type"] != "http.request" or not message.get("more_body", False):
                return messages

    def _too_large(self) -> ProblemError:
        detail = f"the body is larger than {self._max_bytes} bytes"
        return ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", detail, headers=_CLOSE)


def _declared_length(scope: Scope) -> int:
    """Bytes that the request announces; 0 when it doesn't say (or says nonsense, which the server refuses itself)."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _replay(messages: list[Message], receive: Receive) -> Receive:
    pending = iter(messages)

    async def replay() -> Message:
        message = next(pending, None)
        return message if message is not None else await receive()

    return replay
