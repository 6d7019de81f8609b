"""The endpoints of OpenCode's HTTP API, one function each: arguments in, a `Call` out. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import orjson
from pydantic import SecretStr

from nubabel_workers.adapters.opencode import decoding
from nubabel_workers.adapters.opencode.decoding import UnexpectedAnswerError
from nubabel_workers.adapters.opencode.models import (
    Agent,
    AuthMethod,
    FolderEntry,
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
from nubabel_workers.adapters.opencode.wire import Answer, Call
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.opencode_ids import is_opencode_id
from nubabel_workers.domain.ports import PromptPart
from nubabel_workers.domain.verdict import RunMessage, SessionState

_T = TypeVar("_T")

_JSON_TYPE = "application/json"
_CURSOR_HEADER = "x-next-cursor"
_PROVIDER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KINDS_OF_IDS = {"ses": "a session", "msg": "a message", "prt": "a part", "per": "a permission", "que": "a question"}
_PAGE = 100
_RUN_S = 600.0
_SUMMARY_S = 300.0


def _json(decode: Callable[[bytes], _T]) -> Callable[[Answer], _T]:
    def decode_answer(answer: Answer) -> _T:
        if answer.content_type != _JSON_TYPE:
            # The web page: this path does not exist in the server's version, or something else listens there.
            raise UnexpectedAnswerError(f"OpenCode answered {answer.content_type or 'nothing'} instead of JSON")
        return decode(answer.body)

    return decode_answer


def _empty(answer: Answer) -> None:
    if answer.content_type not in {"", _JSON_TYPE}:
        raise UnexpectedAnswerError(f"OpenCode answered {answer.content_type} instead of nothing")


def _page(answer: Answer) -> MessagePage:
    messages = _json(decoding.decode_messages)(answer)
    return MessagePage(messages, answer.headers.get(_CURSOR_HEADER))


def _session_page(answer: Answer) -> SessionPage:
    sessions = _json(decoding.decode_sessions)(answer)
    return SessionPage(sessions, answer.headers.get(_CURSOR_HEADER))


def _id(value: str, prefix: str) -> str:
    """An id as a path segment. The server answers ids of another form with 500, which would look transient."""
    if not is_opencode_id(prefix, value):
        text = f"the id of {_KINDS_OF_IDS[prefix]} begins with `{prefix}` and has letters, digits and ._- after it"
        raise InvalidInputError(text, code="bad_opencode_id")
    return value


def _session_path(session_id: str, *rest: str) -> str:
    return "/".join(("/session", _id(session_id, "ses"), *rest))


def _provider_path(provider_id: str) -> str:
    if not _PROVIDER_ID.fullmatch(provider_id):
        raise InvalidInputError("a provider's id is letters, digits and ._-", code="bad_provider_id")
    return f"/auth/{provider_id}"


def _target(path: str, query: Mapping[str, str | int | None] | None = None) -> str:
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return f"{path}?{urlencode(given, quote_via=quote)}" if given else path


def _body(fields: Mapping[str, Any]) -> bytes:
    return orjson.dumps({name: value for name, value in fields.items() if value is not None})


def _model_names(model: str | None) -> tuple[str, str] | None:
    """`provider/model`; a model's own name may contain slashes."""
    if model is None:
        return None
    provider, _, name = model.partition("/")
    if not provider or not name:
        raise InvalidInputError("a model is named provider/model", code="bad_model")
    return provider, name


def _rules(rules: Sequence[PermissionRule] | None) -> list[dict[str, str]] | None:
    if rules is None:
        return None
    return [{"permission": r.permission, "pattern": r.pattern, "action": r.action} for r in rules]


def _part(part: PromptPart) -> dict[str, str]:
    if part.text is not None:
        return {"id": part.id, "type": "text", "text": part.text}
    if part.file_url is None or part.mime_type is None:
        raise InvalidInputError("a prompt's part is a text, or a file with its type")
    file = {"id": part.id, "type": "file", "mime": part.mime_type, "url": part.file_url}
    return file | {"filename": part.filename} if part.filename is not None else file


