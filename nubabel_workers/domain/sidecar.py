"""The form that callers of the old OpenCode sidecar speak: its requests, its answers, its callbacks. Pure.

Names are as those callers write them. What they send beyond this is ignored, as the sidecar did.
"""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nubabel_workers.domain.executions import FINAL, Execution, Status
from nubabel_workers.domain.notifications import Notification, NotificationKind
from nubabel_workers.domain.ports import Conversation, LastRun
from nubabel_workers.domain.submission import Key, Name, canonical_json

UNKNOWN_MODEL = "unknown"
OWN_NAME = "api:"  # how the key of a session begins that a caller has named
# Skills of the old sidecar that need no loading here: the tools of an organization's connections are always there.
_NEEDLESS_SKILLS = frozenset({"mcp-integration"})
_PROMPT = {"min_length": 1, "max_length": 1_000_000, "pattern": r"\S"}


class SidecarBody(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, hide_input_in_errors=True)


class SidecarCallbacks(SidecarBody):
    """Addresses of the caller. They pass the egress guard."""

    session_update: str | None = Field(
        None, alias="sessionUpdate", max_length=2000, description="Told the end; tried again until it is answered."
    )
    progress: str | None = Field(None, max_length=2000, description="Told what is being done; may miss some of it.")
    mcp_invoke: str | None = Field(
        None, alias="mcpInvoke", max_length=2000, description="Never called: tools are called by this system."
    )

    def named(self) -> dict[str, str]:
        """Those that will be called, by the caller's names for them."""
        given = {"sessionUpdate": self.session_update, "progress": self.progress}
        return {name: url for name, url in given.items() if url is not None}


class SidecarDelegation(SidecarBody):
    """`POST /delegate`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "category": "ultrabrain",
                    "load_skills": ["mcp-integration"],
                    "prompt": "Summarize my Notion tasks",
                    "session_id": "ses_123",
                    "callbacks": {"sessionUpdate": "https://caller.example.com/api/sidecar/sessions/ses_123/update"},
                }
            ]
        }
    )

    category: Name
    load_skills: list[Name] = Field(max_length=20)
    prompt: str = Field(**_PROMPT)  # type: ignore[call-overload] # keywords of Field
    session_id: Key = Field(description="Your own name for the conversation, or one of our session ids.")
    organization_id: str | None = Field(None, alias="organizationId", max_length=200)
    user_id: str | None = Field(None, alias="userId", max_length=200)
    context: dict[str, Any] | None = None
    callbacks: SidecarCallbacks | None = None

    def claims(self) -> Mapping[str, Mapping[str, Any] | None]:
        own = {"organizationId": self.organization_id, "userId": self.user_id}
        return {"body": own, "body.context": self.context}

    def skills(self) -> list[str]:
        return [skill for skill in self.load_skills if skill not in _NEEDLESS_SKILLS]


class SidecarPrompt(SidecarBody):
    """`POST /sessions/{id}/prompt`."""

    prompt: str = Field(**_PROMPT)  # type: ignore[call-overload] # keywords of Field
    organization_id: str | None = Field(None, alias="organizationId", max_length=200)
    user_id: str | None = Field(None, alias="userId", max_length=200)

    def claims(self) -> Mapping[str, Mapping[str, Any] | None]:
        return {"body": {"organizationId": self.organization_id, "userId": self.user_id}}


class SidecarMetadata(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    model: str = Field(description="The model that wrote most of the answer; `unknown` until there is one.")
    opencode_session_id: str | None = Field(
        None, alias="opencodeSessionId", description="Continue it: `POST /sessions/{opencodeSessionId}/prompt`."
    )
    nubabel_session_id: str | None = Field(
        None, alias="nubabelSessionId", description="The session_id that you sent, or ours."
    )
    notes: list[str] | None = Field(None, description="What should be known beside the answer.")
    error: str | None = Field(
        None,
        description="VALIDATION_ERROR, EXECUTION_ERROR, TIMEOUT_ERROR, SESSION_NOT_FOUND, UNAUTHORIZED, FORBIDDEN or "
        "UNAVAILABLE.",
    )


class SidecarAnswer(BaseModel):
    output: str = Field(description="The answer in Markdown, or what went wrong.")
    status: Literal["success", "failed"]
    metadata: SidecarMetadata


class SidecarSession(BaseModel):
    """Where a session stands: `idle` when nothing of it runs or waits."""

    state: Literal["idle", "busy"]
    result: str | None = Field(description="The last answer; null while there is none.")
    output: str
    status: Literal["success", "failed", "running"]
    metadata: SidecarMetadata


def callers_name(session_key: str, session_id: str) -> str:
    """What the caller calls a conversation: its own name for it, else our id."""
    return session_key.removeprefix(OWN_NAME) if session_key.startswith(OWN_NAME) else session_id


def metadata_of(execution: Execution, run: LastRun, *, error: str | None = None) -> SidecarMetadata:
    return SidecarMetadata(
        model=(run.model or UNKNOWN_MODEL).rpartition("/")[2],
        # Where nothing ran on OpenCode, our own id of the session names it as well.
        opencode_session_id=run.opencode_session_id or (execution.session_id if execution.status in FINAL else None),
        notes=list(execution.notes) or None,
        nubabel_session_id=callers_name(execution.session_key, execution.session_id),
        error=error,
    )


def session_view(execution: Execution, run: LastRun) -> SidecarSession:
    """execution: the session's last one."""
    over = execution.status in FINAL
    succeeded = execution.status is Status.COMPLETED
    said = execution.output or (execution.error.message if execution.error else "")
    return SidecarSession(
        state="idle" if over else "busy",
        result=said if over else None,
        output=said,
        status="success" if succeeded else "failed" if over else "running",
        metadata=metadata_of(execution, run, error="EXECUTION_ERROR" if over and not succeeded else None),
    )


def key_of_repeat(content: Mapping[str, Any], before: Conversation | None) -> str:
    """Idempotency key of a request that came without one: old callers try again after a lost answer.

    While the conversation has not gone on, the same words are the same request; after its end they are a new one.
    """
    ended = before.last_ended_id if before is not None else None
    digest = hashlib.sha256(canonical_json({**content, "after": ended})).hexdigest()
    return f"sidecar-{digest}"


def update_payload(execution: Execution, status: Status) -> dict[str, Any]:
    """What sessionUpdate is told at the end, but for the time, which is the row's."""
    return {"state": {"opencodeSessionId": execution.opencode_session_id, "status": status.value}}


def callback_body(notification: Notification, *, now: datetime) -> dict[str, Any]:
    """A claimed row as its callback's body: sessionUpdate's for an end, progress's for a progress message."""
    payload = notification.payload
    if notification.kind is NotificationKind.PROGRESS:
        text = payload.get("text", "")
        return {"progress": {"type": "message_updated", "data": {"text": text}, "timestamp": _iso(now)}}
    return {**payload, "metadata": {"completedAt": _iso(notification.created_at)}}


def _iso(time: datetime) -> str:
    """As JavaScript's toISOString writes it."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
