"""The endpoints of OpenCode's HTTP API, one function each: arguments in, a `Call` out. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import orjson

from nubabel_workers.adapters.opencode import decoding
from nubabel_workers.adapters.opencode.decoding import UnexpectedAnswerError
from nubabel_workers.adapters.opencode.models import (
    Agent,
    Health,
    MessagePage,
    PermissionRequest,
    PermissionRule,
    Provider,
    QuestionRequest,
    ServerConfig,
    Session,
)
from nubabel_workers.adapters.opencode.wire import Answer, Call
from nubabel_workers.domain.errors import InvalidInputError
from nubabel_workers.domain.ports import PromptPart
from nubabel_workers.domain.verdict import RunMessage, SessionState

_T = TypeVar("_T")

_JSON_TYPE = "application/json"
_CURSOR_HEADER = "x-next-cursor"
_ID = re.compile(r"(?:ses|msg|prt|per|que)[A-Za-z0-9._-]{1,120}")


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


def _id(value: str) -> str:
    """An id as a path segment. The server answers ids of another form with 500, which would look transient."""
    if not _ID.fullmatch(value):
        raise InvalidInputError("not an OpenCode id", code="bad_opencode_id")
    return value


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


def get_session(session_id: str) -> Call[Session]:
    return Call("get_session", "GET", f"/session/{_id(session_id)}", _json(decoding.decode_session))


def update_session(
    session_id: str,
    *,
    title: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    permission: Sequence[PermissionRule] | None = None,
) -> Call[Session]:
    """Metadata replaces what was there."""
    body = _body({"title": title, "metadata": metadata, "permission": _rules(permission)})
    return Call("update_session", "PATCH", f"/session/{_id(session_id)}", _json(decoding.decode_session), body)


def delete_session(session_id: str) -> Call[None]:
    """Abort it first: deleting a running session does not stop its model call."""
    return Call("delete_session", "DELETE", f"/session/{_id(session_id)}", _empty)


def children(session_id: str) -> Call[list[Session]]:
    """Sessions of the sub-agents that this session started."""
    return Call("children", "GET", f"/session/{_id(session_id)}/children", _json(decoding.decode_sessions))


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
    names = _model_names(model)
    body = _body(
        {
            "messageID": _id(message_id),
            "parts": [_part(part) for part in parts],
            "agent": agent,
            "model": {"providerID": names[0], "modelID": names[1]} if names else None,
            "system": system,
        }
    )
    target = f"/session/{_id(session_id)}/prompt_async"
    return Call("submit_prompt", "POST", target, _empty, body, repeatable=False)


def list_messages(session_id: str, *, limit: int | None = None, before: str | None = None) -> Call[MessagePage]:
    """The newest `limit` messages, oldest of them first; all of them without a limit."""
    target = _target(f"/session/{_id(session_id)}/message", {"limit": limit, "before": before})
    return Call("list_messages", "GET", target, _page)


def get_message(session_id: str, message_id: str) -> Call[RunMessage]:
    target = f"/session/{_id(session_id)}/message/{_id(message_id)}"
    return Call("get_message", "GET", target, _json(decoding.decode_message))


def session_status(directory: str | None = None) -> Call[dict[str, SessionState]]:
    """Busy and retrying sessions of a directory; an absent one is idle."""
    target = _target("/session/status", {"directory": directory})
    return Call("session_status", "GET", target, _json(decoding.decode_statuses))


def abort(session_id: str) -> Call[None]:
    """Also answered with success for an idle or unknown session."""
    return Call("abort", "POST", f"/session/{_id(session_id)}/abort", _empty)


def agents(directory: str | None = None) -> Call[list[Agent]]:
    return Call("agents", "GET", _target("/agent", {"directory": directory}), _json(decoding.decode_agents))


def config(directory: str | None = None) -> Call[ServerConfig]:
    return Call("config", "GET", _target("/config", {"directory": directory}), _json(decoding.decode_config))


def providers(directory: str | None = None) -> Call[list[Provider]]:
    target = _target("/config/providers", {"directory": directory})
    return Call("providers", "GET", target, _json(decoding.decode_providers))


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
    target = _target(f"/permission/{_id(request_id)}/reply", {"directory": directory})
    return Call("reply_permission", "POST", target, _empty, body, repeatable=False)


def list_questions(directory: str | None = None) -> Call[list[QuestionRequest]]:
    target = _target("/question", {"directory": directory})
    return Call("list_questions", "GET", target, _json(decoding.decode_questions))


def reject_question(request_id: str, *, directory: str | None = None) -> Call[None]:
    """Ends the run without an answer."""
    target = _target(f"/question/{_id(request_id)}/reject", {"directory": directory})
    return Call("reject_question", "POST", target, _empty, repeatable=False)


def dispose(directory: str | None = None) -> Call[None]:
    """Unload a directory; aborts what runs in it."""
    return Call("dispose", "POST", _target("/instance/dispose", {"directory": directory}), _empty)
