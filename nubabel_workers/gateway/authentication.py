"""Who is calling: service tokens (RFC 6750 bearer tokens), each bound to one organization."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

import structlog
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from nubabel_workers.domain.credentials import hash_token, looks_like_service_token
from nubabel_workers.domain.ports import Clock, TenantStore
from nubabel_workers.domain.tenants import Organization, ServiceToken
from nubabel_workers.gateway.dependencies import Parts
from nubabel_workers.gateway.problems import ProblemError

log = structlog.get_logger(__name__)

_bearer = HTTPBearer(
    scheme_name="ServiceToken",
    bearerFormat="nbt_...",
    description="A service token of an organization: `nubabel tokens create`.",
    auto_error=False,
)


@dataclass(frozen=True)
class Caller:
    """token_id: None for one that came in by the private address, which stands for an organization by itself."""

    organization: Organization
    token_id: str | None

    @property
    def actor(self) -> str:
        """As the audit log says it."""
        return f"token:{self.token_id}" if self.token_id is not None else "sidecar_listen"


async def authenticated(
    request: Request,
    parts: Parts,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    """The caller, or a 401 or 403 problem. From here on the request's log lines bear the organization."""
    private: str | None = request.app.state.private_organization
    if credentials is None and private is not None:
        caller = Caller(await _enabled(private, parts.tenants), None)
    elif credentials is None:
        raise _unauthorized("send a service token: Authorization: Bearer nbt_...", challenge="Bearer")
    else:
        token = await find_token(credentials.credentials, parts.tenants, parts.clock)
        if token is None:
            kind = "" if looks_like_service_token(credentials.credentials) else ": a service token looks like nbt_..."
            raise _unauthorized(
                f"the token is unknown, expired or revoked{kind}", challenge='Bearer error="invalid_token"'
            )
        caller = Caller(await _enabled(token.organization_id, parts.tenants), token.id)
    structlog.contextvars.bind_contextvars(organization_id=caller.organization.id)
    request.state.organization_id = caller.organization.id
    request.state.caller = caller
    return caller


Authenticated = Annotated[Caller, Depends(authenticated)]


async def find_token(text: str, tenants: TenantStore, clock: Clock) -> ServiceToken | None:
    """Looked up by hash, so that how long a refusal takes says nothing about any stored token."""
    if not looks_like_service_token(text):
        return None
    token = await tenants.token(hash_token(text))
    if token is None:
        return None
    if token.revoked_at is not None or (token.expires_at is not None and token.expires_at <= clock.now()):
        log.info("authentication.token_ended", token_id=token.id)
        return None
    return token


async def _enabled(organization_id: str, tenants: TenantStore) -> Organization:
    organization = await tenants.organization(organization_id)
    if organization is None or organization.disabled_at is not None:
        raise _forbidden("organization_disabled", "this organization is disabled")
    return organization


def _unauthorized(detail: str, *, challenge: str) -> ProblemError:
    return ProblemError(HTTPStatus.UNAUTHORIZED, "unauthorized", detail, headers={"www-authenticate": challenge})


def _forbidden(code: str, detail: str) -> ProblemError:
    return ProblemError(HTTPStatus.FORBIDDEN, code, detail)
