"""X-Organization-ID, X-User-ID and what the body says of the same must agree with the token; refusals are audited."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

import structlog
from fastapi import Depends, Header

from nubabel_workers.domain.administration import AuditAction, AuditEntry
from nubabel_workers.domain.identity import ORGANIZATION_HEADER, USER_HEADER, Claims
from nubabel_workers.gateway.authentication import Authenticated, Caller
from nubabel_workers.gateway.dependencies import GatewayParts, Parts
from nubabel_workers.gateway.problems import ProblemError

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Identity:
    """A caller, and what its headers say about whom it acts for."""

    caller: Caller
    parts: GatewayParts
    organization: str | None
    user: str | None

    async def confirm(self, said: Mapping[str, Mapping[str, Any] | None]) -> str | None:
        """The user that everything agrees on, if one is named. Raises a 403 problem, which is in the audit log then.

        said: place -> the part of the body that may name organization and user.
        """
        claims = Claims.of(organization=self.organization, user=self.user, parts=said)
        mismatch = claims.mismatch(self.caller.organization.id)
        if mismatch is None:
            return claims.user_id
        log.warning("authentication.identity_refused", what=mismatch.what, place=mismatch.place)
        await self.parts.foreign_ids.write(
            AuditEntry(
                self.caller.actor,
                AuditAction.IDENTITY_REFUSED,
                self.caller.organization.id,
                detail={"what": mismatch.what, "place": mismatch.place},
            )
        )
        raise ProblemError(
            HTTPStatus.FORBIDDEN,
            f"{mismatch.what}_mismatch",
            f"{mismatch.place} names another {mismatch.what} than "
            + ("the token belongs to" if mismatch.what == "organization" else "the request does elsewhere"),
        )


async def identity(
    caller: Authenticated,
    parts: Parts,
    organization: Annotated[
        str | None,
        Header(alias=ORGANIZATION_HEADER, max_length=200, description="Must be the token's organization, if sent."),
    ] = None,
    user: Annotated[
        str | None,
        Header(
            alias=USER_HEADER, max_length=200, description="Whom you ask for; must be the body's, if both are sent."
        ),
    ] = None,
) -> Identity:
    return Identity(caller, parts, organization, user)


Identified = Annotated[Identity, Depends(identity)]
