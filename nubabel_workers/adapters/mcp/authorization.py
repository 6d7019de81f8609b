"""Authorization servers of MCP servers: who authorizes, as whom, and the tokens. Everything through the egress guard.

The SDK's own OAuth client keeps its tokens in one process; ours are renewed by many. Its models of the documents and
its order of the places to look at are used.

Sources: https://modelcontextprotocol.io/specification/draft/basic/authorization; RFC 9728 (resource metadata),
RFC 8414 (server metadata), RFC 7591 (registration), RFC 6749 (token endpoint), RFC 8707 (resource), RFC 7009
(revocation).
"""

import base64
from collections.abc import Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import httpx2
import orjson
from mcp.client.auth.utils import (
    build_oauth_authorization_server_metadata_discovery_urls,
    build_protected_resource_metadata_discovery_urls,
    extract_resource_metadata_from_www_auth,
    extract_scope_from_www_auth,
    get_client_metadata_scopes,
    issuers_match,
)
from mcp.shared.auth import (
    DEFAULT_GRANT_TYPES,
    OAuthClientInformationFull,
    OAuthMetadata,
    OAuthToken,
    ProtectedResourceMetadata,
)
from mcp.shared.auth_utils import check_resource_allowed, resource_url_from_server_url
from mcp_types import LATEST_PROTOCOL_VERSION
from pydantic import BaseModel, SecretStr, ValidationError

from nubabel_workers.adapters.egress.guard import EgressGuard, EgressResponse
from nubabel_workers.domain.errors import (
    CredentialsError,
    InvalidInputError,
    PermanentError,
    RateLimitedError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.oauth import (
    CODE_METHOD,
    AuthorizationServer,
    Discovered,
    Grant,
    OAuthClient,
    TokenKind,
    Tokens,
    client_auth_method,
)

_CLIENT_NAME: Final = "Nubabel"
_MAX_DOCUMENT_BYTES: Final = 64 * 1024
_MAX_EXPIRES_S: Final = 10 * 365 * 86_400
_UNDERSTOOD: Final = ("client_secret_basic", "client_secret_post", "none")  # the first that is offered is asked for
_JSON: Final = {"Accept": "application/json", "MCP-Protocol-Version": LATEST_PROTOCOL_VERSION}
_KNOCK: Final = orjson.dumps(
    {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": LATEST_PROTOCOL_VERSION,
            "capabilities": {},
            "clientInfo": {"name": "nubabel-workers", "version": "1"},
        },
    }
)


Document = TypeVar("Document", bound=BaseModel)