def health() -> Call[Health]:
    return Call("health", "GET", "/global/health", _json(decoding.decode_health))


def create_session(
    *,
    title: str,
    metadata: Mapping[str, Any] | None = None,
    agent: str | None = None,
    model: str | None = None,
    permission: Sequence[PermissionRule] | None = None,
    directory: str | None = None,
) -> Call[Session]:
    """Title is required: without one the first prompt costs an extra model call.

    Repeatable in the sense that a lost answer leaves an empty session behind, which nobody will use.
    """
    names = _model_names(model)
    body = _body(
        {
            "title": title,
            "metadata": metadata,
            "agent": agent,
            "model": {"providerID": names[0], "id": names[1]} if names else None,
            "permission": _rules(permission),
        }
    )
    target = _target("/session", {"directory": directory})
    return Call("create_session", "POST", target, _json(decoding.decode_session), body)


def list_sessions(
    directory: str | None = None,
    *,
    search: str | None = None,
    limit: int = _PAGE,
    cursor: str | None = None,
    roots: bool = False,
) -> Call[SessionPage]:
    """Sessions of a directory, or of all, the last changed first; archived ones are left out.

    search: in the title, in any case of letters. roots: without the sessions of sub-agents. cursor: a page's own; what
    changes meanwhile moves to the first page, so a session may be missed or seen twice.
    """
    if limit < 1 or (cursor is not None and not cursor.isdecimal()):
        raise InvalidInputError("limit is 1 or more, cursor is that of a page", code="bad_page")
    query = {"directory": directory, "search": search, "limit": limit, "cursor": cursor}
    # The plain list has no pages.
    target = _target("/experimental/session", query | {"roots": "true" if roots else None})
    return Call("list_sessions", "GET", target, _session_page)


def get_session(session_id: str) -> Call[Session]:
    return Call("get_session", "GET", _session_path(session_id), _json(decoding.decode_session))


def update_session(
    session_id: str,
    *,
    title: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    permission: Sequence[PermissionRule] | None = None,
) -> Call[Session]:
    """Metadata replaces what was there."""
    body = _body({"title": title, "metadata": metadata, "permission": _rules(permission)})
    return Call("update_session", "PATCH", _session_path(session_id), _json(decoding.decode_session), body)


def delete_session(session_id: str) -> Call[None]:
    """Abort it first: deleting a running session does not stop its model call."""
    return Call("delete_session", "DELETE", _session_path(session_id), _empty)


def fork_session(session_id: str, *, before: str | None = None) -> Call[Session]:
    """A new session with copies of the messages (under new ids), all of them or those before the message `before`.

    It keeps title and metadata, but no agent, model or permission rules, and is nobody's child. An unknown `before`
    copies everything.
    """
    body = _body({"messageID": _id(before, "msg") if before is not None else None})
    target = _session_path(session_id, "fork")
    return Call("fork_session", "POST", target, _json(decoding.decode_session), body)


def summarize_session(session_id: str, *, model: str, wait_s: float = _SUMMARY_S) -> Call[None]:
    """Compaction: from now on the model sees a summary instead of the earlier messages, which stay readable.

    Answered when it is done; a busy session finishes first. An unknown model is a server error (500).
    """
    provider, name = _model_names(model) or ("", "")
    body = _body({"providerID": provider, "modelID": name})
    target = _session_path(session_id, "summarize")
    return Call("summarize_session", "POST", target, _empty, body, repeatable=False, patience_s=wait_s)


def children(session_id: str) -> Call[list[Session]]:
    """Sessions of the sub-agents that this session started."""
    return Call("children", "GET", _session_path(session_id, "children"), _json(decoding.decode_sessions))


