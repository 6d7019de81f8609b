"""How organizations connect to MCP servers: the known providers, what fits, how a connection authenticates. Pure."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import SecretStr

from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.tools import CommandServer, ConnectionKind, ConnectionStatus, ToolConnection

MAX_ALLOWED_TOOLS: Final = 500
MAX_SECRET_CHARS: Final = 8_192

_PROVIDER = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_TOOL_NAME = re.compile(r"[\x21-\x7e]{1,128}")
_TOKEN = re.compile(r"[\x21-\x7e]+")  # RFC 9110: what a header may carry of it
_HEADER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Headers that say how a message is carried, by whom, or what is in it: HTTP's, the protocol's and the browsers'.
_HEADER_IN_USE = re.compile(
    "(accept|content|mcp|proxy|sec|x-forwarded)(-.*)?|connection|cookie|date|expect|forwarded|from|host|http2-settings|"
    "keep-alive|last-event-id|origin|referer|te|trailer|transfer-encoding|upgrade|user-agent|via"
)


class Authentication(StrEnum):
    OAUTH = "oauth"  # somebody of the organization agrees in a browser; tokens are refreshed by us
    TOKEN = "token"  # noqa: S105 - a word: a token that the organization made at the provider, sent as Bearer
    NONE = "none"
    ENVIRONMENT = "environment"  # variables of a server that is started by a command


@dataclass(frozen=True)
class Preset:
    """A provider whose server is known. authentications: the first is the one that is taken when none is named."""

    name: str
    url: str
    authentications: tuple[Authentication, ...]
    note: str = ""


# Sources: https://developers.notion.com/docs/mcp, https://linear.app/docs/mcp,
# https://github.com/github/github-mcp-server (remote server)
PRESETS: Final[Mapping[str, Preset]] = {
    preset.name: preset
    for preset in (
        Preset("notion", "https://mcp.notion.com/mcp", (Authentication.OAUTH,)),
        Preset("linear", "https://mcp.linear.app/mcp", (Authentication.OAUTH, Authentication.TOKEN)),
        Preset(
            "github",
            "https://api.githubcopilot.com/mcp/",
            (Authentication.TOKEN, Authentication.OAUTH),
            note="for oauth, register an OAuth app at GitHub and give its client id and secret: it registers none",
        ),
    )
}


@dataclass(frozen=True)
class NewConnection:
    """What somebody asks for. Exactly one of preset, url and command_name says where the tools are.

    secrets: the token under "token", or the variables of a command server. client_id, client_secret: of an OAuth
    client that the provider knows already; without, one is registered where the provider offers that.
    """

    preset: str | None = None
    url: str | None = None
    command_name: str | None = None
    provider: str | None = None
    authentication: Authentication | None = None
    secrets: Mapping[str, SecretStr] = field(default_factory=dict)
    client_id: str | None = None
    client_secret: SecretStr | None = None
    scope: str | None = None
    allowed_tools: Collection[str] | None = None
    token_header: str | None = None  # where the token goes, as it is; None: Authorization, as Bearer


@dataclass(frozen=True)
class Target:
    """Where a connection leads and how it authenticates."""

    provider: str
    kind: ConnectionKind
    authentication: Authentication
    url: str | None = None
    command_name: str | None = None


@dataclass(frozen=True)
class ConnectionDetails:
    """A connection as its organization and the operators see it. No secrets."""

    connection: ToolConnection
    authentication: Authentication
    created_at: datetime
    status_detail: str = ""  # why it was refused
    issuer: str | None = None  # the authorization server that it was authorized at
    client_id: str | None = None
    asked_scope: str | None = None  # by whoever added it; None: what the server says
    scope: str | None = None  # what was granted
    expires_at: datetime | None = None  # of the present token; it is refreshed before
    revision: int = 0
    token_header: str | None = None
    checked_at: datetime | None = None
    healthy: bool | None = None  # what the last check found; None before the first
    health_detail: str = ""


@dataclass(frozen=True)
class AuthorizationLink:
    """url: for a browser of somebody who may agree for the organization; good once, until it expires."""

    url: str
    expires_in_s: float


@dataclass(frozen=True)
class Removal:
    """A connection that is gone. provider_told: to end what its tokens are good for (RFC 7009), and took it.

    by_another: somebody else removed it at the same moment.
    """

    details: ConnectionDetails
    provider_told: bool
    by_another: bool = False


@dataclass(frozen=True)
class ConnectionCheck:
    """What a server answered. problem: None when it is fit for work; tools: all that it has, allowed or not."""

    details: ConnectionDetails
    tools: tuple[str, ...] = ()
    problem: str | None = None


def target_of(new: NewConnection, catalogue: Mapping[str, CommandServer]) -> Target:
    """Raises InvalidInputError, which says what to change."""
    named = [name for name in ("preset", "url", "command_name") if getattr(new, name)]
    if len(named) != 1:
        raise InvalidInputError("name exactly one of: a known provider, a URL, a command of the catalogue")
    if new.command_name:
        return _command_target(new, new.command_name, catalogue)
    if new.preset:
        return _preset_target(new, new.preset)
    if not new.provider:
        raise InvalidInputError("give the connection a name: the agent calls it by that")
    chosen = new.authentication or (Authentication.TOKEN if new.secrets else Authentication.OAUTH)
    if chosen is Authentication.ENVIRONMENT:
        raise InvalidInputError("environment is for command servers; a server at a URL has oauth, token or none")
    return Target(checked_provider(new.provider), ConnectionKind.HTTP, chosen, url=new.url)


def _preset_target(new: NewConnection, name: str) -> Target:
    preset = PRESETS.get(name)
    if preset is None:
        raise InvalidInputError(f"{name!r} is no known provider ({', '.join(PRESETS)}); others are connected by URL")
    default = preset.authentications[0]
    if new.authentication is None and new.secrets and Authentication.TOKEN in preset.authentications:
        default = Authentication.TOKEN
    if new.authentication is None and new.client_id and Authentication.OAUTH in preset.authentications:
        default = Authentication.OAUTH
    chosen = new.authentication or default
    if chosen not in preset.authentications:
        known = " or ".join(preset.authentications)
        raise InvalidInputError(f"{name} authenticates by {known}, not by {chosen}")
    return Target(checked_provider(new.provider or name), ConnectionKind.HTTP, chosen, url=preset.url)


def _command_target(new: NewConnection, name: str, catalogue: Mapping[str, CommandServer]) -> Target:
    server = catalogue.get(name)
    if server is None:
        known = ", ".join(sorted(catalogue)) or "it is empty"
        raise InvalidInputError(f"{name!r} is not in the operators' catalogue ({known})", code="not_in_catalogue")
    if new.authentication not in {None, Authentication.ENVIRONMENT, Authentication.NONE}:
        raise InvalidInputError("a command server gets its credentials in its environment")
    unknown = sorted(set(new.secrets) - server.credential_names)
    if unknown:
        allowed = ", ".join(sorted(server.credential_names)) or "none"
        raise InvalidInputError(f"{name} takes no variable {unknown[0]!r} (it takes: {allowed})")
    chosen = Authentication.ENVIRONMENT if new.secrets else Authentication.NONE
    return Target(checked_provider(new.provider or name), ConnectionKind.COMMAND, chosen, command_name=name)


def first_status(target: Target) -> ConnectionStatus:
    waits = target.authentication is Authentication.OAUTH
    return ConnectionStatus.PENDING_AUTHORIZATION if waits else ConnectionStatus.ACTIVE


def checked_provider(name: str) -> str:
    if not _PROVIDER.fullmatch(name):
        raise InvalidInputError("a connection's name has up to 40 lower-case letters, digits, - and _")
    return name


def checked_tools(names: Collection[str] | None) -> frozenset[str] | None:
    """None allows every tool of the server."""
    if names is None:
        return None
    if not names:
        raise InvalidInputError("name at least one tool, or allow all; to stop its use, disable the connection")
    return _tool_names(names)


def checked_repeatable_tools(names: Collection[str] | None) -> frozenset[str] | None:
    """None leaves it to the server's word; an empty list repeats nothing."""
    return None if names is None else _tool_names(names)