class HttpAuthorizationServers:
    """Implements `domain.ports.tools.AuthorizationServers`. timeout_s: of each call."""

    def __init__(self, guard: EgressGuard, *, timeout_s: float) -> None:
        self._guard = guard
        self._timeout_s = timeout_s

    async def discover(self, url: str) -> Discovered:
        challenge = await self._knock(url)
        metadata = await self._resource_metadata(url, challenge)
        issuer = str(metadata.authorization_servers[0]) if metadata else None
        found = await self._server_metadata(issuer, url)
        self._check_endpoints(found)
        asked = get_client_metadata_scopes(
            extract_scope_from_www_auth(challenge), metadata, found, client_grant_types=list(DEFAULT_GRANT_TYPES)
        )
        resource = str(metadata.resource) if metadata else resource_url_from_server_url(url)
        return Discovered(_server_of(found), resource, asked or None)

    async def register(self, server: AuthorizationServer, *, redirect_uri: str, scope: str | None) -> OAuthClient:
        if server.registration_endpoint is None:
            raise InvalidInputError("this authorization server registers no clients", code="client_needed")
        method = next((one for one in _UNDERSTOOD if one in server.token_auth_methods), _UNDERSTOOD[0])
        asked = {
            "client_name": _CLIENT_NAME,
            "redirect_uris": [redirect_uri],
            "grant_types": DEFAULT_GRANT_TYPES,
            "response_types": ["code"],
            "token_endpoint_auth_method": method,
            "application_type": "web",
        } | ({"scope": scope} if scope else {})
        try:
            answer = await self._request(
                "POST",
                server.registration_endpoint,
                headers={**_JSON, "Content-Type": "application/json"},
                body=orjson.dumps(asked),
            )
        except UncertainError as error:  # at worst a client stays there that nobody uses
            raise UnavailableError(str(error)) from error
        _raise_if_busy(answer)
        if answer.status not in {200, 201}:
            raise InvalidInputError(
                f"the authorization server registers us not (HTTP {answer.status}): "
                "register a client there, and add the connection with its client id and secret",
                code="client_needed",
            )
        return _client_of(_document(OAuthClientInformationFull, answer, "registration"), method)

    async def exchange(self, grant: Grant, *, code: str, code_verifier: SecretStr) -> Tokens:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": grant.redirect_uri,
            "code_verifier": code_verifier.get_secret_value(),
        }
        return await self._tokens(grant, form)

    async def refresh(self, grant: Grant, refresh_token: SecretStr) -> Tokens:
        form = {"grant_type": "refresh_token", "refresh_token": refresh_token.get_secret_value()}
        return await self._tokens(grant, form)

    async def revoke(self, grant: Grant, token: SecretStr, kind: TokenKind) -> None:
        """A token that the server does not know is a success to it as well (RFC 7009, section 2.2)."""
        if grant.revocation_endpoint is None:
            raise InvalidInputError("this authorization server revokes no tokens", code="no_revocation")
        form = {"token": token.get_secret_value(), "token_type_hint": kind.value}
        answer = await self._posted(grant, grant.revocation_endpoint, form)
        if answer.status != 200:  # noqa: PLR2004 - HTTP's own number
            raise _token_refusal(answer)

    async def _knock(self, url: str) -> httpx2.Response:
        """What the server says to somebody without credentials: it may name its metadata and a scope."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": LATEST_PROTOCOL_VERSION,
        }
        try:
            answer = await self._request("POST", url, headers=headers, body=_KNOCK, max_bytes=0)
        except UncertainError as error:  # asked for nothing that takes effect
            raise UnavailableError(str(error)) from error
        return httpx2.Response(answer.status, headers=dict(answer.headers))

    async def _resource_metadata(self, url: str, challenge: httpx2.Response) -> ProtectedResourceMetadata | None:
        """None: a server of the specification's first version, whose own origin authorizes."""
        named = extract_resource_metadata_from_www_auth(challenge)
        for place in build_protected_resource_metadata_discovery_urls(named, url):
            metadata = await self._look(ProtectedResourceMetadata, place)
            if metadata is None:
                continue
            if not check_resource_allowed(resource_url_from_server_url(url), str(metadata.resource)):
                raise InvalidInputError(
                    "the server's metadata are those of another server (RFC 9728, section 3.3)",
                    code="resource_mismatch",
                )
            return metadata
        return None

    async def _server_metadata(self, issuer: str | None, url: str) -> OAuthMetadata:
        parts = urlsplit(url)
        expected = issuer or f"{parts.scheme}://{parts.netloc}"
        for place in build_oauth_authorization_server_metadata_discovery_urls(issuer, url):
            metadata = await self._look(OAuthMetadata, place)
            if metadata is None:
                continue
            if not issuers_match(str(metadata.issuer), expected):
                raise InvalidInputError(
                    "the authorization server's metadata name another issuer (RFC 8414, section 3.3)",
                    code="issuer_mismatch",
                )
            if CODE_METHOD not in (metadata.code_challenge_methods_supported or ()):
                raise InvalidInputError("the authorization server does not offer PKCE with S256", code="no_pkce")
            return metadata
        raise InvalidInputError(
            "the server does not say who authorizes for it: connect it with a token, or without authentication",
            code="no_authorization_server",
        )

    async def _look(self, kind: type[Document], url: str) -> Document | None:
        """None when it is not there, or is something else."""
        try:
            answer = await self._request("GET", url, headers=_JSON)
        except UncertainError as error:
            raise UnavailableError(str(error)) from error
        _raise_if_busy(answer)
        if answer.status != 200 or answer.truncated:  # noqa: PLR2004 - HTTP's own number
            return None
        try:
            return kind.model_validate_json(answer.body)
        except ValidationError:
            return None

    def _check_endpoints(self, metadata: OAuthMetadata) -> None:
        """Also the one that only browsers are sent to: we name it to people. The one for revocation, which nothing
        depends on, is judged when it is used.
        """
        for endpoint in (metadata.authorization_endpoint, metadata.token_endpoint, metadata.registration_endpoint):
            if endpoint is not None:
                self._guard.check_url(str(endpoint))

    async def _tokens(self, grant: Grant, form: Mapping[str, str]) -> Tokens:
        answer = await self._posted(grant, grant.token_endpoint, {**form, "resource": grant.resource})
        if answer.status != 200:  # noqa: PLR2004 - HTTP's own number
            raise _token_refusal(answer)
        try:
            granted = OAuthToken.model_validate_json(answer.body)
        except ValidationError:  # it was granted, and is lost
            raise UncertainError("the authorization server's answer cannot be read") from None
        return Tokens(
            access=SecretStr(granted.access_token),
            refresh=SecretStr(granted.refresh_token) if granted.refresh_token else None,
            expires_in_s=_seconds(granted.expires_in),
            scope=granted.scope,
        )

    async def _posted(self, grant: Grant, endpoint: str, form: Mapping[str, str]) -> EgressResponse:
        """A form, as the client that the grant was given to."""
        headers = {**_JSON, "Content-Type": "application/x-www-form-urlencoded"}
        shown, authorization = _shown_client(grant.client)
        answer = await self._request(
            "POST", endpoint, headers={**headers, **authorization}, body=urlencode({**form, **shown}).encode()
        )
        _raise_if_busy(answer)
        return answer

    async def _request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        max_bytes: int = _MAX_DOCUMENT_BYTES,
    ) -> EgressResponse:
        return await self._guard.request(
            method, url, headers=headers, body=body, max_response_bytes=max_bytes, timeout_s=self._timeout_s
        )