def submit_prompt(
    session_id: str,
    *,
    message_id: str,
    parts: Sequence[PromptPart],
    agent: str | None = None,
    model: str | None = None,
    system: str | None = None,
) -> Call[None]:
    """Accepted when it returns; agent and model are checked by the server afterwards. Send both with every prompt.

    With the same message id and part ids a repeat replaces the message instead of adding one.
    """
    body = _prompt(message_id, parts, agent=agent, model=model, system=system)
    target = _session_path(session_id, "prompt_async")
    return Call("submit_prompt", "POST", target, _empty, body, repeatable=False)


def send_message(
    session_id: str,
    *,
    message_id: str,
    parts: Sequence[PromptPart],
    agent: str | None = None,
    model: str | None = None,
    system: str | None = None,
    wait_s: float = _RUN_S,
) -> Call[RunMessage]:
    """As submit_prompt, but answered with the run's last assistant message when the run has ended, its error included.

    A session's prompts are answered together: with two at once, both calls return the answer to the later one. When
    wait_s is over the run goes on: look for it with `list_messages`, or `abort` it. An unknown agent or model is a
    server error (500).
    """
    body = _prompt(message_id, parts, agent=agent, model=model, system=system)
    target = _session_path(session_id, "message")
    decode = _json(decoding.decode_message)
    return Call("send_message", "POST", target, decode, body, repeatable=False, patience_s=wait_s)


def _prompt(
    message_id: str, parts: Sequence[PromptPart], *, agent: str | None, model: str | None, system: str | None
) -> bytes:
    names = _model_names(model)
    return _body(
        {
            "messageID": _id(message_id, "msg"),
            "parts": [_part(part) for part in parts],
            "agent": agent,
            "model": {"providerID": names[0], "modelID": names[1]} if names else None,
            "system": system,
        }
    )


def list_messages(session_id: str, *, limit: int | None = None, before: str | None = None) -> Call[MessagePage]:
    """The newest `limit` messages, oldest of them first; all of them without a limit."""
    target = _target(_session_path(session_id, "message"), {"limit": limit, "before": before})
    return Call("list_messages", "GET", target, _page)


def get_message(session_id: str, message_id: str) -> Call[RunMessage]:
    target = _session_path(session_id, "message", _id(message_id, "msg"))
    return Call("get_message", "GET", target, _json(decoding.decode_message))


def tool_calls(session_id: str, message_id: str) -> Call[list[ToolCall]]:
    """The tool calls of one assistant message, with their arguments and results."""
    target = _session_path(session_id, "message", _id(message_id, "msg"))
    return Call("tool_calls", "GET", target, _json(decoding.decode_tool_calls))


def session_status(directory: str | None = None) -> Call[dict[str, SessionState]]:
    """Busy and retrying sessions of a directory; an absent one is idle."""
    target = _target("/session/status", {"directory": directory})
    return Call("session_status", "GET", target, _json(decoding.decode_statuses))


def abort(session_id: str) -> Call[None]:
    """Also answered with success for an idle or unknown session."""
    return Call("abort", "POST", _session_path(session_id, "abort"), _empty)


def agents(directory: str | None = None) -> Call[list[Agent]]:
    return Call("agents", "GET", _target("/agent", {"directory": directory}), _json(decoding.decode_agents))


def offered_tools(model: str, directory: str | None = None) -> Call[Mapping[str, Sequence[str]]]:
    """Name -> descriptions of the tools that a model is offered: a plugin's tool stands beside the one it replaces."""
    provider, name = _model_names(model) or ("", "")
    query = {"provider": provider, "model": name, "directory": directory}
    target = _target("/experimental/tool", query)
    return Call("offered_tools", "GET", target, _json(decoding.decode_tool_descriptions))


def config(directory: str | None = None) -> Call[ServerConfig]:
    return Call("config", "GET", _target("/config", {"directory": directory}), _json(decoding.decode_config))


