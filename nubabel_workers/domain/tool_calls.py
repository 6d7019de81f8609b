"""Calls of an organization's tools: what is asked, what comes of it, and which of them may be made again. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from nubabel_workers.domain.ids import ExecutionId, OrganizationId, ToolConnectionId, derived_id
from nubabel_workers.domain.redaction import CUT, Kept, kept, without

MAX_STORED_CHARS: Final = 32_768  # of arguments, and of a result, in the ledger

NOTE_STORED: Final = (
    "\n\n[This call was made before; this is the stored copy of its result, shortened or with secrets masked.]"
)


class CallStatus(StrEnum):
    STARTED = "started"  # the intent is written: somebody makes the call, or died in it
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the tool said no, or it is certain that nothing took effect
    UNKNOWN = "unknown"  # it may have taken effect, nobody knows


@dataclass(frozen=True)
class ToolRequest:
    """One call that an agent asks for. organization_id, execution_id: looked up by us from the session, never told."""

    organization_id: OrganizationId
    execution_id: ExecutionId
    opencode_session_id: str
    call_id: str  # the tool call's id inside of its message, as OpenCode gave it
    tool_name: str
    arguments: Mapping[str, Any] = field(repr=False)
    provider: str | None = None  # None: whichever of the organization's providers has the tool
    message_id: str | None = None


@dataclass(frozen=True)
class Tool:
    """A tool that a server says it has. Name, description and schema are its own words."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    repeatable: bool = False  # it only reads, or doing it twice is doing it once


@dataclass(frozen=True)
class ProviderTools:
    """What one provider offers to an organization. error: why its tools could not be listed."""

    name: str
    tools: tuple[Tool, ...] = ()
    is_default: bool = False
    error: str | None = None


@dataclass(frozen=True)
class ToolResult:
    """A server's answer. is_error: the tool itself says that it failed."""

    text: str = field(repr=False)
    structured: Mapping[str, Any] | None = field(default=None, repr=False)
    is_error: bool = False


@dataclass(frozen=True)
class ToolCallError:
    """Why there is no result, for the agent to read. code: a stable word."""

    code: str
    message: str


@dataclass(frozen=True)
class ToolOutcome:
    """What the agent gets. call_id: of the ledger; None where no call was made."""

    call_id: str | None = None
    content: str = field(default="", repr=False)
    structured: Mapping[str, Any] | None = field(default=None, repr=False)
    error: ToolCallError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass(frozen=True)
class NewToolCall:
    """The intent, as the ledger keeps it. arguments: redacted. fingerprint: of the whole call, secrets included."""

    id: str
    request: ToolRequest
    connection_id: ToolConnectionId
    provider: str
    fingerprint: str
    arguments: Any
    repeatable: bool


@dataclass(frozen=True)
class ToolCallEnd:
    """How a call ended, as the ledger keeps it. altered: the result is less than what came."""

    status: CallStatus
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    error: ToolCallError | None = None
    altered: bool = False


@dataclass(frozen=True)
class ToolCallRecord:
    """A row of the ledger. try_number: how often it was sent, or was about to be."""

    id: str
    organization_id: OrganizationId
    execution_id: ExecutionId
    opencode_session_id: str
    call_id: str
    connection_id: ToolConnectionId
    provider: str
    tool_name: str
    fingerprint: str
    repeatable: bool
    status: CallStatus
    try_number: int
    started_at: datetime
    ended_at: datetime | None = None
    arguments: Any = field(default=None, repr=False)
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    error: ToolCallError | None = None
    altered: bool = False


UNKNOWN_OUTCOME: Final = ToolCallError(
    "outcome_unknown",
    "Nobody knows whether this call took effect: it was on its way when the connection or a process was lost. It was "
    "not made again. Look for its effect with a tool that reads before you decide to repeat it.",
)


def tool_call_id(request: ToolRequest) -> str:
    """The same call has the same id, however often and wherever it comes in.

    With its message: some models number the calls of each message anew, and a later call is no repeat of an earlier.
    """
    session = (request.organization_id, request.execution_id, request.opencode_session_id)
    return derived_id("tc", (*session, request.message_id or "", request.call_id))


def new_tool_call(request: ToolRequest, connection_id: ToolConnectionId, provider: str, tool: Tool) -> NewToolCall:
    return NewToolCall(
        id=tool_call_id(request),
        request=request,
        connection_id=connection_id,
        provider=provider,
        fingerprint=fingerprint(request),
        arguments=kept(dict(request.arguments), max_chars=MAX_STORED_CHARS).value,
        repeatable=tool.repeatable,
    )


def fingerprint(request: ToolRequest) -> str:
    """Tells a repeat from another call under the same id. provider as it was asked for, not as it was routed."""
    asked = [request.provider, request.tool_name, request.arguments]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=dict).encode()).hexdigest()


def ended(result: ToolResult) -> ToolCallEnd:
    """For the ledger."""
    if result.is_error:
        error = ToolCallError("tool_error", str(kept(result.text, max_chars=MAX_STORED_CHARS).value))
        return ToolCallEnd(CallStatus.FAILED, error=error)
    text, structured = _kept_result(result)
    return ToolCallEnd(
        CallStatus.SUCCEEDED,
        result={"text": text.value, "structured": structured.value},
        altered=text.changed or structured.changed,
    )


def _kept_result(result: ToolResult) -> tuple[Kept, Kept]:
    text = kept(result.text, max_chars=MAX_STORED_CHARS)
    if result.structured is None:
        return text, Kept(None, changed=False)
    structured = kept(dict(result.structured), max_chars=MAX_STORED_CHARS)
    if not isinstance(structured.value, Mapping):  # too large to be kept in its shape
        return text, Kept(None, changed=True)
    return text, structured


def outcome_of(call_id: str, result: ToolResult) -> ToolOutcome:
    """For the agent, right after the call."""
    if result.is_error:
        return ToolOutcome(call_id, error=ToolCallError("tool_error", result.text or "the tool failed without a word"))
    return ToolOutcome(call_id, result.text, result.structured)


def told_again(record: ToolCallRecord) -> ToolOutcome:
    """What a repeat of a call that is over gets: its stored outcome."""
    if record.status is CallStatus.UNKNOWN:
        return ToolOutcome(record.id, error=UNKNOWN_OUTCOME)
    if record.error is not None:
        return ToolOutcome(record.id, error=record.error)
    stored = record.result or {}
    text = str(stored.get("text", ""))
    return ToolOutcome(record.id, text + NOTE_STORED if record.altered else text, stored.get("structured"))


def shown(result: ToolResult, secrets: frozenset[str], *, max_chars: int) -> ToolResult:
    """A server's answer as anybody may see it: without the credentials that it was asked with, of bounded length."""
    text = without(result.text, secrets)
    if len(text) > max_chars:
        text = f"{text[:max_chars]}{CUT}"
    return ToolResult(text, _shown_structure(result.structured, secrets, max_chars), result.is_error)


def _shown_structure(
    structured: Mapping[str, Any] | None, secrets: frozenset[str], max_chars: int
) -> Mapping[str, Any] | None:
    """None as well where it is too long: the text says the same, and can be cut."""
    if structured is None:
        return None
    raw = json.dumps(structured, ensure_ascii=False)
    clean = without(raw, secrets)
    if len(raw) > max_chars:
        return None
    masked: Mapping[str, Any] = structured if clean == raw else json.loads(clean)
    return masked