def _server_of(metadata: OAuthMetadata) -> AuthorizationServer:
    methods = metadata.token_endpoint_auth_methods_supported
    return AuthorizationServer(
        issuer=str(metadata.issuer),
        authorization_endpoint=str(metadata.authorization_endpoint),
        token_endpoint=str(metadata.token_endpoint),
        registration_endpoint=str(metadata.registration_endpoint) if metadata.registration_endpoint else None,
        token_auth_methods=("client_secret_basic",) if methods is None else tuple(methods),
        revocation_endpoint=str(metadata.revocation_endpoint) if metadata.revocation_endpoint else None,
        says_issuer=metadata.authorization_response_iss_parameter_supported is True,
    )


def _client_of(registered: OAuthClientInformationFull, asked_method: str) -> OAuthClient:
    """The server may have changed what was asked for (RFC 7591, section 3.2.1)."""
    secret = SecretStr(registered.client_secret) if registered.client_secret else None
    method = registered.token_endpoint_auth_method or asked_method
    if method not in _UNDERSTOOD:
        raise InvalidInputError(
            "the authorization server registered us in a way that we cannot use", code="client_needed"
        )
    if method != "none" and secret is None:
        method = client_auth_method((), has_secret=False)
    return OAuthClient(registered.client_id, secret, method)


def _shown_client(client: OAuthClient) -> tuple[dict[str, str], dict[str, str]]:
    """Fields and headers that say who we are (RFC 6749, section 2.3.1)."""
    secret = client.secret.get_secret_value() if client.secret else ""
    if client.auth_method == "client_secret_basic" and secret:
        pair = f"{quote(client.id, safe='')}:{quote(secret, safe='')}"
        return {}, {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    if client.auth_method == "client_secret_post" and secret:
        return {"client_id": client.id, "client_secret": secret}, {}
    return {"client_id": client.id}, {}


def _document(kind: type[Document], answer: EgressResponse, what: str) -> Document:
    try:
        return kind.model_validate_json(answer.body)
    except ValidationError:
        raise PermanentError(f"the authorization server's {what} cannot be read", code="oauth_unreadable") from None


def _raise_if_busy(answer: EgressResponse) -> None:
    if answer.status == 429:  # noqa: PLR2004 - HTTP's own number
        raise RateLimitedError("the authorization server limits us")
    if answer.status >= 500 or answer.status == 408:  # noqa: PLR2004 - HTTP's own numbers
        raise UnavailableError(f"the authorization server answered HTTP {answer.status}")


def _token_refusal(answer: EgressResponse) -> CredentialsError:
    """Its word is one of RFC 6749, section 5.2; anything else that it says may hold anything."""
    try:
        said: Any = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        said = None
    word = said.get("error") if isinstance(said, dict) else None
    known = isinstance(word, str) and word.replace("_", "").isalpha() and word.isascii() and len(word) <= 40  # noqa: PLR2004
    return CredentialsError(
        f"the authorization server refused ({word if known else f'HTTP {answer.status}'})", code="oauth_refused"
    )


def _seconds(expires_in: int | None) -> float | None:
    return None if expires_in is None else float(min(max(expires_in, 0), _MAX_EXPIRES_S))
