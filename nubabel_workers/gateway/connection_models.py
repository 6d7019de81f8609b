"""What the API shows of connections to MCP servers, and what it reads. Secrets go in, and never come out."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from nubabel_workers.domain.tool_connections import (
    MAX_ALLOWED_TOOLS,
    MAX_SECRET_CHARS,
    PRESETS,
    Authentication,
    AuthorizationLink,
    ConnectionCheck,
    ConnectionDetails,
    NewConnection,
)
from nubabel_workers.domain.tools import CommandServer, ConnectionKind, ConnectionStatus

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
ToolName = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")]
Secret = Annotated[SecretStr, Field(min_length=1, max_length=MAX_SECRET_CHARS)]
ShortText = Annotated[str, Field(min_length=1, max_length=1000)]
AllowedTools = Annotated[list[ToolName], Field(min_length=1, max_length=MAX_ALLOWED_TOOLS)]
RepeatableTools = Annotated[list[ToolName], Field(max_length=MAX_ALLOWED_TOOLS)]


class _Secrets(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: Secret | None = Field(None, description="A token that you made at the provider; sent as Bearer token.")
    environment: dict[str, Secret] = Field(
        default_factory=dict, max_length=50, description="Variables of a command server, as its catalogue entry names."
    )

    def secrets(self) -> Mapping[str, SecretStr]:
        return {**self.environment, **({"token": self.token} if self.token else {})}


class NewConnectionBody(_Secrets):
    """Exactly one of `preset`, `url` and `command` says where the tools are."""

    preset: Name | None = Field(None, description="A provider that is known: `GET /v1/tool-providers`.")
    url: Annotated[str, Field(min_length=1, max_length=2048)] | None = Field(
        None, description="An MCP server (streamable HTTP) at a public https address."
    )
    command: Name | None = Field(None, description="A server of the operators' catalogue.")
    provider: Name | None = Field(
        None, description="What the agent calls it by, unique in your organization. Needed for a URL."
    )
    authentication: Authentication | None = Field(None, description="Where it can be more than one.")
    client_id: ShortText | None = Field(None, description="oauth: your client, where the provider registers none.")
    client_secret: Secret | None = None
    scope: ShortText | None = Field(None, description="oauth: what to ask for; else what the server says.")
    allowed_tools: AllowedTools | None = Field(None, description="null allows every tool that the server has.")
    token_header: ShortText | None = Field(
        None,
        description="Header that the token goes into, as it is; null: `Authorization: Bearer …`.",
        examples=["X-Api-Key"],
    )

    def asked(self) -> NewConnection:
        return NewConnection(
            preset=self.preset,
            url=self.url,
            command_name=self.command,
            provider=self.provider,
            authentication=self.authentication,
            secrets=self.secrets(),
            client_id=self.client_id,
            client_secret=self.client_secret,
            scope=self.scope,
            allowed_tools=self.allowed_tools,
            token_header=self.token_header,
        )


class CredentialsBody(_Secrets):
    """New ones, in place of the old."""


class AllowedToolsBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    allowed_tools: AllowedTools | None = Field(description="null allows every tool that the server has.")


class RepeatableToolsBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    repeatable_tools: RepeatableTools | None = Field(
        description="Tools whose calls may be made again when nobody knows whether they took effect. The list "
        "overrules what the server says of its tools; an empty one repeats nothing; null: as the server says."
    )


class DefaultBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    default: bool = Field(strict=True, description="true: it serves the tool names that several connections have.")


class ConnectionView(BaseModel):
    id: str
    provider: str = Field(description="What the agent calls it by.")
    kind: ConnectionKind
    status: ConnectionStatus = Field(description="Only an active one serves calls.")
    status_detail: str = Field(description="Why it was refused.")
    url: str | None
    command: str | None
    authentication: Authentication
    allowed_tools: list[str] | None = Field(description="null: every tool that the server has.")
    repeatable_tools: list[str] | None = Field(description="null: those of which the server says so.")
    is_default: bool
    token_header: str | None = Field(description="null: a token goes into `Authorization`, as Bearer.")
    issuer: str | None = Field(description="The authorization server that agreed.")
    client_id: str | None
    scope: str | None = Field(description="What was granted, where the server said so.")
    expires_at: datetime | None = Field(description="End of the present token; it is renewed before.")
    checked_at: datetime | None
    healthy: bool | None = Field(description="What the last check found; null before the first.")
    health_detail: str
    created_at: datetime

    @classmethod
    def of(cls, details: ConnectionDetails) -> Self:
        connection = details.connection
        return cls(
            id=connection.id,
            provider=connection.provider,
            kind=connection.kind,
            status=connection.status,
            status_detail=details.status_detail,
            url=connection.url,
            command=connection.command_name,
            authentication=details.authentication,
            allowed_tools=_sorted(connection.allowed_tools),
            repeatable_tools=_sorted(connection.repeatable_tools),
            is_default=connection.is_default,
            token_header=details.token_header,
            issuer=details.issuer,
            client_id=details.client_id,
            scope=details.scope,
            expires_at=details.expires_at,
            checked_at=details.checked_at,
            healthy=details.healthy,
            health_detail=details.health_detail,
            created_at=details.created_at,
        )


def _sorted(tools: frozenset[str] | None) -> list[str] | None:
    return None if tools is None else sorted(tools)


class ConnectionList(BaseModel):
    data: list[ConnectionView]


class ConnectionCheckView(BaseModel):
    """What the server answered just now."""

    healthy: bool
    problem: str | None
    tools: list[str] = Field(description="All that it has, allowed or not.")
    connection: ConnectionView

    @classmethod
    def of(cls, check: ConnectionCheck) -> Self:
        return cls(
            healthy=check.problem is None,
            problem=check.problem,
            tools=list(check.tools),
            connection=ConnectionView.of(check.details),
        )


class AuthorizationLinkView(BaseModel):
    url: str = Field(description="Open it in the browser of somebody who may agree for you. Good once.")
    expires_in_s: float

    @classmethod
    def of(cls, link: AuthorizationLink) -> Self:
        return cls(url=link.url, expires_in_s=link.expires_in_s)


class PresetView(BaseModel):
    name: str
    url: str
    authentications: list[Authentication] = Field(description="The first is taken when none is named.")
    note: str


class CommandView(BaseModel):
    name: str
    environment: list[str] = Field(description="Variables that you may set.")


class ProviderList(BaseModel):
    """What can be connected by name; everything else by its URL."""

    presets: list[PresetView]
    commands: list[CommandView]

    @classmethod
    def of(cls, catalogue: Mapping[str, CommandServer]) -> Self:
        return cls(
            presets=[
                PresetView(name=one.name, url=one.url, authentications=list(one.authentications), note=one.note)
                for one in PRESETS.values()
            ],
            commands=[
                CommandView(name=one.name, environment=sorted(one.credential_names)) for one in catalogue.values()
            ],
        )
