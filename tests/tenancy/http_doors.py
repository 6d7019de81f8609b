"""Every place of the published API where an id can stand, read from its own description.

Whoever adds a path, a parameter or a field of a body finds the suite failing until it is said here what it names.
"""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from nubabel_workers.domain.limits import LIMIT_NAMES
from nubabel_workers.gateway.app import api
from tests.tenancy.world import Side


class Names(StrEnum):
    """What a parameter or field names."""

    NOTHING = "nothing of anybody's"  # a choice, a number, a text
    EXECUTION = "execution"
    BATCH = "batch"
    SESSION = "session"
    CONNECTION = "connection"
    DEAD_LETTER = "dead letter"
    ORGANIZATION = "organization"
    USER = "user"
    KEY = "a caller's own name"
    EVENT = "place in a stream"
    TOOL_CALL = "tool call"
    MESSAGE = "message"
    CLAIMS = "claims inside of a free object"


_FILTERS = (
    "reason",
    "cause",
    "queue",
    "task",
    "created_from",
    "created_before",
    "status",
    "limit",
    "by",
    "from",
    "to",
    "format",
    "bom",
)
_FIELDS_THAT_NAME_NOBODY = (
    *("agent", "category", "deadline_s", "load_skills", "model", "priority", "prompt", "reason", "skills", "text"),
    *("title", "on_failure", "refused"),
    *("callback_url", "mcpInvoke", "progress", "sessionUpdate", "traceparent"),
    *("error", "message", "name", "status", "tool", "tool_name", "arguments", "type"),
    *("allowed_tools", "authentication", "client_id", "client_secret", "command", "default", "environment", "preset"),
    *("repeatable_tools", "cost_usd", "process", "resident_bytes"),
    *("scope", "token", "token_header", "url"),
    *LIMIT_NAMES,
    *("unset", "busy_policy", "masking", "servers", "near_cap", "repeated_questions", "budget_approvers"),
    *("all", "cause", "created_before", "created_from", "dry_run", "limit", "pace_per_s", "queue", "task"),
)
_NAMES: Mapping[str, Names] = {
    "path execution_id": Names.EXECUTION,
    "path batch_id": Names.BATCH,
    "path session_id": Names.SESSION,
    "path connection": Names.CONNECTION,
    "path dead_letter_id": Names.DEAD_LETTER,
    "path organization_id": Names.ORGANIZATION,
    "query idempotency_key": Names.KEY,
    "query organization_id": Names.ORGANIZATION,
    "query after": Names.DEAD_LETTER,
    "header Idempotency-Key": Names.KEY,
    "header Last-Event-ID": Names.EVENT,
    "header X-Organization-ID": Names.ORGANIZATION,
    "header X-User-ID": Names.USER,
    "header X-Correlation-ID": Names.NOTHING,
    "header traceparent": Names.NOTHING,  # random by its form
    "header prefer": Names.NOTHING,
    "header accept": Names.NOTHING,
    "body session_id": Names.SESSION,
    "body session_key": Names.KEY,
    "body idempotency_key": Names.KEY,
    "body user_id": Names.USER,
    "body userId": Names.USER,
    "body organization_id": Names.ORGANIZATION,
    "body organizationId": Names.ORGANIZATION,
    "body metadata": Names.CLAIMS,
    "body context": Names.CLAIMS,
    "body call_id": Names.TOOL_CALL,
    "body message_id": Names.MESSAGE,
    "body part_id": Names.MESSAGE,
    "body provider": Names.CONNECTION,
    **{f"query {name}": Names.NOTHING for name in _FILTERS},
    **{f"body {name}": Names.NOTHING for name in _FIELDS_THAT_NAME_NOBODY},
}

# Bodies without anybody's id: what an attacker would send for himself. {session}: his own.
_TOOL = {"type": "tool", "session_id": "{session}", "call_id": "c", "tool": "t", "status": "running"}
_TEXT = {"type": "text", "session_id": "{session}", "message_id": "m", "part_id": "p", "text": "x"}
_BODIES: Mapping[str, Mapping[str, Any]] = {
    "SubmitRequest": {"prompt": "harmless"},
    "BatchRequest": {"requests": [{"prompt": "harmless"}]},
    "DelegateRequest": {"prompt": "harmless"},
    "SidecarDelegation": {"prompt": "harmless", "category": "quick", "load_skills": [], "session_id": "mine"},
    "SidecarPrompt": {"prompt": "harmless"},
    "CancelBody": {"reason": "harmless"},
    "ResumeBody": {"organization_id": "org_nobody", "cost_usd": 1.0},
    "UpdateBody": {"type": "session.idle", "session_id": "{session}"},
    "ProgressBody": {"items": [_TOOL, _TEXT]},
    "InvokeBody": {"session_id": "{session}", "call_id": "c", "tool_name": "look", "arguments": {"name": "x"}},
    "ToolsBody": {"session_id": "{session}"},
    "VitalsBody": {"process": "harmless", "resident_bytes": 1},  # of the server whose key signs it
    "NewConnectionBody": {"url": "https://mcp.example.com/mcp", "provider": "mine", "authentication": "none"},
    "AllowedToolsBody": {"allowed_tools": ["look"]},
    "RepeatableToolsBody": {"repeatable_tools": ["look"]},
    "DefaultBody": {"default": True},
    "CredentialsBody": {"token": "mine"},
    "ReplayOneBody": {"dry_run": False},
    "DiscardOneBody": {"reason": "harmless"},
    "ReplayManyBody": {"filter": {}, "limit": 10, "dry_run": False},
    "PolicyChangeBody": {"masking": "off", "busy_policy": "reject", "servers": "shared"},
    "LimitChangeBody": {"set": {"in_flight": 1}, "unset": ["queued"]},
    "DiscardManyBody": {"filter": {}, "limit": 10, "dry_run": False, "reason": "harmless"},
}


