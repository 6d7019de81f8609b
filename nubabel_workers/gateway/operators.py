"""Which operator is calling: bearer tokens of the settings, apart from organizations' service tokens."""

from http import HTTPStatus
from typing import Annotated

import structlog
from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from nubabel_workers.gateway.dependencies import Parts
from nubabel_workers.gateway.problems import ProblemError

log = structlog.get_logger(__name__)

_bearer = HTTPBearer(
    scheme_name="OperatorToken",
    bearerFormat="nbo_...",
    description="A token of the operators: `nubabel keys operator-token`. It sees all organizations.",
    auto_error=False,
)


async def operator(parts: Parts, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    """Who acts, as the audit log says it; or a 401 problem. From here on the request's log lines bear the name."""
    if credentials is None:
        raise _unauthorized("send an operator's token: Authorization: Bearer nbo_...", challenge="Bearer")
    names = [token.name for token in parts.operator_tokens if token.is_of(credentials.credentials)]
    if not names:
        log.warning("authentication.operator_refused")
        raise _unauthorized("the operator's token (nbo_...) is unknown", challenge='Bearer error="invalid_token"')
    actor = f"operator:{names[0]}"
    structlog.contextvars.bind_contextvars(actor=actor)
    return actor


Operator = Annotated[str, Depends(operator)]


def _unauthorized(detail: str, *, challenge: str) -> ProblemError:
    return ProblemError(HTTPStatus.UNAUTHORIZED, "unauthorized", detail, headers={"www-authenticate": challenge})
