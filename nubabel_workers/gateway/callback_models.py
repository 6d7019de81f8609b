"""What OpenCode's plugin sends and gets. Fields that a later plugin adds are passed over."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nubabel_workers.domain.progress import ProgressItem, TextProgress, ToolProgress
from nubabel_workers.domain.submission import refuse_unstorable
from nubabel_workers.domain.tool_calls import ProviderTools, ToolOutcome
from nubabel_workers.services.hear_callbacks import RefusedCall

MAX_ITEMS = 100

_OPENCODE_SESSION = "ses_e04562134ffe0oSJVu2NAsQvXL"

SessionId = Annotated[
    str,
    Field(
        pattern=r"^ses_[A-Za-z0-9_-]{1,80}$",
        description="OpenCode's session, or a sub-agent's of it.",
        examples=[_OPENCODE_SESSION],
    ),
]
_Name = Annotated[str, Field(min_length=1, max_length=200)]


class _FromPlugin(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)


class _OfOneSession(_FromPlugin):
    organization_id: _Name | None = Field(
        None, description="Not needed: it follows from the session. Another one than the session's is refused."
    )

    @model_validator(mode="after")
    def _can_be_stored(self) -> Self:
        refuse_unstorable(self.model_dump())
        return self


class ErrorTold(_FromPlugin):
    name: Annotated[str, Field(max_length=200)] = ""
    message: Annotated[str, Field(max_length=2000)] = ""


class UpdateBody(_OfOneSession):
    """Something ended: a reason to look, never the proof."""

    type: Literal["session.idle", "session.error"]
    session_id: SessionId
    error: ErrorTold | None = None


class ToolItem(_FromPlugin):
    """A tool call began, ended or has a title."""

    type: Literal["tool"]
    session_id: SessionId
    call_id: _Name
    message_id: Annotated[str, Field(max_length=200)] = Field(
        "", description="The message that the call is part of: some models number the calls of each message anew."
    )
    tool: _Name
    status: Literal["pending", "running", "completed", "error"]
    title: Annotated[str, Field(max_length=500)] | None = None
    refused: Annotated[str, Field(max_length=500)] | None = Field(
        None, description="Why the plugin refused the call: it goes to the audit log, and is shown to nobody."
    )


class TextItem(_FromPlugin):
    """A part of the answer that is complete."""

    type: Literal["text"]
    session_id: SessionId
    message_id: _Name
    part_id: _Name
    text: Annotated[str, Field(max_length=65_536)]


class ProgressBody(_OfOneSession):
    items: Annotated[
        list[Annotated[ToolItem | TextItem, Field(discriminator="type")]], Field(min_length=1, max_length=MAX_ITEMS)
    ]

    def of_root(self, root_id: str) -> list[ProgressItem]:
        """Tools of sub-agents are shown as well; what they write is no part of the answer."""
        found: list[ProgressItem] = []
        for item in self.items:
            if isinstance(item, ToolItem) and item.refused is not None:
                continue
            if isinstance(item, ToolItem):
                found.append(
                    ToolProgress(item.session_id, item.call_id, item.tool, item.status, item.title, item.message_id)
                )
            elif item.session_id == root_id and item.text:
                found.append(TextProgress(item.part_id, item.text))
        return found

    def refusals(self) -> list[RefusedCall]:
        return [
            RefusedCall(item.session_id, item.call_id, item.tool, item.refused)
            for item in self.items
            if isinstance(item, ToolItem) and item.refused is not None
        ]


class AcceptedView(BaseModel):
    accepted: int = Field(description="How much of it was news: executions to look at, items to show.")


class VitalsBody(_FromPlugin):
    """How the server's process is doing."""

    process: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")] = Field(
        description="Its name for itself: another one after each start, since its memory begins anew then.",
        examples=["Xq3v0b8rTqGk2m1z"],
    )
    resident_bytes: Annotated[int, Field(ge=0, le=2**50)] = Field(description="Memory of the process itself.")


class VitalsView(BaseModel):
    strain: str | None = Field(description="Why the server gets no new sessions now; null while it is well.")


class InvokeBody(_OfOneSession):
    """A call of one of the organization's tools, as the agent made it."""

    session_id: SessionId
    call_id: _Name = Field(description="OpenCode's id of the tool call. The same call, sent again, is made once.")
    message_id: _Name | None = Field(
        None, description="Part of the call's identity: ids may begin anew in each message."
    )
    provider: _Name | None = Field(None, description="Needed only where several providers have the tool.")
    tool_name: _Name
    arguments: dict[str, Any] = Field(default_factory=dict)


class InvokeErrorView(BaseModel):
    code: str
    message: str


class InvokeView(BaseModel):
    """For the agent to read: a call that failed is an answer too."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"ok": True, "content": "3 issues", "call_id": "tc_01kahmz7p1h0v5v6m6bqz0x3ja"}}
    )

    ok: bool
    content: str | None = None
    structured: dict[str, Any] | None = None
    call_id: str | None = Field(None, description="The call in the ledger.")
    error: InvokeErrorView | None = None

    @classmethod
    def of(cls, outcome: ToolOutcome) -> Self:
        if outcome.error is not None:
            error = InvokeErrorView(code=outcome.error.code, message=outcome.error.message)
            return cls(ok=False, call_id=outcome.call_id, error=error)
        structured = dict(outcome.structured) if outcome.structured is not None else None
        return cls(ok=True, content=outcome.content, structured=structured, call_id=outcome.call_id)


class ToolsBody(_OfOneSession):
    session_id: SessionId


class ToolView(BaseModel):
    name: str
    description: str
    input_schema: dict[str, Any]


class ProviderView(BaseModel):
    name: str
    is_default: bool = False
    tools: list[ToolView]
    error: str | None = Field(None, description="Why its tools could not be listed.")


class ToolsView(BaseModel):
    providers: list[ProviderView]

    @classmethod
    def of(cls, providers: list[ProviderTools]) -> Self:
        return cls(
            providers=[
                ProviderView(
                    name=provider.name,
                    is_default=provider.is_default,
                    tools=[
                        ToolView(name=tool.name, description=tool.description, input_schema=dict(tool.input_schema))
                        for tool in provider.tools
                    ],
                    error=provider.error,
                )
                for provider in providers
            ]
        )


class ReachedView(BaseModel):
    """Whether we reach the server that we were called from."""

    ok: bool
    version: str | None = None
    detail: str | None = Field(None, description="What is wrong.")