class UndescribedError(Exception):
    """A door was added: say in this file what it names."""


@dataclass(frozen=True)
class Position:
    """Where an id stands. place: path, query, header or body; at: keys into the body, else the parameter's name."""

    place: str
    at: tuple[str | int, ...]
    names: Names
    pattern: str | None = None

    def __str__(self) -> str:
        return f"{self.place} {'.'.join(str(step) for step in self.at if not isinstance(step, int))}"


@dataclass(frozen=True)
class Door:
    """One operation of the API. security: how its callers prove who they are, as the description calls it."""

    method: str
    path: str
    security: str | None
    body: Mapping[str, Any] | None
    positions: tuple[Position, ...]

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_callback(self) -> bool:
        return self.security == "CallbackSignature"


def doors() -> list[Door]:
    description = api().openapi()
    return [
        _door(method.upper(), path, operation, description)
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
    ]


def _door(method: str, path: str, operation: Mapping[str, Any], description: Mapping[str, Any]) -> Door:
    positions = [
        Position(one["in"], (one["name"],), _named(f"{one['in']} {one['name']}"), _pattern(one["schema"]))
        for one in (_resolved(one, description) for one in operation.get("parameters", ()))
    ]
    security = next((name for one in operation.get("security", ()) for name in one), None)
    body = None
    if "requestBody" in operation:
        schema = _resolved(operation["requestBody"]["content"]["application/json"]["schema"], description)
        body = _BODIES.get(schema["title"])
        if body is None:
            raise UndescribedError(f"say what a body of {schema['title']} looks like that names nobody ({path})")
        positions += _fields(schema, description, ())
    return Door(method, path, security, body, tuple(positions))


def _fields(
    schema: Mapping[str, Any], description: Mapping[str, Any], before: tuple[str | int, ...]
) -> Iterator[Position]:
    """Every field at every depth; of a list, the items of each kind in the order of the body above."""
    for name, described in schema.get("properties", {}).items():
        field = _resolved(described, description)
        inside = field.get("items", field)
        kinds = inside.get("oneOf", [inside])
        nested = [_resolved(kind, description) for kind in kinds]
        if any("properties" in kind for kind in nested):
            for number, kind in enumerate(nested):
                step: tuple[str | int, ...] = (name, number) if "items" in field else (name,)
                yield from _fields(kind, description, (*before, *step))
        else:
            yield Position("body", (*before, name), _named(f"body {name}"), _pattern(field))


def _resolved(schema: Mapping[str, Any], description: Mapping[str, Any]) -> Mapping[str, Any]:
    """Behind references, and the one of several choices that is not null."""
    for choice in schema.get("anyOf", ()):
        if choice.get("type") != "null":
            return _resolved(choice, description)
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: Any = description
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return _resolved(found, description)


def _named(what: str) -> Names:
    if what not in _NAMES:
        raise UndescribedError(f"say whether {what!r} names something of somebody's, and what")
    return _NAMES[what]


def _pattern(schema: Mapping[str, Any]) -> str | None:
    pattern = schema.get("pattern")
    return pattern if isinstance(pattern, str) else None


def ids(names: Names, side: Side) -> Mapping[str, Any]:
    """What stands for such a thing of this organization, by what it is."""
    ours = {f"{what} session": one for what, one in side.sessions.items() if what != "queued"}
    theirs = {f"{what} OpenCode session": one for what, one in side.opencode_sessions.items()}
    conversation = side.word("conversation-completed")
    every: Mapping[Names, Mapping[str, Any]] = {
        Names.NOTHING: {},
        Names.EXECUTION: side.executions,
        Names.BATCH: {"id": side.batch},
        Names.SESSION: {**ours, **theirs, "own name": conversation},
        Names.CONNECTION: {"id": side.connection, "provider": side.provider},
        Names.DEAD_LETTER: {"id": side.dead_letter},
        Names.ORGANIZATION: {"id": side.id},
        Names.USER: {"user": side.word("user")},
        Names.KEY: {"key": side.key, "conversation": conversation},
        Names.EVENT: {
            what: f"{side.executions.get(of)}/{seen}"
            for what, of, seen in (("end", "completed", "end"), ("first", "running", "0-0"))
        },
        Names.TOOL_CALL: {"call": side.call},
        Names.MESSAGE: {"message": side.word("message")},
        Names.CLAIMS: {
            "organization_id": {"organization_id": side.id},
            "organizationId": {"organizationId": side.id},
            "user_id": {"user_id": side.word("user")},
            "session_id": {"session_id": side.sessions.get("running")},
        },
    }
    return every[names]


def body_of(door: Door, session: str) -> dict[str, Any] | None:
    """The attacker's own; session: of his, on his server."""
    if door.body is None:
        return None
    body: dict[str, Any] = copy.deepcopy(dict(door.body))
    for holder in (body, *body.get("items", ())):
        if holder.get("session_id") == "{session}":
            holder["session_id"] = session
    return body


def fits(value: object, position: Position) -> bool:
    """Whether it is let through by form; what is not says nothing about what exists."""
    return position.pattern is None or (isinstance(value, str) and re.search(position.pattern, value) is not None)