def providers(directory: str | None = None) -> Call[list[Provider]]:
    target = _target("/config/providers", {"directory": directory})
    return Call("providers", "GET", target, _json(decoding.decode_providers))


def connected_providers(directory: str | None = None) -> Call[list[str]]:
    """Ids of the providers that have what they need: a key, or a configuration without one."""
    target = _target("/provider", {"directory": directory})
    return Call("connected_providers", "GET", target, _json(decoding.decode_connected))


def provider_auth_methods(directory: str | None = None) -> Call[dict[str, list[AuthMethod]]]:
    """Of providers that offer something else than a plain key."""
    target = _target("/provider/auth", {"directory": directory})
    return Call("provider_auth_methods", "GET", target, _json(decoding.decode_auth_methods))


def set_provider_key(provider_id: str, key: SecretStr) -> Call[None]:
    """For the whole server and everybody who uses it, never for one tenant.

    Any id is taken. Directories that are loaded use the new key after `dispose`.
    """
    body = _body({"type": "api", "key": key.get_secret_value()})
    return Call("set_provider_key", "PUT", _provider_path(provider_id), _empty, body, secret=True)


def remove_provider_key(provider_id: str) -> Call[None]:
    """Also answered with success when there was none."""
    return Call("remove_provider_key", "DELETE", _provider_path(provider_id), _empty)


def skills(directory: str | None = None) -> Call[list[Skill]]:
    return Call("skills", "GET", _target("/skill", {"directory": directory}), _json(decoding.decode_skills))


def mcp_servers(directory: str | None = None) -> Call[list[McpServer]]:
    """Those of OpenCode's own configuration."""
    return Call("mcp_servers", "GET", _target("/mcp", {"directory": directory}), _json(decoding.decode_mcp))


def list_permissions(directory: str | None = None) -> Call[list[PermissionRequest]]:
    """Asks of idle sessions stay in this list after an abort."""
    target = _target("/permission", {"directory": directory})
    return Call("list_permissions", "GET", target, _json(decoding.decode_permissions))


def reply_permission(
    request_id: str, *, allow: bool, message: str | None = None, directory: str | None = None
) -> Call[None]:
    """allow: this once. A refusal with a message lets the run go on; without one it ends the run.

    OpenCode's "always" is left out: it would allow the pattern to every session of the directory.
    """
    body = _body({"reply": "once" if allow else "reject", "message": message})
    target = _target(f"/permission/{_id(request_id, 'per')}/reply", {"directory": directory})
    return Call("reply_permission", "POST", target, _empty, body, repeatable=False)


def list_questions(directory: str | None = None) -> Call[list[QuestionRequest]]:
    target = _target("/question", {"directory": directory})
    return Call("list_questions", "GET", target, _json(decoding.decode_questions))


def reply_question(request_id: str, answers: Sequence[Sequence[str]], *, directory: str | None = None) -> Call[None]:
    """answers: one per question, in order, each a list of chosen labels or words of one's own."""
    body = _body({"answers": [list(chosen) for chosen in answers]})
    target = _target(f"/question/{_id(request_id, 'que')}/reply", {"directory": directory})
    return Call("reply_question", "POST", target, _empty, body, repeatable=False)


def reject_question(request_id: str, *, directory: str | None = None) -> Call[None]:
    """Ends the run without an answer."""
    target = _target(f"/question/{_id(request_id, 'que')}/reject", {"directory": directory})
    return Call("reject_question", "POST", target, _empty, repeatable=False)


def list_folder(path: str, *, directory: str | None = None) -> Call[list[FolderEntry]]:
    """What is in a folder on the server's disk. path: from the directory; a missing one is answered with 500."""
    target = _target("/file", {"path": path, "directory": directory})
    return Call("list_folder", "GET", target, _json(decoding.decode_folder))


def dispose(directory: str | None = None) -> Call[None]:
    """Unload a directory; aborts what runs in it."""
    return Call("dispose", "POST", _target("/instance/dispose", {"directory": directory}), _empty)