def _tool_names(names: Collection[str]) -> frozenset[str]:
    if len(names) > MAX_ALLOWED_TOOLS:
        raise InvalidInputError(f"at most {MAX_ALLOWED_TOOLS} tools can be named")
    wrong = next((name for name in names if not _TOOL_NAME.fullmatch(name)), None)
    if wrong is not None:
        raise InvalidInputError("a tool's name has up to 128 visible characters without spaces")
    return frozenset(names)


def checked_token_header(target: Target, name: str | None) -> str | None:
    """Raises InvalidInputError for a header that a token must not take the place of."""
    if name is None:
        return None
    if target.authentication is not Authentication.TOKEN:
        raise InvalidInputError("a header is for connections by token")
    if not _HEADER.fullmatch(name):
        raise InvalidInputError("a header's name has up to 64 letters, digits, - and _, e.g. X-Api-Key")
    lower = name.lower()
    if lower == "authorization":
        raise InvalidInputError("leave the header out: a token goes into Authorization, as Bearer, by itself")
    if _HEADER_IN_USE.fullmatch(lower):
        raise InvalidInputError(f"the header {name} has another meaning: name the one that the service documents")
    return name


def checked_secrets(target: Target, secrets: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
    """What is stored for a connection that brings its own credentials. Raises InvalidInputError."""
    match target.authentication:
        case Authentication.TOKEN if set(secrets) != {"token"}:
            raise InvalidInputError("a connection by token needs exactly the token")
        case Authentication.OAUTH | Authentication.NONE if secrets:
            raise InvalidInputError(f"a connection that authenticates by {target.authentication} takes no secret")
    for secret in secrets.values():
        text = secret.get_secret_value()
        if not text or len(text) > MAX_SECRET_CHARS:
            raise InvalidInputError(f"a secret has 1 to {MAX_SECRET_CHARS} characters")
        if target.authentication is Authentication.TOKEN and not _TOKEN.fullmatch(text):
            raise InvalidInputError("a token has visible ASCII characters only, without spaces")
        if "\0" in text:
            raise InvalidInputError("a secret must not contain a null character")
    return secrets
