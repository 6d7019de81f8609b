"""Which OpenCode server's plugin is calling: a signature over the raw request, see `domain.callback_signature`."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request, Response
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader

from nubabel_workers.domain.callback_signature import SIGNATURE_HEADER, SignedCall
from nubabel_workers.domain.errors import CredentialsError
from nubabel_workers.gateway.dependencies import parts_of
from nubabel_workers.gateway.problems import ProblemError

_signature = APIKeyHeader(
    name=SIGNATURE_HEADER,
    scheme_name="CallbackSignature",
    description="`v1=` and the hex HMAC-SHA256, with the server's callback key, over "
    "`v1:{x-nubabel-timestamp}:{x-nubabel-nonce}:{METHOD}:{path}:` and the raw body; beside it `x-nubabel-instance`, "
    "`x-nubabel-timestamp` (Unix seconds) and `x-nubabel-nonce` (16 to 64 of `A-Za-z0-9_-`, used once).",
    auto_error=False,
)


def signed_route(*, max_bytes: int) -> type[APIRoute]:
    """Routes whose calls are signed: a 401 or 413 problem comes before anything in the request is read.

    No dependency, since FastAPI decodes the body before it asks any of them. max_bytes: of the body.
    """

    class SignedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def signed(request: Request) -> Response:
                request.state.calling_instance_id = await _authenticated(request, max_bytes)
                return await handle(request)

            return signed

    return SignedRoute


async def calling_instance(request: Request, _signature: Annotated[str | None, Depends(_signature)]) -> str:
    instance_id = request.state.calling_instance_id
    assert isinstance(instance_id, str)  # noqa: S101 - put there by the route
    return instance_id


CallingInstance = Annotated[str, Depends(calling_instance)]  # the OpenCode server whose plugin signed the call


async def _authenticated(request: Request, max_bytes: int) -> str:
    parts = await parts_of(request)
    body = await request.body()
    if len(body) > max_bytes:
        detail = f"the body is larger than {max_bytes} bytes"
        raise ProblemError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large", detail)
    call = SignedCall(request.method, _target(request), body)
    try:
        instance_id = await parts.callbacks.authenticate.run(request.headers, call)
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
