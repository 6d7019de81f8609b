"""Tell a provider that the tokens of a removed connection are not to be taken any more (RFC 7009).

At best: whether a provider has a place for that, and answers, decides nothing here.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog
from pydantic import SecretStr

from nubabel_workers.domain.errors import NubabelError
from nubabel_workers.domain.oauth import Grant, TokenKind
from nubabel_workers.domain.ports.tools import AuthorizationServers, CredentialStore

# Without its refresh token a grant has ended, and most servers end its access tokens with it (RFC 7009, section 2.1).
_IN_ORDER: Final = ((TokenKind.REFRESH, "refresh"), (TokenKind.ACCESS, "access"))

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Revocable:
    """What is to be told to the provider once its connection is gone."""

    connection_id: str
    grant: Grant
    tokens: tuple[tuple[TokenKind, SecretStr], ...]


class RevokeAccess:
    def __init__(self, credentials: CredentialStore, servers: AuthorizationServers, *, within_s: float) -> None:
        """within_s: for all that is told."""
        self._credentials = credentials
        self._servers = servers
        self._within_s = within_s

    async def of(self, organization_id: str, connection_id: str) -> Revocable | None:
        """To be asked before the removal. None: nothing can be told."""
        try:
            stored = await self._credentials.read(organization_id, connection_id)
        except NubabelError as error:  # it cannot be decrypted: removed it is all the same
            log.warning(
                "connection.not_revoked",
                organization_id=organization_id,
                connection_id=connection_id,
                error=str(error),
            )
            return None
        if stored is None or stored.grant is None or stored.grant.revocation_endpoint is None:
            return None
        tokens = tuple((kind, stored.secrets[name]) for kind, name in _IN_ORDER if name in stored.secrets)
        return Revocable(connection_id, stored.grant, tokens) if tokens else None

    async def run(self, revocable: Revocable) -> bool:
        """Whether the provider took the first of them, on which the others depend."""
        done = []
        try:
            async with asyncio.timeout(self._within_s):
                for kind, token in revocable.tokens:
                    done.append(await self._told(revocable, kind, token))
        except TimeoutError:
            log.warning("connection.not_revoked", connection_id=revocable.connection_id, error="no answer in time")
        return done[:1] == [True]

    async def _told(self, revocable: Revocable, kind: TokenKind, token: SecretStr) -> bool:
        try:
            await self._servers.revoke(revocable.grant, token, kind)
        except NubabelError as error:
            log.warning("connection.not_revoked", connection_id=revocable.connection_id, kind=kind, error=str(error))
            return False
        return True
