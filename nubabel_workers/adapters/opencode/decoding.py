"""OpenCode's JSON -> our values. Everything in it is outside text: wrong shapes raise UnexpectedAnswerError."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nubabel_workers.adapters.opencode.models import (
    Agent,
    AuthMethod,
    FolderEntry,
    Health,
    McpServer,
    PermissionRequest,
    Provider,
    QuestionRequest,
    ServerConfig,
    Session,
    Skill,
    ToolCall,
)
from nubabel_workers.domain.errors import PermanentError
from nubabel_workers.domain.executions import Usage
from nubabel_workers.domain.verdict import (
    Delegation,
    PartKind,
    Role,
    RunError,
    RunMessage,
    RunPart,
    SessionActivity,
    SessionState,
)

_Model = TypeVar("_Model")
_Value = TypeVar("_Value")

_MAX_ERROR_LENGTH = 300
_MAX_NAME = 120
_MAX_NAMES = 20
_RETRYABLE_STATUSES = frozenset({408, 409, 425, 429})
_FIRST_SERVER_ERROR = 500
# OpenCode's "something else went wrong": a broken stream or a bug, worth another attempt.
_RETRYABLE_ERRORS = frozenset({"UnknownError"})


class UnexpectedAnswerError(PermanentError):
    """The server's answer is not what this API promises: another program, or another version of it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="unexpected_answer")


# JSON's numbers have no end; those of PostgreSQL and of Python's integers have.
_Number = Annotated[float, Field(ge=-(2**53), le=2**53, allow_inf_nan=False)]


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Time(_Wire):
    created: _Number = 0
    completed: _Number | None = None
    updated: _Number = 0


class _Cache(_Wire):
    read: _Number = 0
    write: _Number = 0


class _Tokens(_Wire):
    input: _Number = 0
    output: _Number = 0
    reasoning: _Number = 0
    cache: _Cache = _Cache()


class _Error(_Wire):
    name: str = "UnknownError"
    data: dict[str, Any] = Field(default_factory=dict)


class _Info(_Wire):
    id: str
    role: Role
    parent_id: str | None = Field(default=None, alias="parentID")
    session_id: str | None = Field(default=None, alias="sessionID")
    time: _Time = _Time()
    finish: str | None = None
    error: _Error | None = None
    # A flag on assistant messages; on user messages an object about changed files.
    summary: Any = None
    tokens: _Tokens = _Tokens()
    cost: _Number = 0
    provider_id: str | None = Field(default=None, alias="providerID")
    model_id: str | None = Field(default=None, alias="modelID")


class _ToolState(_Wire):
    status: str | None = None
    metadata: Any = None  # of the tool's own making


class _Part(_Wire):
    type: str
    text: str = ""
    synthetic: bool = False
    tool: str | None = None
    state: _ToolState | None = None


class _Message(_Wire):
    info: _Info
    parts: list[_Part] = Field(default_factory=list)


class _Session(_Wire):
    id: str
    title: str = ""
    directory: str = ""
    parent_id: str | None = Field(default=None, alias="parentID")
    metadata: dict[str, Any] = Field(default_factory=dict)
    time: _Time = _Time()


class _OfferedTool(_Wire):
    id: str
    description: str = ""


class _Agent(_Wire):
    """With oh-my-opencode 4.19.4 the server sends null for what an agent's definition leaves out."""

    name: str
    mode: str | None = None
    hidden: bool | None = None
    description: str | None = None


class _Status(_Wire):
    type: str
    attempt: int = 0
    message: str = ""
    next: _Number | None = None


class _Ask(_Wire):
    id: str
    session_id: str = Field(alias="sessionID")
    permission: str = ""
    patterns: list[str] = Field(default_factory=list)
    questions: list[dict[str, Any]] = Field(default_factory=list)


class _Provider(_Wire):
    id: str
    name: str = ""
    models: dict[str, Any] = Field(default_factory=dict)


class _Providers(_Wire):
    providers: list[_Provider]
    default: dict[str, str] = Field(default_factory=dict)


class _Connected(_Wire):
    connected: list[str]


class _AuthMethod(_Wire):
    type: str
    label: str = ""


class _FolderEntry(_Wire):
    name: str
    absolute: str
    type: str = "file"


class _Skill(_Wire):
    name: str
    description: str = ""
    location: str = ""


class _McpStatus(_Wire):
    status: str
    error: str | None = None


class _FullState(_Wire):
    status: str
    title: str | None = None
    input: dict[str, Any] = Field(default_factory=dict)
    output: str | None = None
    error: str | None = None


class _ToolPart(_Wire):
    type: str
    call_id: str = Field(default="", alias="callID")
    tool: str = ""
    state: _FullState | None = None


class _ToolMessage(_Wire):
    parts: list[_ToolPart] = Field(default_factory=list)


