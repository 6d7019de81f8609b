"""OAuth 2.1 as the connections use it: values, and the checks that need no network.

Sources: MCP authorization, https://modelcontextprotocol.io/specification/draft/basic/authorization;
RFC 7636 (PKCE), RFC 8707 (resource), RFC 9207 (issuer in the answer), RFC 7009 (revocation).
"""

import base64
import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final
from urllib.parse import urlencode, urlsplit, urlunsplit

from pydantic import SecretStr

from nubabel_workers.domain.errors import InvalidInputError

AUTHORIZATION_S: Final = 600.0  # how long somebody has to agree in the browser
CODE_METHOD: Final = "S256"


@dataclass(frozen=True)
class AuthorizationServer:
    """What its metadata say (RFC 8414). says_issuer: its answers name it (RFC 9207)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    registration_endpoint: str | None = None
    revocation_endpoint: str | None = None
    token_auth_methods: tuple[str, ...] = ("client_secret_basic",)  # RFC 8414: what an absent list means
    says_issuer: bool = False


@dataclass(frozen=True)
class Discovered:
    """Who authorizes for a server of tools, and for what (RFC 9728). scope: what to ask for; None leaves it open."""

    server: AuthorizationServer
    resource: str
    scope: str | None = None


@dataclass(frozen=True)
class OAuthClient:
    """As whom we speak to an authorization server. configured: given by the organization, not registered by us."""

    id: str
    secret: SecretStr | None
    auth_method: str  # none, client_secret_basic, client_secret_post
    configured: bool = False


@dataclass(frozen=True)
class Grant:
    """Where and as whom tokens of one authorization are got: fixed when it began (no mix-up of servers)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    resource: str
    redirect_uri: str
    client: OAuthClient
    scope: str | None = None
    says_issuer: bool = False
    revocation_endpoint: str | None = None


@dataclass(frozen=True)
class Tokens:
    """expires_in_s: None when the server did not say."""

    access: SecretStr
    refresh: SecretStr | None = None
    expires_in_s: float | None = None
    scope: str | None = None


class TokenKind(StrEnum):
    """As RFC 7009 names them, section 2.1."""

    ACCESS = "access_token"
    REFRESH = "refresh_token"


@dataclass(frozen=True)
class PendingAuthorization:
    """Somebody was sent to agree. The verifier proves that who began also ends it (PKCE)."""

    id: str
    organization_id: str
    connection_id: str
    grant: Grant
    code_verifier: SecretStr
    actor: str = field(default="")  # who began it


def state_digest(state: str) -> bytes:
    """What is stored of a state. It has 256 random bits, so a plain SHA-256 cannot be reversed by trying."""
    return hashlib.sha256(state.encode()).digest()


def random_text(entropy: bytes) -> str:
    """32 random bytes: a state, or a code verifier (43 characters, the least that RFC 7636 allows)."""
    return base64.urlsafe_b64encode(entropy).rstrip(b"=").decode()


def code_challenge(verifier: SecretStr) -> str:
    digest = hashlib.sha256(verifier.get_secret_value().encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def authorization_url(grant: Grant, *, state: str, challenge: str) -> str:
    """Where the browser is sent to be asked by the authorization server."""
    asked = {
        "response_type": "code",
        "client_id": grant.client.id,
        "redirect_uri": grant.redirect_uri,
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": CODE_METHOD,
        "resource": grant.resource,
    }
    if grant.scope:
        asked["scope"] = grant.scope
        if "offline_access" in grant.scope.split():  # OpenID Connect Core, section 11
            asked["prompt"] = "consent"
    parts = urlsplit(grant.authorization_endpoint)
    query = "&".join(part for part in (parts.query, urlencode(asked)) if part)
    return urlunsplit(parts._replace(query=query, fragment=""))


def check_issuer(grant: Grant, answered: str | None) -> None:
    """RFC 9207, section 2.4: an answer of another server than the asked one is refused before its code is used."""
    if answered is None and not grant.says_issuer:
        return
    if answered != grant.issuer:
        raise InvalidInputError(
            "the answer does not come from the authorization server that was asked: begin again",
            code="authorization_mixed_up",
        )


def client_auth_method(offered: tuple[str, ...], *, has_secret: bool) -> str:
    """How we show the client's secret; the standard's own default first."""
    usable = ("client_secret_basic", "client_secret_post") if has_secret else ("none",)
    return next((method for method in usable if method in offered), usable[0])
