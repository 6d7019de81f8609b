"""The OpenCode library: typed clients, event stream and ids for the OpenCode server's HTTP API (1.18.33).

    http = new_http_client()
    client = OpenCodeClient(http, "http://127.0.0.1:4096", password=SecretStr("..."))
    session = await client.create_session(title="Hello")

Pure parts: `endpoints` and `wire` (requests out, answers in), `sse` (bytes in, events out).
"""

from nubabel_workers.adapters.opencode.client import CallReport, OpenCodeClient, SyncOpenCodeClient
from nubabel_workers.adapters.opencode.decoding import UnexpectedAnswerError
from nubabel_workers.adapters.opencode.event_stream import events, sync_events
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
from nubabel_workers.adapters.opencode.servers import HttpOpenCodeServer, HttpOpenCodeServers
from nubabel_workers.adapters.opencode.sse import EventDecoder
from nubabel_workers.adapters.opencode.transport import (
    HttpClient,
    Timeouts,
    new_http_client,
    new_stream_session,
    new_sync_http_client,
)
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
from nubabel_workers.domain.opencode_ids import PromptIds, opencode_id, prompt_ids
from nubabel_workers.domain.ports import PromptPart

__all__ = [
    "Agent",
    "AuthMethod",
    "CallReport",
    "Disposed",
    "EventDecoder",
    "Health",
    "Heartbeat",
    "HttpClient",
    "HttpOpenCodeServer",
    "HttpOpenCodeServers",
    "McpServer",
    "MessagePage",
    "MessageUpdated",
    "OpenCodeClient",
    "PermissionAsked",
    "PermissionRequest",
    "PermissionRule",
    "PromptIds",
    "PromptPart",
    "Provider",
    "QuestionAsked",
    "QuestionRequest",
    "ServerConfig",
    "ServerConnected",
    "ServerEvent",
    "Session",
    "SessionError",
    "SessionIdle",
    "SessionPage",
    "SessionStatus",
    "Skill",
    "SyncOpenCodeClient",
    "TextDelta",
    "Timeouts",
    "ToolCall",
    "ToolUpdate",
    "UnexpectedAnswerError",
    "events",
    "new_http_client",
    "new_stream_session",
    "new_sync_http_client",
    "opencode_id",
    "prompt_ids",
    "sync_events",
]