class _Config(_Wire):
    model: str | None = None
    permission: dict[str, Any] | str | None = None
    plugin: list[Any] = Field(default_factory=list)


class _Health(_Wire):
    healthy: bool
    version: str = ""


_MESSAGES = TypeAdapter(list[_Message])
_MESSAGE = TypeAdapter(_Message)
_SESSION = TypeAdapter(_Session)
_SESSIONS = TypeAdapter(list[_Session])
_AGENTS = TypeAdapter(list[_Agent])
_OFFERED_TOOLS = TypeAdapter(list[_OfferedTool])
_STATUSES = TypeAdapter(dict[str, _Status])
_ASKS = TypeAdapter(list[_Ask])
_PROVIDERS = TypeAdapter(_Providers)
_CONNECTED = TypeAdapter(_Connected)
_AUTH_METHODS = TypeAdapter(dict[str, list[_AuthMethod]])
_FOLDER = TypeAdapter(list[_FolderEntry])
_SKILLS = TypeAdapter(list[_Skill])
_MCP = TypeAdapter(dict[str, _McpStatus])
_TOOL_MESSAGE = TypeAdapter(_ToolMessage)
_CONFIG = TypeAdapter(_Config)
_HEALTH = TypeAdapter(_Health)


def _decoder(adapter: "TypeAdapter[_Model]", to_value: Callable[[_Model], _Value]) -> Callable[[bytes], _Value]:
    def decode(body: bytes) -> _Value:
        try:
            return to_value(adapter.validate_json(body))
        except ValidationError as error:
            # Where it does not fit, never what stood there: the text is the user's.
            places = {".".join(str(part) for part in problem["loc"]) or "the whole" for problem in error.errors()}
            raise UnexpectedAnswerError(f"OpenCode's answer does not fit at {', '.join(sorted(places)[:3])}") from None

    return decode


def error_name(body: bytes) -> str:
    """The class and reference of an error answer, for logs. Its message is left out: it may quote the request."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(answer, dict):
        return ""
    data = answer.get("data")
    words = [answer.get("name") or answer.get("_tag"), data.get("ref") if isinstance(data, dict) else None]
    return " ".join(str(word)[:60] for word in words if word)


def run_error(name: str, data: Mapping[str, Any]) -> RunError:
    """OpenCode's error object of a run. An UnknownError's text may hold a stack trace: only its first line is kept."""
    lines = str(data.get("message") or "").strip().splitlines()
    status = data.get("statusCode")
    status_code = status if isinstance(status, int) else None
    return RunError(
        name=name[:_MAX_ERROR_LENGTH],
        message=lines[0][:_MAX_ERROR_LENGTH] if lines else "",
        status_code=status_code,
        retryable=_is_retryable(name, status_code, flag=data.get("isRetryable")),
    )


def _is_retryable(name: str, status_code: int | None, *, flag: object) -> bool:
    if flag is True or name in _RETRYABLE_ERRORS:
        return True
    return status_code is not None and (status_code in _RETRYABLE_STATUSES or status_code >= _FIRST_SERVER_ERROR)


def _run_message(message: _Message) -> RunMessage:
    info = message.info
    tokens = info.tokens
    return RunMessage(
        id=info.id,
        role=info.role,
        parent_id=info.parent_id,
        created_ms=int(info.time.created),
        completed=info.time.completed is not None,
        finish=info.finish,
        error=run_error(info.error.name, info.error.data) if info.error is not None else None,
        summary=info.role is Role.ASSISTANT and info.summary is True,
        parts=tuple(_parts(message.parts)),
        usage=Usage(
            input_tokens=int(tokens.input),
            output_tokens=int(tokens.output),
            reasoning_tokens=int(tokens.reasoning),
            cache_read_tokens=int(tokens.cache.read),
            cache_write_tokens=int(tokens.cache.write),
            cost=info.cost,
        ),
        model=f"{info.provider_id}/{info.model_id}" if info.provider_id and info.model_id else None,
        session_id=info.session_id,
    )


def _parts(parts: list[_Part]) -> list[RunPart]:
    kept = []
    for part in parts:
        if part.type == PartKind.TEXT:
            kept.append(RunPart(PartKind.TEXT, text=part.text, synthetic=part.synthetic))
        elif part.type == PartKind.TOOL:
            status = part.state.status if part.state is not None else None
            kept.append(RunPart(PartKind.TOOL, tool=part.tool, tool_status=status, delegation=_delegation(part)))
        elif part.type == PartKind.COMPACTION:
            kept.append(RunPart(PartKind.COMPACTION))
    return kept


def _delegation(part: _Part) -> Delegation | None:
    """From what oh-my-opencode 4.19.4 leaves in the metadata of its tool `task`; without a session nothing was done.

    A name of the model's choice among it is short, or it is none.
    """
    told = part.state.metadata if part.tool == "task" and part.state is not None else None
    if not isinstance(told, dict) or not (session_id := _name(told.get("sessionId"))):
        return None
    skills, model = told.get("load_skills"), told.get("model")
    names = [_name(skill) for skill in skills[:_MAX_NAMES]] if isinstance(skills, list) else []
    provider, model_id = (
        (_name(model.get(k)) for k in ("providerID", "modelID")) if isinstance(model, dict) else ("", "")
    )
    return Delegation(
        session_id=session_id,
        category=_name(told.get("category")) or None,
        agent=_name(told.get("agent")) or None,
        skills=tuple(name for name in names if name),
        model=f"{provider}/{model_id}" if provider and model_id else None,
    )


def _name(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= _MAX_NAME and value.isprintable() else ""


def _session(session: _Session) -> Session:
    return Session(
        id=session.id,
        title=session.title,
        directory=session.directory,
        parent_id=session.parent_id,
        metadata=session.metadata,
        created_ms=int(session.time.created),
        updated_ms=int(session.time.updated),
    )


def status_of(status: object) -> SessionState:
    """A session's status as it stands in events. Raises ValueError for anything else."""
    return _session_state(_Status.model_validate(status))


