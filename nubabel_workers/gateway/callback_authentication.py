"""Which OpenCode server's plugin is calling: a signature over the raw request, see `domain.callback_signature`."""

from http import HTTPStatus
from typing import Annotated

import structlog
from fastapi import Depends, Request
from fastapi.security import APIKeyHeader

from nubabel_workers.domain.callback_signature import SIGNATURE_HEADER, SignedCall
from nubabel_workers.domain.errors import CredentialsError
from nubabel_workers.gateway.dependencies import Parts
from nubabel_workers.gateway.problems import ProblemError

_signature = APIKeyHeader(
    name=SIGNATURE_HEADER,
    scheme_name="CallbackSignature",
    description="`v1=` and the hex HMAC-SHA256, with the server's callback key, over "
    "`v1:{x-nubabel-timestamp}:{x-nubabel-nonce}:{METHOD}:{path}:` and the raw body; beside it `x-nubabel-instance`, "
    "`x-nubabel-timestamp` (Unix seconds) and `x-nubabel-nonce` (16 to 64 of `A-Za-z0-9_-`, used once).",
    auto_error=False,
)


class SignedCallback:
    """A dependency: the id of the calling server, or a 401 or 413 problem. max_bytes: of the body."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    async def __call__(
        self, request: Request, parts: Parts, _signature: Annotated[str | None, Depends(_signature)]
    ) -> str:
        body = await request.body()
        if len(body) > self._max_bytes:
            detail = f"the body is larger than {self._max_bytes} bytes"
            raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", detail)
        try:
            instance_id = await parts.callbacks.authenticate.run(
                request.headers, SignedCall(request.method, _target(request), body)
            )
        except CredentialsError as error:
            raise ProblemError(HTTPStatus.UNAUTHORIZED, error.code, str(error), headers=_CHALLENGE) from None
        structlog.contextvars.bind_contextvars(instance_id=instance_id)
        return instance_id


_CHALLENGE = {"www-authenticate": "NubabelSignature"}


def _target(request: Request) -> bytes:
    """Path and query as sent. raw_path: ASGI leaves it out where a server does not know it; ours does."""
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query: bytes = request.scope["query_string"]
    return path.partition(b"?")[0] + (b"?" + query if query else b"")
