"""A client library for OpenCode servers (measured on 1.18.33), async and blocking. Guide: docs/opencode-client.md.

    async with AsyncOpenCode("http://127.0.0.1:4096", password="...") as opencode:
        session = await opencode.create_session(title="Hello")
        answer = await opencode.send(session.id, "Which tests are missing?")
        print(answer.text)

`OpenCode` is the same for programs without an event loop. Importing it needs nothing of the service: no settings, no
broker, no database. Errors are those of one tree, NubabelError.
"""

from nubabel_workers.adapters.opencode.client import CallReport, OnCall
from nubabel_workers.adapters.opencode.decoding import UnexpectedAnswerError
from nubabel_workers.adapters.opencode.models import (
    Agent,
    AuthMethod,
    Health,
    McpServer,
    MessagePage,
    PermissionRequest,
    PermissionRule,
    Provider,
    QuestionRequest,
    ServerConfig,
    Session,
    SessionPage,
    Skill,
    ToolCall,
)
from nubabel_workers.adapters.opencode.transport import Timeouts
from nubabel_workers.domain.errors import (
    CredentialsError,
    InvalidInputError,
    NotFoundError,
    NubabelError,
    PermanentError,
    RateLimitedError,
    TransientError,
    UnavailableError,
    UncertainError,
)
from nubabel_workers.domain.executions import Usage
from nubabel_workers.domain.opencode_events import (
    Disposed,
    Heartbeat,
    MessageUpdated,
    PermissionAsked,
    QuestionAsked,
    ServerConnected,
    ServerEvent,
    SessionError,
    SessionIdle,
    SessionStatus,
    TextDelta,
    ToolUpdate,
)
from nubabel_workers.domain.opencode_ids import is_opencode_id
from nubabel_workers.domain.verdict import PartKind, Role, RunError, RunMessage, RunPart, SessionActivity, SessionState
from nubabel_workers.opencode.answers import AnswerEnd, AnswerPiece, AnswerText, Outcome
from nubabel_workers.opencode.asynchronous import AsyncOpenCode
from nubabel_workers.opencode.batch import Done, Failed, run_all, sync_run_all
from nubabel_workers.opencode.blocking import OpenCode
from nubabel_workers.opencode.hooks import CallFigures, CallMetrics, each_of, log_calls
from nubabel_workers.opencode.prompts import Prompt, PromptFile, new_prompt
from nubabel_workers.opencode.reconnection import ReconnectLimits

__all__ = [
    "Agent",
    "AnswerEnd",
    "AnswerPiece",
    "AnswerText",
    "AsyncOpenCode",
    "AuthMethod",
    "CallFigures",
    "CallMetrics",
    "CallReport",
    "CredentialsError",
    "Disposed",
    "Done",
    "Failed",
    "Health",
    "Heartbeat",
    "InvalidInputError",
    "McpServer",
    "MessagePage",
    "MessageUpdated",
    "NotFoundError",
    "NubabelError",
    "OnCall",
    "OpenCode",
    "Outcome",
    "PartKind",
    "PermanentError",
    "PermissionAsked",
    "PermissionRequest",
    "PermissionRule",
    "Prompt",
    "PromptFile",
    "Provider",
    "QuestionAsked",
    "QuestionRequest",
    "RateLimitedError",
    "ReconnectLimits",
    "Role",
    "RunError",
    "RunMessage",
    "RunPart",
    "ServerConfig",
    "ServerConnected",
    "ServerEvent",
    "Session",
    "SessionActivity",
    "SessionError",
    "SessionIdle",
    "SessionPage",
    "SessionState",
    "SessionStatus",
    "Skill",
    "TextDelta",
    "Timeouts",
    "ToolCall",
    "ToolUpdate",
    "TransientError",
    "UnavailableError",
    "UncertainError",
    "UnexpectedAnswerError",
    "Usage",
    "each_of",
    "is_opencode_id",
    "log_calls",
    "new_prompt",
    "run_all",
    "sync_run_all",
]