def message_of(message: object) -> RunMessage:
    """A message as it stands in events. Raises ValueError for anything else."""
    return _run_message(_Message.model_validate(message))


def _session_state(status: _Status) -> SessionState:
    """An activity this version does not know counts as busy: it is not absent, so something is going on."""
    if status.type == SessionActivity.RETRY:
        next_ms = int(status.next) if status.next is not None else None
        return SessionState(SessionActivity.RETRY, status.attempt, status.message[:_MAX_ERROR_LENGTH], next_ms)
    return SessionState(SessionActivity.IDLE if status.type == SessionActivity.IDLE else SessionActivity.BUSY)


def _descriptions(tools: Sequence[_OfferedTool]) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for tool in tools:
        found.setdefault(tool.id, []).append(tool.description)
    return found


def _agent(agent: _Agent) -> Agent:
    return Agent(agent.name, agent.mode or "all", bool(agent.hidden), agent.description or "")


def _permission_request(ask: _Ask) -> PermissionRequest:
    return PermissionRequest(ask.id, ask.session_id, ask.permission, tuple(ask.patterns))


def _mcp_server(name: str, told: _McpStatus) -> McpServer:
    lines = (told.error or "").strip().splitlines()
    return McpServer(name, told.status, lines[0][:_MAX_ERROR_LENGTH] if lines else None)


def _tool_calls(message: _ToolMessage) -> list[ToolCall]:
    return [
        ToolCall(part.call_id, part.tool, s.status, s.title or None, s.input, s.output, s.error)
        for part in message.parts
        if part.type == PartKind.TOOL and (s := part.state) is not None
    ]


decode_health = _decoder(_HEALTH, lambda health: Health(health.healthy, health.version))
decode_session = _decoder(_SESSION, _session)
decode_sessions = _decoder(_SESSIONS, lambda sessions: [_session(s) for s in sessions])
decode_message = _decoder(_MESSAGE, _run_message)
decode_messages = _decoder(_MESSAGES, lambda messages: [_run_message(m) for m in messages])
decode_agents = _decoder(_AGENTS, lambda agents: [_agent(a) for a in agents])
decode_tool_descriptions = _decoder(_OFFERED_TOOLS, _descriptions)
decode_statuses = _decoder(_STATUSES, lambda statuses: {sid: _session_state(s) for sid, s in statuses.items()})
decode_permissions = _decoder(_ASKS, lambda asks: [_permission_request(a) for a in asks])
decode_questions = _decoder(_ASKS, lambda asks: [QuestionRequest(a.id, a.session_id, a.questions) for a in asks])
decode_providers = _decoder(
    _PROVIDERS,
    lambda answer: [
        Provider(p.id, tuple(sorted(p.models)), p.name, answer.default.get(p.id)) for p in answer.providers
    ],
)
decode_connected = _decoder(_CONNECTED, lambda answer: answer.connected)
decode_auth_methods = _decoder(
    _AUTH_METHODS,
    lambda answer: {provider: [AuthMethod(m.type, m.label) for m in ways] for provider, ways in answer.items()},
)
decode_folder = _decoder(_FOLDER, lambda found: [FolderEntry(e.name, e.absolute, e.type == "directory") for e in found])
decode_skills = _decoder(_SKILLS, lambda skills: [Skill(s.name, s.description, s.location) for s in skills])
decode_mcp = _decoder(_MCP, lambda servers: [_mcp_server(name, told) for name, told in servers.items()])
decode_tool_calls = _decoder(_TOOL_MESSAGE, _tool_calls)
decode_config = _decoder(
    _CONFIG, lambda config: ServerConfig(config.model, config.permission, tuple(map(str, config.plugin)))
)
