"""The JSON shapes of OpenCode's sessions, messages, parts and errors, as opencode 1.18.33 sends them."""

from typing import Any

from nubabel_workers.simulators.opencode.config import VERSION
from nubabel_workers.simulators.opencode.directives import ReportedUsage
from nubabel_workers.simulators.opencode.identifiers import now_ms

Json = dict[str, Any]

INPUT_PRICE = 1.0 / 1_000_000
OUTPUT_PRICE = 2.0 / 1_000_000
_GIVEN_TO_SESSIONS = ("agent", "model", "metadata", "permission", "parentID")
BUSY: Json = {"type": "busy"}
IDLE: Json = {"type": "idle"}

# What a real stack trace looks like in an UnknownError; users must never see it.
_STACK = (
    "\n    at SessionPrompt.createUserMessage (/$bunfs/root/chunk-1.js:1142:2068)\n    at Server.listen (/$bunfs/x.js)"
)


def session_info(session_id: str, *, directory: str, title: str | None, given: Json) -> Json:
    """A new session. given: the body of the create call; unknown fields of it are ignored."""
    created = now_ms()
    info: Json = {
        "id": session_id,
        "slug": "simulated-session",
        "projectID": "global",
        "directory": directory,
        "path": directory.lstrip("/"),
        "cost": 0,
        "tokens": tokens(None),
        "title": title if title is not None else f"New session - {created}",
        "version": VERSION,
        "time": {"created": created, "updated": created},
    }
    return info | {
        name: given[name] for name in ("agent", "model", "metadata", "permission", "parentID") if name in given
    }


def assistant_info(message_id: str, *, session_id: str, user: Json, directory: str, summary: bool = False) -> Json:
    agent = "compaction" if summary else user["agent"]
    info: Json = {
        "id": message_id,
        "parentID": user["id"],
        "role": "assistant",
        "mode": agent,
        "agent": agent,
        "path": {"cwd": directory, "root": "/"},
        "cost": 0,
        "tokens": tokens(None),
        "modelID": user["model"]["modelID"],
        "providerID": user["model"]["providerID"],
        "time": {"created": now_ms()},
        "sessionID": session_id,
    }
    return info | {"summary": True} if summary else info


def part(part_id: str, message: Json, kind: str, **fields: Any) -> Json:
    return {"id": part_id, "messageID": message["id"], "sessionID": message["sessionID"], "type": kind, **fields}


def tool_part(part_id: str, message: Json, tool: str, call_id: str) -> Json:
    state: Json = {"status": "pending", "input": {}, "raw": ""}
    return part(part_id, message, "tool", tool=tool, callID=call_id, state=state)


def tokens(usage: ReportedUsage | None) -> Json:
    if usage is None:
        return {"input": 0, "output": 0, "reasoning": 0, "cache": {"read": 0, "write": 0}}
    return {
        "total": usage.prompt + usage.completion,
        "input": usage.prompt - usage.cached,
        "output": usage.completion,
        "reasoning": 0,
        "cache": {"write": 0, "read": usage.cached},
    }


def cost(usage: ReportedUsage | None) -> float:
    if usage is None:
        return 0
    return round((usage.prompt - usage.cached) * INPUT_PRICE + usage.completion * OUTPUT_PRICE, 9)


def api_error(status: int) -> Json:
    message = f"stub error {status}"
    return {
        "name": "APIError",
        "data": {
            "message": message,
            "statusCode": status,
            "isRetryable": False,
            "responseHeaders": {"content-type": "application/json"},
            "responseBody": f'{{"error": {{"message": "{message}", "code": "{status}"}}}}',
            "metadata": {"url": "http://simulated/v1/chat/completions"},
        },
    }


def named_error(name: str, message: str) -> Json:
    return {"name": name, "data": {"message": message}}


def unknown_error(message: str, *, stack: bool = False) -> Json:
    return named_error("UnknownError", message + _STACK if stack else message)


ABORTED = named_error("MessageAbortedError", "Aborted")
OVERFLOW = named_error(
    "ContextOverflowError",
    "This model's maximum context length is 100000 tokens. However, your messages resulted in 120000 tokens.",
)
BAD_JSON = unknown_error("JSON parsing failed: Text: {this is not json.\nError message: JSON Parse error: Expected '}'")
CONTENT_FILTER = named_error("ContentFilterError", "The response was blocked by the provider's content filter")
