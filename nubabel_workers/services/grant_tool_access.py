"""Give tool calls the credentials of an organization's connection, renewed in time by one process at a time.

Authorization servers that replace the refresh token at each use take a second use of the old one for theft, and may
end the whole grant (RFC 9700, section 4.14.2). Hence a lease in PostgreSQL around each renewal, and a number on the
tokens that each change compares.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog

from nubabel_workers.domain.errors import (
    CredentialsError,
    NotFoundError,
    PermanentError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.ports import Chance, Clock
from nubabel_workers.domain.ports.tools import (
    AuthorizationServers,
    ConnectionStore,
    CredentialStore,
    RefreshLease,
    StoredCredentials,
)
from nubabel_workers.domain.tool_connections import Authentication
from nubabel_workers.domain.tools import ConnectionStatus, ToolConnection, ToolCredentials

ACTOR: Final = "tool-access"

_REFUSED: Final = "the provider refused to renew its access"
_PERHAPS_USED_UP: Final = f"{_REFUSED}; an earlier renewal broke off and may have used up what it is renewed with"
_ENDED: Final = "its access ended, and the provider gave nothing to renew it with"
_NOT_ACCEPTED: Final = "the provider does not accept its credentials"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RefreshLimits:
    """Seconds. call_s: what one call to an authorization server may take; the lease outlasts it."""

    early_s: float = 60.0  # so long before their end tokens are renewed
    call_s: float = 10.0
    lease_s: float = 20.0
    wait_s: float = 15.0  # for another process that renews
    look_every_s: float = 0.1
    close_s: float = 10.0  # for those under way, when this process ends


class GrantToolAccess:
    """Implements `domain.ports.tools.ToolConnections`."""

    def __init__(
        self,
        connections: ConnectionStore,
        credentials: CredentialStore,
        servers: AuthorizationServers,
        clock: Clock,
        chance: Chance,
        *,
        limits: RefreshLimits,
    ) -> None:
        self._connections = connections
        self._credentials = credentials
        self._servers = servers
        self._clock = clock
        self._chance = chance
        self._limits = limits
        self._renewals: dict[tuple[str, int], asyncio.Task[ToolCredentials]] = {}

    async def close(self) -> None:
        """Renewals under way are brought to their end, as far as it comes soon: what a server gave must be stored.

        A renewal that did not end is in doubt for the next one, as after any death.
        """
        if self._renewals:
            await asyncio.wait(self._renewals.values(), timeout=self._limits.close_s)

    async def serving(self, organization_id: str) -> Sequence[ToolConnection]:
        return [details.connection for details in await self._connections.list(organization_id)]

    async def access(
        self,
        organization_id: str,
        connection_id: str,
        *,
        refused_revision: int | None = None,
        execution_id: str | None = None,
    ) -> ToolCredentials:
        stored = await self._stored(organization_id, connection_id)
        if not self._is_due(stored, refused_revision):
            return _shown(stored)
        key = (connection_id, stored.revision)
        renewal = self._renewals.get(key)
        if renewal is None:
            renewal = self._start(key, self._renewed(organization_id, connection_id, refused_revision, execution_id))
        return await asyncio.shield(renewal)  # a caller that gives up must not break off what others wait for

    async def mark_refused(
        self, organization_id: str, connection_id: str, *, revision: int, reason: str, execution_id: str | None = None
    ) -> bool:
        marked = await self._credentials.refuse(
            organization_id, connection_id, revision=revision, reason=reason, execution_id=execution_id, actor=ACTOR
        )
        if marked:
            log.warning(
                "connection.refused", organization_id=organization_id, connection_id=connection_id, reason=reason
            )
        return marked

    def _start(
        self, key: tuple[str, int], renewed: Coroutine[Any, Any, ToolCredentials]
    ) -> asyncio.Task[ToolCredentials]:
        renewal = asyncio.create_task(renewed)
        self._renewals[key] = renewal

        def ended(task: asyncio.Task[ToolCredentials]) -> None:
            self._renewals.pop(key, None)
            if not task.cancelled():
                task.exception()  # told to those who wait; nobody may be left

        renewal.add_done_callback(ended)
        return renewal

    async def _stored(self, organization_id: str, connection_id: str) -> StoredCredentials:
        stored = await self._credentials.read(organization_id, connection_id)
        if stored is None:
            raise NotFoundError("there is no such connection")
        if stored.connection.status is not ConnectionStatus.ACTIVE:
            raise _not_active(stored.connection)
        return stored

    def _is_due(self, stored: StoredCredentials, refused_revision: int | None) -> bool:
        if stored.revision == refused_revision:
            return True
        return stored.expires_in_s is not None and stored.expires_in_s <= self._limits.early_s

    async def _renewed(
        self, organization_id: str, connection_id: str, refused_revision: int | None, execution_id: str | None
    ) -> ToolCredentials:
        give_up_at = self._clock.monotonic() + self._limits.wait_s
        while True:
            stored = await self._stored(organization_id, connection_id)
            if not self._is_due(stored, refused_revision):
                return _shown(stored)
            if "refresh" not in stored.secrets:
                return await self._as_it_is(stored, refused_revision, execution_id)
            owner, began = self._chance.new_id("rfr"), self._clock.monotonic()
            lease = await self._credentials.begin_refresh(
                organization_id, connection_id, revision=stored.revision, owner=owner, lease_s=self._limits.lease_s
            )
            if lease is not RefreshLease.HELD:
                held_s = self._clock.monotonic() - began
                if held_s < self._limits.lease_s - self._limits.call_s:
                    in_doubt = lease is RefreshLease.TAKEN_IN_DOUBT
                    return await self._renew(stored, owner, refused_revision, execution_id, in_doubt=in_doubt)
                continue  # this process stood still: the lease may be another's by now
            if self._clock.monotonic() >= give_up_at:
                return _while_it_lasts(stored, refused_revision)
            # The end of another process's renewal is no event here: a look at the row, by one caller per process.
            await asyncio.sleep(self._limits.look_every_s * (1 + self._chance.jitter()))

    async def _renew(
        self,
        stored: StoredCredentials,
        owner: str,
        refused_revision: int | None,
        execution_id: str | None,
        *,
        in_doubt: bool,
    ) -> ToolCredentials:
        """Under the lease. Whatever goes wrong, the lease is given back."""
        connection = stored.connection
        if stored.grant is None:
            raise CredentialsError("the connection has to be authorized again", code="connection_refused")
        try:
            tokens = await self._servers.refresh(stored.grant, stored.secrets["refresh"])
        except CredentialsError:
            reason = _PERHAPS_USED_UP if in_doubt else _REFUSED
            return await self._refused(stored, reason, execution_id)
        except TransientError:
            await self._give_up(connection, owner, in_doubt=in_doubt)
            return _while_it_lasts(stored, refused_revision)
        except UncertainError:
            await self._give_up(connection, owner, in_doubt=True)
            return _while_it_lasts(stored, refused_revision)
        except PermanentError:  # the guard lets nothing out to it any more
            await self._give_up(connection, owner, in_doubt=in_doubt)
            raise
        except BaseException:
            await self._give_up(connection, owner, in_doubt=True)
            raise
        await self._credentials.finish_refresh(stored, tokens)
        return _shown(await self._stored(connection.organization_id, connection.id))

    async def _give_up(self, connection: ToolConnection, owner: str, *, in_doubt: bool) -> None:
        await self._credentials.give_up_refresh(
            connection.organization_id, connection.id, owner=owner, in_doubt=in_doubt
        )

    async def _as_it_is(
        self, stored: StoredCredentials, refused_revision: int | None, execution_id: str | None
    ) -> ToolCredentials:
        """What cannot be renewed serves until it ends or is refused."""
        if stored.revision == refused_revision:
            return await self._refused(stored, _NOT_ACCEPTED, execution_id)
        if stored.expires_in_s is not None and stored.expires_in_s <= 0:
            return await self._refused(stored, _ENDED, execution_id)
        return _shown(stored)

    async def _refused(self, stored: StoredCredentials, reason: str, execution_id: str | None) -> ToolCredentials:
        """Mark it and tell it; or return what somebody else got meanwhile."""
        connection = stored.connection
        await self.mark_refused(
            connection.organization_id,
            connection.id,
            revision=stored.revision,
            reason=reason,
            execution_id=execution_id,
        )
        return _shown(await self._stored(connection.organization_id, connection.id))


def _while_it_lasts(stored: StoredCredentials, refused_revision: int | None) -> ToolCredentials:
    """Renewal was early: the present tokens may still serve."""
    lasts = stored.expires_in_s is None or stored.expires_in_s > 0
    if lasts and stored.revision != refused_revision:
        return _shown(stored)
    raise UnavailableError(
        f"access to {stored.connection.provider!r} could not be renewed at the moment", retry_after_s=1.0
    )


def _not_active(connection: ToolConnection) -> CredentialsError:
    name = connection.provider
    messages = {
        ConnectionStatus.PENDING_AUTHORIZATION: f"the connection {name!r} has not been authorized yet",
        ConnectionStatus.REFUSED: f"the connection {name!r} was refused by its provider: authorize it again",
        ConnectionStatus.DISABLED: f"the connection {name!r} is disabled",
    }
    return CredentialsError(messages[connection.status], code=f"connection_{connection.status}")


def _shown(stored: StoredCredentials) -> ToolCredentials:
    match stored.authentication:
        case Authentication.OAUTH:
            return _bearer(stored, "access")
        case Authentication.TOKEN if stored.token_header is not None:
            return ToolCredentials(
                stored.revision, headers={stored.token_header: stored.secrets["token"].get_secret_value()}
            )
        case Authentication.TOKEN:
            return _bearer(stored, "token")
        case Authentication.ENVIRONMENT:
            plain = {name: secret.get_secret_value() for name, secret in stored.secrets.items()}
            return ToolCredentials(stored.revision, environment=plain)
        case Authentication.NONE:
            return ToolCredentials(stored.revision)


def _bearer(stored: StoredCredentials, name: str) -> ToolCredentials:
    token = stored.secrets[name].get_secret_value()
    return ToolCredentials(stored.revision, headers={"Authorization": f"Bearer {token}"})
