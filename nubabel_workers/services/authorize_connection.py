"""Somebody of an organization agrees, in a browser, that we use a provider's tools for it (OAuth 2.1 with PKCE).

What was asked for, at which server and as whom is written down when it begins; the browser brings back a state that
names it, is good once, and is taken only from a browser that opened the link.
"""

import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog
from pydantic import SecretStr

from nubabel_workers.domain.errors import (
    CredentialsError,
    InvalidInputError,
    NotFoundError,
    PermanentError,
    ProviderAwayError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.foreign_ids import Sought
from nubabel_workers.domain.oauth import (
    AUTHORIZATION_S,
    Discovered,
    Grant,
    OAuthClient,
    PendingAuthorization,
    authorization_url,
    check_issuer,
    client_auth_method,
    code_challenge,
    random_text,
    state_digest,
)
from nubabel_workers.domain.ports import Chance
from nubabel_workers.domain.ports.tools import AuthorizationServers, ConnectionStore, CredentialStore, RegisteredClient
from nubabel_workers.domain.tool_connections import Authentication, AuthorizationLink, ConnectionDetails
from nubabel_workers.domain.tools import ConnectionStatus

AUTHORIZE_PATH: Final = "/connections/authorize"
CALLBACK_PATH: Final = "/connections/callback"

_ENTROPY_BYTES: Final = 32

log = structlog.get_logger(__name__)


class AuthorizeConnection:
    def __init__(
        self,
        connections: ConnectionStore,
        credentials: CredentialStore,
        servers: AuthorizationServers,
        chance: Chance,
        entropy: Callable[[int], bytes],
        *,
        public_url: str | None,
    ) -> None:
        """public_url: how browsers reach process web; without, nothing can be authorized."""
        self._connections = connections
        self._credentials = credentials
        self._servers = servers
        self._chance = chance
        self._entropy = entropy
        self._public_url = public_url

    async def begin(self, organization_id: str, id_or_provider: str, *, actor: str) -> AuthorizationLink:
        """Ask the provider how it authorizes, and make a link for somebody who may agree."""
        if self._public_url is None:
            raise InvalidInputError(
                "browsers cannot come back to us: NUBABEL_PUBLIC_URL is not set", code="no_way_back"
            )
        details = await self._authorizable(organization_id, id_or_provider)
        connection = details.connection
        with _telling_who_is_away():
            discovered = await self._servers.discover(str(connection.url))
        scope = details.asked_scope or discovered.scope
        redirect_uri = f"{self._public_url}{CALLBACK_PATH}"
        known = await self._credentials.client(organization_id, connection.id)
        client = await self._client(known, discovered, redirect_uri, scope)
        state = random_text(self._entropy(_ENTROPY_BYTES))
        pending = PendingAuthorization(
            id=self._chance.new_id("mca"),
            organization_id=organization_id,
            connection_id=connection.id,
            grant=_grant(discovered, client, redirect_uri, scope),
            code_verifier=SecretStr(random_text(self._entropy(_ENTROPY_BYTES))),
            actor=actor,
        )
        digest = state_digest(state)
        if not await self._credentials.begin_authorization(pending, digest=digest, valid_s=AUTHORIZATION_S):
            raise NotFoundError("this connection was removed or disabled at this moment")
        return AuthorizationLink(f"{self._public_url}{AUTHORIZE_PATH}?state={state}", AUTHORIZATION_S)

    async def start(self, state: str) -> str:
        """The link was opened: where the browser is sent on to. Opening it again is harmless."""
        pending = await self._credentials.pending(state_digest(state))
        if pending is None:
            raise _unknown()
        return authorization_url(pending.grant, state=state, challenge=code_challenge(pending.code_verifier))

    async def complete(
        self, *, state: str, browser_state: str, code: str, issuer: str | None, error: str
    ) -> ConnectionDetails:
        """The browser is back. browser_state: what it was given when it opened the link. Raises InvalidInputError."""
        if not hmac.compare_digest(state.encode(), browser_state.encode()):
            raise InvalidInputError(
                "this browser did not open the authorization link: open the link and agree in one browser",
                code="authorization_other_browser",
            )
        pending = await self._credentials.take_authorization(state_digest(state))
        if pending is None:
            raise _unknown()
        check_issuer(pending.grant, issuer)
        if error or not code:
            raise InvalidInputError("nothing was connected: it was declined there", code="authorization_declined")
        await self._exchange(pending, code)
        log.info(
            "connection.authorized",
            organization_id=pending.organization_id,
            connection_id=pending.connection_id,
            issuer=pending.grant.issuer,
        )
        return await self._found(pending.organization_id, pending.connection_id)

    async def _exchange(self, pending: PendingAuthorization, code: str) -> None:
        try:
            tokens = await self._servers.exchange(pending.grant, code=code, code_verifier=pending.code_verifier)
        except CredentialsError as refused:
            raise InvalidInputError(
                "the provider did not accept what the browser brought: begin again", code="authorization_refused"
            ) from refused
        except (UncertainError, TransientError) as unanswered:  # the state is used up: the same again cannot work
            raise PermanentError(
                "the provider gave no answer in time: begin again", code="authorization_unanswered"
            ) from unanswered
        if not await self._credentials.authorized(pending, tokens, actor=pending.actor):
            raise NotFoundError("this connection was removed or disabled meanwhile")

    async def _authorizable(self, organization_id: str, id_or_provider: str) -> ConnectionDetails:
        details = await self._found(organization_id, id_or_provider)
        if details.authentication is not Authentication.OAUTH:
            raise InvalidInputError(
                f"{details.connection.provider!r} authenticates by {details.authentication}, not in a browser",
                code="not_oauth",
            )
        if details.connection.status is ConnectionStatus.DISABLED:
            raise InvalidInputError(f"{details.connection.provider!r} is disabled: enable it first", code="disabled")
        return details

    async def _found(self, organization_id: str, id_or_provider: str) -> ConnectionDetails:
        details = await self._connections.find(organization_id, id_or_provider)
        if details is None:
            sought = Sought(organization_id, id_or_provider)
            raise NotFoundError("there is no such connection in this organization", sought=sought)
        return details

    async def _client(
        self, known: RegisteredClient | None, discovered: Discovered, redirect_uri: str, scope: str | None
    ) -> OAuthClient:
        """The one that was configured; the one that was registered there for the same way back; or a new one."""
        server = discovered.server
        if known is not None and known.client.configured:
            if known.issuer not in {None, server.issuer}:
                raise InvalidInputError(
                    "the provider authorizes at another server than the one that the client was configured for: "
                    "remove the connection and add it again",
                    code="issuer_changed",
                )
            method = client_auth_method(server.token_auth_methods, has_secret=known.client.secret is not None)
            return OAuthClient(known.client.id, known.client.secret, method, configured=True)
        if known is not None and (known.issuer, known.redirect_uri) == (server.issuer, redirect_uri):
            return known.client
        if server.registration_endpoint is None:
            raise InvalidInputError(
                "this provider registers no clients by itself: register one there with the redirect URI "
                f"{redirect_uri}, and add the connection with its client id and secret",
                code="client_needed",
            )
        with _telling_who_is_away():
            return await self._servers.register(server, redirect_uri=redirect_uri, scope=scope)


@contextmanager
def _telling_who_is_away() -> Iterator[None]:
    """The organization named the provider, so that it may know what is wrong with it; of our own it hears no more."""
    try:
        yield
    except UnavailableError as error:
        raise ProviderAwayError(str(error), retry_after_s=error.retry_after_s) from error


def _grant(discovered: Discovered, client: OAuthClient, redirect_uri: str, scope: str | None) -> Grant:
    server = discovered.server
    return Grant(
        issuer=server.issuer,
        authorization_endpoint=server.authorization_endpoint,
        token_endpoint=server.token_endpoint,
        resource=discovered.resource,
        redirect_uri=redirect_uri,
        client=client,
        scope=scope,
        says_issuer=server.says_issuer,
        revocation_endpoint=server.revocation_endpoint,
    )


def _unknown() -> InvalidInputError:
    return InvalidInputError(
        "this authorization is unknown, was used already or took too long: begin again", code="authorization_unknown"
    )
